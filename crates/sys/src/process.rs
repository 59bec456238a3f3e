//! Starting processes, and knowing them again.
//!
//! - [`command`] is the one way to name a program to run; [`run`] runs it to its end with bounded output.
//! - [`Detach`] puts a child into a session of its own, so that it outlives us and no signal to our group reaches it;
//!   [`Tie`] is the opposite: the child never outlives us.
//! - [`Identity`] is a process id that cannot be confused with a later process of the same number.
//! - [`spawn_recorded`] starts a process whose identity is on disk before its program begins.

mod record;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use record::{host_boot_id, record_self};
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

impl RunError {
    /// Whether the program says that a disk is full. It says so in English only under `LC_ALL=C`.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Failed { stderr, .. } if stderr.contains("No space left on device"))
    }
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

/// Ties a command's life to ours.
pub trait Tie {
    /// The child is killed when the thread that starts it ends, so that even a crash of ours leaves no process behind.
    /// That thread must live as long as the child is wanted: prctl(2), `PR_SET_PDEATHSIG`.
    fn tie(&mut self) -> &mut Self;
}

impl Tie for Command {
    fn tie(&mut self) -> &mut Self {
        let parent = Pid::from_raw(i32::try_from(std::process::id()).unwrap_or_default());
        // SAFETY: prctl(2) and getppid(2) are async-signal-safe, allocate nothing and take no lock.
        unsafe {
            self.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that ended before is told by nobody.
                if rustix::process::getppid() == parent {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(libc::ESRCH))
                }
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

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads since it began, user's and system's.
    pub cpu: Duration,
    /// Memory it holds.
    pub resident_bytes: u64,
}

impl Identity {
    /// What this very process uses now: fields 14, 15 and 24 of `/proc/pid/stat`. None when it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // The first of these is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        if field(22)? != self.start_ticks {
            return None;
        }
        let ticks = field(14)?.saturating_add(field(15)?);
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        let cpu = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
        Some(Usage { cpu, resident_bytes: field(24)?.saturating_mul(page) })
    }

    /// The identity of a living process; none when there is no such process or it is a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Identity> {
        Identity::with_parent(pid).map(|(identity, _)| identity)
    }

    /// The living processes that `parent` has started, directly.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn children_of(parent: u32) -> io::Result<Vec<Identity>> {
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let found = name.to_str().and_then(|name| Identity::with_parent(name.parse().ok()?));
            children.extend(found.filter(|(_, its)| *its == parent).map(|(identity, _)| identity));
        }
        Ok(children)
    }

    fn with_parent(pid: u32) -> Option<(Identity, u32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(17)?.parse().ok()?;
        (state != "Z" && state != "X").then_some((Identity { pid, start_ticks }, parent))
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

    /// Lets other processes run first: all its threads, and those they start, get the niceness [`YIELDING`], setpriority(2).
    ///
    /// # Errors
    /// When the kernel refuses; a process or thread that has ended is none of our business.
    pub fn yield_to_others(&self) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return Ok(());
        };
        for thread in threads.flatten() {
            let Some(id) = thread.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else {
                continue;
            };
            match rustix::process::setpriority_process(Some(id), YIELDING) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// The niceness of what nobody waits for.
const YIELDING: i32 = 15;

/// Files that a process started by [`spawn_recorded`] makes are its owner's alone.
const PRIVATE_UMASK: libc::mode_t = 0o077;

/// Starts a process in a session of its own with umask 077 and records its [`Identity`] in `pid_file`. The child writes
/// the file itself before it becomes the program, so there is no moment at which it runs unrecorded.
///
/// # Errors
/// When the file cannot be made or the program cannot be started; the file is then removed.
pub fn spawn_recorded(command: &mut Command, pid_file: &Path) -> io::Result<(Child, Identity)> {
    let mut options = std::fs::OpenOptions::new();
    let options = std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
    let file = options.open(pid_file)?;
    let host_boot = host_boot_id()?;
    let fd = file.as_raw_fd();
    // SAFETY: umask(2) and what record_self does (open, read, write, close, getpid) are async-signal-safe; nothing
    // allocates or takes a lock. `fd` stays open until spawn has returned.
    unsafe {
        command.detach().pre_exec(move || {
            libc::umask(PRIVATE_UMASK);
            record_self(fd, &host_boot)
        });
    }
    tracing::debug!(?command, "starting");
    let spawned = command.spawn().and_then(|child| {
        let recorded = Identity::recorded(pid_file)?;
        match recorded {
            Some(identity) if identity.pid == child.id() => Ok((child, identity)),
            _ => Err(io::Error::other("the process did not record itself")),
        }
    });
    if spawned.is_err() {
        crate::fs::remove_file(pid_file).map_err(|error| error.source)?;
    }
    spawned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_time_and_memory() {
        let own = Identity::of(std::process::id()).unwrap();
        let before = own.usage().unwrap();
        assert!(before.resident_bytes > 100 << 10, "{before:?}");
        let deadline = crate::clock::monotonic() + Duration::from_secs(20);
        while own.usage().unwrap().cpu == before.cpu {
            assert!(crate::clock::monotonic() < deadline, "a busy loop uses the processor");
        }
        let other = Identity { start_ticks: own.start_ticks + 1, ..own };
        assert_eq!(other.usage(), None, "another process of that number is none of ours");
    }

    #[test]
    fn a_process_is_recorded_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("cut -d' ' -f1 {} > {}", file.display(), dir.path().join("seen").display());
        let (mut child, identity) = spawn_recorded(command("sh").args(["-c", &script]), &file).unwrap();
        assert_eq!(Identity::recorded(&file).unwrap(), Some(identity));
        assert!(child.wait().unwrap().success());
        let seen = std::fs::read_to_string(dir.path().join("seen")).unwrap();
        assert_eq!(seen.trim(), child.id().to_string(), "the program finds its own record");
        assert!(!identity.is_alive());
        let mode = std::fs::metadata(dir.path().join("seen")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_start_leaves_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        spawn_recorded(&mut command("/nonexistent"), &file).unwrap_err();
        assert!(!file.exists());
        assert_eq!(Identity::recorded(&file).unwrap(), None);
    }

    #[test]
    fn a_record_of_another_host_boot_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let own = Identity::of(std::process::id()).unwrap();
        let record = |boot: &str| std::fs::write(&file, format!("{} {} {boot}\n", own.pid, own.start_ticks)).unwrap();
        record("00000000-0000-0000-0000-000000000000");
        assert_eq!(Identity::recorded(&file).unwrap(), None);
        record(std::str::from_utf8(&host_boot_id().unwrap()).unwrap());
        assert_eq!(Identity::recorded(&file).unwrap(), Some(own));
        std::fs::write(&file, "nonsense").unwrap();
        assert!(Identity::recorded(&file).is_err());
    }

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
    fn a_tied_child_ends_with_the_thread_that_started_it() {
        let start = || command("sleep").arg("1000").tie().spawn().unwrap();
        let (mut child, found) = std::thread::spawn(move || {
            let child = start();
            let found = Identity::children_of(std::process::id()).unwrap();
            (child, found)
        })
        .join()
        .unwrap();
        assert!(found.iter().any(|identity| identity.pid == child.id()), "{found:?}");
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
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
