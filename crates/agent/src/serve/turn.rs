//! One turn of the loop: send, wait, move bytes, read and obey, look at deadlines.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sys::clock::monotonic;
use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{Failure, Reply};

use super::Server;
use super::job::{GRACE, Job, Pumped, Task};
use super::link::Taken;
use super::sessions::turn::SessionReady;

/// Above this much waiting to be sent, no output is read from processes.
const OUTPUT_HIGH: usize = 192 * 1024;
/// Output gathered from one process in a turn.
const GATHERED: usize = 64 * 1024;
/// Above this much waiting to be sent, no frames are read: a host that does not listen is not obeyed.
const ANSWERS_HIGH: usize = 1024 * 1024;
/// How long `Started` may wait for company.
pub const HOLD: Duration = Duration::from_millis(4);
/// Most bytes of a worker's answer.
const ANSWER_MAX: usize = wire::agent::frame::FROM_AGENT_MAX;

/// What a polled descriptor is.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Port,
    Init,
    Hook,
    Input(u32),
    Output(u32, Channel),
    Answer(u32),
    Exit(u32),
    Session(SessionReady),
}

impl Server {
    /// One turn of the loop.
    ///
    /// # Errors
    /// When polling fails.
    pub fn turn(&mut self) -> io::Result<()> {
        self.serve_watchers();
        self.port.dial(monotonic())?;
        self.send();
        for ready in self.wait()? {
            match ready {
                Ready::Port => self.port.note()?,
                Ready::Init => self.hear_init(),
                Ready::Hook => self.hear_hook(),
                Ready::Input(id) => self.feed(id),
                Ready::Output(id, channel) => self.drain(id, channel),
                Ready::Answer(id) => self.hear(id),
                Ready::Exit(id) => self.reap(id)?,
                Ready::Session(ready) => self.on_session_ready(ready)?,
            }
        }
        self.receive();
        self.look_at_deadlines(monotonic());
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut what = Vec::with_capacity(1 + 4 * self.jobs.len());
        let mut fds = Vec::with_capacity(what.capacity());
        let may_read_output = self.outbound.pending() < OUTPUT_HIGH;
        if let Some(fd) = self.port.watched() {
            what.push(Ready::Port);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        for (ready, fd) in [(Ready::Init, self.tells.wanted()), (Ready::Hook, self.hook.wanted())] {
            if let Some(fd) = fd {
                what.push(ready);
                fds.push(PollFd::new(fd, PollFlags::IN));
            }
        }
        for (id, job) in &self.jobs {
            let mut watch = |ready, fd, flags| {
                what.push(ready);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            };
            if job.exit.is_none() {
                watch(Ready::Exit(*id), job.pidfd.as_fd(), PollFlags::IN);
            }
            if let Some(fd) = job.input.as_ref().and_then(super::job::Input::wanted) {
                watch(Ready::Input(*id), fd.as_fd(), PollFlags::OUT);
            }
            for output in job.outputs.iter().filter(|_| may_read_output) {
                if let Some(fd) = output.wanted() {
                    watch(Ready::Output(*id, output.channel()), fd.as_fd(), PollFlags::IN);
                }
            }
            if let Task::Worker(answer) = &job.task
                && let Some(pipe) = &answer.pipe
            {
                watch(Ready::Answer(*id), pipe.as_fd(), PollFlags::IN);
            }
        }
        let now = monotonic();
        self.sessions.watch(now, &mut |ready, fd, flags| {
            what.push(Ready::Session(ready));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        });
        let timeout = self.timeout(now).map(timespec);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        Ok(what.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(ready, _)| ready).collect())
    }

    /// How long nothing needs to happen; none for ever.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let may_show = self.outbound.pending() < OUTPUT_HIGH / 2 && self.sessions.has_unshown();
        if may_show || self.may_receive() && self.port.readable().is_some() {
            return Some(Duration::ZERO);
        }
        let deadlines = self.jobs.values().flat_map(|job| [job.grace_until, job.kill_at]);
        let asked_again = self.asked_end.map(|(_, at)| at);
        let sessions = self.sessions.deadline(now);
        deadlines
            .chain([self.hold_until, asked_again, sessions, self.port.dials_at()])
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    fn may_receive(&self) -> bool {
        self.outbound.pending() < ANSWERS_HIGH
    }

    /// Reads what arrived and obeys it.
    fn receive(&mut self) {
        if !self.may_receive() {
            return;
        }
        let Some(fd) = self.port.readable() else {
            return;
        };
        match self.inbound.take_from(fd) {
            Taken::More => {}
            Taken::Drained => self.port.drained(),
            Taken::Closed => {
                self.obey();
                self.miss_connection();
                return;
            }
        }
        self.obey();
    }

    /// Gives the port what it takes.
    pub(super) fn send(&mut self) {
        if self.outbound.unsent().is_empty() || self.hold_until.is_some() {
            return;
        }
        let Some(fd) = self.port.writable() else {
            return;
        };
        match self.outbound.give_to(fd) {
            Taken::More => {}
            Taken::Drained => self.port.filled(),
            Taken::Closed => self.miss_connection(),
        }
    }

    fn feed(&mut self, id: u32) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if let Some(input) = &mut job.input {
            input.flush();
        }
        if let Some(stream) = job.stream {
            self.settle_input(stream);
        }
    }

    fn drain(&mut self, id: u32, channel: Channel) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(stream) = job.stream else {
            return;
        };
        let Some(index) = job.outputs.iter().position(|output| output.channel() == channel) else {
            return;
        };
        self.hold_until = None;
        // Small pieces are gathered: handing bytes to the port costs an exit from the virtual machine, reading a pipe does not.
        let until = self.outbound.pending() + GATHERED;
        loop {
            match job.pump(index, stream, &mut self.outbound) {
                Pumped::Some if self.outbound.pending() < until && job.outputs[index].wanted().is_some() => {}
                Pumped::Some | Pumped::Nothing => break,
                Pumped::Ended(channel) => {
                    self.outbound.push(Kind::Eof, channel, stream, &[]);
                    break;
                }
            }
        }
        self.conclude(id);
    }

    fn hear(&mut self, id: u32) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.hear();
            self.conclude(id);
        }
    }

    fn reap(&mut self, id: u32) -> io::Result<()> {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.reap()?;
            if job.exit.is_some() && !job.outputs.is_empty() {
                job.grace_until = Some(monotonic() + GRACE);
            }
            self.conclude(id);
        }
        Ok(())
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        if self.hold_until.is_some_and(|at| at <= now) {
            self.hold_until = None;
        }
        self.ask_again(now);
        self.look_at_sessions(now);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let ids: Vec<u32> =
            self.jobs.iter().filter(|(_, job)| due(job.grace_until) || due(job.kill_at)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            if due(job.kill_at) {
                job.kill();
            }
            if due(job.grace_until) {
                // What the command itself left in its pipes is still owed; look again when the host may have taken it.
                job.grace_until = Some(now + GRACE);
                let ended: Vec<Channel> = job.end_grace();
                let stream = job.stream;
                for (stream, channel) in ended.into_iter().filter_map(|channel| Some((stream?, channel))) {
                    self.outbound.push(Kind::Eof, channel, stream, &[]);
                }
            }
            self.conclude(id);
        }
    }

    /// Answers for a job that is complete, and forgets it.
    pub fn conclude(&mut self, id: u32) {
        if !self.jobs.get(&id).is_some_and(Job::is_complete) {
            return;
        }
        let Some(mut job) = self.jobs.remove(&id) else {
            return;
        };
        if let Some(cgroup) = job.cgroup.take() {
            self.guest.cgroups.give_back(cgroup);
        }
        if let Some(stream) = job.stream {
            let reply = result(&job);
            self.tells.note_answer(stream, &reply);
            self.reply(stream, &reply);
        }
    }
}

/// The final answer of a complete job.
fn result(job: &Job) -> Reply {
    let lost = || {
        Reply::Failed(Failure::Os { act: "the agent's worker".to_owned(), why: "ended without an answer".to_owned() })
    };
    match (&job.task, job.exit) {
        (Task::Command, Some(status)) => Reply::Exited(status),
        (Task::Worker(answer), _) if answer.bytes.len() <= ANSWER_MAX => {
            serde_json::from_slice(&answer.bytes).unwrap_or_else(|_| lost())
        }
        (Task::Command, None) | (Task::Worker(_), _) => lost(),
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up to the kernel's own unit already: nanoseconds.
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::from(duration.subsec_nanos()) }
}
