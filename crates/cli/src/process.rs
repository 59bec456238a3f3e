//! The gate to other programs: git, asked about a work tree, and the daemon, left running.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The hidden first argument by which `banger` becomes a daemon: see [`become_daemon`].
pub(crate) const BECOME_DAEMON: &str = "__become-daemon";

/// What decides which repository git sees; set inside hooks, and never meant for us (git(1), "The Git Repository").
const GIT_LOCAL: [&str; 7] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
];

/// What git answered.
pub(crate) struct GitAnswer {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs git in `directory` without prompts, hooks, file system monitor or locks: the repository is only read, and
/// nothing in its configuration is run.
///
/// # Errors
/// When git cannot be started.
#[expect(clippy::disallowed_methods, reason = "the gate to other programs")]
pub(crate) fn git(directory: &Path, args: &[&str]) -> io::Result<GitAnswer> {
    let mut command = Command::new("git");
    for name in GIT_LOCAL {
        command.env_remove(name);
    }
    let output = command
        .args(["-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null", "-C"])
        .arg(directory)
        .args(args)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()?;
    Ok(GitAnswer {
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

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
