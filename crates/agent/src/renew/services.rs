//! Services of systemd that remember who the guest was: told with a signal where they know one, because asking systemd
//! costs a process and a round of its bus; asked through it where they do not.
//!
//! | service | how | because |
//! |---|---|---|
//! | sshd(8) | SIGHUP | it executes itself anew and reads the host keys; sessions go on |
//! | the same on a socket of systemd's | SIGTERM | it would lose that socket by executing itself; the next connection starts it |
//! | `NetworkManager` | SIGHUP | it reads its configuration, ours included |
//! | `systemd-resolved` | SIGUSR2 | what it had cached is forgotten; it sees a new resolv.conf by itself |
//! | `systemd-journald`, `-timesyncd`, `-hostnamed` | SIGTERM | systemd starts them again: at once, or when somebody asks |
//! | any other | `systemctl try-reload-or-restart` | its unit says how |

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sys::clock::monotonic;
use wire::agent::renewal::SERVICES_MAX;

use crate::boot::{Report, log};

/// Where systemd keeps the services of the system apart.
const SLICE: &str = "/sys/fs/cgroup/system.slice";
/// How long a service may take to end or to begin anew, on a machine without a core to spare.
const WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile, where nothing wakes us.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Most characters of a unit's name: systemd.unit(5).
const NAME_LEN_MAX: usize = 255;

/// It is started by the first who writes to it.
const JOURNAL: &str = "systemd-journald.service";

/// How a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// With a signal that ends nothing.
    Signal(Signal),
    /// With a signal on which it executes itself; over when what listened was closed. On a socket of systemd's it ends.
    Reexec(Signal),
    /// It ends, and systemd starts it again.
    End,
    /// Through systemd.
    Ask,
}

fn manner(unit: &str) -> Manner {
    match unit {
        "ssh.service" | "sshd.service" => Manner::Reexec(Signal::HUP),
        "NetworkManager.service" => Manner::Signal(Signal::HUP),
        "systemd-resolved.service" => Manner::Signal(Signal::USR2),
        JOURNAL | "systemd-timesyncd.service" | "systemd-hostnamed.service" => Manner::End,
        _ => Manner::Ask,
    }
}

/// Ends what systemd starts again when somebody wants it, for a machine that is saved only to be another: nothing of it has to
/// end then, and it begins as the new machine's. What cannot be ended is told later, as any service.
pub fn rest() {
    if main_process(JOURNAL).is_none() {
        return;
    }
    // Its sockets stay with systemd, and what is written to them until then.
    if let Err(error) = sys::process::run(sys::process::command("/bin/systemctl").args(["stop", "--", JOURNAL])) {
        log(&format!("{JOURNAL} goes on in the saved machine: {error}"));
    }
}

/// What is still to be waited for.
#[derive(Debug, Default)]
pub struct Told {
    /// Services that end, by name.
    ending: Vec<(String, OwnedFd)>,
    /// Services that begin anew, by name, and the sockets they had.
    beginning: Vec<(String, Pid, BTreeSet<PathBuf>)>,
    /// Services that systemd is to be asked about.
    asked: Vec<String>,
}

/// Tells those of `units` that run; what cannot be told is a warning. Those that end have not yet, when it is over.
pub fn tell(units: &[String], report: &mut Report) -> Told {
    if units.len() > SERVICES_MAX {
        report.warn(format!("{} services are not told that the guest is another machine", units.len() - SERVICES_MAX));
    }
    let mut told = Told::default();
    for unit in units.iter().take(SERVICES_MAX) {
        if !is_service(unit) {
            report.warn(format!("{unit:?} is no service"));
            continue;
        }
        let Some(pid) = main_process(unit) else {
            continue;
        };
        let sent = match manner(unit) {
            Manner::Signal(signal) => send(pid, signal).map(|_| ()),
            Manner::Reexec(signal) if !is_socket_activated(pid) => {
                reexec(pid, signal).map(|before| told.beginning.push((unit.clone(), pid, before)))
            }
            Manner::End | Manner::Reexec(_) => {
                send(pid, Signal::TERM).map(|process| told.ending.push((unit.clone(), process)))
            }
            Manner::Ask => {
                told.asked.push(unit.clone());
                Ok(())
            }
        };
        report.note(&format!("tell {unit} that the guest is another machine"), sent);
    }
    told
}

impl Told {
    /// Waits until nobody is left who remembers, and whoever listened listens again: what is logged from then on is the new
    /// machine's, and nobody who connects is refused.
    pub fn settle(self, report: &mut Report) {
        for (unit, pid, before) in &self.beginning {
            report.note(&format!("wait for {unit} to listen again"), listens_anew(*pid, before));
        }
        for (unit, process) in &self.ending {
            report.note(&format!("wait for the end of {unit}"), ended(process));
        }
        if self.asked.is_empty() {
            return;
        }
        let mut command = sys::process::command("/bin/systemctl");
        command.args(["try-reload-or-restart", "--no-ask-password", "--"]).args(&self.asked);
        if let Err(error) = sys::process::run(&mut command) {
            let units = self.asked.join(", ");
            report.warn(format!("cannot tell {units} that the guest is another machine: {error}"));
        }
    }
}

/// Whether a name can be a service's: systemd.unit(5).
fn is_service(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() <= NAME_LEN_MAX
        && name.ends_with(".service")
        && !name.starts_with(['.', '-'])
        && name.bytes().all(is_plain)
}

/// The main process of a service: the oldest of its cgroup that is systemd's own child.
fn main_process(unit: &str) -> Option<Pid> {
    let members = std::fs::read_to_string(format!("{SLICE}/{unit}/cgroup.procs")).ok()?;
    let members = members.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw));
    let known = members.filter_map(|pid| Some((Parentage::of(pid)?, pid)));
    known.filter(|(of, _)| of.parent == 1).min_by_key(|(of, _)| of.started).map(|(_, pid)| pid)
}

/// Whose child a process is, and since when.
#[derive(Debug, PartialEq, Eq)]
struct Parentage {
    parent: i32,
    started: u64,
}

impl Parentage {
    fn of(pid: Pid) -> Option<Parentage> {
        Parentage::parse(&std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
    }

    /// Fields 4 and 22 of proc(5); the second field is in parentheses and may hold anything.
    fn parse(stat: &str) -> Option<Parentage> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        Some(Parentage { parent: fields.nth(1)?.parse().ok()?, started: fields.nth(22 - 5)?.parse().ok()? })
    }
}

fn send(pid: Pid, signal: Signal) -> io::Result<OwnedFd> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&process, signal)?;
    Ok(process)
}

/// Waits for the end of a process.
fn ended(process: &OwnedFd) -> io::Result<()> {
    let deadline = monotonic() + WITHIN;
    loop {
        let left = deadline.saturating_duration_since(monotonic());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let timeout = Timespec { tv_sec: seconds, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Has a process execute itself and waits until it has closed what it listened on: nobody is greeted with what it knew.
/// Gives the sockets it had.
fn reexec(pid: Pid, signal: Signal) -> io::Result<BTreeSet<PathBuf>> {
    let before = sockets(pid)?;
    send(pid, signal)?;
    // What it keeps is its way to the journal.
    until(|| Ok(before.is_empty() || !before.is_subset(&sockets(pid)?)))?;
    Ok(before)
}

/// Waits until a process listens on a socket that it did not have.
fn listens_anew(pid: Pid, before: &BTreeSet<PathBuf>) -> io::Result<()> {
    until(|| {
        let mut listening = BTreeSet::new();
        for table in ["tcp", "tcp6"] {
            // A kernel without IPv6 has one.
            let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            listening.extend(text.lines().filter_map(listener));
        }
        Ok(sockets(pid)?.difference(before).any(|socket| listening.contains(socket)))
    })
}

/// The socket of a line of the kernel's tables, as proc(5) names it, when it listens.
fn listener(line: &str) -> Option<PathBuf> {
    let mut words = line.split_ascii_whitespace();
    let (state, inode) = (words.nth(3)?, words.nth(9 - 4)?);
    (state == "0A").then(|| format!("socket:[{inode}]").into())
}

/// Waits until something is so that nothing tells of.
fn until(is_so: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let deadline = monotonic() + WITHIN;
    while !is_so()? {
        if monotonic() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Whether a process listens on a socket that systemd has open as well.
fn is_socket_activated(pid: Pid) -> bool {
    let (own, of_systemd) = (sockets(pid), sockets(Pid::INIT));
    own.is_ok_and(|own| of_systemd.is_ok_and(|of_systemd| !own.is_disjoint(&of_systemd)))
}

/// The sockets a process has open, as proc(5) names them.
fn sockets(pid: Pid) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))? {
        // One that was closed meanwhile is none.
        let target = entry.and_then(|entry| std::fs::read_link(entry.path())).unwrap_or_default();
        if target.to_string_lossy().starts_with("socket:") {
            found.insert(target);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn services_are_told_from_other_words() {
        for name in wire::agent::renewal::SERVICES {
            assert!(is_service(name), "{name}");
        }
        for wrong in ["", ".service", "-x.service", "../x.service", "a b.service", "x.mount", "x/y.service"] {
            assert!(!is_service(wrong), "{wrong}");
        }
        assert!(is_service("getty@tty1.service") && !is_service(&format!("{}.service", "x".repeat(250))));
    }

    #[test]
    fn the_first_child_of_process_one_is_found() {
        let stat = |name: &str| format!("7 ({name}) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3");
        assert_eq!(Parentage::parse(&stat("a) S 9 (b")), Some(Parentage { parent: 1, started: 4242 }));
        assert_eq!(Parentage::parse("7 (x) S 1"), None);
        let own = Parentage::of(rustix::process::getpid()).unwrap();
        assert_eq!(own.parent, rustix::process::getppid().unwrap().as_raw_nonzero().get());
    }

    #[test]
    fn who_listens_is_found() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = rustix::process::getpid();
        listens_anew(own, &BTreeSet::new()).unwrap();
        let inode = rustix::fs::fstat(&listening).unwrap().st_ino;
        assert!(sockets(own).unwrap().contains(&PathBuf::from(format!("socket:[{inode}]"))));
        let line =
            "0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1344 1 0 100 0";
        assert_eq!(listener(line), Some("socket:[1344]".into()));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert!(!is_socket_activated(own), "process 1 has none of our sockets");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_not(text: String) {
            let _: Option<Parentage> = Parentage::parse(&text);
            let _: Option<PathBuf> = listener(&text);
            let _: bool = is_service(&text);
        }
    }

    /// A shell with a listener for its input, which it closes and is something else when it is told.
    #[test]
    fn a_process_that_executes_itself_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = sys::process::command("sh");
        // `wait`, because dash forgets a signal that comes while it starts a program.
        command.args(["-c", "trap 'kill $!; exec sleep 1000 < /dev/null' HUP; sleep 1000 & echo; wait"]);
        let mut child = command.stdin(OwnedFd::from(listener)).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(sockets(pid).unwrap().len(), 1);
        assert_eq!(reexec(pid, Signal::HUP).unwrap().len(), 1);
        assert_eq!(sockets(pid).unwrap().len(), 0);
        // The process becomes a sleep that TERM ends; the shell before it would be ended as well.
        ended(&send(pid, Signal::TERM).unwrap()).unwrap();
        child.wait().unwrap();
    }
}
