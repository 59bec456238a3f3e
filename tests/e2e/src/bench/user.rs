//! Threads that are the ordinary user, so that what is timed begins with its own program and not with setpriv(1).

use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Gid, Pid, PidfdFlags, Uid};

use crate::command;
use crate::home::{UID, USER};

/// The longest that one turn may take.
const TURN_MAX: Duration = Duration::from_secs(300);

/// The ordinary user.
pub(super) struct User {
    groups: Vec<Gid>,
}

impl User {
    pub(super) fn find() -> Result<User> {
        let said = command::shell(&format!("id -G {USER}"))?;
        let groups = said.split_ascii_whitespace().map(|id| id.parse().map(Gid::from_raw));
        Ok(User { groups: groups.collect::<Result<_, _>>().context("a group is no number")? })
    }

    /// Does this as the user: credentials are a thread's own, and its children have them too.
    pub(super) fn does<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let become_user = || -> Result<()> {
            let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
            rustix::thread::set_thread_groups(&self.groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
        };
        let body = || {
            become_user().with_context(|| format!("cannot become {USER}"))?;
            act()
        };
        let joined = std::thread::scope(|scope| scope.spawn(body).join());
        joined.map_err(|_| anyhow!("a thread of {USER} panicked"))?
    }
}

/// How long a command takes, which must succeed; what it prints is thrown away but for what it complains of.
pub(super) fn time(command: &mut Command) -> Result<Duration> {
    let mut said = tempfile::tempfile().context("cannot make a file")?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone().context("cannot share a file")?);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let is_over = readable(&pidfd, TURN_MAX)?;
    let took = begun.elapsed();
    if !is_over {
        child.kill().context("cannot kill")?;
    }
    let status = child.wait().context("cannot wait")?;
    ensure!(is_over, "{command:?} did not end within {TURN_MAX:?}");
    if !status.success() {
        let mut text = String::new();
        said.rewind()?;
        said.read_to_string(&mut text).context("cannot read what a command complains of")?;
        bail!("{command:?} failed ({status}): {text}");
    }
    Ok(took)
}

/// Whether this can be read, or has ended, within that time.
pub(super) fn readable(fd: &impl std::os::fd::AsFd, max: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(max).context("too long a time")?;
    let ready = rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout));
    Ok(ready.context("cannot wait")? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_no_figure() {
        let took = time(Command::new("sleep").arg("0.05")).unwrap();
        assert!(took >= Duration::from_millis(50), "{took:?}");
        let error = time(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("why"), "{error}");
    }
}
