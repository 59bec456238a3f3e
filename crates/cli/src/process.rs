//! The gate to other programs: the daemon, left running, and programs that share this one's terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The hidden first argument by which `banger` becomes a daemon: see [`become_daemon`].
pub(crate) const BECOME_DAEMON: &str = "__become-daemon";

/// Starts `daemon` in a session of its own, writing to `log`. `own_exe` is this program: setsid(2) is refused to the
/// leader of a process group and has to run between fork and exec, so a second run of ourselves does it.
///
/// # Errors
/// When it cannot be started.
#[expect(clippy::disallowed_methods, reason = "the gate to other programs")]
pub(crate) fn spawn_daemon(own_exe: &Path, daemon: &Path, log: &File) -> io::Result<Child> {
    Command::new(own_exe)
        .arg(BECOME_DAEMON)
        .arg(daemon)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
}

/// Leaves the terminal's session and becomes `daemon`; returns only the failure to do so.
#[expect(clippy::disallowed_methods, reason = "the gate to other programs")]
pub(crate) fn become_daemon(daemon: &Path) -> io::Error {
    match rustix::process::setsid() {
        Ok(_) => Command::new(daemon).exec(),
        Err(errno) => errno.into(),
    }
}

/// A program that says what it does on this one's standard error, and reads nothing of this one's input. Ctrl-C reaches it as it
/// reaches this one.
pub(crate) struct Attached {
    command: Command,
    input: Vec<u8>,
}

impl Attached {
    /// `program`, without arguments yet.
    #[expect(clippy::disallowed_methods, reason = "the gate to other programs")]
    pub(crate) fn new(program: &Path) -> Attached {
        Attached { command: Command::new(program), input: Vec::new() }
    }

    /// One more argument.
    pub(crate) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Attached {
        self.command.arg(arg);
        self
    }

    /// What it reads.
    pub(crate) fn input(&mut self, bytes: Vec<u8>) -> &mut Attached {
        self.input = bytes;
        self
    }

    /// Its name.
    pub(crate) fn shown(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not read what it is given.
    pub(crate) fn run(mut self) -> io::Result<ExitStatus> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::from(io::stderr()));
        let mut child = self.command.spawn()?;
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&self.input));
        let status = child.wait()?;
        // One that ended before it had read everything says by its status why.
        written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
        Ok(status)
    }
}
