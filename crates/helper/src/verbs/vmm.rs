//! Spawn and kill a VMM.
//!
//! Everything that can be refused is refused first. Then the process is born in namespaces of its own and waits; it is
//! written down, put into its scope, and told to go on. Whatever dies in between, nothing runs that is not written down.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use sys::confine::{MountAccess, Network, detached_mount, isolated_fork};
use sys::process::Identity;
use wire::helper::{Act, Failure, Gone, Limits, Nic, Root, Rule, SpawnVmm, VmmRuns};
use wire::id::BootId;
use wire::naming;

use super::jail::{self, Jail};
use super::scope;
use crate::config::Config;
use crate::enter::{self, Plan};
use crate::policy::{self, denied, errno, os};
use crate::serve::Helper;

/// How long a killed VMM may take to give its memory back.
const END: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

pub(crate) fn spawn(helper: &mut Helper, wanted: &SpawnVmm, fds: &[OwnedFd]) -> Result<(VmmRuns, OwnedFd), Failure> {
    let config = &helper.config;
    let jail = jail::read(&config.run, &wanted.boot)?;
    if let Some((identity, pidfd)) = running(&config.run, &wanted.boot)? {
        return Ok((VmmRuns { pid: identity.pid, start_ticks: identity.start_ticks }, pidfd));
    }
    policy::check_programs(config)?;
    if wanted.limits != Limits::default() && !config.has_scopes {
        return denied(Rule::Limits);
    }
    let [stdout, stderr, files @ ..] = fds else { return denied(Rule::Descriptors) };
    if files.len() != wanted.files.len() {
        return denied(Rule::Descriptors);
    }
    policy::check_output(stdout)?;
    policy::check_output(stderr)?;
    let plan = Plan {
        mounts: mounts(config, &jail, wanted, files)?,
        sockets: sockets(config, &jail.boot)?,
        outputs: [stdout.as_fd(), stderr.as_fd()],
        boot: &jail.boot,
        uid: naming::vm_uid(jail.slot),
        has_own_tap: wanted.nic == Nic::Closed,
        config,
    };
    let network = if wanted.nic == Nic::Slots { Network::Shared } else { Network::None };
    let (identity, pidfd) = start(&plan, network, wanted.limits)?;
    let ours = pidfd.try_clone().map_err(os(Act::MakeProcess))?;
    helper.children.push((jail.boot, ours));
    Ok((VmmRuns { pid: identity.pid, start_ticks: identity.start_ticks }, pidfd))
}

/// Each file, checked and ready to be attached. All are checked before any is touched.
fn mounts(
    config: &Config,
    jail: &Jail,
    wanted: &SpawnVmm,
    came: &[OwnedFd],
) -> Result<Vec<(&'static str, OwnedFd)>, Failure> {
    let mut checked = Vec::new();
    for (at, (file, came)) in wanted.files.iter().zip(came).enumerate() {
        let name = file.name_in_jail();
        if wanted.files[..at].iter().any(|other| other.name_in_jail() == name) {
            return denied(Rule::Twice { file: name.to_owned() });
        }
        let (root, place) = file.place(&jail.vm, &jail.boot);
        let root = match root {
            Root::State => &config.state,
            Root::Cache => &config.cache,
        };
        checked.push((name, policy::check_file((root, &place), came, file, config.owner_uid)?));
    }
    let mount = |(name, file): (&'static str, policy::Checked)| {
        file.give_to(naming::vm_uid(jail.slot))?;
        Ok((name, detached_mount(&file.place, file.mount_access()).map_err(os(Act::Mount))?))
    };
    checked.into_iter().map(mount).collect()
}

fn sockets(config: &Config, boot: &BootId) -> Result<OwnedFd, Failure> {
    let dir = File::open(naming::jail_sockets_dir(&config.run, boot)).map_err(os(Act::Mount))?;
    detached_mount(&dir, MountAccess::ReadWrite).map_err(os(Act::Mount))
}

/// Makes the process, and returns when it has become the jailer.
fn start(plan: &Plan<'_>, network: Network, limits: Limits) -> Result<(Identity, OwnedFd), Failure> {
    let (go, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(errno(Act::MakeProcess))?;
    let (said, say) = pipe_with(PipeFlags::CLOEXEC).map_err(errno(Act::MakeProcess))?;
    let Some((pid, pidfd)) = isolated_fork(network).map_err(os(Act::MakeProcess))? else {
        // Only the parent's end keeps it waiting: when the parent dies, so does this.
        drop((tell, said));
        enter::run(plan, go, say);
    };
    drop((go, say));
    let started = (|| {
        let gone = || Failure::Os { act: Act::MakeProcess, errno: rustix::io::Errno::SRCH.raw_os_error() };
        let identity = Identity::of(pid).ok_or_else(gone)?;
        identity.record(&jail::pid_file(&plan.config.run, plan.boot)).map_err(os(Act::RecordProcess))?;
        if plan.config.has_scopes {
            scope::make(plan.boot, pid, limits).map_err(os(Act::MakeScope))?;
        }
        File::from(tell).write_all(&[1]).map_err(os(Act::MakeProcess))?;
        match enter::failure(said).map_err(os(Act::MakeProcess))? {
            None => Ok(identity),
            Some(failure) => Err(failure),
        }
    })();
    match started {
        Ok(identity) => Ok((identity, pidfd)),
        Err(failure) => {
            end(&pidfd)?;
            // It is our child: without this it stays a zombie. It may have been collected already.
            let _: rustix::io::Result<_> = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            forget(&plan.config.run, plan.boot)?;
            Err(failure)
        }
    }
}

/// The boot's VMM, if it runs.
pub(crate) fn running(run: &Path, boot: &BootId) -> Result<Option<(Identity, OwnedFd)>, Failure> {
    let recorded = Identity::recorded(&jail::pid_file(run, boot)).map_err(os(Act::ReadJail))?;
    Ok(recorded.and_then(|identity| Some((identity, identity.pidfd()?))))
}

pub(crate) fn kill(run: &Path, boot: &BootId) -> Result<Gone, Failure> {
    if let Some((_, pidfd)) = running(run, boot)? {
        end(&pidfd)?;
    }
    forget(run, boot)?;
    Ok(Gone {})
}

/// Kills a process, whose whole PID namespace ends with it, and waits.
fn end(pidfd: &OwnedFd) -> Result<(), Failure> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(errno(Act::Kill)(error)),
    }
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&END)) {
        Ok(0) => Err(Failure::StillRunning),
        Ok(_) => Ok(()),
        Err(error) => Err(errno(Act::Kill)(error)),
    }
}

fn forget(run: &Path, boot: &BootId) -> Result<(), Failure> {
    sys::fs::remove_file(&jail::pid_file(run, boot)).map_err(|error| os(Act::RemoveJail)(error.source))
}

/// What [`enter::run`] wrote: nothing when it became the jailer.
pub(crate) fn read_all(from: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(from).take(64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
