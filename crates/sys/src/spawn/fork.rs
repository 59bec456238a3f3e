//! Copies of this process, for what is no program of its own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{CLONE_INTO_CGROUP, CloneArgs};

/// Makes a copy of this process: fork(2). `None` in the child. **The calling process must have one thread.**
///
/// # Errors
/// When the kernel makes no further process.
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: with one thread the child's copy of every lock is free and its memory whole.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(u32::try_from(pid).unwrap_or_default())),
    }
}

/// As [`fork`], with a child that is born in the cgroup whose directory is open as `cgroup`: moving there afterwards, by
/// `cgroup.procs`, waits for a grace period of every processor. **The calling process must have one thread.**
///
/// # Errors
/// When the kernel makes no further process, or has no clone3(2) with `CLONE_INTO_CGROUP` (Linux before 5.7).
pub fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::try_from(libc::SIGCHLD).expect("signals are positive"),
        cgroup: u64::try_from(cgroup.as_raw_fd()).expect("an open descriptor is positive"),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child has memory and a stack of its own, as after fork(2), and with one thread its copy
    // of every lock is free. The C library is not told: of what it keeps, only its idea of the thread's id is the parent's,
    // which nothing here asks for.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(u32::try_from(pid).unwrap_or_default())),
    }
}

/// A copy of this process with these flags of clone(2), whose pidfd goes to `pidfd` where they ask for one. `None` in the
/// child. **The calling process must have one thread.**
pub(crate) fn clone_whole(flags: i32, pidfd: &mut RawFd) -> io::Result<Option<u32>> {
    let args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        pidfd: std::ptr::from_mut(pidfd) as u64,
        exit_signal: u64::try_from(libc::SIGCHLD).expect("signals are positive"),
        ..CloneArgs::default()
    };
    // SAFETY: as in `fork_into`; the kernel writes the descriptor through a pointer that is valid for that long.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(u32::try_from(pid).unwrap_or_default())),
    }
}

/// From here on every child of this process is born into a new PID namespace, whose process 1 is the first: unshare(2).
///
/// # Errors
/// When this process may not, or the kernel has no such namespaces.
pub fn children_in_new_pid_namespace() -> io::Result<()> {
    // SAFETY: only CLONE_FILES changes what descriptors other threads have.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }?;
    Ok(())
}

/// Ends this process at once, running no destructor: the way out of a forked child.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: _exit(2) does nothing but end the process.
    unsafe { libc::_exit(code) }
}

/// First descriptor behind the standard ones.
const FIRST_FD: RawFd = 3;

/// Runs `body` in a copy of this process that holds only the standard descriptors and `fds`, and ends with its result as
/// exit code. Gives the copy's process id. **The calling process must have one thread.**
///
/// # Errors
/// When the kernel makes no further process.
pub fn fork_with<const N: usize>(fds: [OwnedFd; N], body: impl FnOnce([OwnedFd; N]) -> i32) -> io::Result<u32> {
    if let Some(pid) = fork()? {
        return Ok(pid);
    }
    let code = match keep_only(fds) {
        Ok(kept) => body(kept),
        Err(_) => 127,
    };
    exit_at_once(code)
}

/// Keeps what this process inherited, but for the standard descriptors, from the programs it starts: close_range(2).
///
/// # Errors
/// When the kernel does not know the call (Linux before 5.11).
pub fn keep_inherited_private() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: sets a flag on descriptors, closing none.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST_FD, u32::MAX, CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Moves `fds` to the numbers behind the standard ones and closes all others. Only for a forked child that never returns
/// to what owned them.
fn keep_only<const N: usize>(fds: [OwnedFd; N]) -> io::Result<[OwnedFd; N]> {
    let count = RawFd::try_from(N).map_err(|_| io::ErrorKind::InvalidInput)?;
    let above = FIRST_FD + count;
    let mut high = [0; N];
    for (to, from) in high.iter_mut().zip(&fds) {
        // SAFETY: duplicates a descriptor that is owned here; the copy is closed below.
        *to = unsafe { libc::fcntl(from.as_raw_fd(), libc::F_DUPFD, above) };
        if *to < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // Their numbers are given to others now.
    std::mem::forget(fds);
    for (to, from) in (FIRST_FD..).zip(&high) {
        // SAFETY: both numbers are descriptors or free; what `to` was belongs to memory this child never returns to.
        if unsafe { libc::dup3(*from, to, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: nothing but the descriptors below `above` is used by this child.
    if unsafe { libc::syscall(libc::SYS_close_range, above, u32::MAX, 0_usize) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut next = FIRST_FD;
    Ok([(); N].map(|()| {
        next += 1;
        // SAFETY: made just above, and owned by nobody else.
        unsafe { OwnedFd::from_raw_fd(next - 1) }
    }))
}
