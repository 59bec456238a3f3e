//! Connections from a guest to its host: vsock(7).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `VMADDR_CID_HOST` of vsock(7).
const HOST: u32 = 2;

/// Begins to connect to `port` of the host, without waiting: the socket becomes writable once it is connected, and tells an
/// error once it is known that it will not be.
///
/// # Errors
/// When the kernel has no vsock, or nothing to reach a host by.
pub fn dial(port: u32) -> io::Result<OwnedFd> {
    let socket = unconnected()?;
    // SAFETY: every field of this struct may be zero.
    let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_vm>() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).expect("a small number");
    address.svm_cid = HOST;
    address.svm_port = port;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).expect("16 bytes");
    // SAFETY: the address is as long as said and outlives the call.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error);
        }
    }
    Ok(socket)
}

/// Whether the kernel has vsock: without it no [`dial`] ever succeeds. Nobody is connected to.
///
/// # Errors
/// When it has not.
pub fn probe() -> io::Result<()> {
    unconnected().map(drop)
}

fn unconnected() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just above, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_host_nobody_is_reached() {
        // Most machines that run this have no host; one that has finds nobody at this port.
        let Ok(socket) = dial(u32::MAX - 1) else { return };
        let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::OUT)];
        rustix::event::poll(&mut fds, None).unwrap();
        rustix::io::write(&socket, b"x").unwrap_err();
    }
}
