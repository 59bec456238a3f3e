//! A host for one agent: starts it, speaks the protocol, grants and counts credit as asked, ends it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use wire::agent::frame::{
    Channel, Decoder, FROM_AGENT_MAX, Frame, Head, Hunt, Kind, PREAMBLE_BYTES, Tag, encode, hunt_reply, preamble,
};
use wire::agent::message::{BootConfig, Control, ExecRequest, ExitStatus, Hello, Reply, Request};

/// Longest wait for anything the agent owes.
const DEADLINE: Duration = Duration::from_secs(60);

/// An agent that serves a directory, and ends with this value.
pub(crate) struct Agent {
    child: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start() -> Agent {
        Agent::called("--serve")
    }

    /// One that connects to its host's socket.
    pub(crate) fn dialing() -> Agent {
        Agent::called("--dial")
    }

    fn called(word: &str) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        let mut command = sys::process::command(env!("CARGO_BIN_EXE_banger-agent"));
        command.arg(word).arg(format!("unix:{}", directory.path().join("sock").display()));
        command.arg("--root").arg(directory.path().join("root"));
        Agent { child: command.spawn().unwrap(), directory }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Connects and configures.
    pub(crate) fn host(&self) -> Host {
        let mut host = self.connect();
        host.open();
        if host.hello.as_ref().unwrap().stage == wire::agent::message::Stage::Unconfigured {
            let reply = host.ask(&Request::Configure(Box::default()));
            assert!(matches!(reply, Reply::Configured(_)), "{reply:?}");
        }
        host
    }

    /// Connects without a word.
    pub(crate) fn connect(&self) -> Host {
        let path = self.socket();
        Host::over(until("the agent listens", || UnixStream::connect(&path).ok()))
    }

    /// The socket between the agent and its host.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// The most memory it ever had, in KiB: `VmHWM` of proc(5).
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Its children, by process id.
    pub(crate) fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        std::fs::read_to_string(path).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// A connection to an agent.
pub(crate) struct Host {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    tag: Tag,
    pub(crate) nonce: [u8; 16],
    pub(crate) next: u32,
    pub(crate) hello: Option<Hello>,
}

/// All that a stream gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) reply: Option<Reply>,
}

impl Outcome {
    pub(crate) fn code(&self) -> u8 {
        match &self.reply {
            Some(Reply::Exited(status)) => status.shell_code(),
            other => panic!("no exit status: {other:?}"),
        }
    }

    pub(crate) fn status(&self) -> ExitStatus {
        match &self.reply {
            Some(Reply::Exited(status)) => *status,
            other => panic!("no exit status: {other:?}"),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }
}

pub(crate) fn exec(argv: &[&str]) -> ExecRequest {
    ExecRequest { argv: argv.iter().map(|a| (*a).to_owned()).collect(), ..ExecRequest::default() }
}

pub(crate) fn shell(script: &str) -> ExecRequest {
    exec(&["sh", "-c", script])
}

impl Host {
    /// The host's end of a connection that is there.
    pub(crate) fn over(stream: UnixStream) -> Host {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let tag = Tag::of(&[0; 16]);
        Host { stream, decoder: Decoder::new(tag, FROM_AGENT_MAX), tag, nonce: [0; 16], next: 1, hello: None }
    }

    /// Opens a connection on the stream, whatever it carried before.
    pub(crate) fn open(&mut self) {
        self.open_as(sys::rand::bytes());
    }

    /// The same with this in its preamble.
    pub(crate) fn open_as(&mut self, nonce: [u8; 16]) {
        self.nonce = nonce;
        self.stream.write_all(&preamble(&nonce)).unwrap();
        let mut bytes = Vec::new();
        let end = loop {
            let mut chunk = [0; 65536];
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the agent closed the connection");
            bytes.extend_from_slice(&chunk[..count]);
            match hunt_reply(&bytes, &nonce) {
                Hunt::Found { end, .. } => break end,
                Hunt::Nothing { keep_from } => drop(bytes.drain(..keep_from)),
            }
        };
        assert!(end >= PREAMBLE_BYTES);
        self.tag = Tag::of(&nonce);
        self.decoder = Decoder::new(self.tag, FROM_AGENT_MAX);
        self.decoder.push(&bytes[end..]);
        let frame = self.frame();
        assert_eq!(frame.head.kind, Kind::Hello);
        self.hello = Some(serde_json::from_slice(&frame.payload).unwrap());
    }

    pub(crate) fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut chunk = [0; 65536];
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the agent closed the connection");
            self.decoder.push(&chunk[..count]);
        }
    }

    pub(crate) fn frame_bytes(&self, kind: Kind, channel: Channel, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, Head { kind, channel, stream }, payload, self.tag);
        bytes
    }

    pub(crate) fn send(&mut self, kind: Kind, channel: Channel, stream: u32, payload: &[u8]) {
        let bytes = self.frame_bytes(kind, channel, stream, payload);
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn begin(&mut self, request: &Request) -> u32 {
        let stream = self.next;
        self.next += 1;
        self.send(Kind::Open, Channel::Input, stream, &serde_json::to_vec(request).unwrap());
        stream
    }

    pub(crate) fn control(&mut self, stream: u32, control: Control) {
        self.send(Kind::Control, Channel::Input, stream, &serde_json::to_vec(&control).unwrap());
    }

    pub(crate) fn reset(&mut self, stream: u32) {
        self.send(Kind::Reset, Channel::Input, stream, &[]);
    }

    pub(crate) fn eof(&mut self, stream: u32) {
        self.send(Kind::Eof, Channel::Input, stream, &[]);
    }

    pub(crate) fn grant(&mut self, channel: Channel, stream: u32, bytes: u32) {
        self.send(Kind::Credit, channel, stream, &bytes.to_le_bytes());
    }

    /// Begins a command and waits until it runs.
    pub(crate) fn start(&mut self, request: &ExecRequest) -> u32 {
        let stream = self.begin(&Request::Exec(Box::new(request.clone())));
        // Frames of a stream that was reset may be on their way still.
        let frame = loop {
            let frame = self.frame();
            if frame.head.stream == stream {
                break frame;
            }
        };
        assert_eq!(frame.head.kind, Kind::Reply);
        let reply: Reply = serde_json::from_slice(&frame.payload).unwrap();
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        stream
    }

    /// Takes all of a stream to its end, granting what comes; other streams' frames are dropped.
    pub(crate) fn finish(&mut self, stream: u32) -> Outcome {
        let mut outcome = Outcome::default();
        while outcome.reply.is_none() {
            let frame = self.frame();
            if frame.head.stream == stream {
                self.take(&frame, &mut outcome);
            }
        }
        outcome
    }

    /// Takes one frame of a stream.
    pub(crate) fn take(&mut self, frame: &Frame, outcome: &mut Outcome) {
        let length = u32::try_from(frame.payload.len()).unwrap();
        match (frame.head.kind, frame.head.channel) {
            (Kind::Data, Channel::Output) => outcome.out.extend_from_slice(&frame.payload),
            (Kind::Data, _) => outcome.err.extend_from_slice(&frame.payload),
            (Kind::Reply, _) => match serde_json::from_slice(&frame.payload).unwrap() {
                Reply::Started { .. } => {}
                reply => outcome.reply = Some(reply),
            },
            _ => {}
        }
        if frame.head.kind == Kind::Data {
            self.grant(frame.head.channel, frame.head.stream, length);
        }
    }

    pub(crate) fn run(&mut self, request: &ExecRequest) -> Outcome {
        let stream = self.begin(&Request::Exec(Box::new(request.clone())));
        self.finish(stream)
    }

    pub(crate) fn sh(&mut self, script: &str) -> Outcome {
        self.run(&shell(script))
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        let stream = self.begin(request);
        self.finish(stream).reply.unwrap()
    }

    pub(crate) fn configure(&mut self, config: BootConfig) -> Reply {
        self.ask(&Request::Configure(Box::new(config)))
    }

    /// Sends all of `input` to a stream as it is granted, then its end, and takes what comes meanwhile. `sink` sees output.
    pub(crate) fn pump(&mut self, stream: u32, input: &mut dyn Read, sink: &mut dyn FnMut(&[u8])) -> Outcome {
        let mut window = u64::from(wire::agent::WINDOW_BYTES);
        let mut chunk = vec![0; wire::agent::frame::DATA_MAX];
        let mut is_open = true;
        let mut outcome = Outcome::default();
        while outcome.reply.is_none() {
            while is_open && window >= chunk.len() as u64 {
                let count = input.read(&mut chunk).unwrap();
                if count == 0 {
                    self.eof(stream);
                    is_open = false;
                } else {
                    self.send(Kind::Data, Channel::Input, stream, &chunk[..count]);
                    window -= count as u64;
                }
            }
            let frame = self.frame();
            if frame.head.stream != stream {
                continue;
            }
            if frame.head.kind == Kind::Credit {
                window += u64::from(u32::from_le_bytes(*frame.payload.first_chunk().unwrap()));
            } else if (frame.head.kind, frame.head.channel) == (Kind::Data, Channel::Output) {
                sink(&frame.payload);
                self.grant(Channel::Output, stream, u32::try_from(frame.payload.len()).unwrap());
            } else {
                self.take(&frame, &mut outcome);
            }
        }
        outcome
    }
}

/// Whether a process lives.
pub(crate) fn is_alive(pid: u32) -> bool {
    sys::process::Identity::of(pid).is_some()
}

/// Waits until a file has content.
pub(crate) fn content(path: &Path) -> String {
    until("a file is written", || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n')))
}
