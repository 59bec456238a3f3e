//! Frames on their way to the guest: small ones are copied together, payloads are not copied, and one system call takes
//! as many of both as the kernel allows.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use wire::agent::frame::{Head, Tag, header, trailer};

/// Payloads below this are copied: it costs less than a slice of their own.
const COPY_BELOW_BYTES: usize = 2048;
/// Slices of one write; the kernel takes 1024 (`UIO_MAXIOV`, writev(2)), and a write of this many is large already.
const SLICES_MAX: usize = 32;

/// Bytes to be written, in order.
#[derive(Debug)]
pub(crate) struct Outbox {
    tag: Tag,
    parts: VecDeque<Part>,
    small: BytesMut,
}

#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Room in the queue, given back when the part is written.
    _room: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    pub(crate) fn new(tag: Tag) -> Outbox {
        Outbox { tag, parts: VecDeque::new(), small: BytesMut::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.small.is_empty()
    }

    /// Adds a frame; `room` is held until it is written.
    pub(crate) fn frame(&mut self, head: Head, payload: Bytes, room: Option<OwnedSemaphorePermit>) {
        let length = u32::try_from(payload.len()).expect("limits keep payloads far below 4 GiB");
        self.small.extend_from_slice(&header(head, length, self.tag));
        if payload.len() < COPY_BELOW_BYTES && room.is_none() {
            self.small.extend_from_slice(&payload);
        } else {
            self.seal();
            self.parts.push_back(Part { bytes: payload, _room: room });
        }
        self.small.extend_from_slice(&trailer(self.tag));
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.parts.push_back(Part { bytes: self.small.split().freeze(), _room: None });
        }
    }

    /// Writes until nothing is left (true) or the socket takes no more.
    ///
    /// # Errors
    /// What `write` answers, other than that it would block.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<bool> {
        self.seal();
        while !self.parts.is_empty() {
            let slices: Vec<IoSlice<'_>> = self.parts.iter().take(SLICES_MAX).map(|p| IoSlice::new(&p.bytes)).collect();
            match write(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(part) = self.parts.front_mut() {
            let take = count.min(part.bytes.len());
            part.bytes.advance(take);
            count -= take;
            if !part.bytes.is_empty() {
                return;
            }
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::frame::{Channel, Decoder, FROM_HOST_MAX, Kind};

    #[test]
    fn frames_survive_any_short_write() {
        let tag = Tag::of(&[7; 16]);
        for step in [1, 3, 17, 1000, 100_000] {
            let mut outbox = Outbox::new(tag);
            for size in [0, 1, COPY_BELOW_BYTES - 1, COPY_BELOW_BYTES, 60_000] {
                let head = Head { kind: Kind::Data, channel: Channel::Input, stream: 1 };
                outbox.frame(head, Bytes::from(vec![size as u8; size]), None);
            }
            let mut decoder = Decoder::new(tag, FROM_HOST_MAX);
            let mut blocked = false;
            let mut sizes = Vec::new();
            loop {
                let done = outbox.flush(|slices| {
                    blocked = !blocked;
                    if blocked {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    let taken: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).take(step).collect();
                    decoder.push(&taken);
                    Ok(taken.len())
                });
                while let Some(frame) = decoder.next_frame().unwrap() {
                    sizes.push(frame.payload.len());
                }
                if done.unwrap() {
                    break;
                }
            }
            assert_eq!(sizes, [0, 1, COPY_BELOW_BYTES - 1, COPY_BELOW_BYTES, 60_000]);
        }
    }
}
