//! The byte stream to the host: a virtio-serial port that never closes, a connection that is made again whenever it is lost
//! (vsock), or a Unix socket that accepts one host at a time.
//!
//! All are watched edge-triggered: a virtio-serial port without a host is "hung up" for as long as nobody connects, which
//! a level-triggered poll would report for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

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

/// How soon a lost connection is made again; doubled with every attempt in vain.
const REDIAL_AFTER: Duration = Duration::from_millis(5);
/// The longest of these times: a host that is there again is not kept waiting.
const REDIAL_AFTER_MAX: Duration = Duration::from_millis(320);

/// Where connections come from.
#[derive(Debug)]
enum Source {
    /// The one there is, is there for ever.
    Device,
    /// Hosts connect.
    Listener(OwnedFd),
    /// We do.
    Dialer(Dialer),
}

/// Begins to make a connection, without waiting.
pub type Dial = Box<dyn Fn() -> io::Result<OwnedFd>>;

/// Makes connections.
struct Dialer {
    dial: Dial,
    /// When to do so next.
    at: Instant,
    /// How long to wait after the next attempt in vain.
    pause: Duration,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("at", &self.at).field("pause", &self.pause).finish_non_exhaustive()
    }
}

impl Dialer {
    /// A connection is lost, or was none.
    fn wait(&mut self, now: Instant) {
        self.at = now + self.pause;
        self.pause = (self.pause * 2).min(REDIAL_AFTER_MAX);
    }
}

/// The channel to the host.
#[derive(Debug)]
pub struct Port {
    source: Source,
    connection: Option<Connection>,
}

impl Port {
    /// A device that is open for reading and writing, without blocking.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn device(fd: OwnedFd) -> io::Result<Port> {
        Ok(Port { source: Source::Device, connection: Some(Connection::new(fd)?) })
    }

    /// A listening socket.
    #[must_use]
    pub fn listener(fd: OwnedFd) -> Port {
        Port { source: Source::Listener(fd), connection: None }
    }

    /// A connection that `dial` begins to make, now and whenever it is lost.
    #[must_use]
    pub fn dialer(dial: Dial, now: Instant) -> Port {
        Port { source: Source::Dialer(Dialer { dial, at: now, pause: REDIAL_AFTER }), connection: None }
    }

    /// When [`Port::dial`] has something to do; none while there is a connection, or it is not ours to make.
    #[must_use]
    pub fn dials_at(&self) -> Option<Instant> {
        match &self.source {
            Source::Dialer(dialer) if self.connection.is_none() => Some(dialer.at),
            Source::Dialer(_) | Source::Device | Source::Listener(_) => None,
        }
    }

    /// Begins to make the connection, if it is time to.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn dial(&mut self, now: Instant) -> io::Result<()> {
        let Source::Dialer(dialer) = &mut self.source else {
            return Ok(());
        };
        if self.connection.is_some() || now < dialer.at {
            return Ok(());
        }
        match (dialer.dial)() {
            Ok(fd) => self.connection = Some(Connection::begun(fd)?),
            // The VMM may not have set the device up yet.
            Err(_) => dialer.wait(now),
        }
        Ok(())
    }

    /// What to poll for readability.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.connection {
            Some(connection) => Some(connection.watch.as_fd()),
            None => match &self.source {
                Source::Listener(listener) => Some(listener.as_fd()),
                Source::Device | Source::Dialer(_) => None,
            },
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
        let Source::Listener(listener) = &self.source else {
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

    /// Something was read: whoever is connected to is there, and the next time is dialled at once.
    pub fn heard(&mut self) {
        if let Source::Dialer(dialer) = &mut self.source {
            dialer.pause = REDIAL_AFTER;
        }
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
    pub fn closed(&mut self, now: Instant) {
        match &mut self.source {
            Source::Device => {}
            Source::Listener(_) => self.connection = None,
            Source::Dialer(dialer) => {
                self.connection = None;
                dialer.wait(now);
            }
        }
        self.drained();
    }
}

impl Connection {
    /// One that is not made yet: nothing is known of it until it has told.
    fn begun(fd: OwnedFd) -> io::Result<Connection> {
        Ok(Connection { is_readable: false, is_writable: false, ..Connection::new(fd)? })
    }

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
