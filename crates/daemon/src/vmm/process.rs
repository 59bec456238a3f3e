//! A VMM as a process that outlives the daemon: what every driver does alike.
//!
//! The process records its identity in the boot's pid file before it becomes the VMM ([`sys::process::spawn_recorded`]).
//! From then on that record is the only way it is found again, and the process of that number is signalled only when its
//! start time agrees. A task watches each VMM we hold: it learns of the end through a pidfd, collects the child, and keeps
//! the VMM's logs from growing without end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use sys::process::Identity;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};
use wire::api::KillSignal;

use super::{Launch, Vmm, VmmError, logs};
use crate::model::machine::ExitReason;

/// How long a killed process may take to be gone: it frees the guest's memory on the way.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How often a starting VMM is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often the logs of a running VMM are looked at: seldom enough to cost nothing, often enough for what a serial
/// console can print in between.
const LOGS_EVERY: Duration = Duration::from_secs(60);

/// Starts `launch` and holds it.
pub(super) fn spawn(launch: &Launch) -> Result<Held, VmmError> {
    let (program, arguments) = launch.argv.split_first().ok_or_else(|| spawn_error("", io::ErrorKind::InvalidInput))?;
    let log = sys::fs::append(&launch.vmm_log, 0o600)?;
    let other = log.try_clone().map_err(|source| VmmError::Spawn { program: program.clone(), source })?;
    let mut command = sys::process::command(program);
    if let Some(saved) = &launch.saved {
        command.stdin(Stdio::from(sys::fs::open(&saved.devices)?));
    }
    command.args(arguments).stdout(Stdio::from(log)).stderr(Stdio::from(other)).current_dir(&launch.boot_dir);
    let (child, identity) = sys::process::spawn_recorded(&mut command, &launch.pid_file())
        .map_err(|source| VmmError::Spawn { program: program.clone(), source })?;
    Held::watch(identity, Some(child), launch)
}

fn spawn_error(program: &str, kind: io::ErrorKind) -> VmmError {
    VmmError::Spawn { program: program.to_owned(), source: kind.into() }
}

/// Waits until `is_up` says so, the process ends (its log is quoted) or `within` is over (it is killed).
pub(super) async fn wait_until_up<F>(
    held: &mut Held,
    launch: &Launch,
    within: Duration,
    is_up: impl FnMut() -> F,
) -> Result<(), VmmError>
where
    F: Future<Output = bool>,
{
    let up = until_up(held, launch, within, is_up).await;
    if up.is_err() {
        held.kill().await?;
        ensure_gone(launch).await?;
    }
    up
}

/// Waits until `is_up` says so, the process ends or `within` is over: its log is quoted then, and whatever is left is there.
pub(super) async fn until_up<F>(
    vmm: &mut dyn Vmm,
    launch: &Launch,
    within: Duration,
    mut is_up: impl FnMut() -> F,
) -> Result<(), VmmError>
where
    F: Future<Output = bool>,
{
    let program = || launch.argv.first().cloned().unwrap_or_default();
    let deadline = Instant::now() + within;
    loop {
        if timeout_at(deadline, is_up()).await == Ok(true) {
            return Ok(());
        }
        tokio::select! {
            reason = vmm.wait() => {
                let (how, log) = (in_words(&reason), logs::quote(&launch.vmm_log));
                return Err(VmmError::EndedEarly { program: program(), how, log });
            }
            () = sleep_until(deadline.min(Instant::now() + LOOK_EVERY)) => {}
        }
        if Instant::now() >= deadline {
            return Err(VmmError::NotUp { program: program(), within, log: logs::quote(&launch.vmm_log) });
        }
    }
}

fn in_words(reason: &ExitReason) -> String {
    match reason {
        ExitReason::Ended { code: Some(code) } => format!("status {code}"),
        ExitReason::Crashed { signal: Some(signal) } => format!("signal {signal}"),
        ExitReason::Killed => "killed".to_owned(),
        ExitReason::Ended { code: None } | ExitReason::Crashed { signal: None } => "nobody knows how".to_owned(),
    }
}

/// Takes over what an earlier daemon started.
pub(super) fn adopt(launch: &Launch) -> Result<Option<Held>, VmmError> {
    match recorded(launch)? {
        Some(identity) if identity.is_alive() => Held::watch(identity, None, launch).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// Whether what runs for `launch` has the file open that is at `path` now; none when that cannot be told.
pub(super) fn has_open(launch: &Launch, path: &Path) -> Option<bool> {
    recorded(launch).ok().flatten()?.has_open(path)
}

/// Sends a signal to what runs for `launch`.
pub(super) fn signal(launch: &Launch, signal: KillSignal) -> Result<(), VmmError> {
    let Some(identity) = recorded(launch)? else {
        return Ok(());
    };
    let number = match signal {
        KillSignal::Term => Signal::TERM,
        KillSignal::Kill => Signal::KILL,
        KillSignal::Int => Signal::INT,
        KillSignal::Hup => Signal::HUP,
        KillSignal::Quit => Signal::QUIT,
        KillSignal::Usr1 => Signal::USR1,
        KillSignal::Usr2 => Signal::USR2,
        KillSignal::Abrt => Signal::ABORT,
    };
    identity.signal(number).map_err(|source| VmmError::Signal { pid: identity.pid, name: signal.name(), source })
}

/// Kills what runs for `launch`, waits until it is gone, and removes what it leaves in the boot's directory.
pub(super) async fn ensure_gone(launch: &Launch) -> Result<(), VmmError> {
    let mut gone = None;
    // One that was only starting another may have put that on record before it was killed.
    while let Some(identity) = recorded(launch)?.filter(|identity| gone != Some(*identity)) {
        kill_and_wait(identity).await?;
        gone = Some(identity);
    }
    for left in [launch.agent_socket(), super::qmp_socket(&launch.boot_dir), launch.pid_file()] {
        sys::fs::remove_file(&left)?;
    }
    Ok(())
}

fn recorded(launch: &Launch) -> Result<Option<Identity>, VmmError> {
    let path = launch.pid_file();
    Identity::recorded(&path).map_err(|source| sys::fs::FsError { act: "read", path, source }.into())
}

async fn kill_and_wait(identity: Identity) -> Result<(), VmmError> {
    let failed = |source| VmmError::Kill { pid: identity.pid, source };
    let Some(fd) = identity.pidfd() else {
        return Ok(());
    };
    identity.signal(Signal::KILL).map_err(failed)?;
    let fd = end_of(fd).map_err(failed)?;
    match timeout(GONE_WITHIN, fd.readable()).await {
        Ok(ended) => ended.map(|_guard| ()).map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// A pidfd to wait on.
#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd keeps the descriptor open, which is all that asks for"
)]
fn end_of(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

/// A VMM that runs, or ended while we held it. Dropping it leaves the VMM alone.
pub(super) struct Held {
    /// Whom signals go to. The one that is waited for may be another process, which ends with this one.
    identity: Identity,
    ended: watch::Receiver<Option<ExitReason>>,
    killed: Arc<AtomicBool>,
}

impl Held {
    /// Watches the process; `child` when it is ours to collect.
    pub(super) fn watch(identity: Identity, child: Option<Child>, launch: &Launch) -> Result<Held, VmmError> {
        let killed = Arc::new(AtomicBool::new(false));
        let (sender, ended) = watch::channel(None);
        let fd =
            identity.pidfd().map(end_of).transpose().map_err(|source| VmmError::Watch { pid: identity.pid, source })?;
        let was_killed = Arc::clone(&killed);
        let logs = [launch.console_log.clone(), launch.vmm_log.clone(), super::metrics_file(&launch.vmm_log)];
        crate::supervise::spawn("VMM watch", async move {
            if let Some(fd) = fd {
                watch_until_end(&fd, &logs).await;
            }
            let reason = collect(child, was_killed.load(Ordering::SeqCst));
            tracing::info!(pid = identity.pid, ?reason, "a VMM ended");
            sender.send_replace(Some(reason));
        });
        Ok(Held { identity, ended, killed })
    }

    /// Its end, which comes next, is one that we brought about.
    pub(super) fn note_kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }

    /// What was started has put itself into the pid file's record no more, but the VMM that it waits for: that one is meant
    /// from now on.
    pub(super) fn aim(&mut self, launch: &Launch) -> Result<(), VmmError> {
        if let Some(identity) = recorded(launch)? {
            self.identity = identity;
        }
        Ok(())
    }
}

async fn watch_until_end(fd: &AsyncFd<OwnedFd>, logs: &[impl AsRef<Path>]) {
    let mut ticks = interval(LOGS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = fd.readable() => {
                if let Err(error) = ended {
                    tracing::warn!(%error, "cannot wait for a VMM's end");
                }
                return;
            }
            _ = ticks.tick() => {
                for log in logs {
                    if let Err(error) = logs::cut(log.as_ref()) {
                        tracing::warn!(%error, path = %log.as_ref().display(), "cannot cut a VMM's log");
                    }
                }
            }
        }
    }
}

/// How the process ended, and with it the zombie when it is our child.
fn collect(child: Option<Child>, was_killed: bool) -> ExitReason {
    use std::os::unix::process::ExitStatusExt;

    let status = child.and_then(|mut child| child.wait().ok());
    match status {
        _ if was_killed => ExitReason::Killed,
        Some(status) if status.signal().is_some() => ExitReason::Crashed { signal: status.signal() },
        Some(status) => ExitReason::Ended { code: status.code() },
        None => ExitReason::Ended { code: None },
    }
}

#[async_trait]
impl Vmm for Held {
    fn identity(&self) -> Identity {
        self.identity
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        let failed = |source| VmmError::Kill { pid: self.identity.pid, source };
        if self.ended.borrow().is_none() {
            self.killed.store(true, Ordering::SeqCst);
            self.identity.signal(Signal::KILL).map_err(failed)?;
        }
        match timeout(GONE_WITHIN, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(VmmError::Kill { pid: self.identity.pid, source: io::ErrorKind::TimedOut.into() }),
        }
    }

    async fn wait(&mut self) -> ExitReason {
        match self.ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::Ended { code: None }),
            // The task is gone with its runtime: nobody can tell.
            Err(_) => ExitReason::Ended { code: None },
        }
    }
}
