//! Serving a host: one thread, one poll(2), many streams.
//!
//! | module | what |
//! |---|---|
//! | [`port`] | the byte stream to the host |
//! | [`link`] | frames on it |
//! | [`exec`] | a command: environment, user, descriptors, start |
//! | [`job`] | a process and its bytes |
//! | [`worker`] | a job that is a forked copy of the agent |
//! | [`listeners`] | which sockets of the guest wait for somebody |
//! | [`workspaces`] | what the host sent of a work tree, and what became of it |
//! | [`grow`] | the disk grows while the guest runs |
//! | [`renewals`] | it is saved, and restored as another machine |
//! | [`sessions`] | commands that go on without a stream |
//! | [`readiness`], [`leaving`] | the guest's beginning and end |
//! | [`guest`], [`accounts`], [`cgroup`] | what commands need of the guest |
//!
//! One turn of the loop: send; wait; move bytes between processes and frames; read and obey frames; look at deadlines.
//! Nothing in a turn blocks. Memory is bounded: a stream holds at most its window of input, output is read from a process
//! only while little waits to be sent, and frames are read only while the answers find room.

pub mod accounts;
pub mod cgroup;
pub mod exec;
pub mod grow;
pub mod guest;
pub mod job;
pub mod leaving;
pub mod link;
pub mod listeners;
pub mod port;
pub mod readiness;
pub mod renewals;
pub mod requests;
pub mod sessions;
pub mod turn;
pub mod worker;
pub mod workspaces;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};
use sys::clock::monotonic;
use wire::agent::frame::{Channel, FROM_AGENT_MAX, Head, Kind, NONCE_BYTES};
use wire::agent::message::{BootConfig, Configured, Control, Ending, Failure, Hello, Reply, Stage};
use wire::agent::{GENERATION, STREAMS_MAX};

use cgroup::Cgroups;
use guest::Guest;
use job::{Job, Overrun};
use leaving::Hook;
use link::{Inbound, Outbound, Step};
use port::Port;
use readiness::Tells;
use sessions::Sessions;

use crate::boot::handover::CGROUPS;

/// Who the agent says it is.
#[derive(Debug, Clone, Default)]
pub struct Name {
    /// VM id.
    pub vm: String,
    /// Boot id.
    pub boot: String,
}

/// A serving agent.
#[derive(Debug)]
pub struct Server {
    name: Name,
    stage: Stage,
    port: Port,
    inbound: Inbound,
    outbound: Outbound,
    guest: Guest,
    jobs: BTreeMap<u32, Job>,
    next_job: u32,
    sessions: Sessions,
    /// What the preamble of this connection carried.
    nonce: Option<[u8; NONCE_BYTES]>,
    /// Nothing but `Started` waits to be sent, and it may wait until then: a short command's `Exited` goes with it.
    hold_until: Option<Instant>,
    /// The end that was asked for, and when the init is asked again.
    asked_end: Option<(Ending, Instant)>,
    tells: Tells,
    hook: Hook,
    /// What the host wants of this boot, until process 1 takes it.
    asked: Option<(u32, Box<BootConfig>)>,
    /// What the host was told when that was done: it asks again where the channel broke before the answer was there.
    configured: Option<Configured>,
    /// The machine was cut off its network to be saved, and is to stay so until it is renewed.
    is_quiet: bool,
    /// The guest's root is being taken down: nothing starts any more.
    is_ending: bool,
    /// A hosted guest was asked to end: this process does, once the answer is out.
    is_over: bool,
}

impl Server {
    /// A server that has said nothing yet.
    #[must_use]
    pub fn new(name: Name, stage: Stage, port: Port, guest: Guest) -> Server {
        Server {
            name,
            stage,
            port,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            guest,
            jobs: BTreeMap::new(),
            next_job: 1,
            sessions: Sessions::default(),
            nonce: None,
            hold_until: None,
            asked_end: None,
            tells: Tells::default(),
            hook: Hook::default(),
            asked: None,
            configured: None,
            is_quiet: false,
            is_ending: false,
            is_over: false,
        }
    }

    /// Serves until the host says what this boot is: the stream to answer on, and the configuration.
    ///
    /// # Errors
    /// When polling fails.
    pub fn await_configuration(&mut self) -> io::Result<(u32, Box<BootConfig>)> {
        loop {
            if let Some(asked) = self.asked.take() {
                return Ok(asked);
            }
            self.turn()?;
        }
    }

    /// The root stands: answers the configuration and serves from now on.
    pub fn configured(&mut self, stream: u32, config: BootConfig, configured: Configured) {
        self.guest = Guest::new(None, config, Cgroups::below(Path::new(CGROUPS)));
        self.stage = Stage::Serving;
        self.configured = Some(configured.clone());
        self.reply(stream, &Reply::Configured(configured));
    }

    /// Answers, and sees that the host has it.
    pub fn reply_and_flush(&mut self, stream: u32, reply: &Reply) {
        self.reply(stream, reply);
        self.flush();
    }

    /// The root is switched: what the init and the end of the guest are heard by.
    pub fn root_is_ready(&mut self, tells: Tells, hook: OwnedFd) {
        self.tells = tells;
        self.hook = Hook::listening(hook);
    }

    /// Serves, in the process that does so: for ever in a guest, until it is asked to end on a host.
    ///
    /// # Errors
    /// When polling fails, which nothing here can cure.
    pub fn run(&mut self) -> io::Result<()> {
        self.hook.claim()?;
        self.guest.cgroups.prepare();
        while !self.is_over {
            self.turn()?;
        }
        self.flush();
        Ok(())
    }

    /// Understands and obeys everything that arrived.
    fn obey(&mut self) {
        let mut inbound = std::mem::take(&mut self.inbound);
        loop {
            match inbound.step() {
                Step::Starved => break,
                Step::Opened(nonce) => self.open_connection(&nonce),
                Step::Lost => self.lose_connection(),
                Step::Frame(head, payload) => self.on_frame(head, payload),
            }
        }
        self.inbound = inbound;
    }

    fn open_connection(&mut self, nonce: &[u8; NONCE_BYTES]) {
        self.port.heard();
        let hello = Hello {
            generation: GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vm: self.name.vm.clone(),
            boot: self.name.boot.clone(),
            stage: self.stage,
            uptime_ms: requests::uptime_ms(),
            secret: self.guest.config().channel_secret.clone(),
        };
        let json = serde_json::to_vec(&hello).expect("a hello is plain data");
        if self.outbound.is_silent() && self.nonce.as_ref() == Some(nonce) {
            self.outbound.go_on(nonce, Kind::Hello, &json);
            return;
        }
        self.lose_connection();
        self.nonce = Some(*nonce);
        self.outbound.open(nonce);
        self.outbound.push(Kind::Hello, Channel::Input, 0, &json);
    }

    /// The channel broke. While it is held nothing was on its way, and the host will be back.
    fn miss_connection(&mut self) {
        self.inbound.clear();
        self.port.closed(monotonic());
        if !self.outbound.is_silent() {
            self.lose_connection();
        }
    }

    /// The host is gone or begins anew: nobody listens to any stream.
    fn lose_connection(&mut self) {
        self.outbound.clear();
        self.hold_until = None;
        let streams: Vec<u32> = self.jobs.values().filter_map(|job| job.stream).collect();
        for stream in streams {
            self.abandon(stream);
        }
        self.tells.waiting.clear();
        self.tells.asking.clear();
        self.sessions.forget_streams();
    }

    fn on_frame(&mut self, head: Head, payload: &[u8]) {
        // The channel did not break after all.
        self.outbound.release();
        match head.kind {
            Kind::Open => self.on_open(head.stream, payload),
            Kind::Control => self.on_control(head.stream, payload),
            Kind::Data => self.on_data(head, payload),
            Kind::Eof => self.on_eof(head),
            Kind::Credit => self.on_credit(head, payload),
            Kind::Reset => self.abandon(head.stream),
            // A host sends none of these; a newer one that does is not understood, and ignored.
            Kind::Hello | Kind::Event | Kind::Reply => {}
        }
    }

    fn job_of(&mut self, stream: u32) -> Option<&mut Job> {
        self.jobs.values_mut().find(|job| job.stream == Some(stream))
    }

    fn on_open(&mut self, stream: u32, payload: &[u8]) {
        if stream == 0 {
            return;
        }
        if self.job_of(stream).is_some() || self.tells.waiting.contains(&stream) || self.sessions.has(stream) {
            // Two requests on one stream: whichever answer came, one of them would misread it.
            self.reset(stream);
            return;
        }
        let jobs = self.jobs.values().filter(|job| job.stream.is_some()).count();
        if jobs + self.tells.waiting.len() + self.sessions.streams() >= STREAMS_MAX {
            self.reply(stream, &Reply::Failed(Failure::Busy));
            return;
        }
        if self.is_ending {
            self.refuse_to_start(stream);
            return;
        }
        match requests::parse(payload) {
            Ok(request) => self.answer(stream, request),
            Err(failure) => self.reply(stream, &Reply::Failed(failure)),
        }
    }

    fn on_control(&mut self, stream: u32, payload: &[u8]) {
        let control = serde_json::from_slice(payload);
        let Some(job) = self.job_of(stream) else {
            if let Ok(control) = control {
                self.on_session_control(stream, control);
            }
            return;
        };
        match control {
            Ok(Control::Resize(size)) => {
                if let Some(terminal) = &job.terminal {
                    // A terminal that is going away keeps its last size.
                    let _: io::Result<()> = exec::resize(std::os::fd::AsFd::as_fd(terminal), size);
                }
            }
            Ok(Control::Signal { signal }) => job.signal(signal),
            // What a newer host may tell; the command goes on.
            Err(_) => {}
        }
    }

    fn on_data(&mut self, head: Head, payload: &[u8]) {
        let Some(job) = self.job_of(head.stream) else {
            return self.on_session_data(head, payload);
        };
        let Some(input) = job.input.as_mut().filter(|_| head.channel == Channel::Input) else {
            return;
        };
        match input.accept(payload) {
            Ok(()) => self.settle_input(head.stream),
            Err(Overrun) => self.reset(head.stream),
        }
    }

    fn on_eof(&mut self, head: Head) {
        if let Some(job) = self.job_of(head.stream) {
            let is_terminal = job.terminal.is_some();
            if let Some(input) = &mut job.input {
                input.finish(is_terminal);
            }
            self.settle_input(head.stream);
        } else {
            self.on_session_eof(head.stream);
        }
    }

    fn on_credit(&mut self, head: Head, payload: &[u8]) {
        let Some(bytes) = payload.first_chunk::<4>().filter(|_| payload.len() == 4) else {
            return;
        };
        let bytes = u32::from_le_bytes(*bytes);
        if let Some(job) = self.job_of(head.stream) {
            for output in job.outputs.iter_mut().filter(|output| output.channel() == head.channel) {
                output.grant(bytes);
            }
        } else {
            self.on_session_credit(head, bytes);
        }
    }

    /// Grants what was taken and closes an input that is over.
    fn settle_input(&mut self, stream: u32) {
        let Some(job) = self.jobs.values_mut().find(|job| job.stream == Some(stream)) else {
            return;
        };
        let Some(input) = &mut job.input else {
            return;
        };
        if let Some(bytes) = input.grant() {
            self.outbound.push(Kind::Credit, Channel::Input, stream, &bytes.to_le_bytes());
            self.hold_until = None;
        }
        if input.is_over() {
            job.input = None;
        }
    }

    /// Ends a stream from this side.
    fn reset(&mut self, stream: u32) {
        self.abandon(stream);
        self.outbound.push(Kind::Reset, Channel::Input, stream, &[]);
        self.hold_until = None;
    }

    /// Nobody listens to a stream any more: its bytes have nowhere to go, its command is told.
    fn abandon(&mut self, stream: u32) {
        self.tells.waiting.retain(|waiting| *waiting != stream);
        self.sessions.forget_stream(stream);
        if let Some(job) = self.job_of(stream) {
            job.abandon();
        }
    }

    /// Answers on a stream. An answer too long for a frame is cut to a failure that says so.
    fn reply(&mut self, stream: u32, reply: &Reply) {
        let mut json = serde_json::to_vec(reply).expect("a reply is plain data");
        if json.len() > FROM_AGENT_MAX {
            let failure = Failure::Refused { why: "the answer is too long for a frame".to_owned() };
            json = serde_json::to_vec(&Reply::Failed(failure)).expect("a reply is plain data");
        }
        self.outbound.push(Kind::Reply, Channel::Input, stream, &json);
        self.hold_until = None;
    }
}

/// Signals a process group; one that is gone needs none.
fn signal_group(pid: u32, signal: i32) {
    let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Only the kernel's own signal numbers mean something to the command; the C library's two are not sent by name.
    let signal = Signal::from_named_raw(signal);
    if let (Some(group), Some(signal)) = (group, signal) {
        let _: rustix::io::Result<()> = kill_process_group(group, signal);
    }
}
