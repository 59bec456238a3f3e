//! What a guest may send: the host's end of the agent channel as a pure state machine.
//!
//! [`Link::consume`] is fed with the bytes that were read and hands out what they say; it does no I/O, keeps no bytes and
//! allocates only for JSON of at most [`FROM_AGENT_MAX`] bytes. Everything a hostile guest can do ends in a [`Violation`]
//! that names it:
//!
//! | what a guest could send without end | what bounds it |
//! |---|---|
//! | output nobody reads | the window of its stream and channel, in bytes; an empty `Data` is refused |
//! | frames of streams that are over | what can have crossed the stream's end: its open window and a few frames |
//! | credit | what it was sent, and [`SEND_WINDOW_MAX`] |
//! | events | an [`Allowance`] per second |
//! | replies | one `Started` and one final reply a stream |

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wire::agent::WINDOW_BYTES;
use wire::agent::frame::{
    Channel, FROM_AGENT_MAX, FrameError, HEADER_BYTES, Head, Hunt, Kind, NONCE_BYTES, PREAMBLE_BYTES, TRAILER_BYTES,
    Tag, hunt_reply, parse_header, parse_trailer,
};
use wire::agent::message::{Event, Hello, Reply};

use super::untrusted::Tame;

/// Most bytes a guest may let the host have outstanding on one stream; one that grants more has lost count.
pub const SEND_WINDOW_MAX: u64 = 16 << 20;
/// Events a guest may send at once.
const EVENTS_AT_ONCE: u32 = 64;
/// How long until it may send one more.
const EVENT_EVERY: Duration = Duration::from_millis(100);
/// Frames of a stream that may still arrive after its end, besides those its windows explain.
const STRAY_FRAMES: u64 = 64;

/// What a guest's agent did that no agent may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no frame.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// A frame only a host sends, or one out of place.
    #[error("it sent a {kind:?} frame, {why}")]
    OutOfPlace {
        /// What it sent.
        kind: Kind,
        /// Why that is wrong.
        why: &'static str,
    },
    /// JSON that is none, or not what the frame announces.
    #[error("it sent a {kind:?} frame that cannot be read: {why}")]
    Json {
        /// What it sent.
        kind: Kind,
        /// What the parser says, shortened.
        why: String,
    },
    /// More data than its window allows.
    #[error("it sent {bytes} bytes on the {channel:?} channel of stream {stream}, whose window had {window} left")]
    Window {
        /// The stream.
        stream: u32,
        /// The channel.
        channel: Channel,
        /// Bytes it sent.
        bytes: usize,
        /// Bytes it was allowed.
        window: u32,
    },
    /// A grant of nothing, or of more than anybody needs.
    #[error("it granted {bytes} bytes on stream {stream}, which makes a window of {window}")]
    Credit {
        /// The stream.
        stream: u32,
        /// Bytes granted.
        bytes: u32,
        /// What the window would be.
        window: u64,
    },
    /// Events without end.
    #[error("it flooded the host with events")]
    Events,
    /// Frames of streams that are over, without end.
    #[error("it went on sending frames of streams that are over (the last one of stream {stream})")]
    Strays {
        /// The last one's stream.
        stream: u32,
    },
}

/// What the guest said.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming<'a> {
    /// The first frame of a connection.
    Hello(Hello),
    /// Something nobody asked for.
    Event(Event),
    /// An answer on a stream.
    Reply { stream: u32, reply: Reply, ending: Ending },
    /// Bytes of a channel, never empty.
    Data { stream: u32, channel: Channel, bytes: &'a [u8] },
    /// A channel is complete; `Input` when the guest takes no more of it.
    Eof { stream: u32, channel: Channel },
    /// So many more bytes may be sent.
    Credit { stream: u32, bytes: u32 },
    /// The guest gave the stream up.
    Reset { stream: u32 },
}

/// Whether a reply ends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It does.
    Final,
    /// Another one follows.
    Interim,
}

/// What a stream was opened for, as far as the guest's answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// One reply, no bytes back.
    Call,
    /// The same, and nothing is written behind it until the connection goes on.
    Hold,
    /// One reply, bytes on the output channel.
    Tree,
    /// `Started`, then bytes on both output channels, then a final reply.
    Exec,
}

/// Counts of one open stream.
#[derive(Debug)]
struct Flow {
    opening: Opening,
    started: bool,
    output: Window,
    error: Window,
    /// What the host may still send.
    send: u64,
    /// What the host sent and was not granted anew.
    unacknowledged: u64,
}

/// What the guest may still send on one channel.
#[derive(Debug)]
struct Window {
    left: u32,
    eof: bool,
}

impl Window {
    fn new(open: bool) -> Window {
        Window { left: if open { WINDOW_BYTES } else { 0 }, eof: !open }
    }
}

/// How many of something may come in a span of time: a bucket that fills with time.
#[derive(Debug)]
struct Allowance {
    left: u32,
    filled_at: Option<Instant>,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let since = self.filled_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let more = u32::try_from(since.as_millis() / EVENT_EVERY.as_millis()).unwrap_or(u32::MAX);
        if more > 0 || self.filled_at.is_none() {
            self.left = self.left.saturating_add(more).min(EVENTS_AT_ONCE);
            self.filled_at = Some(now);
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Looking for the answer to the preamble.
    Hunting,
    /// It was found; the hello has to follow.
    Greeting,
    /// Everything goes.
    Open,
}

/// The host's end of one connection.
#[derive(Debug)]
pub(crate) struct Link {
    stage: Stage,
    nonce: [u8; NONCE_BYTES],
    tag: Tag,
    flows: HashMap<u32, Flow>,
    stray_frames: u64,
    stray_bytes: u64,
    events: Allowance,
}

impl Link {
    /// A connection whose preamble carries `nonce`.
    pub(crate) fn new(nonce: [u8; NONCE_BYTES]) -> Link {
        Link {
            stage: Stage::Hunting,
            nonce,
            tag: Tag::of(&nonce),
            flows: HashMap::new(),
            stray_frames: STRAY_FRAMES,
            stray_bytes: 0,
            events: Allowance { left: EVENTS_AT_ONCE, filled_at: None },
        }
    }

    /// What the agent knows this connection by.
    pub(crate) fn nonce(&self) -> [u8; NONCE_BYTES] {
        self.nonce
    }

    /// What every frame of this connection carries.
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// The host opens `stream`.
    pub(crate) fn open(&mut self, stream: u32, opening: Opening) {
        let flow = Flow {
            opening,
            started: false,
            output: Window::new(matches!(opening, Opening::Tree | Opening::Exec)),
            error: Window::new(opening == Opening::Exec),
            send: u64::from(WINDOW_BYTES),
            unacknowledged: 0,
        };
        self.flows.insert(stream, flow);
    }

    /// Whether `stream` is open.
    pub(crate) fn is_open(&self, stream: u32) -> bool {
        self.flows.contains_key(&stream)
    }

    /// The host sends `bytes` on `stream`.
    pub(crate) fn sent(&mut self, stream: u32, bytes: usize) {
        if let Some(flow) = self.flows.get_mut(&stream) {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            flow.send = flow.send.saturating_sub(bytes);
            flow.unacknowledged = flow.unacknowledged.saturating_add(bytes);
        }
    }

    /// The host grants `bytes` more.
    pub(crate) fn grant(&mut self, stream: u32, channel: Channel, bytes: u32) {
        if let Some(window) = self.flows.get_mut(&stream).and_then(|flow| flow.window(channel)) {
            window.left = window.left.saturating_add(bytes);
        }
    }

    /// The host ends `stream`; what the guest sent before it heard of that is let pass.
    pub(crate) fn reset(&mut self, stream: u32) {
        if let Some(flow) = self.flows.remove(&stream) {
            let open = u64::from(flow.output.left) + u64::from(flow.error.left);
            self.stray_bytes = self.stray_bytes.saturating_add(open);
            self.stray_frames = self.stray_frames.saturating_add(STRAY_FRAMES + flow.unacknowledged);
        }
    }

    /// Reads what `bytes` say; gives how many of them are done with. The rest is the beginning of a frame (always less
    /// than a whole one) and has to be shown again with what follows it.
    ///
    /// # Errors
    /// When the guest broke the protocol: nothing it sends can be trusted to be a frame from there on.
    pub(crate) fn consume(
        &mut self,
        bytes: &[u8],
        now: Instant,
        deliver: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<usize, Violation> {
        let mut at = 0;
        if self.stage == Stage::Hunting {
            match hunt_reply(bytes, &self.nonce) {
                Hunt::Nothing { keep_from } => {
                    return Ok(keep_from.max(bytes.len().saturating_sub(PREAMBLE_BYTES)));
                }
                Hunt::Found { end, .. } => {
                    at = end;
                    self.stage = Stage::Greeting;
                }
            }
        }
        while let Some(header) = bytes[at..].first_chunk::<HEADER_BYTES>() {
            let (head, length) = parse_header(header, self.tag, FROM_AGENT_MAX)?;
            let payload = at + HEADER_BYTES;
            let Some(trailer) = bytes.get(payload + length..).and_then(|rest| rest.first_chunk::<TRAILER_BYTES>())
            else {
                break;
            };
            parse_trailer(*trailer, self.tag)?;
            self.frame(head, &bytes[payload..payload + length], now, deliver)?;
            at = payload + length + TRAILER_BYTES;
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
        deliver: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Violation> {
        let out_of_place = |why| Err(Violation::OutOfPlace { kind: head.kind, why });
        match (self.stage, head.kind) {
            (Stage::Hunting, _) => out_of_place("before it answered the preamble"),
            (Stage::Greeting, Kind::Hello) => {
                let hello: Hello = json(head.kind, payload)?;
                self.stage = Stage::Open;
                deliver(Incoming::Hello(hello.tame()));
                Ok(())
            }
            (Stage::Greeting, _) => out_of_place("before its hello"),
            (Stage::Open, Kind::Hello) => out_of_place("a second one"),
            (Stage::Open, Kind::Open | Kind::Control) => out_of_place("which only a host sends"),
            (Stage::Open, Kind::Event) => {
                if !self.events.take(now) {
                    return Err(Violation::Events);
                }
                let event: Event = json(head.kind, payload)?;
                deliver(Incoming::Event(event.tame()));
                Ok(())
            }
            (Stage::Open, Kind::Reply | Kind::Data | Kind::Eof | Kind::Credit | Kind::Reset) => {
                self.of_stream(head, payload, deliver)
            }
        }
    }

    fn of_stream(
        &mut self,
        head: Head,
        payload: &[u8],
        deliver: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Violation> {
        let stream = head.stream;
        let Some(flow) = self.flows.get_mut(&stream) else {
            return self.stray(head, payload);
        };
        if matches!(head.kind, Kind::Eof | Kind::Reset) && !payload.is_empty() {
            return Err(Violation::OutOfPlace { kind: head.kind, why: "with a payload" });
        }
        if head.kind == Kind::Data {
            flow.receive(head, payload.len())?;
            deliver(Incoming::Data { stream, channel: head.channel, bytes: payload });
        } else if head.kind == Kind::Eof {
            flow.eof(head)?;
            deliver(Incoming::Eof { stream, channel: head.channel });
        } else if head.kind == Kind::Credit {
            let bytes = flow.credit(head, payload)?;
            deliver(Incoming::Credit { stream, bytes });
        } else if head.kind == Kind::Reply {
            let reply: Reply = json(head.kind, payload)?;
            let ending = flow.reply(&reply)?;
            if ending == Ending::Final {
                self.finish(stream);
            }
            deliver(Incoming::Reply { stream, reply: reply.tame(), ending });
        } else {
            self.finish(stream);
            deliver(Incoming::Reset { stream });
        }
        Ok(())
    }

    /// The guest ended `stream`. It should send nothing more there; a grant that was on its way is let pass.
    fn finish(&mut self, stream: u32) {
        if let Some(flow) = self.flows.remove(&stream) {
            self.stray_frames = self.stray_frames.saturating_add(flow.unacknowledged.min(STRAY_FRAMES));
        }
    }

    /// A frame of a stream that is over.
    fn stray(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let flood = Violation::Strays { stream: head.stream };
        if head.kind == Kind::Data && !payload.is_empty() {
            let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
            self.stray_bytes = self.stray_bytes.checked_sub(bytes).ok_or(flood)?;
        } else {
            self.stray_frames = self.stray_frames.checked_sub(1).ok_or(flood)?;
        }
        Ok(())
    }
}

impl Flow {
    fn window(&mut self, channel: Channel) -> Option<&mut Window> {
        match channel {
            Channel::Input => None,
            Channel::Output => Some(&mut self.output),
            Channel::Error => Some(&mut self.error),
        }
    }

    fn receive(&mut self, head: Head, bytes: usize) -> Result<(), Violation> {
        let out_of_place = |why| Err(Violation::OutOfPlace { kind: head.kind, why });
        let Some(window) = self.window(head.channel) else {
            return out_of_place("on the channel that leads to it");
        };
        if bytes == 0 {
            return out_of_place("without a byte in it");
        }
        if window.eof {
            return out_of_place("on a channel that carries nothing more");
        }
        let left = u32::try_from(bytes).ok().and_then(|bytes| window.left.checked_sub(bytes));
        let Some(left) = left else {
            return Err(Violation::Window { stream: head.stream, channel: head.channel, bytes, window: window.left });
        };
        window.left = left;
        Ok(())
    }

    fn eof(&mut self, head: Head) -> Result<(), Violation> {
        match self.window(head.channel) {
            Some(window) if window.eof => {
                Err(Violation::OutOfPlace { kind: head.kind, why: "on a channel that carries nothing more" })
            }
            Some(window) => {
                window.eof = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn credit(&mut self, head: Head, payload: &[u8]) -> Result<u32, Violation> {
        let Ok(bytes) = payload.try_into().map(u32::from_le_bytes) else {
            return Err(Violation::OutOfPlace { kind: head.kind, why: "whose payload is not four bytes" });
        };
        if head.channel != Channel::Input {
            return Err(Violation::OutOfPlace { kind: head.kind, why: "for a channel it sends on itself" });
        }
        let window = self.send.saturating_add(u64::from(bytes));
        if bytes == 0 || window > SEND_WINDOW_MAX {
            return Err(Violation::Credit { stream: head.stream, bytes, window });
        }
        self.send = window;
        self.unacknowledged = self.unacknowledged.saturating_sub(u64::from(bytes));
        Ok(bytes)
    }

    fn reply(&mut self, reply: &Reply) -> Result<Ending, Violation> {
        if self.opening != Opening::Exec || !matches!(reply, Reply::Started { .. }) {
            return Ok(Ending::Final);
        }
        if self.started {
            return Err(Violation::OutOfPlace { kind: Kind::Reply, why: "which says again that the command started" });
        }
        self.started = true;
        Ok(Ending::Interim)
    }
}

/// A frame of JSON.
pub(super) fn json<T: serde::de::DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, Violation> {
    serde_json::from_slice(payload)
        .map_err(|error| Violation::Json { kind, why: super::untrusted::line(&error.to_string(), 200) })
}

#[cfg(test)]
mod tests;
