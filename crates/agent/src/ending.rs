//! The end of a guest: everything unmounted, the host told, the machine reset.
//!
//! systemd executes `/run/initramfs/shutdown`, which is this program, as its very last step: process 1 on a root in memory,
//! the guest's root below `/oldroot`. Where process 1 is ours to begin with, it makes itself such a root. Either way the
//! serving agent, which pivot_root(2) has moved along, is talked to over an abstract Unix socket:
//!
//! ```text
//! process 1                         serving agent
//!   ── release ───────────────────►   commands and transfers killed, every file of the guest's root closed
//!   ◄──────────────────── done ────
//!   kill, unmount, sync
//!   ── ended power_off|reboot ────►   Event::Ending, flushed
//!   ◄──────────────────── done ────
//!   reset the machine
//! ```
//! Reboot and power-off both reset: a machine without a power button ends at a reset, and the host knows from the event
//! which it was. A serving agent that is gone changes nothing but the event.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recv, send,
    socket_with,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use rustix::system::RebootCommand;
use sys::clock::monotonic;
use wire::agent::message::Ending;

use crate::boot::{log, plain};
use crate::mounts::{self, Mount};

/// The root in memory.
const HOOK_ROOT: &str = "/run/initramfs";
/// Where systemd and we put the guest's root.
const OLD_ROOT: &str = "/oldroot";
/// Name of the abstract socket.
const SOCKET: &[u8] = b"banger-agent-ending";
/// Longest wait for the serving agent's answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long processes may take to heed `SIGTERM`, when no init has given them time.
const TERM_WAIT: Duration = Duration::from_secs(5);
/// How long the guest's root may take to be unmounted before the rest is forced.
const UNMOUNT_WAIT: Duration = Duration::from_secs(10);
/// How often to look again at what announces nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Number of the signal that says that a child ended: signal(7).
pub const SIGCHLD: i32 = 17;

/// What the serving agent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Let go of the guest's root.
    Release,
    /// It is over.
    Ended(Ending),
}

impl Word {
    fn bytes(self) -> &'static [u8] {
        match self {
            Word::Release => b"release",
            Word::Ended(Ending::PowerOff) => b"ended power_off",
            Word::Ended(Ending::Reboot) => b"ended reboot",
        }
    }

    /// The word that these bytes are.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Word> {
        [Word::Release, Word::Ended(Ending::PowerOff), Word::Ended(Ending::Reboot)]
            .into_iter()
            .find(|word| word.bytes() == bytes)
    }
}

/// What the serving agent answers.
pub const DONE: &[u8] = b"done";

/// Puts this program where systemd looks for its last step.
///
/// # Errors
/// When `/run` has no room.
pub fn install_hook() -> io::Result<()> {
    make_dir(HOOK_ROOT)?;
    let mut from = File::open("/proc/self/exe")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let to = rustix::fs::open(format!("{HOOK_ROOT}/shutdown"), flags, Mode::from_raw_mode(0o755))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(0o755))?;
    io::copy(&mut from, &mut File::from(to))?;
    Ok(())
}

/// Removes what [`install_hook`] made, which only systemd uses.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_hook() -> io::Result<()> {
    sys::fs::remove_tree(std::path::Path::new(HOOK_ROOT)).map_err(|error| error.source)
}

fn make_dir(path: &str) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The serving agent's end of the socket.
///
/// # Errors
/// When the name is taken: another agent serves.
pub fn hook_listener() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(SOCKET)?)?;
    listen(&socket, 4)?;
    Ok(socket)
}

/// Process 1's end of the socket.
struct Agent {
    socket: OwnedFd,
    pid: Option<Pid>,
}

impl Agent {
    fn find() -> io::Result<Agent> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new_abstract_name(SOCKET)?)?;
        let pid = rustix::net::sockopt::socket_peercred(&socket).ok().map(|peer| peer.pid);
        Ok(Agent { socket, pid })
    }

    fn tell(&self, word: Word) -> io::Result<()> {
        send(&self.socket, word.bytes(), SendFlags::NOSIGNAL)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut fds, Some(&timespec(ANSWER_WAIT)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut answer = [0; 16];
        let (count, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        if answer[..count.min(answer.len())] == *DONE { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// This program as systemd's last step. `verb` is what systemd-shutdown(8) was called with.
pub fn hook(verb: &str) -> ! {
    let how = if matches!(verb, "reboot" | "kexec") { Ending::Reboot } else { Ending::PowerOff };
    finish(how)
}

/// From a root in memory: ends everything.
fn finish(how: Ending) -> ! {
    let agent = Agent::find().inspect_err(|error| log(&format!("no serving agent: {}", plain(error)))).ok();
    let tell = |word| {
        if let Some(agent) = &agent
            && let Err(error) = agent.tell(word)
        {
            log(&format!("the serving agent does not answer: {}", plain(&error)));
        }
    };
    tell(Word::Release);
    let spared = agent.as_ref().and_then(|agent| agent.pid);
    unmount_all(OLD_ROOT, spared);
    tell(Word::Ended(how));
    reset_machine()
}

/// Resets the machine, and never returns: without that right there is nothing left to do but wait for the host.
pub fn reset_machine() -> ! {
    rustix::fs::sync();
    let result = rustix::system::reboot(RebootCommand::Restart);
    log(&format!("cannot reset the machine: {result:?}"));
    loop {
        std::thread::park();
    }
}

/// Ends a boot that cannot go on, wherever it stands.
pub fn give_up() -> ! {
    unmount_all("", None);
    reset_machine()
}

/// Unmounts everything below `root`, killing what holds it.
fn unmount_all(root: &str, spared: Option<Pid>) {
    let deadline = monotonic() + UNMOUNT_WAIT;
    loop {
        signal_all(Signal::KILL, spared);
        reap();
        let is_last = monotonic() >= deadline;
        let left = unmount_round(root, is_last);
        if left == 0 && !ext4_is_mounted() {
            break;
        }
        if is_last {
            log(&format!("{left} mounts could not be undone: remounting everything read-only"));
            emergency_remount();
            break;
        }
        wait_for_mounts();
    }
    rustix::fs::sync();
}

/// Tries every mount below `root` once, the latest first; how many with something to lose are left.
fn unmount_round(root: &str, is_last: bool) -> usize {
    let below = format!("{root}/");
    let is_ours = |mount: &&Mount| {
        let is_below = mount.point == root || (mount.point.starts_with(&below) && mount.point != "/");
        is_below && !(root.is_empty() && mount.is_memory())
    };
    let mounts = mounts::list().unwrap_or_default();
    for mount in mounts.iter().rev().filter(is_ours) {
        // What has no disk behind it may be held by the agent's own descriptors; detaching it hurts nobody.
        let flags = if is_last || mount.is_memory() { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        let _: rustix::io::Result<()> = unmount(&mount.point, flags | UnmountFlags::NOFOLLOW);
    }
    mounts::list().unwrap_or_default().iter().filter(is_ours).count()
}

/// Whether the kernel still has an ext4 open: its directory below `/sys/fs/ext4` goes when its superblock has.
fn ext4_is_mounted() -> bool {
    let Ok(entries) = std::fs::read_dir("/sys/fs/ext4") else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name() != "features")
}

/// Makes every filesystem read-only and clean, mounted or not: `u` of the kernel's sysrq. It is done in the background, and
/// a disk that still says it is mounted writable is looked at until it does not, or time is up.
fn emergency_remount() {
    rustix::fs::sync();
    let written = File::options().write(true).open("/proc/sysrq-trigger").and_then(|mut file| file.write_all(b"u"));
    if let Err(error) = written {
        log(&format!("cannot remount read-only: {}", plain(&error)));
        return;
    }
    std::thread::sleep(Duration::from_secs(1));
}

/// Waits until mounts change or it is time to look again.
fn wait_for_mounts() {
    let Ok(file) = File::open("/proc/self/mountinfo") else {
        return;
    };
    let mut fds = [PollFd::new(&file, PollFlags::PRI)];
    let _: rustix::io::Result<usize> = poll(&mut fds, Some(&timespec(LOOK_AGAIN)));
}

/// Signals every process but this one, the spared one and the kernel's own.
fn signal_all(signal: Signal, spared: Option<Pid>) -> usize {
    let mut count = 0;
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // A kernel thread has no program.
        let is_kernel = std::fs::read_link(entry.path().join("exe")).is_err();
        if pid == Pid::INIT || Some(pid) == spared || is_kernel {
            continue;
        }
        count += 1;
        let _: rustix::io::Result<()> = kill_process(pid, signal);
    }
    count
}

fn reap() {
    while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

/// Ends the guest from its own root: asks processes to end, moves to a root in memory, finishes.
pub fn end_from_here(how: Ending, serving: Option<Pid>) -> ! {
    let deadline: Instant = monotonic() + TERM_WAIT;
    signal_all(Signal::TERM, serving);
    while monotonic() < deadline {
        reap();
        // Signal 0 of kill(2) has no name here: CONT does no harm to what is about to end.
        if signal_all(Signal::CONT, serving) == 0 {
            break;
        }
        let _: io::Result<Option<i32>> = sys::signals::wait(&[SIGCHLD], Some(LOOK_AGAIN));
    }
    if let Err(error) = move_to_memory() {
        log(&format!("cannot leave the guest's root: {}", plain(&error)));
        emergency_remount();
        reset_machine();
    }
    finish(how)
}

fn move_to_memory() -> io::Result<()> {
    make_dir(HOOK_ROOT)?;
    mount("tmpfs", HOOK_ROOT, "tmpfs", MountFlags::empty(), c"mode=0755,size=1m")?;
    rustix::process::chdir(HOOK_ROOT)?;
    for name in ["proc", "sys", "dev", "run", "oldroot"] {
        make_dir(name)?;
    }
    for name in ["proc", "sys", "dev"] {
        mount_move(format!("/{name}"), name)?;
    }
    rustix::process::pivot_root(".", "oldroot")?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood() {
        for word in [Word::Release, Word::Ended(Ending::PowerOff), Word::Ended(Ending::Reboot)] {
            assert_eq!(Word::parse(word.bytes()), Some(word));
        }
        assert_eq!(Word::parse(b"ended"), None);
    }
}
