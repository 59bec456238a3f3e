//! The gate to other programs: the daemon, left running.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

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
