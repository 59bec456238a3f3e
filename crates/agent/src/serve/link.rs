//! Bytes of the channel, in both directions: what arrived and is not yet understood, what is to be sent and not yet taken.
//!
//! [`Inbound`] hands out frames as slices of its own buffer. [`Outbound`] is filled in place, a child's output being read
//! straight behind the frame's header, so that a byte on its way out is copied by the kernel only; where much comes through a
//! pipe, not even by it: splice(2) hands the pipe's pages to the port.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use wire::agent::frame::{self, Channel, DATA_MAX, HEADER_BYTES, Head, Hunt, Kind, NONCE_BYTES, TRAILER_BYTES, Tag};

/// Bytes asked of one read(2).
const READ_BYTES: usize = 64 * 1024;
/// Payload of a full frame: with its header and trailer it is two of the 32 KiB that Linux's virtio-serial driver takes in
/// one write(2), each of which costs an exit from the virtual machine.
const READ_INTO_FRAME_BYTES: usize = 64 * 1024 - HEADER_BYTES - TRAILER_BYTES;
/// Pages are moved, and nothing is waited for.
const SPLICED: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
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
    tag: Option<Tag>,
    gap: Option<Gap>,
    pipe: Option<Pipe>,
}

/// Where the payload of a frame is not in the buffer, but in the pipe.
#[derive(Debug)]
struct Gap {
    /// Between `buffer[..at]` and `buffer[at..]`.
    at: usize,
    left: usize,
}

/// Holds one frame's payload. It is not the command's own pipe, because a port is given a whole pipe or nothing: Linux's
/// `port_fops_splice_write()` goes on behind the pages it was asked for when there are more.
#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// What one try to fill a gap came to.
enum Filled {
    Some,
    /// The channel does not take pages.
    Otherwise,
    Not(Taken),
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

    /// Bytes not yet taken by the channel.
    pub fn pending(&self) -> usize {
        self.end - self.sent + self.gap.as_ref().map_or(0, |gap| gap.left)
    }

    /// Whether the payload of a frame that was piped is not gone yet; there is one at a time.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// What is to be sent.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.buffer[self.sent..self.end]
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

    /// Adds a `Data` frame of at most `max` bytes of `from`, a pipe, whose pages go to the channel as they are; 0 at the end of
    /// the pipe, and then no frame.
    ///
    /// # Errors
    /// What splice(2) says, `EAGAIN` included; nothing was added then.
    pub fn push_piped(&mut self, from: BorrowedFd<'_>, channel: Channel, stream: u32, max: usize) -> io::Result<usize> {
        let Some(tag) = self.tag.filter(|_| self.gap.is_none()) else {
            return Err(Errno::AGAIN.into());
        };
        let pipe = match &self.pipe {
            Some(pipe) => pipe,
            None => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                self.pipe.insert(Pipe { reader, writer })
            }
        };
        let count = splice(from, None, &pipe.writer, None, max.min(DATA_MAX), SPLICED)?;
        if count == 0 {
            return Ok(0);
        }
        let length = u32::try_from(count).expect("at most one frame's payload");
        self.append(&frame::header(Head { kind: Kind::Data, channel, stream }, length, tag));
        self.gap = Some(Gap { at: self.end, left: count });
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
            let until = self.gap.as_ref().map_or(self.end, |gap| gap.at);
            if self.sent == until {
                match self.fill_gap(fd) {
                    None => break Taken::More,
                    Some(Filled::Some) => {}
                    Some(Filled::Otherwise) => self.close_gap(),
                    Some(Filled::Not(taken)) => break taken,
                }
                continue;
            }
            match rustix::io::write(fd, &self.buffer[self.sent..until]) {
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

    /// Moves what is in the pipe to the channel; none when there is no gap.
    fn fill_gap(&mut self, fd: BorrowedFd<'_>) -> Option<Filled> {
        let (gap, pipe) = (self.gap.as_mut()?, self.pipe.as_ref()?);
        Some(match splice(&pipe.reader, None, fd, None, gap.left, SPLICED) {
            Ok(0) | Err(Errno::INVAL) => Filled::Otherwise,
            Ok(count) => {
                gap.left -= count;
                self.gap = self.gap.take().filter(|gap| gap.left > 0);
                Filled::Some
            }
            Err(Errno::INTR) => Filled::Some,
            Err(Errno::AGAIN) => Filled::Not(Taken::Drained),
            Err(_) => Filled::Not(Taken::Closed),
        })
    }

    /// Takes what is in the pipe into the buffer, at its place.
    fn close_gap(&mut self) {
        let (Some(Gap { at, left }), Some(pipe)) = (self.gap.take(), &self.pipe) else {
            return;
        };
        let mut content = vec![0; left];
        let mut got = 0;
        while got < left {
            match rustix::io::read(&pipe.reader, &mut content[got..]) {
                Ok(count) if count > 0 => got += count,
                Err(Errno::INTR) => {}
                // It holds what was put there: whatever this is, the frame has its length.
                Ok(_) | Err(_) => break,
            }
        }
        self.buffer.truncate(self.end);
        self.buffer.splice(at..at, content);
        self.end += left;
    }

    fn compact(&mut self) {
        if self.gap.is_some() {
            // Its place counts from the beginning of the buffer, which is not long: nothing is read before it is gone.
            return;
        }
        if self.sent == self.end {
            (self.sent, self.end) = (0, 0);
            if self.buffer.len() > 2 * KEPT_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.sent >= KEPT_BYTES / 2 {
            self.buffer.copy_within(self.sent..self.end, 0);
            (self.sent, self.end) = (0, self.end - self.sent);
        }
    }
}
