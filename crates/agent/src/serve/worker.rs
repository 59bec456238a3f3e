//! Work that takes time and is not a command: done in a forked copy of the agent, so that the loop never waits and a
//! transfer that goes wrong ends alone. Whoever resets the stream ends the copy: one that reads reads an end, any other is
//! killed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wire::agent::frame::Channel;
use wire::agent::message::{Failure, Reply};

use super::exec::unblocked;
use super::job::{Answer, Input, Job, Output, Task};

/// Which of a stream's channels a worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// None: it only answers.
    Neither,
    /// It reads what the host sends.
    Input,
    /// What it writes goes to the host.
    Output,
}

/// What a worker works with: its pipe to the host, when it has one, and whatever directory it was given.
#[derive(Debug)]
pub struct Hands {
    /// The reading or writing end of the stream's bytes; blocking.
    pub data: File,
    /// The guest's root directory.
    pub root: OwnedFd,
}

/// Forks a worker for `stream`.
///
/// # Errors
/// When no process or pipe can be made.
pub fn start(
    stream: u32,
    channels: Channels,
    root: OwnedFd,
    work: impl FnOnce(Hands) -> Result<Reply, Failure>,
) -> io::Result<Job> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (answer_reader, answer_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ours, theirs) = if channels == Channels::Input { (writer, reader) } else { (reader, writer) };
    let pid = sys::spawn::fork_with([theirs, answer_writer, root], |[data, answer, root]| {
        let reply = work(Hands { data: File::from(data), root }).unwrap_or_else(Reply::Failed);
        let json = serde_json::to_vec(&reply).unwrap_or_default();
        i32::from(File::from(answer).write_all(&json).is_err())
    })?;
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(number.ok_or(io::ErrorKind::InvalidData)?, PidfdFlags::empty())?;
    let answer =
        Answer { pipe: Some(unblocked(answer_reader)?), bytes: Vec::new(), takes_in: channels == Channels::Input };
    let mut job = Job::new(Some(stream), Task::Worker(answer), pid, pidfd);
    match channels {
        Channels::Neither => {}
        Channels::Input => job.input = Some(Input::new(unblocked(ours)?)),
        Channels::Output => job.outputs.push(Output::new(unblocked(ours)?, Channel::Output)),
    }
    Ok(job)
}
