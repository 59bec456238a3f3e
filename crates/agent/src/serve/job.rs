//! One process that works for a stream: a command, or a forked copy of the agent that packs, unpacks or waits.
//!
//! A job's bytes move only as far as both ends allow: input is granted to the host when the process has taken it, output is
//! read from the process when the host has granted it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use sys::clock::monotonic;
use wire::agent::WINDOW_BYTES;
use wire::agent::frame::{Channel, FROM_AGENT_MAX};
use wire::agent::message::ExitStatus;

use super::cgroup::Cgroup;
use super::link::Outbound;
use super::signal_group;

/// How long output is awaited from others who hold a command's pipe after the command itself has ended. What was in the
/// pipe when it ended is delivered however long that takes.
pub const GRACE: Duration = Duration::from_millis(250);
/// How long a command whose client went away may take to heed `SIGHUP`, or a worker the end of its input.
pub const HANGUP: Duration = Duration::from_secs(5);
/// Granted at once rather than in crumbs.
const GRANT_BYTES: u32 = WINDOW_BYTES / 4;
/// Taken bytes that may stay in a queue: moving the rest down costs more than they take.
const KEPT_BYTES: usize = 64 * 1024;
/// A pipe's size once much goes through it.
const PIPE_BYTES: usize = 256 * 1024;
/// End of file as typed on a terminal: `VEOF` of termios(3).
const TERMINAL_EOF: u8 = 4;

/// What a job is for.
#[derive(Debug)]
pub enum Task {
    /// A command; its end is the answer.
    Command,
    /// A forked copy of the agent; its answer comes through a pipe of its own.
    Worker(Answer),
}

/// The answer of a worker, as it arrives.
#[derive(Debug)]
pub struct Answer {
    /// The pipe; none when it is all there.
    pub pipe: Option<OwnedFd>,
    /// JSON of a [`wire::agent::message::Reply`].
    pub bytes: Vec<u8>,
    /// It works on what the host sends, and stops where that ends.
    pub takes_in: bool,
}

/// Where a host's bytes go.
#[derive(Debug)]
pub struct Input {
    fd: OwnedFd,
    /// Bytes the process has not taken yet: `queue[at..]`.
    queue: Vec<u8>,
    at: usize,
    /// What the host may still send.
    window: u32,
    /// Taken by the process and not yet granted again.
    taken: u32,
    ends: bool,
    is_large: bool,
}

/// Where a host's bytes come from.
#[derive(Debug)]
pub struct Output {
    fd: OwnedFd,
    channel: Channel,
    /// What the host still takes.
    credit: u64,
    /// Bytes that were in the pipe when the command ended.
    owed: u64,
    is_large: bool,
}

/// One process and its stream.
#[derive(Debug)]
pub struct Job {
    /// Who listens; none for an abandoned one, and for a session's.
    pub stream: Option<u32>,
    /// What it is for.
    pub task: Task,
    /// Process id, process group and session.
    pub pid: u32,
    /// Readable when it ends.
    pub pidfd: OwnedFd,
    /// Its standard input.
    pub input: Option<Input>,
    /// Its output channels.
    pub outputs: Vec<Output>,
    /// The terminal's master, for its size.
    pub terminal: Option<OwnedFd>,
    /// Where it and its children are.
    pub cgroup: Option<Cgroup>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// When others may no longer hold its output open.
    pub grace_until: Option<Instant>,
    /// When it is killed.
    pub kill_at: Option<Instant>,
}

impl Job {
    /// A job whose pipes are still to be added.
    #[must_use]
    pub fn new(stream: Option<u32>, task: Task, pid: u32, pidfd: OwnedFd) -> Job {
        Job {
            stream,
            task,
            pid,
            pidfd,
            input: None,
            outputs: Vec::new(),
            terminal: None,
            cgroup: None,
            exit: None,
            grace_until: None,
            kill_at: None,
        }
    }

    /// Collects the process when it has ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn reap(&mut self) -> io::Result<()> {
        let status = match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => status,
            Ok(None) | Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        self.exit = Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code { code: u8::try_from(code & 0xff).unwrap_or(u8::MAX) },
            (None, signal) => ExitStatus::Signal { signal: signal.unwrap_or_default() },
        });
        for output in &mut self.outputs {
            output.owed = rustix::io::ioctl_fionread(&output.fd).unwrap_or(0);
        }
        Ok(())
    }

    /// Whether everything that belongs to the command has been read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let answered = match &self.task {
            Task::Command => true,
            Task::Worker(answer) => answer.pipe.is_none(),
        };
        self.exit.is_some() && self.outputs.is_empty() && answered
    }

    /// Stops listening to whoever else holds the output, as far as nothing of the command's own is left in it. Gives the
    /// channels that ended.
    pub fn end_grace(&mut self) -> Vec<Channel> {
        let (kept, ended): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.outputs).into_iter().partition(|output| output.owed > 0);
        self.outputs = kept;
        ended.iter().map(Output::channel).collect()
    }

    /// Signals the process group of a command that has not ended.
    pub fn signal(&self, signal: i32) {
        if self.exit.is_none() {
            signal_group(self.pid, signal);
        }
    }

    /// Nobody listens any more: its pipes are closed, it is told as a terminal that hangs up tells, and killed when it
    /// does not heed that. A worker that takes something in heeds the end of it, and leaves what it made in order; others
    /// have nothing to heed.
    pub fn abandon(&mut self) {
        self.stream = None;
        self.input = None;
        self.outputs = Vec::new();
        self.terminal = None;
        self.grace_until = None;
        match &mut self.task {
            Task::Command => {
                self.signal(Signal::HUP.as_raw());
                self.kill_at = Some(monotonic() + HANGUP);
            }
            Task::Worker(answer) => {
                answer.pipe = None;
                if answer.takes_in {
                    self.kill_at = Some(monotonic() + HANGUP);
                } else {
                    self.kill();
                }
            }
        }
    }

    /// Kills it and all it started.
    pub fn kill(&mut self) {
        self.kill_at = None;
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        match self.task {
            Task::Command => self.signal(Signal::KILL.as_raw()),
            Task::Worker(_) => {
                let _: rustix::io::Result<()> = pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
        }
    }

    /// Takes what a worker says.
    pub fn hear(&mut self) {
        let Task::Worker(answer) = &mut self.task else {
            return;
        };
        let Some(pipe) = &answer.pipe else {
            return;
        };
        let mut chunk = [0; 4096];
        match rustix::io::read(pipe, &mut chunk) {
            Ok(count) if count > 0 && answer.bytes.len() <= FROM_AGENT_MAX => {
                answer.bytes.extend_from_slice(&chunk[..count]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => answer.pipe = None,
        }
    }

    /// Reads from output `index` into `outbound`; a finished one is removed.
    pub fn pump(&mut self, index: usize, stream: u32, outbound: &mut Outbound) -> Pumped {
        self.read(index, |output| {
            let max = usize::try_from(output.credit).unwrap_or(usize::MAX);
            outbound.push_read(output.fd.as_fd(), output.channel, stream, max)
        })
    }

    /// Reads once from output `index` into `buffer`: how many bytes; a finished output is removed.
    pub fn read_output(&mut self, index: usize, buffer: &mut [u8]) -> (usize, Pumped) {
        let mut count = 0;
        let pumped = self.read(index, |output| {
            count = rustix::io::read(&output.fd, buffer)?;
            Ok(count)
        });
        (count, pumped)
    }

    fn read(&mut self, index: usize, read: impl FnOnce(&Output) -> io::Result<usize>) -> Pumped {
        let output = &mut self.outputs[index];
        match read(output) {
            Ok(0) => {}
            Ok(count) => {
                output.note_read(count);
                return Pumped::Some;
            }
            Err(error) if is_for_later(&error) => return Pumped::Nothing,
            // A terminal's master says EIO when nobody has the other side open; any other error ends the output as well.
            Err(_) => {}
        }
        Pumped::Ended(self.outputs.remove(index).channel)
    }
}

/// What a read of a process's output gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// Bytes; there may be more.
    Some,
    /// None for now.
    Nothing,
    /// The end.
    Ended(Channel),
}

impl Output {
    /// An output with a fresh window.
    #[must_use]
    pub fn new(fd: OwnedFd, channel: Channel) -> Output {
        Output { fd, channel, credit: u64::from(WINDOW_BYTES), owed: 0, is_large: false }
    }

    /// The descriptor, when the host takes more.
    pub fn wanted(&self) -> Option<&OwnedFd> {
        (self.credit > 0).then_some(&self.fd)
    }

    /// It is read whether or not the host takes more.
    pub fn grant_all(&mut self) {
        self.credit = u64::MAX;
    }

    /// Which channel it is.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The host takes more.
    pub fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(u64::from(bytes));
    }

    fn note_read(&mut self, count: usize) {
        let count = count as u64;
        self.credit -= count;
        self.owed = self.owed.saturating_sub(count);
        if count >= 32 * 1024 {
            enlarge(&self.fd, &mut self.is_large);
        }
    }
}

/// Gives a pipe that is used in earnest more room; one that cannot have it works as it is.
fn enlarge(fd: &OwnedFd, is_large: &mut bool) {
    if !*is_large {
        *is_large = true;
        let _: Result<usize, Errno> = rustix::pipe::fcntl_setpipe_size(fd, PIPE_BYTES);
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The host sent more than it was granted.
#[derive(Debug)]
pub struct Overrun;

impl Input {
    /// An input with a fresh window.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Input {
        Input { fd, queue: Vec::new(), at: 0, window: WINDOW_BYTES, taken: 0, ends: false, is_large: false }
    }

    /// The descriptor alone.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The descriptor, when bytes wait for room in it.
    pub fn wanted(&self) -> Option<&OwnedFd> {
        (!self.queue.is_empty()).then_some(&self.fd)
    }

    /// Takes bytes from the host.
    ///
    /// # Errors
    /// When there are more than it was granted.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<(), Overrun> {
        let count = u32::try_from(bytes.len()).map_err(|_| Overrun)?;
        self.window = self.window.checked_sub(count).ok_or(Overrun)?;
        if self.ends {
            return Ok(());
        }
        let mut written = 0;
        if self.queue.is_empty() {
            written = write(&self.fd, &mut self.is_large, bytes);
            self.note_taken(written);
        }
        self.queue.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// No more comes from the host.
    pub fn finish(&mut self, is_terminal: bool) {
        if is_terminal && !self.ends {
            self.queue.push(TERMINAL_EOF);
            self.flush();
        }
        self.ends = true;
    }

    /// Whether it can be closed: everything was taken and no more comes.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ends && self.queue.is_empty()
    }

    /// Writes what waits.
    pub fn flush(&mut self) {
        let written = write(&self.fd, &mut self.is_large, &self.queue[self.at..]);
        self.note_taken(written);
        self.at += written;
        if self.at == self.queue.len() {
            self.at = 0;
            self.queue = Vec::new();
        } else if self.at >= KEPT_BYTES {
            self.queue.drain(..self.at);
            self.at = 0;
        }
    }

    /// Bytes to grant the host now, when they are worth a frame.
    pub fn grant(&mut self) -> Option<u32> {
        if self.taken < GRANT_BYTES {
            return None;
        }
        self.window = self.window.saturating_add(self.taken);
        Some(std::mem::take(&mut self.taken))
    }

    fn note_taken(&mut self, count: usize) {
        self.taken = self.taken.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// Writes until there is no room, and says how much went.
fn write(fd: &OwnedFd, is_large: &mut bool, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(fd, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                enlarge(fd, is_large);
                break;
            }
            // Nobody reads any more: the bytes are taken, as a shell's pipe loses them.
            Err(_) => written = bytes.len(),
        }
    }
    written
}
