//! Starting one program as fast as Linux can, in exactly the state asked for: clone3(2) with `CLONE_VM | CLONE_VFORK`.
//!
//! Nothing of the parent's memory is copied, the child is born in its cgroup (`CLONE_INTO_CGROUP`: no write to
//! `cgroup.procs`, which waits for an RCU grace period) and comes with a pidfd. The parent stands still until the child
//! has become the program or given up, so the child reports its failure through memory.
//!
//! In order, the child: starts a session, takes its three standard descriptors, takes the terminal, forgets the parent's
//! signal settings and OOM score, gives up privileges, enters its directory, becomes the program. Between clone and exec it
//! calls the kernel only: no allocation, no lock, no libc state. **The calling process must have one thread.**

mod fork;

use std::ffi::{CStr, CString, c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub(crate) use fork::clone_whole;
pub use fork::{children_in_new_pid_namespace, exit_at_once, fork, fork_into, fork_with, keep_inherited_private};

/// Whose rights a program runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// Everything about a program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Paths tried in order, as a search along `PATH` does: the next one is tried when one is missing or not executable.
    pub paths: &'a [CString],
    /// Its arguments, the name first.
    pub argv: &'a [CString],
    /// Its environment, `NAME=value`.
    pub env: &'a [CString],
    /// Standard input, output and error; each a descriptor above 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Standard input is a terminal and becomes the controlling one.
    pub terminal: bool,
    /// Whose rights; `None` keeps the caller's.
    pub credentials: Option<&'a Credentials>,
    /// Directories tried in order.
    pub directories: &'a [CString],
    /// A directory of a cgroup v2 tree to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A process that became its program.
#[derive(Debug)]
pub struct Started {
    /// Its process id.
    pub pid: u32,
    /// Becomes readable when it ends: pidfd_open(2).
    pub pidfd: OwnedFd,
}

/// What the child was doing when it gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It was never born.
    Clone,
    /// Session, descriptors or terminal.
    Prepare,
    /// Groups and user id.
    Credentials,
    /// Entering the directory.
    Directory,
    /// Becoming the program.
    Exec,
}

/// A program that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the program ({act:?})")]
pub struct SpawnError {
    /// What failed.
    pub act: Act,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// `struct clone_args` of clone3(2), up to `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP` of clone3(2).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The child's stack; it calls a handful of small functions.
const STACK_BYTES: usize = 64 * 1024;

/// What the child reads and, when it gives up, writes.
struct Shared {
    paths: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    directories: Vec<*const c_char>,
    stdio: [RawFd; 3],
    terminal: bool,
    credentials: Option<(u32, u32, *const u32, usize)>,
    failed: Option<(Act, i32)>,
}

fn pointers(strings: &[CString], end: bool) -> Vec<*const c_char> {
    let mut all: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
    if end {
        all.push(std::ptr::null());
    }
    all
}

/// Starts `program`. The process group and session of the child have its own id.
///
/// # Errors
/// When the child cannot be made or cannot become the program; it is then gone already.
pub fn spawn(program: &Program<'_>) -> Result<Started, SpawnError> {
    let mut shared = Shared {
        paths: pointers(program.paths, false),
        argv: pointers(program.argv, true),
        env: pointers(program.env, true),
        directories: pointers(program.directories, false),
        stdio: program.stdio.map(|fd| fd.as_raw_fd()),
        terminal: program.terminal,
        credentials: program.credentials.map(|c| (c.uid, c.gid, c.groups.as_ptr(), c.groups.len())),
        failed: None,
    };
    let (pid, pidfd) = clone_child(&mut shared, program.cgroup.map(|fd| fd.as_raw_fd()))
        .map_err(|source| SpawnError { act: Act::Clone, source })?;
    // SAFETY: `shared` outlives this read; volatile because the child wrote it behind the compiler's back.
    let failed = unsafe { std::ptr::read_volatile(&raw const shared.failed) };
    let Some((act, errno)) = failed else {
        return Ok(Started { pid, pidfd });
    };
    reap(&pidfd);
    Err(SpawnError { act, source: io::Error::from_raw_os_error(errno) })
}

/// Collects a child that has ended or is about to.
fn reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;
    while matches!(waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED), Err(rustix::io::Errno::INTR)) {}
}

fn clone_child(shared: &mut Shared, cgroup: Option<RawFd>) -> io::Result<(u32, OwnedFd)> {
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / 16);
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let mut args = CloneArgs {
        flags: u64::try_from(flags).expect("the flags are positive"),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::try_from(libc::SIGCHLD).expect("signals are positive"),
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK_BYTES as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup).expect("an open descriptor is positive");
    }
    // SAFETY: the child runs on `stack`, which outlives it in this memory because CLONE_VFORK holds this thread until the
    // child has executed a program or ended; it touches nothing but `shared`, and `child` never returns.
    let pid = unsafe { clone3(&args, child, std::ptr::from_mut(shared).cast()) };
    drop(stack);
    if pid < 0 {
        let errno = i32::try_from(-pid).unwrap_or(libc::EINVAL);
        return Err(io::Error::from_raw_os_error(errno));
    }
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
    let pidfd = unsafe { OwnedFd::from_raw_fd(std::ptr::read_volatile(&raw const pidfd)) };
    Ok((u32::try_from(pid).unwrap_or_default(), pidfd))
}

/// clone3(2) whose child calls `body(data)` on its own stack.
///
/// # Safety
/// `args` must name a stack that nothing else uses; `body` must not return and must bear running in its parent's memory.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &CloneArgs, body: unsafe extern "C" fn(*mut c_void) -> !, data: *mut c_void) -> i64 {
    let result: i64;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; in the child the stack is fresh and 16-byte aligned,
    // so that `call` enters `body` as the ABI wants it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") data,
            in("r13") body,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The child, from birth to program.
unsafe extern "C" fn child(data: *mut c_void) -> ! {
    let shared = data.cast::<Shared>();
    // SAFETY: the parent stands still, so this is the only reference.
    let state = unsafe { &mut *shared };
    let failed = become_program(state);
    // SAFETY: as above; volatile, because the parent reads it so.
    unsafe { std::ptr::write_volatile(&raw mut state.failed, Some(failed)) };
    loop {
        // SAFETY: ends this process; the parent's memory is not unwound.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

/// A raw system call, as a result; errno is the parent's too, which nobody reads meanwhile.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {{
        // SAFETY: every pointer passed here points into `Shared` or to a constant, with the length passed along.
        let result = unsafe { libc::syscall($number $(, $argument)*) };
        // SAFETY: errno is always readable.
        if result < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(result) }
    }};
}

fn become_program(state: &Shared) -> (Act, i32) {
    if let Err(errno) = prepare(state) {
        return (Act::Prepare, errno);
    }
    if let Err(errno) = take_credentials(state) {
        return (Act::Credentials, errno);
    }
    if let Err(errno) = enter(state) {
        return (Act::Directory, errno);
    }
    (Act::Exec, execute(state))
}

fn prepare(state: &Shared) -> Result<(), i32> {
    call!(libc::SYS_setsid)?;
    for (to, from) in state.stdio.iter().enumerate() {
        call!(libc::SYS_dup3, *from, to, 0_usize)?;
    }
    if state.terminal {
        call!(libc::SYS_ioctl, 0_usize, libc::TIOCSCTTY, 0_usize)?;
    }
    // The parent's score protects the parent only. A parent without such a right has nothing to hand down.
    let path = c"/proc/self/oom_score_adj";
    if let Ok(fd) = call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) {
        let _: Result<i64, i32> = call!(libc::SYS_write, fd, c"0".as_ptr(), 1_usize);
        call!(libc::SYS_close, fd)?;
    }
    // An ignored SIGPIPE (Rust's runtime ignores it) and blocked signals survive execve(2).
    let default = [0_u64; 4];
    call!(libc::SYS_rt_sigaction, libc::SIGPIPE, default.as_ptr(), 0_usize, 8_usize)?;
    let none = 0_u64;
    call!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0_usize, 8_usize)?;
    call!(libc::SYS_umask, 0o022_usize)?;
    Ok(())
}

fn take_credentials(state: &Shared) -> Result<(), i32> {
    let Some((uid, gid, groups, count)) = state.credentials else {
        return Ok(());
    };
    call!(libc::SYS_setgroups, count, groups)?;
    call!(libc::SYS_setresgid, gid, gid, gid)?;
    call!(libc::SYS_setresuid, uid, uid, uid)?;
    Ok(())
}

fn enter(state: &Shared) -> Result<(), i32> {
    let mut last = Ok(());
    for directory in &state.directories {
        match call!(libc::SYS_chdir, *directory) {
            Ok(_) => return Ok(()),
            Err(errno) => last = last.and(Err(errno)),
        }
    }
    last
}

fn execute(state: &Shared) -> i32 {
    let mut worst = libc::ENOENT;
    for path in &state.paths {
        let errno = match call!(libc::SYS_execve, *path, state.argv.as_ptr(), state.env.as_ptr()) {
            Ok(_) => continue,
            Err(errno) => errno,
        };
        if errno == libc::EACCES {
            worst = libc::EACCES;
        } else if errno != libc::ENOENT && errno != libc::ENOTDIR {
            return errno;
        }
    }
    worst
}

/// A C string of bytes without a zero byte.
///
/// # Errors
/// When there is a zero byte, which no argument, path or variable can carry.
pub fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in a string"))
}

/// Replaces this process by a program: execve(2), with no signal blocked and `SIGPIPE` as programs expect it. Returns only
/// when that failed.
#[must_use]
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv, true), pointers(env, true));
    // SAFETY: sets a signal's disposition to the default.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: an empty set is all zeros, and is only read.
    unsafe {
        let none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    // SAFETY: both arrays end in a null pointer and outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn strings(all: &[&str]) -> Vec<CString> {
        all.iter().map(|s| CString::new(*s).unwrap()).collect()
    }

    fn run(paths: &[&str], argv: &[&str], directory: &str) -> Result<String, SpawnError> {
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let started = spawn(&Program {
            paths: &strings(paths),
            argv: &strings(argv),
            env: &strings(&["A=1"]),
            stdio: [null.as_fd(), writer.as_fd(), null.as_fd()],
            terminal: false,
            credentials: None,
            directories: &strings(&[directory]),
            cgroup: None,
        });
        drop(writer);
        let mut out = String::new();
        File::from(reader).read_to_string(&mut out).unwrap();
        started.map(|child| {
            reap(&child.pidfd);
            out
        })
    }

    #[test]
    fn a_program_runs_in_its_directory_with_its_environment() {
        assert_eq!(run(&["/none", "/bin/sh"], &["sh", "-c", "pwd; echo $A"], "/usr").unwrap(), "/usr\n1\n");
    }

    #[test]
    fn failures_name_the_act() {
        for (paths, directory, act, errno) in [
            (["/none", "/nothing"], "/", Act::Exec, libc::ENOENT),
            (["/etc/passwd", "/none"], "/", Act::Exec, libc::EACCES),
            (["/bin/true", "/none"], "/none", Act::Directory, libc::ENOENT),
        ] {
            let error = run(&paths, &["x"], directory).unwrap_err();
            assert_eq!((error.act, error.source.raw_os_error()), (act, Some(errno)), "{paths:?}");
        }
    }
}
