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
    /// Both.
    Both,
}

impl Channels {
    fn has_input(self) -> bool {
        matches!(self, Channels::Input | Channels::Both)
    }

    fn has_output(self) -> bool {
        matches!(self, Channels::Output | Channels::Both)
    }
}

/// What a worker works with: its pipes to the host, which block, and whatever directory it was given.
#[derive(Debug)]
pub struct Hands {
    /// What the host sends; at its end from the beginning when that is none of its channels.
    pub input: File,
    /// What goes to the host; nowhere when that is none of its channels.
    pub output: File,
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
    let (input, our_input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (our_output, output) = pipe_with(PipeFlags::CLOEXEC)?;
    let (answer_reader, answer_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let pid = sys::spawn::fork_with([input, output, answer_writer, root], |[input, output, answer, root]| {
        let reply =
            work(Hands { input: File::from(input), output: File::from(output), root }).unwrap_or_else(Reply::Failed);
        let json = serde_json::to_vec(&reply).unwrap_or_default();
        i32::from(File::from(answer).write_all(&json).is_err())
    })?;
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(number.ok_or(io::ErrorKind::InvalidData)?, PidfdFlags::empty())?;
    let answer =
        Answer { pipe: Some(unblocked(answer_reader)?), bytes: Vec::new(), takes_in: channels == Channels::Input };
    let mut job = Job::new(Some(stream), Task::Worker(answer), pid, pidfd);
    if channels.has_input() {
        job.input = Some(Input::new(unblocked(our_input)?));
    }
    if channels.has_output() {
        job.outputs.push(Output::new(unblocked(our_output)?, Channel::Output));
    }
    Ok(job)
}
