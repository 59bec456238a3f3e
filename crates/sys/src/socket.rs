//! What a socket knows that `std` does not tell.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes written to a Unix stream socket that the peer has not read, as the kernel accounts for them (0 means none):
/// SIOCOUTQ, unix(7).
///
/// # Errors
/// When `socket` is none.
pub fn unread_by_peer(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int through the pointer, which is valid for that long.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn it_falls_to_zero_when_the_peer_has_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(&ours).unwrap(), 0);
        ours.write_all(b"hello").unwrap();
        assert!(unread_by_peer(&ours).unwrap() > 0);
        theirs.read_exact(&mut [0; 3]).unwrap();
        assert!(unread_by_peer(&ours).unwrap() > 0, "some is left");
        theirs.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(unread_by_peer(&ours).unwrap(), 0);
    }
}
