//! Runs a long command in a process group of its own: its output goes to a log and to a reader of lines. It is ended,
//! with all it started, when the act is cancelled ([`Ending`] says how), and by the kernel when this process dies.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use sys::process::{Identity, Tie};

use crate::model::progress::{Cancelled, Watcher};

/// How long a command may take to end after being asked to. In a namespace nobody is asked, and it takes milliseconds.
const GRACE: Duration = Duration::from_secs(20);
/// How often the watcher is asked while there is no output.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Lines of output an error quotes.
const QUOTED_LINES: usize = 8;
/// Most that is read at once.
const READ_BYTES: usize = 8192;
/// Longest line that is read as one.
const LINE_MAX_BYTES: usize = 16 << 10;

/// How a command is ended with all it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its group is asked to end, and after [`GRACE`] killed.
    Group,
    /// The command is unshare(1), and its child the first process of a namespace: killing that one ends every process of
    /// the namespace before unshare sees it end.
    Namespace,
}

/// The last lines of a command's output: what an error quotes.
#[derive(Debug, Default)]
pub(super) struct LastLines(VecDeque<String>);

impl LastLines {
    /// Takes a line; empty ones say nothing.
    pub(super) fn push(&mut self, line: &str) {
        if !line.trim().is_empty() {
            self.0.push_back(line.to_owned());
            self.0.drain(..self.0.len().saturating_sub(QUOTED_LINES));
        }
    }

    pub(super) fn text(self) -> String {
        Vec::from(self.0).join("\n")
    }
}

/// Why a command did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunnerError {
    #[error("cannot start it")]
    Start(#[source] io::Error),
    #[error("cannot follow it")]
    Follow(#[source] io::Error),
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

/// Runs `command` to its end; each line of its output goes to `log` and `on_line`.
pub(super) fn run(
    command: &mut Command,
    ending: Ending,
    log: &mut File,
    on_line: &mut dyn FnMut(&str),
    watcher: Watcher<'_>,
) -> Result<ExitStatus, RunnerError> {
    let (mut output, writer) = io::pipe().map_err(RunnerError::Start)?;
    let stderr = writer.try_clone().map_err(RunnerError::Start)?;
    let spawned = command.stdout(writer).stderr(stderr).process_group(0).tie().spawn();
    // The command holds the pipe's other end too; without this it would never be seen to end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = spawned.map_err(RunnerError::Start)?;
    match follow(&mut child, &mut output, log, on_line, watcher) {
        Ok(status) => Ok(status),
        Err(err) => {
            end(&mut child, ending, &mut output).map_err(RunnerError::Follow)?;
            Err(err)
        }
    }
}

fn follow(
    child: &mut Child,
    output: &mut PipeReader,
    log: &mut File,
    on_line: &mut dyn FnMut(&str),
    watcher: Watcher<'_>,
) -> Result<ExitStatus, RunnerError> {
    let mut said = Said { log, on_line, line: Vec::new() };
    let mut is_open = true;
    loop {
        watcher.check()?;
        // Something it left running may hold the pipe open, or write on: its own end is what counts.
        if let Some(status) = child.try_wait().map_err(RunnerError::Follow)? {
            said.take_what_is_there(output).map_err(RunnerError::Follow)?;
            return Ok(status);
        }
        if !is_open {
            wait_a_tick().map_err(RunnerError::Follow)?;
        } else if is_readable(output).map_err(RunnerError::Follow)? {
            is_open = said.take(output, READ_BYTES).map_err(RunnerError::Follow)? > 0;
        }
    }
}

/// Where a command's output goes.
struct Said<'a> {
    log: &'a mut File,
    on_line: &'a mut dyn FnMut(&str),
    /// The line that has not ended.
    line: Vec<u8>,
}

impl Said<'_> {
    /// Takes at most `max` bytes, waiting for the first; none at the end.
    fn take(&mut self, output: &mut PipeReader, max: usize) -> io::Result<usize> {
        let mut buf = [0; READ_BYTES];
        let got = output.read(&mut buf[..max.min(READ_BYTES)])?;
        self.log.write_all(&buf[..got])?;
        for byte in &buf[..got] {
            if *byte == b'\n' || *byte == b'\r' || self.line.len() >= LINE_MAX_BYTES {
                (self.on_line)(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(got)
    }

    /// Takes what a command that has ended wrote after the last look, and waits for nobody who writes on.
    fn take_what_is_there(&mut self, output: &mut PipeReader) -> io::Result<()> {
        let mut left = usize::try_from(rustix::io::ioctl_fionread(&*output)?).unwrap_or(usize::MAX);
        while left > 0 {
            match self.take(output, left)? {
                0 => break,
                got => left -= got,
            }
        }
        Ok(())
    }
}

fn is_readable(output: &PipeReader) -> io::Result<bool> {
    let mut fds = [PollFd::new(output, PollFlags::IN)];
    match poll(&mut fds, Some(&TICK)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn wait_a_tick() -> io::Result<()> {
    match poll(&mut [], Some(&TICK)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Ends the command and all it started.
fn end(child: &mut Child, ending: Ending, output: &mut PipeReader) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| match group.map(|group| kill_process_group(group, signal)) {
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(errno)) => Err(io::Error::from(errno)),
    };
    if ending == Ending::Group {
        signal(Signal::TERM)?;
    }
    let deadline = sys::clock::monotonic() + GRACE;
    let mut unread = [0; 8192];
    while child.try_wait()?.is_none() {
        if sys::clock::monotonic() >= deadline {
            break;
        }
        if ending == Ending::Namespace {
            // Each time round: unshare may not have started it yet.
            for first in Identity::children_of(child.id())? {
                first.signal(Signal::KILL)?;
            }
        }
        // It must not block on a full pipe while it tidies up.
        if is_readable(output)? && output.read(&mut unread)? == 0 {
            wait_a_tick()?;
        }
    }
    signal(Signal::KILL)?;
    child.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn shell(script: &str) -> Command {
        let mut command = sys::process::command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_go_to_the_log_and_the_reader() {
        let mut log = tempfile::tempfile().unwrap();
        let mut lines = Vec::new();
        let mut on_line = |line: &str| lines.push(line.to_owned());
        let status =
            run(&mut shell("echo one; echo two >&2; exit 3"), Ending::Group, &mut log, &mut on_line, Watcher::none())
                .unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(log.metadata().unwrap().len(), 8);
    }

    #[test]
    fn a_child_left_behind_does_not_hold_us() {
        let mut log = tempfile::tempfile().unwrap();
        let mut left = 0;
        let mut on_line = |line: &str| left = line.parse().unwrap();
        let status =
            run(&mut shell("sleep 1000 & echo $!"), Ending::Group, &mut log, &mut on_line, Watcher::none()).unwrap();
        assert!(status.success());
        sys::process::Identity::of(left).unwrap().signal(Signal::KILL).unwrap();
    }

    #[test]
    fn what_was_said_last_is_heard_and_who_talks_on_is_not_waited_for() {
        let (mut log, mut lines) = (tempfile::tempfile().unwrap(), Vec::new());
        let mut on_line = |line: &str| lines.push(line.to_owned());
        let talks_on = "sh -c 'echo $$; while :; do echo more; done' & sleep 0.2; echo last; exit 4";
        let status = run(&mut shell(talks_on), Ending::Group, &mut log, &mut on_line, Watcher::none()).unwrap();
        // Nobody reads what it writes any more, which ends it (SIGPIPE).
        let (talker, deadline) = (lines[0].parse().unwrap(), sys::clock::monotonic() + Duration::from_secs(60));
        while sys::process::Identity::of(talker).is_some() {
            assert!(sys::clock::monotonic() < deadline, "process {talker} is still there");
        }
        assert_eq!(status.code(), Some(4));
        assert!(lines.contains(&"last".to_owned()), "{} lines", lines.len());
    }

    #[test]
    fn cancelling_ends_the_whole_group() {
        let mut log = tempfile::tempfile().unwrap();
        let stop = AtomicBool::new(false);
        let mut inner = 0;
        let mut on_line = |line: &str| {
            inner = line.parse().unwrap();
            stop.store(true, Ordering::Relaxed);
        };
        let outcome = run(
            &mut shell("sleep 1000 & echo $!; wait"),
            Ending::Group,
            &mut log,
            &mut on_line,
            Watcher::new(&|_| {}, &stop),
        );
        assert!(matches!(outcome, Err(RunnerError::Cancelled(_))));
        let deadline = sys::clock::monotonic() + Duration::from_secs(60);
        while sys::process::Identity::of(inner).is_some() {
            assert!(sys::clock::monotonic() < deadline, "process {inner} is still there");
        }
    }

    /// The processes whose arguments hold `word`.
    fn called_with(word: &str) -> Vec<String> {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(word)).collect()
    }

    #[test]
    fn cancelling_ends_a_whole_namespace_at_once() {
        let mode = super::super::mode::choose();
        let Some(mode) = mode.ok().filter(|mode| mode.ending() == Ending::Namespace) else {
            println!("not tested: this user may not make namespaces on this host");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        // What is deaf to SIGTERM, has left the group and the session, holds no pipe, and has something mounted.
        let script = format!(
            "trap '' TERM HUP; mount -t tmpfs none '{place}' || exit 9
             setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' '{place}' </dev/null >/dev/null 2>&1 &
             touch '{place}/busy'; echo ready; while :; do sleep 1000; done # {place}"
        );
        let mut command = mode.command("sh");
        command.args(["-c", &script]);
        let mut log = tempfile::tempfile().unwrap();
        let (stop, mounts) = (AtomicBool::new(false), || std::fs::read_to_string("/proc/self/mountinfo").unwrap());
        let mut began = None;
        let mut on_line = |line: &str| {
            assert_eq!(line, "ready");
            assert!(!called_with(place).is_empty());
            assert!(!mounts().contains(place), "it is seen on the host");
            began = Some(sys::clock::monotonic());
            stop.store(true, Ordering::Relaxed);
        };
        let outcome = run(&mut command, mode.ending(), &mut log, &mut on_line, Watcher::new(&|_| {}, &stop));
        assert!(matches!(outcome, Err(RunnerError::Cancelled(_))), "{outcome:?}");
        let took = sys::clock::monotonic() - began.expect("it ran");
        assert_eq!(called_with(place), Vec::<String>::new());
        assert!(took < GRACE, "nobody was asked first: {took:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is mounted there");
    }
}
