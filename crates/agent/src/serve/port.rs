//! The byte stream to the host: a virtio-serial port that never closes, or a Unix socket that accepts one host at a time.
//!
//! Both are watched edge-triggered: a virtio-serial port without a host is "hung up" for as long as nobody connects, which
//! a level-triggered poll would report for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::SocketFlags;

/// A byte stream and what is known of its state.
#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    watch: OwnedFd,
    is_readable: bool,
    is_writable: bool,
}

/// The channel to the host.
#[derive(Debug)]
pub struct Port {
    listener: Option<OwnedFd>,
    connection: Option<Connection>,
}

impl Port {
    /// A device that is open for reading and writing, without blocking.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn device(fd: OwnedFd) -> io::Result<Port> {
        Ok(Port { listener: None, connection: Some(Connection::new(fd)?) })
    }

    /// A listening socket.
    #[must_use]
    pub fn listener(fd: OwnedFd) -> Port {
        Port { listener: Some(fd), connection: None }
    }

    /// What to poll for readability.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.connection {
            Some(connection) => Some(connection.watch.as_fd()),
            None => self.listener.as_ref().map(OwnedFd::as_fd),
        }
    }

    /// Takes note of what happened, after [`Port::watched`] was ready.
    ///
    /// # Errors
    /// When a host that connects cannot be accepted.
    pub fn note(&mut self) -> io::Result<()> {
        if let Some(connection) = &mut self.connection {
            return connection.note();
        }
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => self.connection = Some(Connection::new(fd)?),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// The stream, when there may be bytes to read.
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().filter(|c| c.is_readable).map(|c| c.fd.as_fd())
    }

    /// The stream, when it may take bytes.
    pub fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().filter(|c| c.is_writable).map(|c| c.fd.as_fd())
    }

    /// A read found nothing more.
    pub fn drained(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.is_readable = false;
        }
    }

    /// A write found no room.
    pub fn filled(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.is_writable = false;
        }
    }

    /// The host is gone: a socket is closed, a device waits for the next host.
    pub fn closed(&mut self) {
        if self.listener.is_some() {
            self.connection = None;
        }
        self.drained();
    }
}

impl Connection {
    fn new(fd: OwnedFd) -> io::Result<Connection> {
        let watch = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&watch, &fd, EventData::new_u64(0), flags)?;
        Ok(Connection { fd, watch, is_readable: true, is_writable: true })
    }

    fn note(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(1);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.watch, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        for event in events {
            let flags = event.flags;
            self.is_writable |= flags.contains(EventFlags::OUT);
            self.is_readable |=
                flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR);
        }
        Ok(())
    }
}
