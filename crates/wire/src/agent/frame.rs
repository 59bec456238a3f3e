//! The bytes of a frame.
//!
//! ```text
//! offset 0   1        2        4       8       12       16          16+len
//!        kind channel reserved stream  length  check    payload …   trailer
//!        u8   u8      u16=0    u32     u32     u32                  u32 = tag
//! ```
//! Little endian. `check` covers the twelve bytes before it and the connection's tag, so a header of another connection
//! or a torn one is recognised. The trailer is the tag again: a frame cut by a crash and completed with other bytes is
//! never delivered.
//!
//! A connection opens with the host's [`preamble`]; the agent answers with [`preamble_reply`]. Whoever reads bytes that
//! are no frame hunts for the next preamble: that is how a byte stream which never closes (virtio-serial) finds its feet
//! again. A host that gets no answer sends [`FILLER_BYTES`] zeros before the next preamble, to complete whatever frame the
//! agent was in the middle of.

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a frame's trailer.
pub const TRAILER_BYTES: usize = 4;
/// Most payload bytes of a `Data` frame, either way.
pub const DATA_MAX: usize = 64 * 1024;
/// Most payload bytes of any frame the agent sends: what the host buffers for a hostile guest.
pub const FROM_AGENT_MAX: usize = 64 * 1024;
/// Most payload bytes of any frame the host sends: an `Open` carries arguments and environment (`ARG_MAX` is 2 MiB, execve(2)).
pub const FROM_HOST_MAX: usize = 4 * 1024 * 1024;
/// Zeros that complete any frame an agent may be in the middle of.
pub const FILLER_BYTES: usize = FROM_HOST_MAX + HEADER_BYTES + TRAILER_BYTES;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;
/// Bytes of a preamble or its reply: sixteen of magic, then the nonce.
pub const PREAMBLE_BYTES: usize = 16 + NONCE_BYTES;

const HOST_MAGIC: [u8; 16] = *b"\xffbanger host\r\n\x1a\0";
const AGENT_MAGIC: [u8; 16] = *b"\xfebanger agent\r\n\0";

/// What proves that bytes belong to the connection that a preamble opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// The tag of the connection opened with `nonce`; never zero, so filler never passes for a trailer.
    #[must_use]
    pub fn of(nonce: &[u8; NONCE_BYTES]) -> Tag {
        let value = u32::from_le_bytes([nonce[0], nonce[1], nonce[2], nonce[3]]);
        Tag(if value == 0 { 0x9e37_79b9 } else { value })
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// agent → host, stream 0: JSON [`super::message::Hello`], first frame after the preamble's reply.
    Hello = 1,
    /// agent → host, stream 0: JSON [`super::message::Event`].
    Event = 2,
    /// host → agent: JSON [`super::message::Request`]; begins a stream.
    Open = 3,
    /// agent → host: JSON [`super::message::Reply`].
    Reply = 4,
    /// host → agent: JSON [`super::message::Control`] for a running exec.
    Control = 5,
    /// Either way: bytes of a channel.
    Data = 6,
    /// Either way: the channel carries no more bytes. No payload.
    Eof = 7,
    /// Either way: four bytes, how many more `Data` bytes the peer may send on this stream and channel.
    Credit = 8,
    /// Either way: the stream is over, whatever it was doing. No payload.
    Reset = 9,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Kind> {
        Some(match value {
            1 => Kind::Hello,
            2 => Kind::Event,
            3 => Kind::Open,
            4 => Kind::Reply,
            5 => Kind::Control,
            6 => Kind::Data,
            7 => Kind::Eof,
            8 => Kind::Credit,
            9 => Kind::Reset,
            _ => return None,
        })
    }
}

/// Which byte channel of a stream a `Data`, `Eof` or `Credit` frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Host to agent: a process's input, a tree going in.
    Input = 0,
    /// Agent to host: standard output, a terminal, a tree coming out.
    Output = 1,
    /// Agent to host: standard error.
    Error = 2,
}

impl Channel {
    fn from_u8(value: u8) -> Option<Channel> {
        Some(match value {
            0 => Channel::Input,
            1 => Channel::Output,
            2 => Channel::Error,
            _ => return None,
        })
    }
}

/// The head of a frame; its payload follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Meaningful for `Data`, `Eof`, `Credit`; `Input` otherwise.
    pub channel: Channel,
    /// The stream; 0 for `Hello` and `Event`.
    pub stream: u32,
}

/// Bytes that are no frame of this connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header's check does not match.
    #[error("bytes that are no frame of this connection")]
    Check,
    /// An unknown kind or channel, or bits that must be zero.
    #[error("a frame of unknown kind {kind} and channel {channel}")]
    Unknown {
        /// The kind byte.
        kind: u8,
        /// The channel byte.
        channel: u8,
    },
    /// More payload than the sender may send.
    #[error("a frame of {length} bytes where at most {max} are allowed")]
    TooLong {
        /// Announced payload bytes.
        length: u32,
        /// The limit.
        max: usize,
    },
    /// The trailer is not the tag: the frame was cut.
    #[error("a frame that was cut")]
    Cut,
}

/// The check of a header: FNV-1a (32 bit) over its first twelve bytes, begun with the tag.
fn check(first: &[u8; 12], tag: Tag) -> u32 {
    let mut hash = 0x811c_9dc5_u32 ^ tag.0;
    for byte in first {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash
}

/// The header of a frame whose payload has `length` bytes.
#[must_use]
pub fn header(head: Head, length: u32, tag: Tag) -> [u8; HEADER_BYTES] {
    let mut first = [0_u8; 12];
    first[0] = head.kind as u8;
    first[1] = head.channel as u8;
    first[4..8].copy_from_slice(&head.stream.to_le_bytes());
    first[8..12].copy_from_slice(&length.to_le_bytes());
    let mut bytes = [0_u8; HEADER_BYTES];
    bytes[..12].copy_from_slice(&first);
    bytes[12..].copy_from_slice(&check(&first, tag).to_le_bytes());
    bytes
}

/// The trailer of every frame of a connection.
#[must_use]
pub fn trailer(tag: Tag) -> [u8; TRAILER_BYTES] {
    tag.0.to_le_bytes()
}

/// Appends a whole frame to `out`.
///
/// # Panics
/// When `payload` is longer than `u32::MAX`, which no caller's limits allow.
pub fn encode(out: &mut Vec<u8>, head: Head, payload: &[u8], tag: Tag) {
    let length = u32::try_from(payload.len()).expect("limits keep payloads far below 4 GiB");
    out.reserve(HEADER_BYTES + payload.len() + TRAILER_BYTES);
    out.extend_from_slice(&header(head, length, tag));
    out.extend_from_slice(payload);
    out.extend_from_slice(&trailer(tag));
}

/// Reads a header: the head and the payload's length.
///
/// # Errors
/// When the bytes are no header of this connection or announce more than `max` payload bytes.
pub fn parse_header(bytes: &[u8; HEADER_BYTES], tag: Tag, max: usize) -> Result<(Head, usize), FrameError> {
    let mut first = [0_u8; 12];
    first.copy_from_slice(&bytes[..12]);
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if word(12) != check(&first, tag) {
        return Err(FrameError::Check);
    }
    let unknown = FrameError::Unknown { kind: bytes[0], channel: bytes[1] };
    let (Some(kind), Some(channel)) = (Kind::from_u8(bytes[0]), Channel::from_u8(bytes[1])) else {
        return Err(unknown);
    };
    if bytes[2] != 0 || bytes[3] != 0 {
        return Err(unknown);
    }
    let length = word(8);
    let limit = if kind == Kind::Data { max.min(DATA_MAX) } else { max };
    match usize::try_from(length) {
        Ok(len) if len <= limit => Ok((Head { kind, channel, stream: word(4) }, len)),
        _ => Err(FrameError::TooLong { length, max: limit }),
    }
}

/// Checks a frame's trailer.
///
/// # Errors
/// When it is not the connection's tag.
pub fn parse_trailer(bytes: [u8; TRAILER_BYTES], tag: Tag) -> Result<(), FrameError> {
    if bytes == trailer(tag) { Ok(()) } else { Err(FrameError::Cut) }
}

/// Opens a connection: written by the host.
#[must_use]
pub fn preamble(nonce: &[u8; NONCE_BYTES]) -> [u8; PREAMBLE_BYTES] {
    joined(&HOST_MAGIC, nonce)
}

/// Answers a [`preamble`]: written by the agent, its `Hello` behind it.
#[must_use]
pub fn preamble_reply(nonce: &[u8; NONCE_BYTES]) -> [u8; PREAMBLE_BYTES] {
    joined(&AGENT_MAGIC, nonce)
}

fn joined(magic: &[u8; 16], nonce: &[u8; NONCE_BYTES]) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0_u8; PREAMBLE_BYTES];
    bytes[..16].copy_from_slice(magic);
    bytes[16..].copy_from_slice(nonce);
    bytes
}

/// Whether `bytes`, a would-be header, begin a host's preamble. The magic's first byte is no [`Kind`].
#[must_use]
pub fn begins_preamble(bytes: &[u8]) -> bool {
    bytes.starts_with(&HOST_MAGIC[..bytes.len().min(HOST_MAGIC.len())]) && !bytes.is_empty()
}

/// What a hunt through bytes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hunt {
    /// A whole preamble with this nonce; `end` is the offset behind it.
    Found {
        /// The nonce.
        nonce: [u8; NONCE_BYTES],
        /// Offset of the first byte behind the preamble.
        end: usize,
    },
    /// Nothing whole; bytes before `keep_from` can be dropped, the rest may be the beginning of one.
    Nothing {
        /// Offset of the first byte worth keeping.
        keep_from: usize,
    },
}

/// Looks for a host's preamble: what an agent does at first and whenever bytes are no frame. The last whole one wins,
/// because a host that got no answer sends another.
#[must_use]
pub fn hunt_preamble(bytes: &[u8]) -> Hunt {
    hunt(bytes, &HOST_MAGIC, None)
}

/// Looks for the agent's answer to `nonce`: what a host does until it is found.
#[must_use]
pub fn hunt_reply(bytes: &[u8], nonce: &[u8; NONCE_BYTES]) -> Hunt {
    hunt(bytes, &AGENT_MAGIC, Some(nonce))
}

fn hunt(bytes: &[u8], magic: &[u8; 16], wanted: Option<&[u8; NONCE_BYTES]>) -> Hunt {
    let mut found = None;
    let mut at = 0;
    while let Some(skip) = bytes[at..].iter().position(|b| *b == magic[0]) {
        at += skip;
        let rest = &bytes[at..];
        if rest.len() < PREAMBLE_BYTES {
            if rest.starts_with(&magic[..rest.len().min(magic.len())]) && found.is_none() {
                return Hunt::Nothing { keep_from: at };
            }
        } else if rest.starts_with(magic) {
            let mut nonce = [0_u8; NONCE_BYTES];
            nonce.copy_from_slice(&rest[16..PREAMBLE_BYTES]);
            if wanted.is_none_or(|w| *w == nonce) {
                found = Some(Hunt::Found { nonce, end: at + PREAMBLE_BYTES });
            }
        }
        at += 1;
    }
    found.unwrap_or(Hunt::Nothing { keep_from: bytes.len() })
}

/// What the decoder hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its head.
    pub head: Head,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Takes bytes as they come and gives whole frames back. Its buffer never exceeds what was pushed since the last whole
/// frame, and a frame above the limit is refused at its header.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    tag: Tag,
    max: usize,
}

impl Decoder {
    /// A decoder for the frames of one connection; `max` is [`FROM_AGENT_MAX`] in the host and [`FROM_HOST_MAX`] in the agent.
    #[must_use]
    pub fn new(tag: Tag, max: usize) -> Decoder {
        Decoder { buffer: Vec::new(), start: 0, tag, max }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && (self.start == self.buffer.len() || self.start >= DATA_MAX) {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes not yet decoded: where a hunt begins after an error.
    #[must_use]
    pub fn undecoded(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The next whole frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no frame; the decoder stays where it is and [`Decoder::undecoded`] shows them.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.start..];
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (head, length) = parse_header(head, self.tag, self.max)?;
        let Some(end) = bytes[HEADER_BYTES + length.min(bytes.len() - HEADER_BYTES)..].first_chunk::<TRAILER_BYTES>()
        else {
            return Ok(None);
        };
        if bytes.len() < HEADER_BYTES + length + TRAILER_BYTES {
            return Ok(None);
        }
        parse_trailer(*end, self.tag)?;
        let payload = bytes[HEADER_BYTES..HEADER_BYTES + length].to_vec();
        self.start += HEADER_BYTES + length + TRAILER_BYTES;
        Ok(Some(Frame { head, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: Tag = Tag(0x1234_5678);

    fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, Head { kind: Kind::Data, channel: Channel::Output, stream }, payload, TAG);
        out
    }

    #[test]
    fn a_frame_of_another_connection_is_refused() {
        let mut decoder = Decoder::new(Tag(1), FROM_AGENT_MAX);
        decoder.push(&data(1, b"x"));
        assert_eq!(decoder.next_frame(), Err(FrameError::Check));
    }

    #[test]
    fn a_cut_frame_completed_by_filler_is_refused() {
        let mut decoder = Decoder::new(TAG, FROM_HOST_MAX);
        decoder.push(&data(1, b"hello")[..HEADER_BYTES + 2]);
        decoder.push(&[0; 64]);
        assert_eq!(decoder.next_frame(), Err(FrameError::Cut));
    }

    #[test]
    fn an_oversized_frame_is_refused_at_its_header() {
        let head = Head { kind: Kind::Reply, channel: Channel::Input, stream: 1 };
        let mut decoder = Decoder::new(TAG, FROM_AGENT_MAX);
        decoder.push(&header(head, u32::MAX, TAG));
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn the_last_preamble_wins() {
        let mut bytes = vec![0; 100];
        bytes.extend_from_slice(&preamble(&[1; 16]));
        bytes.extend_from_slice(&preamble(&[2; 16]));
        bytes.extend_from_slice(&preamble(&[3; 16])[..20]);
        assert_eq!(hunt_preamble(&bytes), Hunt::Found { nonce: [2; 16], end: 100 + 2 * PREAMBLE_BYTES });
        assert_eq!(hunt_reply(&bytes, &[2; 16]), Hunt::Nothing { keep_from: bytes.len() });
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
            cuts in proptest::collection::vec(1_usize..50, 1..200),
        ) {
            let bytes: Vec<u8> = payloads.iter().enumerate().flat_map(|(i, p)| data(i as u32, p)).collect();
            let mut decoder = Decoder::new(TAG, FROM_AGENT_MAX);
            let mut got = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(frame) = decoder.next_frame().unwrap() { got.push(frame.payload); }
            }
            prop_assert_eq!(got, payloads);
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::new(TAG, FROM_AGENT_MAX);
            decoder.push(&bytes);
            let _: Result<Option<Frame>, FrameError> = decoder.next_frame();
            if let Hunt::Nothing { keep_from } = hunt_preamble(&bytes) { prop_assert!(keep_from <= bytes.len()); }
        }

        #[test]
        fn a_preamble_is_found_behind_any_bytes(
            before in proptest::collection::vec(any::<u8>(), 0..200), nonce: [u8; 16], cut in 0..PREAMBLE_BYTES,
        ) {
            let mut bytes = before.clone();
            bytes.extend_from_slice(&preamble(&nonce));
            prop_assert_eq!(hunt_preamble(&bytes), Hunt::Found { nonce, end: bytes.len() });
            // A part of it is kept until the rest arrives.
            let part = &bytes[..before.len() + cut];
            match hunt_preamble(part) {
                Hunt::Nothing { keep_from } => prop_assert!(keep_from <= before.len() + usize::from(cut == 0)),
                Hunt::Found { end, .. } => prop_assert!(end <= before.len()),
            }
        }
    }
}
