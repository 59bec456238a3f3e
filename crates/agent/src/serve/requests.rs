//! What each request does.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use sys::clock::monotonic;
use tree::TreeError;
use tree::pack::{Fidelity, What, pack};
use tree::unpack::{Policy, unpack};
use wire::agent::message::{Configured, Failure, FileKind, FileStat, Health, Reply, Request, Stage};
use wire::agent::workspace::SENDING;

use super::job::Job;
use super::turn::HOLD;
use super::worker::{self, Channels};
use super::{Server, exec, grow, listeners, workspaces};
use crate::diff::{Layers, pack_changes, write_changes};
use crate::root_dir::{RootDir, path_of};

/// A guest's clock may be behind the time in a request by this much before it is set, nanoseconds. The time was true when
/// the request was made, so a clock behind it stood still: the machine was paused, or its host slept.
const BEHIND_NS: u64 = 50_000_000;
/// A clock may be ahead by this much, nanoseconds: as long as a request may have been on its way on a busy host.
const AHEAD_NS: u64 = 1_000_000_000;
/// Bytes of a tar stream moved at once.
pub const TREE_BUFFER_BYTES: usize = 256 * 1024;
/// The requests this build knows, to tell a malformed one from an unknown one.
const KNOWN: [&str; 21] = [
    "changes",
    "configure",
    "exec",
    "put_tree",
    "get_tree",
    "stat",
    "await",
    "sync",
    "shutdown",
    "set_clock",
    "health",
    "listeners",
    "grow_disk",
    "session",
    "remove",
    "settle",
    "survey",
    "get_files",
    "freeze",
    "hold",
    "renew",
];
/// The same of requests about sessions.
const KNOWN_OF_SESSIONS: [&str; 7] = ["start", "list", "attach", "send", "signal", "stop", "forget"];

/// Reads a request.
///
/// # Errors
/// [`Failure::Unsupported`] when it is of a kind this build does not know, [`Failure::Refused`] when it is malformed.
pub fn parse(payload: &[u8]) -> Result<Request, Failure> {
    serde_json::from_slice(payload).map_err(|error| {
        let request = serde_json::from_slice::<serde_json::Value>(payload).ok();
        let word = |name| request.as_ref()?.get(name)?.as_str();
        match (word("request"), word("session")) {
            (Some(kind), _) if !KNOWN.contains(&kind) => Failure::Unsupported,
            (Some("session"), Some(kind)) if !KNOWN_OF_SESSIONS.contains(&kind) => Failure::Unsupported,
            _ => Failure::Refused { why: error.to_string() },
        }
    })
}

impl Server {
    /// Answers a request, or starts the job that will.
    pub fn answer(&mut self, stream: u32, request: Request) {
        if self.stage == Stage::Unconfigured && !self.guest.is_hosted() && !matches!(request, Request::Configure(_)) {
            let why = "the guest is not configured yet".to_owned();
            self.reply(stream, &Reply::Failed(Failure::Refused { why }));
            return;
        }
        let reply = match request {
            Request::Configure(config) if self.stage == Stage::Unconfigured && !self.guest.is_hosted() => {
                self.asked = Some((stream, config));
                return;
            }
            Request::Configure(config) => self.record(*config),
            Request::Exec(request) => return self.exec(stream, &request),
            Request::Session(request) => return self.session(stream, request),
            Request::Sync => {
                return self.work(stream, Channels::Neither, |_| {
                    rustix::fs::sync();
                    Ok(Reply::Done { bytes: 0 })
                });
            }
            Request::Freeze { quiesce } => return self.freeze(stream, quiesce),
            Request::Hold => return self.hold(stream),
            Request::Renew(renewal) => self.renew(*renewal),
            Request::SetClock { unix_ns } => set_clock(unix_ns).map(|()| Reply::Done { bytes: 0 }),
            Request::Listeners => {
                return self.work(stream, Channels::Neither, |_| Ok(Reply::Listeners(listeners::listeners())));
            }
            // A process outside a VM has no disk of its own.
            Request::GrowDisk { .. } if self.guest.is_hosted() => Ok(Reply::Done { bytes: 0 }),
            Request::GrowDisk { bytes } => {
                return self.work(stream, Channels::Neither, move |hands| grow::grow(&hands.root, bytes));
            }
            Request::Health => Ok(Reply::Health(self.health())),
            Request::Await { level } => return self.await_level(stream, level),
            Request::Shutdown { how } => self.shut_down(how),
            Request::PutTree { path } => {
                return self.work(stream, Channels::Input, move |hands| put_tree(&path, hands));
            }
            Request::GetTree { path, follow } => {
                return self.work(stream, Channels::Output, move |hands| get_tree(&path, follow, hands));
            }
            Request::Remove { path } => {
                return self.work(stream, Channels::Input, move |hands| workspaces::remove(&path, hands));
            }
            Request::Settle { path } => {
                return self.work(stream, Channels::Input, move |hands| workspaces::settle(&path, hands));
            }
            Request::Survey { path, added } => {
                return self.work(stream, Channels::Output, move |hands| workspaces::survey(&path, added, hands));
            }
            Request::GetFiles { path } => {
                return self.work(stream, Channels::Both, move |hands| workspaces::get_files(&path, hands));
            }
            Request::Changes | Request::Layer if self.guest.is_hosted() => {
                Err(Failure::Refused { why: "this guest has no layers".to_owned() })
            }
            Request::Changes => return self.work(stream, Channels::Output, changes),
            Request::Layer => return self.work(stream, Channels::Output, layer),
            // A path may lead to a filesystem that does not answer.
            Request::Stat { path, follow } => {
                return self.work(stream, Channels::Neither, move |hands| stat(&path, follow, hands));
            }
        };
        self.reply(stream, &reply.unwrap_or_else(Reply::Failed));
    }

    fn record(&mut self, config: wire::agent::message::BootConfig) -> Result<Reply, Failure> {
        if let Some(configured) = &self.configured {
            return Ok(Reply::Configured(configured.clone()));
        }
        if self.stage != Stage::Unconfigured {
            return Err(Failure::Refused { why: "this guest is configured already".to_owned() });
        }
        self.guest.configure(config);
        self.stage = Stage::Serving;
        Ok(Reply::Configured(self.configured.insert(Configured::default()).clone()))
    }

    fn exec(&mut self, stream: u32, request: &wire::agent::message::ExecRequest) {
        self.correct_clock(request.unix_ns);
        match exec::start(request, Some(stream), &mut self.guest) {
            Ok(job) => {
                self.reply(stream, &Reply::Started { pid: job.pid });
                self.hold_until = Some(monotonic() + HOLD);
                self.adopt(job);
            }
            Err(failure) => self.reply(stream, &Reply::Failed(failure)),
        }
    }

    /// Sets a clock that is far off the host's, before a command reads it.
    pub fn correct_clock(&mut self, unix_ns: u64) {
        if !self.guest.is_hosted() && is_off(sys::clock::unix_ns(), unix_ns) {
            // A command with a wrong clock is better than none.
            let _: Result<(), Failure> = set_clock(unix_ns);
        }
    }

    /// Runs `work` in a forked copy of the agent.
    pub fn work(
        &mut self,
        stream: u32,
        channels: Channels,
        work: impl FnOnce(worker::Hands) -> Result<Reply, Failure>,
    ) {
        let job = self.guest.open_root().and_then(|root| worker::start(stream, channels, root, work));
        match job {
            Ok(job) => self.adopt(job),
            Err(error) => self.reply(stream, &Reply::Failed(os("cannot make a process", &error))),
        }
    }

    fn adopt(&mut self, job: Job) {
        let id = self.next_job;
        self.next_job = self.next_job.wrapping_add(1);
        self.jobs.insert(id, job);
    }

    fn health(&self) -> Health {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let boot_id = match self.guest.boot_uuid().filter(|_| self.guest.is_hosted()) {
            Some(renewed) => renewed.to_owned(),
            None => std::fs::read_to_string(crate::renew::ids::BOOT_ID).unwrap_or_default(),
        };
        // A process outside a VM has no NIC, and the host's are none of its own.
        let traffic = if self.guest.is_hosted() { Some((0, 0)) } else { traffic() };
        let commands = self.jobs.values().filter(|job| matches!(job.task, super::job::Task::Command)).count();
        Health {
            uptime_ms: uptime_ms(),
            unix_ns: sys::clock::unix_ns(),
            execs: u32::try_from(commands).unwrap_or(u32::MAX),
            sessions: self.sessions.running(),
            memory_total_kib: kib("MemTotal"),
            memory_available_kib: kib("MemAvailable"),
            kernel_boot_id: boot_id.trim().to_owned(),
            received_bytes: traffic.map(|(received, _)| received),
            sent_bytes: traffic.map(|(_, sent)| sent),
        }
    }
}

/// What the NICs with a device behind them carried, in and out: not the loopback, nor what the guest made itself.
fn traffic() -> Option<(u64, u64)> {
    let mut sum: (u64, u64) = (0, 0);
    for entry in std::fs::read_dir("/sys/class/net").ok()?.flatten() {
        let nic = entry.path();
        let count = |name: &str| {
            let text = std::fs::read_to_string(nic.join("statistics").join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        if nic.join("device").exists()
            && let (Some(received), Some(sent)) = (count("rx_bytes"), count("tx_bytes"))
        {
            sum = (sum.0.saturating_add(received), sum.1.saturating_add(sent));
        }
    }
    Some(sum)
}

fn put_tree(path: &str, hands: worker::Hands) -> Result<Reply, Failure> {
    let root = RootDir::from_fd(hands.root);
    let destination = absolute(path).and_then(|path| {
        root.ensure_dir(path, 0o755).map_err(|error| os(&format!("cannot make {path} in the guest"), &error))
    })?;
    let is_root = path.bytes().all(|byte| byte == b'/');
    let from = std::io::BufReader::with_capacity(TREE_BUFFER_BYTES, hands.input);
    let unpacked =
        unpack(destination, Policy::inside(is_root).marked_by(SENDING), from).map_err(|error| tree_failure(&error))?;
    Ok(Reply::Done { bytes: unpacked.bytes })
}

fn get_tree(path: &str, follow: bool, hands: worker::Hands) -> Result<Reply, Failure> {
    let to = std::io::BufWriter::with_capacity(TREE_BUFFER_BYTES, hands.output);
    let what = What { path: absolute(path)?.as_bytes(), follow, called: None, fidelity: Fidelity::Whole };
    let packed = pack(&hands.root, &what, to).map_err(|error| tree_failure(&error))?;
    Ok(Reply::Done { bytes: packed.bytes })
}

/// As the host is told.
pub fn tree_failure(error: &TreeError) -> Failure {
    os(&error.to_string(), &error.source)
}

fn changes(hands: worker::Hands) -> Result<Reply, Failure> {
    let told = Layers::mount(hands.root)
        .and_then(|layers| write_changes(&layers, std::io::BufWriter::with_capacity(TREE_BUFFER_BYTES, hands.output)));
    told.map(|_count| Reply::Done { bytes: 0 }).map_err(|error| os("cannot compare the layers of the root", &error))
}

fn layer(hands: worker::Hands) -> Result<Reply, Failure> {
    let to = std::io::BufWriter::with_capacity(TREE_BUFFER_BYTES, hands.output);
    let packed = Layers::mount(hands.root).and_then(|layers| pack_changes(&layers, to));
    packed.map(|bytes| Reply::Done { bytes }).map_err(|error| match error.get_ref().and_then(|it| it.downcast_ref()) {
        Some(error) => tree_failure(error),
        None => os("cannot read the layers of the root", &error),
    })
}

fn stat(path: &str, follow: bool, hands: worker::Hands) -> Result<Reply, Failure> {
    let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    let root = RootDir::from_fd(hands.root);
    let opened = match root.open_at(absolute(path)?, flags) {
        Ok(opened) => opened,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Reply::Stat(FileStat { kind: FileKind::Missing, bytes: 0, path: None }));
        }
        Err(error) => return Err(os(&format!("cannot look at {path}"), &error)),
    };
    let stat = fstat(&opened).map_err(|errno| os(&format!("cannot look at {path}"), &errno.into()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Special,
    };
    let bytes = if kind == FileKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    Ok(Reply::Stat(FileStat { kind, bytes, path: inside(&root, &opened) }))
}

/// The path of something open, seen from the root.
fn inside(root: &RootDir, opened: &OwnedFd) -> Option<String> {
    let path = |fd: &_| std::fs::read_link(path_of(fd)).ok()?.into_os_string().into_string().ok();
    let (root, path) = (path(&root.as_fd().as_raw_fd())?, path(&opened.as_raw_fd())?);
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    Some(if rest.is_empty() { "/".to_owned() } else { rest.to_owned() })
}

/// `path`, when it is one from the root.
///
/// # Errors
/// When it is not.
pub fn absolute(path: &str) -> Result<&str, Failure> {
    if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
        return Ok(path);
    }
    Err(Failure::Refused { why: format!("{path:?} is no absolute path") })
}

/// Whether a clock that shows `ours` is to be set by a request made when it was `theirs`. Zero is no time.
fn is_off(ours: u64, theirs: u64) -> bool {
    theirs > 0 && (theirs.saturating_sub(ours) > BEHIND_NS || ours.saturating_sub(theirs) > AHEAD_NS)
}

/// CLOCK_BOOTTIME in milliseconds.
#[must_use]
pub fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ms = |value: i64| u64::try_from(value).unwrap_or(0);
    ms(now.tv_sec).saturating_mul(1000).saturating_add(ms(now.tv_nsec / 1_000_000))
}

/// Sets CLOCK_REALTIME.
///
/// # Errors
/// When the time makes no sense or this process may not.
pub fn set_clock(unix_ns: u64) -> Result<(), Failure> {
    let part = |value: u64| i64::try_from(value).map_err(|_| Failure::Refused { why: "no such time".to_owned() });
    let time = Timespec { tv_sec: part(unix_ns / 1_000_000_000)?, tv_nsec: part(unix_ns % 1_000_000_000)? };
    clock_settime(ClockId::Realtime, time).map_err(|errno| os("cannot set the clock", &errno.into()))
}

/// A system call's failure, in words.
pub fn os(act: &str, error: &io::Error) -> Failure {
    let why = error.to_string();
    Failure::Os { act: act.to_owned(), why: why.split(" (os error").next().unwrap_or_default().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_when_it_stood_still_and_not_when_a_request_was_slow() {
        const NOW: u64 = 1_700_000_000_000_000_000;
        for (ours, off) in [
            (NOW, false),
            (NOW - 40_000_000, false),
            (NOW - 60_000_000, true),
            (NOW - 3_600_000_000_000, true),
            (NOW + 900_000_000, false),
            (NOW + 1_100_000_000, true),
        ] {
            assert_eq!(is_off(ours, NOW), off, "{ours}");
        }
        assert!(!is_off(NOW, 0), "a request without a time");
    }
}
