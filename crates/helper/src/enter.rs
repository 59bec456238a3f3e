//! The VMM's process between its birth and the jailer: it is process 1 of a PID namespace, alone in its mount namespace, and
//! makes a root directory in memory there, which ends with it.
//!
//! The jailer pivots into that directory, makes device nodes, takes the VM's user id, and becomes Firecracker. It copies
//! Firecracker there first, which is why the directory can be written; nothing in it is anybody else's.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use sys::confine::{attach_mount, deny_escapes, keep_mounts_private, limit_to_jailer, mount_memory};
use sys::spawn::c_string;
use wire::helper::{Act, Failure, JailFile};
use wire::id::BootId;
use wire::naming;

use crate::config::Config;
use crate::verbs::vmm::read_all;

/// Room in a jail's own root directory: Firecracker is copied there (3 MB in 2025), and devices are made.
const ROOT_BYTES: u64 = 32 << 20;
/// Files in it, directories and devices included.
const ROOT_FILES: u32 = 64;
/// Sockets that the VMM makes can be used by its user and by the group of their directory, which is the owner's.
const UMASK: u32 = 0o007;

/// Everything about a VMM that is about to start.
pub(crate) struct Plan<'a> {
    /// Names in the jail's root directory, and what is mounted there.
    pub(crate) mounts: Vec<(&'static str, OwnedFd)>,
    /// Mounted at [`naming::SOCKETS_IN_JAIL`].
    pub(crate) sockets: OwnedFd,
    /// Standard output and standard error.
    pub(crate) outputs: [BorrowedFd<'a>; 2],
    pub(crate) boot: &'a BootId,
    /// The VM's user and group.
    pub(crate) uid: u32,
    /// Whether there is a tap in the network namespace, which is its own then.
    pub(crate) has_own_tap: bool,
    pub(crate) config: &'a Config,
}

/// The directory that every VMM mounts its own root over; on the host it stays empty.
pub(crate) fn stage(run: &Path) -> PathBuf {
    run.join("stage")
}

/// Waits for a byte from `go`, then becomes the jailer. What fails is written to `say`, which closes when nothing did.
pub(crate) fn run(plan: &Plan<'_>, go: OwnedFd, say: OwnedFd) -> ! {
    match read_all_is_go(go) {
        Ok(true) => {}
        _ => sys::spawn::exit_at_once(1),
    }
    let Err((act, error)) = become_jailer(plan);
    let mut line = [0; 5];
    line[0] = Act::ALL.iter().position(|one| *one == act).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX);
    line[1..].copy_from_slice(&error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()).to_ne_bytes());
    // A parent that has died is told nothing.
    let _: rustix::io::Result<usize> = rustix::io::write(&say, &line);
    sys::spawn::exit_at_once(1)
}

fn read_all_is_go(go: OwnedFd) -> io::Result<bool> {
    Ok(read_all(go)? == [1])
}

/// What [`run`] said.
pub(crate) fn failure(said: OwnedFd) -> io::Result<Option<Failure>> {
    let bytes = read_all(said)?;
    let Some((which, errno)) = bytes.split_first() else { return Ok(None) };
    let act = Act::ALL.get(usize::from(*which)).copied().unwrap_or(Act::MakeProcess);
    let errno = errno.first_chunk().map_or(rustix::io::Errno::IO.raw_os_error(), |errno| i32::from_ne_bytes(*errno));
    Ok(Some(Failure::Os { act, errno }))
}

fn become_jailer(plan: &Plan<'_>) -> Result<Infallible, (Act, io::Error)> {
    let of = |act| move |error: io::Error| (act, error);
    rustix::process::setsid().map_err(|errno| (Act::MakeProcess, errno.into()))?;
    if plan.has_own_tap {
        sys::seclusion::silence_ipv6().map_err(of(Act::MakeTap))?;
        sys::tap::ensure(naming::TAP_IN_JAIL, plan.uid).map_err(of(Act::MakeTap))?;
    }
    furnish(plan).map_err(of(Act::Mount))?;
    if plan.mounts.iter().any(|(name, _)| *name == (JailFile::Memory {}).name_in_jail()) {
        // A guest's memory that is a file's: large pages would go to the VMM's own stacks alone, two MiB each.
        rustix::thread::disable_transparent_huge_pages(true).map_err(|errno| (Act::Restrict, errno.into()))?;
    }
    connect(plan).map_err(of(Act::Restrict))?;
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    limit_to_jailer().map_err(of(Act::Restrict))?;
    deny_escapes().map_err(of(Act::Restrict))?;
    let (path, argv) = command(plan).map_err(of(Act::Exec))?;
    Err((Act::Exec, sys::spawn::exec(&path, &argv, &[])))
}

/// Where the jailer wants the root directory: it names it by program and id.
fn root(plan: &Plan<'_>) -> PathBuf {
    let program = plan.config.firecracker.file_name().unwrap_or_default();
    stage(&plan.config.run).join(program).join(plan.boot.as_str()).join("root")
}

/// Makes the jail's root directory and mounts what belongs there.
fn furnish(plan: &Plan<'_>) -> io::Result<()> {
    keep_mounts_private()?;
    mount_memory(&stage(&plan.config.run), ROOT_BYTES, ROOT_FILES)?;
    let root = root(plan);
    let sockets = root.join(naming::SOCKETS_IN_JAIL.trim_start_matches('/'));
    DirBuilder::new().recursive(true).mode(0o700).create(&sockets)?;
    attach_mount(&plan.sockets, &sockets)?;
    for (name, mount) in &plan.mounts {
        let place = root.join(name);
        sys::fs::create_new(&place, 0o600).map_err(|error| error.source)?;
        attach_mount(mount, &place)?;
    }
    Ok(())
}

/// Nothing to read, the caller's files to write to, and no better chance than others when memory runs out.
fn connect(plan: &Plan<'_>) -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(plan.outputs[0])?;
    rustix::stdio::dup2_stderr(plan.outputs[1])?;
    let score = std::fs::File::options().write(true).open("/proc/self/oom_score_adj")?;
    rustix::io::write(&score, b"0")?;
    Ok(())
}

/// The jailer's command line. It closes what else is open, and clears the environment.
fn command(plan: &Plan<'_>) -> io::Result<(CString, Vec<CString>)> {
    let (config, uid) = (plan.config, plan.uid.to_string());
    let api = format!("{}/{}", naming::SOCKETS_IN_JAIL, naming::API_SOCKET);
    let stage = stage(&config.run);
    let words: [&[u8]; 14] = [
        b"jailer",
        b"--id",
        plan.boot.as_str().as_bytes(),
        b"--exec-file",
        config.firecracker.as_os_str().as_bytes(),
        b"--uid",
        uid.as_bytes(),
        b"--gid",
        uid.as_bytes(),
        b"--chroot-base-dir",
        stage.as_os_str().as_bytes(),
        b"--",
        b"--api-sock",
        api.as_bytes(),
    ];
    let argv = words.into_iter().map(c_string).collect::<io::Result<_>>()?;
    Ok((c_string(config.jailer.as_os_str().as_bytes())?, argv))
}
