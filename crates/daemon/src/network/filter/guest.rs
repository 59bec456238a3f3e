//! The guest's end of the filter: frames behind their lengths, whatever is underneath.
//!
//! | VMM | how frames come |
//! |---|---|
//! | QEMU | on a stream, as it sends them |
//! | Firecracker | from a socket on its tap, in a network namespace that has no other interface. The VMM's jail hands it over, and keeps the connection open as long as the VMM lives |
//!
//! What a guest behind a tap leaves to its NIC is done here: [`super::segments`].

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sys::seclusion::VNET_HEADER_BYTES;

use super::{FRAME_MAX, LENGTH_BYTES, first_frame, segments};

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
    Tap { frames: File, vmm: UnixStream, came: Mutex<Came> },
}

/// What one frame of a tap became.
#[derive(Debug)]
pub(super) struct Came {
    frame: Vec<u8>,
    /// Frames behind their lengths.
    finished: Vec<u8>,
}

impl Guest {
    /// Takes over what the VMM on `connection` has to hand over.
    pub(super) fn take_over(connection: UnixStream, handover: Handover) -> io::Result<Guest> {
        if handover == Handover::Stream {
            return Ok(Guest::Stream(connection));
        }
        let received = sys::packet::receive(&connection, &mut [0; 1])?;
        let frames = received.fds.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let came = Came { frame: vec![0; FRAME_MAX], finished: Vec::new() };
        Ok(Guest::Tap { frames: File::from(frames), vmm: connection, came: Mutex::new(came) })
    }

    /// Ends the connection; one that has ended needs no ending.
    pub(super) fn shut(&self) {
        let (Guest::Stream(vmm) | Guest::Tap { vmm, .. }) = self;
        let _: io::Result<()> = vmm.shutdown(Shutdown::Both);
    }
}

/// Reads into several times [`FRAME_MAX`] bytes.
impl Read for &Guest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (frames, vmm, came) = match self {
            Guest::Stream(stream) => return (&*stream).read(buffer),
            Guest::Tap { frames, vmm, came } => (frames, vmm, came),
        };
        let mut came = came.lock().unwrap_or_else(PoisonError::into_inner);
        let Came { frame, finished } = &mut *came;
        finished.clear();
        while finished.is_empty() {
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
            if let Some(frame) = count.checked_sub(VNET_HEADER_BYTES).and_then(|count| frame.get_mut(..count)) {
                segments::finish(frame, header, finished);
            }
            // Nobody cuts so small but to make trouble.
            if finished.len() > buffer.len() {
                finished.clear();
            }
        }
        buffer[..finished.len()].copy_from_slice(finished);
        Ok(finished.len())
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
