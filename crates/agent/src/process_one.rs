//! Staying process 1: of a guest without an init, or around an init that cannot be trusted with the machine's end.
//!
//! systemd hands the end over to us as its last step; other inits kill every process, ours included, and reset the machine
//! with the disk still mounted. Such an init runs in a PID namespace of its own, where it is process 1 and sees all
//! processes of the guest but us. Its reboot(2) ends the namespace and says how (reboot(2), "Behavior inside PID
//! namespaces"); we unmount the disk and reset the machine. Commands of the host run in that namespace too.
//!
//! ```text
//! process 1 (we)          reaps, hears signals, ends the machine
//! ├─ serving agent        outside the namespace, starts commands inside
//! └─ the image's init     process 1 of its namespace, with everything it starts
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use sys::clock::monotonic;
use sys::spawn::{c_string, exec, exit_at_once, fork};
use wire::agent::message::Ending;

use crate::boot::handover::{Init, become_server, run_init};
use crate::boot::{BootError, log, plain};
use crate::ending::{SIGCHLD, end_from_here};
use crate::serve::Server;

const SIGPWR: i32 = 30;
/// How long an init may take to end its services when it was asked to.
const INIT_WAIT: Duration = Duration::from_secs(20);

/// What ends the guest, by the signals that busybox's and sysvinit's programs send to process 1, and the serving agent.
fn meaning(signal: i32) -> Option<Ending> {
    match Signal::from_named_raw(signal)? {
        Signal::TERM | Signal::INT => Some(Ending::Reboot),
        Signal::USR1 | Signal::USR2 => Some(Ending::PowerOff),
        other if other.as_raw() == SIGPWR => Some(Ending::PowerOff),
        _ => None,
    }
}

/// The signal that asks process 1 of ours to end in `how`.
#[must_use]
pub fn signal_for(how: Ending) -> Signal {
    match how {
        Ending::PowerOff => Signal::USR2,
        Ending::Reboot => Signal::TERM,
    }
}

/// What process 1 knows of its children.
struct Family {
    serving: Option<Pid>,
    init: Option<Pid>,
    /// How the host or somebody in the guest wants it to end.
    wish: Option<Ending>,
    /// When an init that was asked to end is killed.
    kill_at: Option<Instant>,
}

/// Serves through a child, runs `init` if there is one, and ends the machine when asked. Returns only when that failed.
pub fn stay(mut server: Server, init: Option<&Init>) -> BootError {
    let failed = BootError::during::<io::Error>;
    let asks = [Signal::TERM, Signal::INT, Signal::USR1, Signal::USR2].map(Signal::as_raw);
    let signals: Vec<i32> = asks.into_iter().chain([SIGPWR, SIGCHLD]).collect();
    if let Err(error) = sys::signals::block(&signals) {
        return failed("block signals")(error);
    }
    let (serving, mut to_server) = match serve_in_child(&mut server) {
        Ok(started) => started,
        Err(error) => return failed("fork the serving agent")(error),
    };
    // A second owner would keep the server's sockets alive after it is gone.
    drop(server);
    let mut family = Family { serving, init: None, wish: None, kill_at: None };
    if let Some(init) = init {
        match start_init(init) {
            Ok(pid) => family.init = pid,
            Err(error) => return failed("start the init in its namespace")(error),
        }
    }
    let number = family.init.map_or(0, |pid| pid.as_raw_nonzero().get());
    if let Err(error) = to_server.write_all(&number.to_ne_bytes()) {
        log(&format!("the serving agent is not told of the init: {}", plain(&error)));
    }
    drop(to_server);
    loop {
        let longest = family.kill_at.map(|at| at.saturating_duration_since(monotonic()));
        match sys::signals::wait(&signals, longest) {
            Ok(Some(SIGCHLD)) => family.reap(),
            Ok(Some(signal)) => family.asked(meaning(signal)),
            Ok(None) => family.look_at_deadline(),
            Err(error) => return failed("wait for signals")(error),
        }
    }
}

impl Family {
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if Some(pid) == self.serving {
                log("the serving agent is gone; only a signal to process 1 can end this machine in order");
                self.serving = None;
            }
            if Some(pid) == self.init {
                let how = match status.terminating_signal() {
                    Some(signal) if signal == Signal::HUP.as_raw() => Ending::Reboot,
                    Some(signal) if signal == Signal::INT.as_raw() => Ending::PowerOff,
                    _ => self.wish.unwrap_or(Ending::PowerOff),
                };
                // The namespace is gone, and with it what its /proc showed; ours is below it.
                let _: rustix::io::Result<()> = unmount("/proc", UnmountFlags::DETACH);
                end_from_here(how, self.serving);
            }
        }
    }

    fn asked(&mut self, how: Option<Ending>) {
        let Some(how) = how else {
            return;
        };
        if self.init.is_none() {
            end_from_here(how, self.serving);
        }
        if self.wish.is_some() {
            return;
        }
        self.wish = Some(how);
        self.kill_at = Some(monotonic() + INIT_WAIT);
        if let Err(error) = run_in_namespace(how) {
            log(&format!("cannot ask the init to end: {}", plain(&error)));
            self.kill_at = Some(monotonic());
        }
    }

    fn look_at_deadline(&mut self) {
        if self.kill_at.is_some_and(|at| at <= monotonic())
            && let Some(init) = self.init
        {
            log("the init does not end: it is killed");
            self.kill_at = None;
            let _: rustix::io::Result<()> = kill_process(init, Signal::KILL);
        }
    }
}

/// Forks the server; the stream tells it the init's process id once there is one.
fn serve_in_child(server: &mut Server) -> io::Result<(Option<Pid>, UnixStream)> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    if let Some(pid) = fork()? {
        drop(theirs);
        // What the server does with its own /proc must be done before the init's is mounted over it. A server that dies
        // meanwhile is noticed when it is reaped.
        let _: io::Result<usize> = ours.read(&mut [0]);
        return Ok((Pid::from_raw(i32::try_from(pid).unwrap_or_default()), ours));
    }
    drop(ours);
    become_server(false);
    let joined = theirs.write_all(&[1]).and_then(|()| join(&mut theirs));
    if let Err(error) = joined {
        log(&format!("commands cannot run beside the init: {}", plain(&error)));
    }
    drop(theirs);
    let error = server.run();
    log(&format!("the agent ends: {error:?}"));
    exit_at_once(1)
}

/// Sees that the server's children are born where the init lives.
fn join(from: &mut UnixStream) -> io::Result<()> {
    let mut number = [0; 4];
    from.read_exact(&mut number)?;
    let Some(init) = Pid::from_raw(i32::from_ne_bytes(number)) else {
        return Ok(());
    };
    let pidfd = pidfd_open(init, PidfdFlags::empty())?;
    Ok(move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&pidfd), ThreadNameSpaceType::PROCESS_ID)?)
}

/// Forks the init into a PID namespace of its own. From here on every child of this process is born there.
fn start_init(init: &Init) -> io::Result<Option<Pid>> {
    sys::spawn::children_in_new_pid_namespace()?;
    if let Some(pid) = fork()? {
        return Ok(Pid::from_raw(i32::try_from(pid).unwrap_or_default()));
    }
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount("proc", "/proc", "proc", closed, c"") {
        log(&format!("cannot mount the init's /proc: {}", plain(&error.into())));
    }
    let error = run_init(init);
    log(&format!("{error}: {}", plain(&error.source)));
    exit_at_once(127)
}

/// Runs the image's own program for ending, beside its init.
fn run_in_namespace(how: Ending) -> io::Result<()> {
    let name = if how == Ending::PowerOff { "poweroff" } else { "reboot" };
    if fork()?.is_some() {
        return Ok(());
    }
    let run = || -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        let env = [c_string("PATH=/usr/sbin:/usr/bin:/sbin:/bin")?];
        for directory in ["/sbin", "/usr/sbin", "/bin", "/usr/bin"] {
            let path = c_string(format!("{directory}/{name}"))?;
            let error = exec(&path, &[c_string(name)?], &env);
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    };
    if let Err(error) = run() {
        log(&format!("cannot run {name}: {}", plain(&error)));
    }
    exit_at_once(127)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_other_programs_mean_by_them() {
        for how in [Ending::PowerOff, Ending::Reboot] {
            assert_eq!(meaning(signal_for(how).as_raw()), Some(how));
        }
        assert_eq!(meaning(SIGPWR), Some(Ending::PowerOff));
        assert_eq!(meaning(Signal::HUP.as_raw()), None);
    }
}
