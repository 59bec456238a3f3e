//! Starting processes, and knowing them again.
//!
//! - [`command`] is the one way to name a program to run; [`run`] runs it to its end with bounded output.
//! - [`Detach`] puts a child into a session of its own, so that it outlives us and no signal to our group reaches it.
//! - [`Identity`] is a process id that cannot be confused with a later process of the same number.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal};

/// Most bytes kept of a child's standard output by [`run`].
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Bytes kept of the end of a child's standard error by [`run`].
pub const STDERR_TAIL_BYTES: usize = 4096;

/// A child process that could not be run or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("cannot run {program}")]
    Start {
        /// The program as named.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its output could not be read.
    #[error("cannot read what {program} prints")]
    Read {
        /// The program as named.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended without success.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// The program as named.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its standard error.
        stderr: String,
    },
}

/// A command with an empty standard input; nothing is run by a shell.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs to the end and gives standard output (at most [`OUTPUT_BYTES_MAX`] bytes).
///
/// # Errors
/// When it cannot be started or ends without success; the end of its standard error is quoted.
pub fn run(command: &mut Command) -> Result<Vec<u8>, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    tracing::debug!(?command, "running");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| RunError::Start { program: program.clone(), source })?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let (stdout, stderr) = std::thread::scope(|scope| {
        let tail = scope.spawn(move || stderr.map_or_else(|| Ok(Vec::new()), read_tail));
        let head = stdout.map_or_else(|| Ok(Vec::new()), read_head);
        (head, tail.join().unwrap_or_else(|_| Ok(Vec::new())))
    });
    let status = child.wait().map_err(|source| RunError::Read { program: program.clone(), source })?;
    let read = |source| RunError::Read { program: program.clone(), source };
    let (stdout, stderr) = (stdout.map_err(read)?, stderr.map_err(read)?);
    if status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(RunError::Failed { program, status, stderr })
}

/// Reads all, keeps the first [`OUTPUT_BYTES_MAX`] bytes.
fn read_head(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    from.by_ref().take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut kept)?;
    io::copy(&mut from, &mut io::sink())?;
    Ok(kept)
}

/// Reads all, keeps the last [`STDERR_TAIL_BYTES`] bytes.
fn read_tail(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(kept),
            Ok(count) => {
                kept.extend_from_slice(&chunk[..count]);
                kept.drain(..kept.len().saturating_sub(STDERR_TAIL_BYTES));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The first executable file called `name` in the directories of `path`, a value of `PATH`; relative entries are skipped.
#[must_use]
pub fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Gives a command a session of its own.
pub trait Detach {
    /// The child calls setsid(2) before it becomes the program.
    fn detach(&mut self) -> &mut Self;
}

impl Detach for Command {
    fn detach(&mut self) -> &mut Self {
        // SAFETY: setsid(2) is async-signal-safe, allocates nothing and takes no lock.
        unsafe {
            self.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(())
            })
        }
    }
}

/// A process that can be told from a later one with the same number: its id and its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its process id.
    pub pid: u32,
    /// Its start in clock ticks since the host booted: field 22 of `/proc/pid/stat`, proc(5).
    pub start_ticks: u64,
}

impl Identity {
    /// The identity of a living process; none when there is no such process or it is a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Identity> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Identity { pid, start_ticks })
    }

    /// Whether this very process is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Identity::of(self.pid) == Some(*self)
    }

    /// A descriptor that becomes readable when this very process ends: pidfd_open(2). None when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The number may have been reused between reading and opening; with the descriptor held it cannot be.
        self.is_alive().then_some(fd)
    }

    /// Sends a signal to this very process; one that has ended is none of our business.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(fd) = self.pidfd() else {
            return Ok(());
        };
        match rustix::process::pidfd_send_signal(fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_the_program() {
        let error = run(command("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): because");
        assert!(matches!(run(&mut command("/nonexistent")), Err(RunError::Start { .. })));
    }

    #[test]
    fn programs_are_found_where_path_says() {
        let sh = find_program("sh", OsStr::new("relative:/nonexistent:/usr/bin:/bin")).unwrap();
        assert!(sh.is_absolute());
        assert_eq!(find_program("sh", OsStr::new("")), None);
        assert_eq!(find_program("passwd", OsStr::new("/etc")), None, "a file that cannot be executed");
    }

    #[test]
    fn a_flood_is_bounded() {
        let out = run(command("sh").args(["-c", "head -c 20000000 /dev/zero; head -c 9000 /dev/zero >&2"])).unwrap();
        assert_eq!(out.len(), OUTPUT_BYTES_MAX);
    }

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = command("sleep").arg("1000").detach().spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        let other = Identity { start_ticks: identity.start_ticks + 1, ..identity };
        assert!(!other.is_alive());
        other.signal(Signal::KILL).unwrap();
        assert!(identity.is_alive(), "a process of the same number is not signalled");
        identity.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!identity.is_alive());
        assert!(identity.pidfd().is_none());
    }
}
