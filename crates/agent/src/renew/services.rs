//! Services of systemd that remember who the guest was: told with a signal where they know one, because asking systemd
//! costs a process and a round of its bus; asked through it where they do not.
//!
//! | service | how | because |
//! |---|---|---|
//! | sshd(8) | SIGHUP | it executes itself anew and reads the host keys; sessions go on |
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

use crate::boot::Report;

/// Where systemd keeps the services of the system apart.
const SLICE: &str = "/sys/fs/cgroup/system.slice";
/// How long a service may take to end or to begin anew, on a machine without a core to spare.
const WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile, where nothing wakes us.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Most characters of a unit's name: systemd.unit(5).
const NAME_LEN_MAX: usize = 255;

/// How a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// With a signal that ends nothing.
    Signal(Signal),
    /// With a signal on which it executes itself; over when what listened was closed.
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
        "systemd-journald.service" | "systemd-timesyncd.service" | "systemd-hostnamed.service" => Manner::End,
        _ => Manner::Ask,
    }
}

/// Tells those of `units` that run. What cannot be told is a warning.
pub fn tell(units: &[String], report: &mut Report) {
    if units.len() > SERVICES_MAX {
        report.warn(format!("{} services are not told that the guest is another machine", units.len() - SERVICES_MAX));
    }
    let mut asked = Vec::new();
    for unit in units.iter().take(SERVICES_MAX) {
        if !is_service(unit) {
            report.warn(format!("{unit:?} is no service"));
            continue;
        }
        let Some(pid) = main_process(unit) else {
            continue;
        };
        let told = match manner(unit) {
            Manner::Signal(signal) => send(pid, signal).map(|_| ()),
            Manner::Reexec(signal) => reexec(pid, signal),
            Manner::End => end(pid),
            Manner::Ask => {
                asked.push(unit.as_str());
                Ok(())
            }
        };
        report.note(&format!("tell {unit} that the guest is another machine"), told);
    }
    if asked.is_empty() {
        return;
    }
    let mut command = sys::process::command("/bin/systemctl");
    command.args(["try-reload-or-restart", "--no-ask-password", "--"]).args(&asked);
    if let Err(error) = sys::process::run(&mut command) {
        report.warn(format!("cannot tell {} that the guest is another machine: {error}", asked.join(", ")));
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

/// Ends a process and waits until it is gone: what is logged from then on waits for the next one.
fn end(pid: Pid) -> io::Result<()> {
    let process = send(pid, Signal::TERM)?;
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
fn reexec(pid: Pid, signal: Signal) -> io::Result<()> {
    let before = sockets(pid)?;
    send(pid, signal)?;
    let deadline = monotonic() + WITHIN;
    // What it keeps is its way to the journal.
    while !before.is_empty() && before.is_subset(&sockets(pid)?) {
        if monotonic() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
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

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_not(text: String) {
            let _: Option<Parentage> = Parentage::parse(&text);
            let _: bool = is_service(&text);
        }
    }

    /// A shell with a listener for its input, which it closes and is something else when it is told.
    #[test]
    fn a_process_that_executes_itself_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = sys::process::command("sh");
        command.args(["-c", "trap 'exec sleep 1000 < /dev/null' HUP; echo; while :; do sleep 0.01; done"]);
        let mut child = command.stdin(OwnedFd::from(listener)).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(sockets(pid).unwrap().len(), 1);
        reexec(pid, Signal::HUP).unwrap();
        assert_eq!(sockets(pid).unwrap().len(), 0);
        // The process becomes a sleep that TERM ends; the shell before it would be ended as well.
        end(pid).unwrap();
        child.wait().unwrap();
    }
}
