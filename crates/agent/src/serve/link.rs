//! Bytes of the channel, in both directions: what arrived and is not yet understood, what is to be sent and not yet taken.
//!
//! [`Inbound`] hands out frames as slices of its own buffer. [`Outbound`] is filled in place, a child's output being read
//! straight behind the frame's header, so that a byte on its way out is copied by the kernel only.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use wire::agent::frame::{self, Channel, HEADER_BYTES, Head, Hunt, Kind, NONCE_BYTES, TRAILER_BYTES, Tag};

/// Bytes asked of one read(2).
const READ_BYTES: usize = 64 * 1024;
/// Payload of a full frame: with its header and trailer it is two of the 32 KiB that Linux's virtio-serial driver takes in
/// one write(2), each of which costs an exit from the virtual machine.
const READ_INTO_FRAME_BYTES: usize = 64 * 1024 - HEADER_BYTES - TRAILER_BYTES;
/// Inbound capacity kept when nothing is pending: one full frame and what came with it.
const KEPT_BYTES: usize = 256 * 1024;
/// Most bytes read before what they say is done, so that one busy stream leaves time for the others.
const TURN_BYTES: usize = 256 * 1024;

/// What a read from the channel came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There may be more at once.
    More,
    /// Nothing more for now.
    Drained,
    /// The other side is gone.
    Closed,
}

/// One step of understanding what arrived.
#[derive(Debug)]
pub enum Step<'a> {
    /// More bytes are needed.
    Starved,
    /// A host opened a connection; whatever was before is over.
    Opened([u8; NONCE_BYTES]),
    /// Bytes that are no frame: the connection is over.
    Lost,
    /// A whole frame.
    Frame(Head, &'a [u8]),
}

/// What arrived.
#[derive(Debug, Default)]
pub struct Inbound {
    buffer: Vec<u8>,
    start: usize,
    tag: Option<Tag>,
}

impl Inbound {
    /// Reads what is there, up to a turn's worth.
    pub fn take_from(&mut self, fd: BorrowedFd<'_>) -> Taken {
        self.compact();
        let mut turn = 0;
        while turn < TURN_BYTES {
            self.buffer.reserve(READ_BYTES);
            match rustix::io::read(fd, spare_capacity(&mut self.buffer)) {
                Ok(0) => return Taken::Closed,
                Ok(count) => turn += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Taken::Drained,
                Err(_) => return Taken::Closed,
            }
        }
        Taken::More
    }

    fn compact(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * KEPT_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Forgets the connection and every byte of it.
    pub fn clear(&mut self) {
        *self = Inbound::default();
    }

    /// Understands the next bytes.
    pub fn step(&mut self) -> Step<'_> {
        let Some(tag) = self.tag else {
            return self.hunt();
        };
        let bytes = &self.buffer[self.start..];
        let Some(first) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Step::Starved;
        };
        let Ok((head, length)) = frame::parse_header(first, tag, frame::FROM_HOST_MAX) else {
            return self.lose();
        };
        let total = HEADER_BYTES + length + TRAILER_BYTES;
        let Some(trailer) = bytes.get(total - TRAILER_BYTES..total).and_then(|t| t.first_chunk()) else {
            return Step::Starved;
        };
        if frame::parse_trailer(*trailer, tag).is_err() {
            return self.lose();
        }
        let begin = self.start + HEADER_BYTES;
        self.start += total;
        Step::Frame(head, &self.buffer[begin..begin + length])
    }

    fn lose(&mut self) -> Step<'_> {
        self.tag = None;
        Step::Lost
    }

    fn hunt(&mut self) -> Step<'_> {
        match frame::hunt_preamble(&self.buffer[self.start..]) {
            Hunt::Found { nonce, end } => {
                self.start += end;
                self.tag = Some(Tag::of(&nonce));
                Step::Opened(nonce)
            }
            Hunt::Nothing { keep_from } => {
                self.start += keep_from;
                Step::Starved
            }
        }
    }
}

/// What is to be sent: `buffer[sent..end]`. The rest of the buffer is room that was written to before, so that reading
/// into it needs no clearing first.
#[derive(Debug, Default)]
pub struct Outbound {
    buffer: Vec<u8>,
    sent: usize,
    end: usize,
    /// Up to here it may be sent: nothing behind it, until the host is heard from.
    held_at: Option<usize>,
    tag: Option<Tag>,
}

impl Outbound {
    /// Begins a connection: what was left of an older one is dropped, the preamble's reply is first.
    pub fn open(&mut self, nonce: &[u8; NONCE_BYTES]) {
        self.clear();
        self.tag = Some(Tag::of(nonce));
        self.append(&frame::preamble_reply(nonce));
    }

    /// Forgets the connection and every byte of it.
    pub fn clear(&mut self) {
        *self = Outbound::default();
    }

    /// Keeps back what is added from now on.
    pub fn hold(&mut self) {
        self.held_at = Some(self.end);
    }

    /// Whether the host has everything that it was to have before what is kept back.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.held_at == Some(self.sent)
    }

    /// Keeps nothing back any more.
    pub fn release(&mut self) {
        self.held_at = None;
    }

    /// Goes on over a new connection with the same tag: `kind` with `payload` comes first, then what was kept back.
    pub fn go_on(&mut self, nonce: &[u8; NONCE_BYTES], kind: Kind, payload: &[u8]) {
        let kept = self.buffer[self.held_at.unwrap_or(self.sent)..self.end].to_vec();
        self.open(nonce);
        self.push(kind, Channel::Input, 0, payload);
        self.append(&kept);
    }

    /// Bytes not yet taken by the channel.
    pub fn pending(&self) -> usize {
        self.end - self.sent
    }

    /// What is to be sent now.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.buffer[self.sent..self.held_at.unwrap_or(self.end)]
    }

    /// Adds a frame; without a connection there is nobody to tell.
    pub fn push(&mut self, kind: Kind, channel: Channel, stream: u32, payload: &[u8]) {
        self.push_parts(kind, channel, stream, [payload, &[]]);
    }

    /// The same with a payload in two parts.
    pub fn push_parts(&mut self, kind: Kind, channel: Channel, stream: u32, parts: [&[u8]; 2]) {
        let Some(tag) = self.tag else {
            return;
        };
        let length = u32::try_from(parts[0].len() + parts[1].len()).expect("payloads are bounded far below 4 GiB");
        self.append(&frame::header(Head { kind, channel, stream }, length, tag));
        for part in parts {
            self.append(part);
        }
        self.append(&frame::trailer(tag));
    }

    /// Adds a `Data` frame of what one read of at most `max` bytes gives; 0 at the end of the file, and then no frame.
    ///
    /// # Errors
    /// What read(2) says, `EAGAIN` included; nothing was added then.
    pub fn push_read(&mut self, from: BorrowedFd<'_>, channel: Channel, stream: u32, max: usize) -> io::Result<usize> {
        let Some(tag) = self.tag else {
            return Err(Errno::AGAIN.into());
        };
        let max = max.min(READ_INTO_FRAME_BYTES);
        let body = self.end + HEADER_BYTES;
        self.make_room(HEADER_BYTES + max + TRAILER_BYTES);
        let count = rustix::io::read(from, &mut self.buffer[body..body + max])?;
        if count == 0 {
            return Ok(0);
        }
        let length = u32::try_from(count).expect("a read of at most 64 KiB");
        let header = frame::header(Head { kind: Kind::Data, channel, stream }, length, tag);
        self.buffer[self.end..body].copy_from_slice(&header);
        self.end = body + count;
        self.append(&frame::trailer(tag));
        Ok(count)
    }

    fn append(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn make_room(&mut self, bytes: usize) {
        let needed = self.end + bytes;
        if self.buffer.len() < needed {
            self.buffer.resize(needed.next_power_of_two(), 0);
        }
    }

    /// Gives the channel what it takes: `Drained` when it takes no more for now, `More` when all is gone.
    pub fn give_to(&mut self, fd: BorrowedFd<'_>) -> Taken {
        let taken = loop {
            if self.unsent().is_empty() {
                break Taken::More;
            }
            match rustix::io::write(fd, self.unsent()) {
                Ok(0) => break Taken::Closed,
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break Taken::Drained,
                Err(_) => break Taken::Closed,
            }
        };
        self.compact();
        taken
    }

    fn compact(&mut self) {
        let sent = self.sent;
        if self.sent == self.end {
            (self.sent, self.end) = (0, 0);
            if self.buffer.len() > 2 * KEPT_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.sent >= KEPT_BYTES / 2 {
            self.buffer.copy_within(self.sent..self.end, 0);
            (self.sent, self.end) = (0, self.end - self.sent);
        }
        self.held_at = self.held_at.map(|at| at - (sent - self.sent));
    }
}
