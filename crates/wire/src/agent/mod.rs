//! The channel between `bangerd` and the guest's `banger-agent`: many streams over one byte stream.
//!
//! The byte stream is a virtio-serial port, a vsock connection or, under test, a Unix socket; the protocol is the same.
//!
//! ```text
//! host                                                            agent
//!   ── Preamble(nonce) ───────────────────────────────────────────►   every state of an older connection is gone
//!   ◄──────────────────────────── PreambleReply(nonce), Hello ────    tag = Tag::of(nonce)
//!   ── Open(stream 1, Request) ───────────────────────────────────►
//!   ◄───────────────────────────────────── Reply(1, Started …) ───
//!   ── Data(1, stdin) … Eof(1, stdin) ────────────────────────────►   at most the window granted
//!   ◄────────────────── Data(1, stdout), Data(1, stderr), Credit ──
//!   ◄───────────────────────────────────────── Reply(1, Ended …) ─    the stream is over; its number may be used again
//! ```
//!
//! - [`frame`]: the bytes of a frame, the preamble, and the incremental decoder; hostile input ends in an error, never in
//!   an allocation above the limits there.
//! - [`message`]: what `Open` asks and `Reply` answers (JSON).
//! - [`renewal`]: a guest that is restored becomes another machine.
//! - [`session`]: the same about sessions, and the records of their output.
//! - [`workspace`]: the records about a project's files.
//!
//! Rules both sides keep:
//! - The host opens streams (numbers 1 and up, at most [`STREAMS_MAX`] at once); stream 0 carries [`frame::Kind::Hello`] and events.
//! - A sender of `Data` never exceeds the window its peer granted on that stream and channel: it starts at
//!   [`WINDOW_BYTES`] and grows by `Credit`. A receiver grants what it has consumed, so memory per stream is bounded and
//!   a stalled stream blocks nobody else.
//! - `Reset` ends a stream at once from either side; frames of an unknown stream are ignored (they may have crossed a `Reset`).
//! - After its final `Reply` the agent sends nothing more on that stream.
//!
//! One number, [`GENERATION`], versions all of it. The host adapts to older agents; an agent never has to.

pub mod failure;
pub mod file;
pub mod frame;
pub mod listening;
pub mod message;
pub mod renewal;
pub mod session;
pub mod workspace;

/// The generation this build speaks.
///
/// | generation | what an agent of it answers |
/// |---|---|
/// | 1 | everything but the following |
/// | 2 | [`message::Request::Session`] |
/// | 3 | [`message::Request::Stat`], [`message::Request::Changes`], following a link in [`message::Request::GetTree`] |
/// | 4 | [`message::Request::Remove`], [`message::Request::Settle`], [`message::Request::Survey`], [`message::Request::GetFiles`] |
/// | 5 | [`message::Request::Freeze`], [`message::Request::Renew`] |
/// | 6 | [`message::Request::Hold`] |
/// | 7 | [`message::Request::Configure`] again, with what it was answered before; its Hello says [`message::BootConfig::channel_secret`] |
/// | 8 | [`message::Request::Layer`] |
pub const GENERATION: u32 = 8;

/// The first generation whose agents answer `Configure` again.
pub const CONFIGURES_AGAIN: u32 = 7;
/// The first generation whose agents say the secret they were given.
pub const SAYS_SECRET: u32 = 7;

/// Streams open at the same time on one connection.
pub const STREAMS_MAX: usize = 256;

/// Bytes a sender may have outstanding on one channel of one stream before the first `Credit`.
pub const WINDOW_BYTES: u32 = 256 * 1024;

/// The virtio-serial port's name, at `/sys/class/virtio-ports/*/name` in the guest.
pub const PORT_NAME: &str = "banger.agent";

/// The host's vsock port that a guest's agent connects to, where that is its channel.
pub const VSOCK_PORT: u32 = 1024;

/// The word of the kernel command line that says which channel there is, `banger.transport=…`.
pub const TRANSPORT: &str = "banger.transport";

/// The word of the kernel command line that names the drives in their order, `banger.drives=rootfs,disk`, where their serial
/// numbers do not.
pub const DRIVES: &str = "banger.drives";

/// How the agent reaches its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By the virtio-serial port [`PORT_NAME`]; the host connects.
    VirtioSerial,
    /// By vsock, to [`VSOCK_PORT`]; the agent connects, and again when the connection is lost.
    Vsock,
}

impl Transport {
    /// As the kernel command line spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Transport::VirtioSerial => "virtio-serial",
            Transport::Vsock => "vsock",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Transport> {
        [Transport::VirtioSerial, Transport::Vsock].into_iter().find(|transport| transport.name() == name)
    }
}

const _: () = assert!(frame::DATA_MAX as u32 <= WINDOW_BYTES, "one full frame must fit into a fresh window");
