//! The guest's end of the filter: frames behind their lengths, whatever is underneath.
//!
//! | VMM | how frames come |
//! |---|---|
//! | QEMU | on a stream, as it sends them |
//! | Firecracker | from a socket on its tap, in a network namespace that has no other interface. The VMM's jail hands it over, and keeps the connection open as long as the VMM lives |
//!
//! A guest leaves sums and segments of what it sends to its NIC. Here the sums are completed; segments stay in one: whoever
//! gets them makes sockets of them, and none is ever on a line.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sys::seclusion::VNET_HEADER_BYTES;

use super::{LENGTH_BYTES, first_frame};

/// How the VMM hands over frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Handover {
    /// On the connection itself.
    Stream,
    /// By a socket on its tap, which it sends first.
    Tap,
}

/// A guest that is connected.
#[derive(Debug)]
pub(super) enum Guest {
    Stream(UnixStream),
    Tap { frames: File, vmm: UnixStream },
}

impl Guest {
    /// Takes over what the VMM on `connection` has to hand over.
    pub(super) fn take_over(connection: UnixStream, handover: Handover) -> io::Result<Guest> {
        if handover == Handover::Stream {
            return Ok(Guest::Stream(connection));
        }
        let received = sys::packet::receive(&connection, &mut [0; 1])?;
        let frames = received.fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Guest::Tap { frames: File::from(frames), vmm: connection })
    }

    /// Ends the connection; one that has ended needs no ending.
    pub(super) fn shut(&self) {
        let (Guest::Stream(vmm) | Guest::Tap { vmm, .. }) = self;
        let _: io::Result<()> = vmm.shutdown(Shutdown::Both);
    }
}

/// Reads into at least [`super::FRAME_MAX`] bytes behind a length.
impl Read for &Guest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (frames, vmm) = match self {
            Guest::Stream(stream) => return (&*stream).read(buffer),
            Guest::Tap { frames, vmm } => (frames, vmm),
        };
        let Some((length, frame)) = buffer.split_first_chunk_mut::<LENGTH_BYTES>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        loop {
            // Nothing is said on the connection: it is asked only whether it is there.
            let mut fds = [PollFd::new(frames, PollFlags::IN), PollFd::new(vmm, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            if !fds[1].revents().is_empty() {
                return Ok(0);
            }
            let mut header = [0; VNET_HEADER_BYTES];
            let count = (&*frames).read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame)])?;
            let Some(count) = count.checked_sub(VNET_HEADER_BYTES).filter(|count| *count > 0) else {
                continue;
            };
            complete(&mut frame[..count], header);
            *length = u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
            return Ok(LENGTH_BYTES + count);
        }
    }
}

/// Takes whole frames only. One that a tap has no room for is lost, as on any line.
impl Write for &Guest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let frames = match self {
            Guest::Stream(stream) => return (&*stream).write(bytes),
            Guest::Tap { frames, .. } => frames,
        };
        let mut at = 0;
        while let Some(frame) = first_frame(&bytes[at..])? {
            let parts = [IoSlice::new(&[0; VNET_HEADER_BYTES]), IoSlice::new(frame)];
            match (&*frames).write_vectored(&parts).map_err(|error| Errno::from_io_error(&error)) {
                Ok(_) | Err(Some(Errno::NOBUFS | Errno::MSGSIZE | Errno::AGAIN | Errno::INVAL | Errno::INTR)) => {}
                Err(errno) => return Err(errno.unwrap_or(Errno::IO).into()),
            }
            at += LENGTH_BYTES + frame.len();
        }
        if at == bytes.len() { Ok(at) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Completes the sum that a guest has left to its NIC: virtio 1.2, section 5.1.6.2. What the header says wrongly of the
/// frame is left as it is: the guest's peer drops it.
fn complete(frame: &mut [u8], header: [u8; VNET_HEADER_BYTES]) {
    const NEEDS_SUM: u8 = 1;
    if header[0] & NEEDS_SUM == 0 {
        return;
    }
    let word = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (start, offset) = (word(6), word(8));
    let Some(covered) = frame.get_mut(start..) else {
        return;
    };
    let mut sum = covered
        .chunks(2)
        .fold(0_u64, |sum, pair| sum + (u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = match !u16::try_from(sum).unwrap_or(0) {
        // Of UDP this would mean that there is none; both are zero to whoever checks.
        0 => 0xffff,
        sum => sum,
    };
    if let Some(field) = covered.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sum_that_was_left_to_the_nic_is_completed() {
        // A segment whose field holds the sum of what stands before it, as the kernel leaves it.
        let mut frame = [0xaa, 0xbb, 0x12, 0x34, 0, 0, 0, 7, 0xff, 0xff, 1];
        let mut header = [0; VNET_HEADER_BYTES];
        complete(&mut frame, header);
        assert_eq!(frame[4..6], [0, 0], "nothing was left");
        header[0] = 1;
        header[6..8].copy_from_slice(&2_u16.to_ne_bytes());
        header[8..].copy_from_slice(&2_u16.to_ne_bytes());
        complete(&mut frame, header);
        let sum: u32 = 0x1234 + 7 + 0xffff + 0x100;
        let folded = (sum & 0xffff) + (sum >> 16);
        assert_eq!(u16::from_be_bytes([frame[4], frame[5]]), !(folded as u16));
    }

    proptest! {
        #[test]
        fn whatever_a_header_says(mut frame in proptest::collection::vec(any::<u8>(), 0..80), header: [u8; 10]) {
            complete(&mut frame, header);
        }
    }
}
