//! The part of sessions in a turn of the loop: their processes' bytes, their watchers' turns, their deadlines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use sys::clock::monotonic;
use wire::agent::frame::Channel;
use wire::agent::message::{Failure, Reply};
use wire::agent::session::Source;

use super::requests::input_is_over;
use super::watcher::{Role, Shown, Watcher};
use super::{Session, Sessions};
use crate::serve::Server;
use crate::serve::job::{GRACE, Input, Pumped};
use crate::serve::link::Outbound;

/// Above this much waiting to be sent, watchers wait: a stream that is no session's finds room behind it.
const WATCHED_HIGH: usize = 96 * 1024;
/// Most bytes read of one output in a turn.
const READ_BYTES: usize = 64 * 1024;

/// What a polled descriptor of a session is.
#[derive(Debug, Clone, Copy)]
pub enum SessionReady {
    /// The process ended.
    Exit(u32),
    /// It printed something.
    Output(u32, Channel),
    /// It takes input of this stream.
    Input(u32),
}

impl Sessions {
    /// Names every descriptor that matters now.
    pub fn watch<'a>(&'a self, now: Instant, watch: &mut dyn FnMut(SessionReady, BorrowedFd<'a>, PollFlags)) {
        for (key, session) in &self.all {
            let Some(job) = &session.job else {
                continue;
            };
            if job.exit.is_none() {
                watch(SessionReady::Exit(*key), job.pidfd.as_fd(), PollFlags::IN);
            }
            let is_held = session.held_until(now).is_some();
            for output in job.outputs.iter().filter(|_| !is_held) {
                if let Some(fd) = output.wanted() {
                    watch(SessionReady::Output(*key, output.channel()), fd.as_fd(), PollFlags::IN);
                }
            }
            for watcher in &session.watchers {
                if let Some(fd) = watcher.input.as_ref().and_then(Input::wanted) {
                    watch(SessionReady::Input(watcher.stream), fd.as_fd(), PollFlags::OUT);
                }
            }
        }
    }

    /// When the loop has to look at sessions without anything having happened.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let jobs = self.all.values().filter_map(|session| session.job.as_ref());
        let ends = jobs.flat_map(|job| [job.grace_until, job.kill_at]).flatten();
        let holds = self.all.values().filter_map(|session| session.held_until(now));
        let hang_ups = self.all.values().filter_map(|session| session.hang_up_at);
        ends.chain(holds).chain(hang_ups).chain(self.doomed.iter().map(|(_, at)| *at)).min()
    }

    /// Whether a watcher could be given something.
    #[must_use]
    pub fn has_unshown(&self) -> bool {
        self.all.values().any(|session| session.watchers.iter().any(|watcher| watcher.wants(&session.ring)))
    }

    /// Gives every watcher its turn, as long as little waits to be sent.
    fn show(&mut self, outbound: &mut Outbound, now: Instant) -> bool {
        for session in self.all.values_mut() {
            for watcher in &mut session.watchers {
                watcher.look(&session.ring, now);
            }
        }
        let mut has_shown = false;
        let count = self.streams();
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
        let mut idle = 0;
        let mut turn = self.first;
        while idle < count && outbound.pending() < WATCHED_HIGH {
            let mut watchers = self.all.values_mut().flat_map(|session| {
                let ring = &session.ring;
                session.watchers.iter_mut().map(move |watcher| (watcher, ring))
            });
            let shown =
                watchers.nth(turn % count).map_or(Shown::Nothing, |(watcher, ring)| watcher.show(ring, outbound));
            (idle, has_shown) = if shown == Shown::Some { (0, true) } else { (idle + 1, has_shown) };
            turn += 1;
        }
        has_shown
    }
}

impl Server {
    /// Gives watchers what there is for them, and their final answers.
    pub fn serve_watchers(&mut self) {
        if self.sessions.streams() == 0 {
            return;
        }
        if self.sessions.show(&mut self.outbound, monotonic()) {
            self.hold_until = None;
        }
        let mut answers = Vec::new();
        for session in self.sessions.all.values_mut() {
            let mut ends_input = false;
            let watchers = std::mem::take(&mut session.watchers);
            for watcher in watchers {
                match answer(session, &watcher) {
                    Some(reply) => {
                        ends_input |=
                            matches!((&watcher.role, &reply), (Role::Sends { ends: true, .. }, Reply::Done { .. }));
                        answers.push((watcher.stream, reply));
                    }
                    None => session.watchers.push(watcher),
                }
            }
            // At a terminal the end was typed.
            if ends_input && !session.is_terminal {
                session.close_input();
            }
        }
        for (stream, reply) in answers {
            self.reply(stream, &reply);
        }
    }

    /// Does what a session's descriptor is ready for.
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub fn on_session_ready(&mut self, ready: SessionReady) -> io::Result<()> {
        match ready {
            SessionReady::Exit(key) => {
                if let Some(job) = self.sessions.all.get_mut(&key).and_then(|session| session.job.as_mut()) {
                    job.reap()?;
                    if job.exit.is_some() && !job.outputs.is_empty() {
                        job.grace_until = Some(monotonic() + GRACE);
                    }
                }
                self.sessions.conclude(key, &mut self.guest.cgroups, monotonic());
            }
            SessionReady::Output(key, channel) => {
                self.keep_output(key, channel);
                self.sessions.conclude(key, &mut self.guest.cgroups, monotonic());
            }
            SessionReady::Input(stream) => {
                if let Some((session, index)) = self.sessions.of_stream(stream) {
                    if let Some(input) = &mut session.watchers[index].input {
                        input.flush();
                    }
                    self.grant_session_input(stream);
                }
            }
        }
        Ok(())
    }

    fn keep_output(&mut self, key: u32, channel: Channel) {
        let Sessions { all, scratch, .. } = &mut self.sessions;
        let Some(session) = all.get_mut(&key) else {
            return;
        };
        let Some(job) = &mut session.job else {
            return;
        };
        let Some(index) = job.outputs.iter().position(|output| output.channel() == channel) else {
            return;
        };
        scratch.resize(READ_BYTES, 0);
        let source = if channel == Channel::Error { Source::Error } else { Source::Output };
        let mut left = &mut scratch[..];
        let mut count = 0;
        // What comes in crumbs is taken in one go; several reads cost less than several turns.
        while !left.is_empty() {
            let (read, pumped) = job.read_output(index, left);
            left = &mut left[read..];
            count += read;
            match pumped {
                Pumped::Some => {}
                Pumped::Nothing | Pumped::Ended(_) => break,
            }
        }
        session.ring.push(source, &scratch[..count]);
    }

    /// Looks at the deadlines of sessions.
    pub fn look_at_sessions(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut changed = Vec::new();
        for (key, session) in &mut self.sessions.all {
            session.hang_up(now);
            let Some(job) = &mut session.job else {
                continue;
            };
            if due(job.kill_at) {
                job.kill();
            }
            if due(job.grace_until) {
                // What the command itself left in its pipes is still to be read.
                job.grace_until = Some(now + GRACE);
                job.end_grace();
                changed.push(*key);
            }
        }
        for key in changed {
            self.sessions.conclude(key, &mut self.guest.cgroups, now);
        }
        for (cgroup, at) in std::mem::take(&mut self.sessions.doomed) {
            if at <= now {
                cgroup.kill();
                self.guest.cgroups.give_back(cgroup);
            } else {
                self.sessions.doomed.push((cgroup, at));
            }
        }
    }
}

/// The final answer to a watcher, once there is one.
fn answer(session: &Session, watcher: &Watcher) -> Option<Reply> {
    let exited = session.end.map(|end| Reply::Exited(end.status));
    match &watcher.role {
        Role::Looks { until, .. } if watcher.is_done(&session.ring) => match until {
            Some(_) => Some(Reply::Done { bytes: 0 }),
            None => exited,
        },
        Role::Looks { .. } => None,
        Role::Waits => exited,
        Role::Sends { bytes, .. } => match &watcher.input {
            Some(input) if input.is_over() => Some(Reply::Done { bytes: *bytes }),
            Some(_) => None,
            None if session.end.is_some() => Some(Reply::Failed(Failure::SessionOver { name: session.name.clone() })),
            None => Some(Reply::Failed(input_is_over(&session.name))),
        },
    }
}
