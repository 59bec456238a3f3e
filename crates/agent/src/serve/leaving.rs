//! The server's part in the end of a guest: see [`crate::ending`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use rustix::process::kill_process;
use sys::clock::monotonic;
use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{Ending, Event, Failure, Reply};

use super::Server;
use crate::ending::{DONE, Word};
use crate::process_one::signal_for;

/// Longest wait for the host to take the last bytes.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// How often systemd is asked to end the guest until it does.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// `SIGRTMIN` as systemd counts: the first two real-time signals are the C library's own.
const SIGRTMIN: i32 = 34;

/// Where process 1 tells that the guest ends.
#[derive(Debug, Default)]
pub struct Hook {
    listener: Option<OwnedFd>,
    peer: Option<OwnedFd>,
}

impl Hook {
    /// A hook that listens.
    #[must_use]
    pub fn listening(listener: OwnedFd) -> Hook {
        Hook { listener: Some(listener), peer: None }
    }

    /// Makes this process the one that process 1 finds at the other end: who listened last is whom it sees.
    ///
    /// # Errors
    /// When the socket is no longer listening.
    pub fn claim(&self) -> io::Result<()> {
        self.listener.as_ref().map_or(Ok(()), |listener| Ok(rustix::net::listen(listener, 4)?))
    }

    /// What to poll for readability.
    #[must_use]
    pub fn wanted(&self) -> Option<&OwnedFd> {
        self.peer.as_ref().or(self.listener.as_ref())
    }

    /// Accepts process 1, or takes its next word.
    fn hear(&mut self) -> io::Result<Option<Word>> {
        if let Some(peer) = &self.peer {
            let mut bytes = [0; 64];
            let (count, _) = recv(peer, &mut bytes[..], RecvFlags::DONTWAIT)?;
            if count == 0 {
                self.peer = None;
            }
            return Ok(Word::parse(&bytes[..count.min(bytes.len())]));
        }
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        let peer = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        // An abstract name can be spoken to by anybody in the guest.
        let who = rustix::net::sockopt::socket_peercred(&peer)?;
        if who.pid == rustix::process::Pid::INIT {
            self.peer = Some(peer);
        }
        Ok(None)
    }

    fn answer(&self) {
        if let Some(peer) = &self.peer {
            let _: rustix::io::Result<usize> = send(peer, DONE, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }
}

impl Server {
    /// Process 1 says something.
    pub fn hear_hook(&mut self) {
        match self.hook.hear() {
            Ok(Some(Word::Release)) => {
                self.release();
                self.hook.answer();
            }
            Ok(Some(Word::Ended(how))) => {
                self.tell_end(how);
                self.hook.answer();
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.hook.peer = None,
        }
    }

    /// Lets go of everything inside the guest's root.
    fn release(&mut self) {
        self.is_ending = true;
        let waiting = std::mem::take(&mut self.tells.waiting);
        for stream in waiting {
            self.refuse_to_start(stream);
        }
        for job in self.jobs.values_mut() {
            job.kill();
        }
        for (_, job) in std::mem::take(&mut self.jobs) {
            if let Some(stream) = job.stream {
                self.refuse_to_start(stream);
            }
        }
        for stream in self.sessions.end() {
            self.refuse_to_start(stream);
        }
        self.guest.forget();
        self.tells.forget();
        // The root has been moved already; a directory below it may not have been.
        let _: rustix::io::Result<()> = rustix::process::chdir("/");
    }

    /// Answers a request for which the guest has no time left.
    pub fn refuse_to_start(&mut self, stream: u32) {
        self.reply(stream, &Reply::Failed(Failure::Refused { why: "the guest is ending".to_owned() }));
    }

    fn tell_end(&mut self, how: Ending) {
        let json = serde_json::to_vec(&Event::Ending { how }).expect("an event is plain data");
        self.outbound.push(Kind::Event, Channel::Input, 0, &json);
        self.flush();
    }

    /// Sends everything, waiting for room, as far as the host takes it in time.
    pub fn flush(&mut self) {
        self.hold_until = None;
        let deadline = monotonic() + FLUSH_WAIT;
        loop {
            self.send();
            let left = deadline.saturating_duration_since(monotonic());
            if self.outbound.pending() == 0 || left.is_zero() {
                return;
            }
            let Some(fd) = self.port.watched() else {
                return;
            };
            let time = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
            if poll(&mut fds, Some(&time)).is_err() || self.port.note().is_err() {
                return;
            }
        }
    }

    /// Ends what is a guest to the host, and is this process and its commands: [`Server::run`] returns when the answer
    /// is out.
    fn end_hosted(&mut self, how: Ending) {
        self.is_over = true;
        for job in self.jobs.values_mut() {
            job.kill();
        }
        for stream in self.sessions.end() {
            self.refuse_to_start(stream);
        }
        self.tell_end(how);
    }

    /// Asks the init to end the guest.
    ///
    /// # Errors
    /// When there is no init to ask, or it cannot be asked.
    pub fn shut_down(&mut self, how: Ending) -> Result<Reply, Failure> {
        if self.guest.is_hosted() {
            self.end_hosted(how);
            return Ok(Reply::Done { bytes: 0 });
        }
        if self.tells.is_systemd() {
            ask_systemd(how).map_err(|error| super::requests::os("cannot ask the init", &error))?;
            self.asked_end = Some((how, monotonic() + ASK_EVERY));
        } else {
            kill_process(rustix::process::Pid::INIT, signal_for(how))
                .map_err(|errno| super::requests::os("cannot ask the init", &errno.into()))?;
        }
        Ok(Reply::Done { bytes: 0 })
    }

    /// Asks systemd again until it comes to its end: one that has not yet set its signals up, moments after it was
    /// started, loses them. Asking twice changes nothing (systemd(1): the job is there already).
    pub fn ask_again(&mut self, now: Instant) {
        let Some((how, at)) = self.asked_end else {
            return;
        };
        if self.is_ending {
            self.asked_end = None;
        } else if at <= now {
            // What cannot be asked now may be in a moment; the host has a deadline of its own.
            let _: io::Result<()> = ask_systemd(how);
            self.asked_end = Some((how, now + ASK_EVERY));
        }
    }
}

/// Asks systemd to end the guest: SIGRTMIN+4 starts poweroff.target, SIGRTMIN+5 reboot.target (systemd(1)).
fn ask_systemd(how: Ending) -> io::Result<()> {
    let offset = if how == Ending::PowerOff { 4 } else { 5 };
    sys::signals::send_to_init(SIGRTMIN + offset)
}
