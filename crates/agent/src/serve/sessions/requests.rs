//! What is asked about sessions, and what the host does on a stream that has to do with one.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::Signal;
use sys::clock::monotonic;
use wire::agent::frame::{Channel, Head, Kind};
use wire::agent::message::{Control, ExecRequest, Failure, Reply};
use wire::agent::session::{GRACE_MS_MAX, SessionAttach, SessionReply, SessionRequest, is_session_name};

use super::watcher::{Role, Watcher};
use super::{Session, summary};
use crate::serve::job::{Input, Overrun};
use crate::serve::requests::os;
use crate::serve::{Server, exec};

impl Server {
    /// Answers a request about sessions, or keeps its stream until it can be.
    pub fn session(&mut self, stream: u32, request: SessionRequest) {
        let reply = match request {
            SessionRequest::Start { name, command } => self.start_session(name, command).map(Some),
            SessionRequest::List => {
                let sessions = self.sessions.all.values().map(Session::record).collect();
                Ok(Some(Reply::Session(SessionReply::Sessions { sessions })))
            }
            SessionRequest::Attach(attach) => self.attach(stream, &attach).map(|()| None),
            SessionRequest::Send { name, ends } => self.send_to_session(stream, &name, ends).map(|()| None),
            SessionRequest::Signal { name, signal } => self.signal_session(&name, signal).map(Some),
            SessionRequest::Stop { name, grace_ms } => self.stop_session(stream, &name, grace_ms).map(|()| None),
            SessionRequest::Forget { name } => self.forget_session(&name).map(Some),
        };
        match reply {
            Ok(Some(reply)) => self.reply(stream, &reply),
            Ok(None) => {}
            Err(failure) => self.reply(stream, &Reply::Failed(failure)),
        }
    }

    fn start_session(&mut self, name: Option<String>, command: ExecRequest) -> Result<Reply, Failure> {
        if let Some(name) = name.as_ref().filter(|name| !is_session_name(name)) {
            return Err(Failure::Refused { why: format!("{name:?} is no name of a session") });
        }
        let name = self.sessions.name(name)?;
        let in_the_way = self.sessions.in_the_way(&name)?;
        self.correct_clock(command.unix_ns);
        let shown = if command.argv.is_empty() { "a shell".to_owned() } else { summary(&command.argv) };
        let job = exec::start(&ExecRequest { stdin: true, ..command }, None, &mut self.guest)?;
        self.remove_session(in_the_way);
        let session = Session::new(name, shown, job, sys::clock::unix_ns() / 1_000_000);
        let record = session.record();
        self.sessions.insert(session);
        Ok(Reply::Session(SessionReply::Session(record)))
    }

    fn attach(&mut self, stream: u32, attach: &SessionAttach) -> Result<(), Failure> {
        let session = self.sessions.find(&attach.name)?;
        let at = match attach.tail_lines {
            Some(lines) => session.ring.last_lines(lines),
            None => session.ring.first_line(),
        };
        let until = (!attach.follow).then(|| session.ring.end());
        let input = if attach.input { input(session)? } else { None };
        if let Some(size) = attach.terminal {
            resize(session, size);
        }
        session.watchers.push(Watcher::new(stream, Role::Looks { at, until }, input));
        Ok(())
    }

    fn send_to_session(&mut self, stream: u32, name: &str, ends: bool) -> Result<(), Failure> {
        let session = self.sessions.find(name)?;
        if session.end.is_some() {
            return Err(Failure::SessionOver { name: name.to_owned() });
        }
        let Some(input) = input(session)? else {
            return Err(input_is_over(name));
        };
        session.watchers.push(Watcher::new(stream, Role::Sends { ends, bytes: 0 }, Some(input)));
        Ok(())
    }

    fn signal_session(&mut self, name: &str, signal: i32) -> Result<Reply, Failure> {
        if Signal::from_named_raw(signal).is_none() {
            return Err(Failure::Refused { why: format!("there is no signal {signal}") });
        }
        let session = self.sessions.find(name)?;
        match &mut session.job {
            Some(job) if signal == Signal::KILL.as_raw() => job.kill(),
            Some(job) => job.signal(signal),
            None => return Err(Failure::SessionOver { name: name.to_owned() }),
        }
        Ok(Reply::Session(SessionReply::Session(session.record())))
    }

    fn stop_session(&mut self, stream: u32, name: &str, grace_ms: u64) -> Result<(), Failure> {
        let session = self.sessions.find(name)?;
        let now = monotonic();
        session.stop(now + Duration::from_millis(grace_ms.min(GRACE_MS_MAX)), now);
        // One that has ended is answered in the next turn as well.
        session.watchers.push(Watcher::new(stream, Role::Waits, None));
        Ok(())
    }

    fn forget_session(&mut self, name: &str) -> Result<Reply, Failure> {
        let session = self.sessions.find(name)?;
        if session.end.is_none() {
            return Err(Failure::SessionRuns { name: name.to_owned() });
        }
        let record = session.record();
        let key = self.sessions.in_the_way(name)?;
        self.remove_session(key);
        Ok(Reply::Session(SessionReply::Session(record)))
    }

    fn remove_session(&mut self, key: Option<u32>) {
        for stream in key.map_or_else(Vec::new, |key| self.sessions.remove(key)) {
            self.reset(stream);
        }
    }

    /// Input for the command of a session.
    pub fn on_session_data(&mut self, head: Head, payload: &[u8]) {
        let Some((session, index)) = self.sessions.of_stream(head.stream) else {
            return;
        };
        let watcher = &mut session.watchers[index];
        let Some(input) = watcher.input.as_mut().filter(|_| head.channel == Channel::Input) else {
            return;
        };
        let accepted = input.accept(payload);
        if let Role::Sends { bytes, .. } = &mut watcher.role {
            *bytes += payload.len() as u64;
        }
        match accepted {
            Ok(()) => self.grant_session_input(head.stream),
            Err(Overrun) => self.reset(head.stream),
        }
    }

    /// No more input comes from this stream. The command's own ends only for one that says so.
    pub fn on_session_eof(&mut self, stream: u32) {
        if let Some((session, index)) = self.sessions.of_stream(stream) {
            let watcher = &mut session.watchers[index];
            let ends = matches!(watcher.role, Role::Sends { ends: true, .. });
            if let Some(input) = &mut watcher.input {
                input.finish(session.is_terminal && ends);
            }
        }
    }

    /// More of a session's output is taken.
    pub fn on_session_credit(&mut self, head: Head, bytes: u32) {
        if let Some((session, index)) = self.sessions.of_stream(head.stream).filter(|_| head.channel == Channel::Output)
        {
            session.watchers[index].grant(bytes);
        }
    }

    /// A watcher's terminal has a new size, or a signal is passed on.
    pub fn on_session_control(&mut self, stream: u32, control: Control) {
        let Some((session, _)) = self.sessions.of_stream(stream) else {
            return;
        };
        match (control, &session.job) {
            (Control::Resize(size), _) => resize(session, size),
            (Control::Signal { signal }, Some(job)) => job.signal(signal),
            (Control::Signal { .. }, None) => {}
        }
    }

    /// Grants what the command took.
    pub(super) fn grant_session_input(&mut self, stream: u32) {
        let Some((session, index)) = self.sessions.of_stream(stream) else {
            return;
        };
        if let Some(bytes) = session.watchers[index].input.as_mut().and_then(Input::grant) {
            self.outbound.push(Kind::Credit, Channel::Input, stream, &bytes.to_le_bytes());
            self.hold_until = None;
        }
    }
}

/// A way into the command's input; none when that has ended.
fn input(session: &Session) -> Result<Option<Input>, Failure> {
    let stdin = session.stdin.as_ref().map(|fd| fd.try_clone());
    let stdin = stdin.transpose().map_err(|error| os("cannot use the session's input", &error))?;
    Ok(stdin.map(Input::new))
}

/// The answer to bytes for a command whose input has ended.
pub(super) fn input_is_over(name: &str) -> Failure {
    Failure::Refused { why: format!("the input of session {name} has ended") }
}

fn resize(session: &Session, size: wire::agent::message::TerminalSize) {
    if let Some(terminal) = session.job.as_ref().and_then(|job| job.terminal.as_ref()) {
        // A terminal that is going away keeps its last size.
        let _: io::Result<()> = exec::resize(terminal.as_fd(), size);
    }
}
