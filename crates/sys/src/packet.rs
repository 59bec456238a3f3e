//! Packets with descriptors beside them, over a Unix socket that keeps each packet whole: `SOCK_SEQPACKET` of unix(7).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_acceptconn, socket_peercred, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};

/// Most descriptors beside one packet.
pub const DESCRIPTORS_MAX: usize = 16;

/// Connections that may wait to be taken.
const BACKLOG: i32 = 64;

/// What came in.
#[derive(Debug, Default)]
pub struct Received {
    /// Its length.
    pub bytes: usize,
    /// The descriptors beside it, closed on exec.
    pub fds: Vec<OwnedFd>,
    /// The packet was longer than the buffer, or had more descriptors than [`DESCRIPTORS_MAX`]; the rest is lost.
    pub is_cut: bool,
}

/// Who connected, as the kernel noted it then: `SO_PEERCRED` of unix(7).
///
/// # Errors
/// When `socket` is no Unix socket.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(socket_peercred(socket)?.uid.as_raw())
}

/// Connects to whoever listens at `path`. Sending and receiving give up after `patience`.
///
/// # Errors
/// When nobody listens there.
pub fn connect_to(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    for which in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, which, Some(patience))?;
    }
    Ok(socket)
}

/// Listens at `path`, which must not exist.
///
/// # Errors
/// When it cannot be made.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Takes the next connection, which does not block.
///
/// # Errors
/// When there is none, or no descriptor is left.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// The listening socket that whoever started this program left at descriptor 3: `sd_listen_fds`(3). It does not block, and
/// programs started from here do not get it. **To be called once.**
///
/// # Errors
/// When there is none, or it is something else.
pub fn inherited_listener() -> io::Result<OwnedFd> {
    const FIRST: RawFd = 3;
    // SAFETY: asks for the flags of a number, which need not be open.
    if unsafe { libc::fcntl(FIRST, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the protocol left to this program.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    if !socket_acceptconn(&socket)? || socket_type(&socket)? != SocketType::SEQPACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a listening socket of packets"));
    }
    let flags = rustix::fs::fcntl_getfl(&socket)?;
    rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(socket)
}

/// Sends one packet.
///
/// # Errors
/// When the peer is gone, or does not take it.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // The buffer is rounded up, so that one more may fit.
    if fds.len() > DESCRIPTORS_MAX || !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one packet. No bytes and no descriptors mean that the peer is gone.
///
/// # Errors
/// When nothing has come, or in time.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = part {
            fds.extend(came);
        }
    }
    let is_cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { bytes: message.bytes, fds, is_cut })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_packet_comes_whole_with_its_descriptors() {
        let (ours, theirs) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        send(&ours, b"one", &[file.as_fd(), file.as_fd()]).unwrap();
        send(&ours, b"two", &[]).unwrap();
        let mut buffer = [0; 16];
        let one = receive(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..one.bytes], one.fds.len(), one.is_cut), (&b"one"[..], 2, false));
        let mut same = std::fs::File::from(one.fds.into_iter().next().unwrap());
        same.rewind().unwrap();
        let mut text = String::new();
        same.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert_eq!(receive(&theirs, &mut buffer).unwrap().bytes, 3);
        drop(ours);
        assert_eq!(receive(&theirs, &mut buffer).unwrap().bytes, 0);
    }

    #[test]
    fn what_is_too_large_is_known_to_be() {
        let (ours, theirs) = pair();
        send(&ours, &[7; 64], &[]).unwrap();
        let mut buffer = [0; 16];
        assert!(receive(&theirs, &mut buffer).unwrap().is_cut);
        let many = vec![ours.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(&ours, b"x", &many).is_err());
    }

    #[test]
    fn a_listener_takes_connections_and_knows_who_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(connect_to(&path, Duration::from_secs(1)).is_err());
        let listener = listen_at(&path).unwrap();
        let client = connect_to(&path, Duration::from_millis(1)).unwrap();
        let served = accept(&listener).unwrap();
        assert_eq!(peer_uid(&served).unwrap(), rustix::process::getuid().as_raw());
        assert_eq!(receive(&client, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "in time");
    }
}
