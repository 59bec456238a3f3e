//! Sessions: commands that outlive their client, the host's daemon and the connection to it. See [`wire::agent::session`].
//!
//! ```text
//! command ──stdout, stderr──► ring ──► watcher ──► stream of the host      each at its own place
//! command ◄──stdin────────────────── input of each watcher
//! ```
//! | file | what |
//! |---|---|
//! | [`ring`] | the output that is kept |
//! | [`watcher`] | a stream that looks, sends or waits |
//! | [`requests`] | what is asked about sessions |
//! | [`turn`] | their part in a turn of the loop |
//!
//! A command's output is always taken, whether anybody looks or not: it stops in its write only for a watcher that is
//! behind, and not for long. Memory is a ring for each of [`SESSIONS_MAX`] sessions; watchers have none beside their input.

pub mod requests;
pub mod ring;
pub mod turn;
pub mod watcher;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wire::agent::message::{ExitStatus, Failure};
use wire::agent::session::{COMMAND_LEN_MAX, SESSIONS_MAX, SessionRecord};

use super::cgroup::{Cgroup, Cgroups};
use super::job::Job;
use ring::Ring;
use watcher::{Role, Watcher};

/// How often a command at a terminal is told that it is to end.
const HANG_UP_EVERY: Duration = Duration::from_secs(1);

/// The end of a session.
#[derive(Debug, Clone, Copy)]
struct End {
    status: ExitStatus,
    at: Instant,
    at_ms: u64,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    name: String,
    /// What runs, for people.
    command: String,
    is_terminal: bool,
    pid: u32,
    /// The process, until it has ended and its output is complete.
    job: Option<Job>,
    /// Its input; none when somebody ended it.
    stdin: Option<OwnedFd>,
    ring: Ring,
    watchers: Vec<Watcher>,
    /// When a command that was asked to end at its terminal is told so again.
    hang_up_at: Option<Instant>,
    started_at_ms: u64,
    end: Option<End>,
}

impl Session {
    /// A session whose `job` has just been started.
    fn new(name: String, command: String, mut job: Job, started_at_ms: u64) -> Session {
        for output in &mut job.outputs {
            output.grant_all();
        }
        Session {
            name,
            command,
            is_terminal: job.terminal.is_some(),
            pid: job.pid,
            stdin: job.input.take().map(super::job::Input::into_fd),
            job: Some(job),
            ring: Ring::default(),
            watchers: Vec::new(),
            hang_up_at: None,
            started_at_ms,
            end: None,
        }
    }

    fn record(&self) -> SessionRecord {
        let looks = self.watchers.iter().filter(|watcher| matches!(watcher.role, Role::Looks { .. }));
        SessionRecord {
            name: self.name.clone(),
            command: self.command.clone(),
            terminal: self.is_terminal,
            pid: self.pid,
            ended: self.end.map(|end| end.status),
            started_at_ms: self.started_at_ms,
            ended_at_ms: self.end.map(|end| end.at_ms),
            output_bytes: self.ring.end(),
            watchers: u32::try_from(looks.count()).unwrap_or(u32::MAX),
        }
    }

    /// Until when its command is held back for a watcher; none when it is not.
    fn held_until(&self, now: Instant) -> Option<Instant> {
        self.watchers.iter().filter_map(|watcher| watcher.holds_until(&self.ring, now)).min()
    }

    /// Asks the command to end by what it heeds, and kills it at `kill_at`.
    fn stop(&mut self, kill_at: Instant, now: Instant) {
        let Some(job) = &mut self.job else {
            return;
        };
        job.signal(Signal::TERM.as_raw());
        if self.is_terminal {
            self.hang_up_at = Some(now);
        }
        // One that is stopped hears none of it otherwise.
        job.signal(Signal::CONT.as_raw());
        job.kill_at = Some(job.kill_at.map_or(kill_at, |at| at.min(kill_at)));
    }

    /// Tells a command at its terminal, when that is due, that the terminal is gone: an interactive shell heeds nothing
    /// less. It is told until it ends, because one that was about to read when it was told loses that.
    fn hang_up(&mut self, now: Instant) {
        if let (Some(job), Some(_)) = (&self.job, self.hang_up_at.filter(|at| *at <= now)) {
            job.signal(Signal::HUP.as_raw());
            self.hang_up_at = Some(now + HANG_UP_EVERY);
        }
    }

    /// Nothing goes into the command any more: nobody holds its input open.
    fn close_input(&mut self) {
        self.stdin = None;
        for watcher in &mut self.watchers {
            // What was sent and went in whole is still to be answered as such.
            let is_sent = matches!(watcher.role, Role::Sends { .. });
            watcher.input.take_if(|input| !(is_sent && input.is_over()));
        }
    }
}

/// All of them, by the order in which they were started.
#[derive(Debug, Default)]
pub struct Sessions {
    all: BTreeMap<u32, Session>,
    next: u32,
    /// Cgroups of sessions that were stopped and ended while something they started goes on, and when that is killed.
    doomed: Vec<(Cgroup, Instant)>,
    /// Who is served first in the next turn, so that one does not always come last.
    first: usize,
    /// Where output is read into.
    scratch: Vec<u8>,
}

impl Sessions {
    /// Sessions whose command runs.
    #[must_use]
    pub fn running(&self) -> u32 {
        u32::try_from(self.all.values().filter(|session| session.end.is_none()).count()).unwrap_or(u32::MAX)
    }

    /// Streams that have to do with sessions.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.all.values().map(|session| session.watchers.len()).sum()
    }

    /// Whether a stream has to do with a session.
    #[must_use]
    pub fn has(&self, stream: u32) -> bool {
        self.all.values().any(|session| session.watchers.iter().any(|watcher| watcher.stream == stream))
    }

    fn of_stream(&mut self, stream: u32) -> Option<(&mut Session, usize)> {
        self.all.values_mut().find_map(|session| {
            let index = session.watchers.iter().position(|watcher| watcher.stream == stream)?;
            Some((session, index))
        })
    }

    fn find(&mut self, name: &str) -> Result<&mut Session, Failure> {
        let missing = || Failure::NoSuchSession { name: name.to_owned() };
        self.all.values_mut().find(|session| session.name == name).ok_or_else(missing)
    }

    /// Makes sure that `name` is free, or chooses one.
    fn name(&self, name: Option<String>) -> Result<String, Failure> {
        let known = |name: &str| self.all.values().find(|session| session.name == name);
        match name {
            Some(name) if known(&name).is_some_and(|session| session.end.is_none()) => {
                Err(Failure::SessionExists { name })
            }
            Some(name) => Ok(name),
            None => Ok((u64::from(self.next) + 1..)
                .map(|number| format!("s{number}"))
                .find(|name| known(name).is_none())
                .expect("there are more numbers than sessions")),
        }
    }

    /// Keeps a new one.
    fn insert(&mut self, session: Session) {
        self.all.insert(self.next, session);
        self.next += 1;
    }

    /// Which session gives way to a new one called `name`: the one of that name that has ended, else, when there are too
    /// many, the one that ended first.
    fn in_the_way(&self, name: &str) -> Result<Option<u32>, Failure> {
        if let Some((key, _)) = self.all.iter().find(|(_, session)| session.name == name) {
            return Ok(Some(*key));
        }
        if self.all.len() < SESSIONS_MAX {
            return Ok(None);
        }
        let ended = self.all.iter().filter_map(|(key, session)| Some((session.end?.at, *key)));
        ended.min().map(|(_, key)| Some(key)).ok_or(Failure::SessionsFull)
    }

    /// Forgets one that has ended; the streams that looked at it.
    fn remove(&mut self, key: u32) -> Vec<u32> {
        let watchers = self.all.remove(&key).map_or_else(Vec::new, |session| session.watchers);
        watchers.into_iter().map(|watcher| watcher.stream).collect()
    }

    /// A stream is over.
    pub fn forget_stream(&mut self, stream: u32) {
        for session in self.all.values_mut() {
            session.watchers.retain(|watcher| watcher.stream != stream);
        }
    }

    /// The host is gone: nobody looks, and everything goes on.
    pub fn forget_streams(&mut self) {
        for session in self.all.values_mut() {
            session.watchers.clear();
        }
    }

    /// Kills all of them and forgets them; the streams that looked.
    pub fn end(&mut self) -> Vec<u32> {
        for (cgroup, _) in &self.doomed {
            cgroup.kill();
        }
        for job in self.all.values_mut().filter_map(|session| session.job.as_mut()) {
            job.kill();
        }
        let ended = std::mem::take(self);
        self.next = ended.next;
        ended.all.into_values().flat_map(|session| session.watchers).map(|watcher| watcher.stream).collect()
    }

    /// Takes note of the end of a session whose output is complete.
    fn conclude(&mut self, key: u32, cgroups: &mut Cgroups, now: Instant) {
        let Some(session) = self.all.get_mut(&key) else {
            return;
        };
        let Some(status) = session.job.as_ref().filter(|job| job.is_complete()).and_then(|job| job.exit) else {
            return;
        };
        session.end = Some(End { status, at: now, at_ms: sys::clock::unix_ns() / 1_000_000 });
        session.close_input();
        session.hang_up_at = None;
        let Some(mut job) = session.job.take() else {
            return;
        };
        match (job.cgroup.take(), job.kill_at) {
            (Some(cgroup), Some(at)) if !cgroup.is_empty() => self.doomed.push((cgroup, at)),
            (Some(cgroup), _) => cgroups.give_back(cgroup),
            (None, _) => {}
        }
    }
}

/// A command as a person would type it, on one line and cut to [`COMMAND_LEN_MAX`] bytes.
fn summary(argv: &[String]) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "%+,-./:=@_".contains(c);
    let mut text = String::new();
    for word in argv {
        if !text.is_empty() {
            text.push(' ');
        }
        if !word.is_empty() && word.chars().all(is_plain) {
            text.push_str(word);
        } else {
            text.push_str(&format!("'{}'", word.replace('\'', r"'\''")));
        }
        if text.len() > 4 * COMMAND_LEN_MAX {
            break;
        }
    }
    let mut line: String = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if line.len() > COMMAND_LEN_MAX {
        let most = COMMAND_LEN_MAX - '…'.len_utf8();
        let end = (0..=most).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed_and_never_long() {
        let shown = |argv: &[&str]| summary(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(&["npm", "run", "dev"]), "npm run dev");
        assert_eq!(shown(&["sh", "-c", "echo it's; exit 1", ""]), r"sh -c 'echo it'\''s; exit 1' ''");
        assert_eq!(shown(&["a\x1b[2Jb"]), "'a\u{fffd}[2Jb'");
        assert_eq!(shown(&[]), "");
        for word in ["x".repeat(100_000), "ü".repeat(100_000), "\x01".repeat(100_000)] {
            let text = shown(&["echo", &word]);
            assert!(text.len() <= COMMAND_LEN_MAX && text.len() > COMMAND_LEN_MAX - 8, "{}", text.len());
            assert!(text.ends_with('…'));
        }
    }
}
