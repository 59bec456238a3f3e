//! The task that owns one connection to a guest's agent: reads what the guest says, writes what it is told to.
//!
//! ```text
//!   Guest, streams ── Command ──► task ── frames ──► socket
//!   Shared of each stream ◄── bytes, credit, replies ── Link::consume ◄── socket
//! ```
//! A connection that may break is held first ([`Opening::Hold`]): nothing more is written, and what it is told waits,
//! until it goes on, over the same socket or over another one.
//!
//! Commands that carry bytes hold a share of [`QUEUE_BYTES`] until they are written, so the queue is bounded however
//! many streams write. Nothing here waits for a stream: what arrives goes into the stream's own window.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use wire::agent::STREAMS_MAX;
use wire::agent::frame::{Channel, FROM_HOST_MAX, Head, Kind, NONCE_BYTES};
use wire::agent::message::Event;

use super::GuestError;
use super::link::{Incoming, Link, Opening, Violation};
use super::outbox::Outbox;
use super::stream::Shared;

/// Bytes waiting to be written, of all streams together; one of the largest requests fits.
const QUEUE_BYTES: usize = FROM_HOST_MAX;
/// Bytes read at once: several of the largest frames.
const READ_BYTES: usize = 256 * 1024;
/// Commands taken before the socket is looked at again.
const COMMANDS_AT_ONCE: usize = 256;
/// Events kept for a listener that is slow.
const EVENTS_KEPT: usize = 128;

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        stream: u32,
        opening: Opening,
        payload: Bytes,
        shared: Arc<Shared>,
        room: Option<OwnedSemaphorePermit>,
        slot: OwnedSemaphorePermit,
    },
    Frame {
        head: Head,
        payload: Bytes,
        room: Option<OwnedSemaphorePermit>,
    },
    Grant {
        stream: u32,
        channel: Channel,
        bytes: u32,
    },
    Reset {
        stream: u32,
    },
    /// The agent has come back over another socket, and what it said behind its hello.
    GoOn {
        socket: UnixStream,
        unread: Vec<u8>,
    },
    /// It is over, although neither end has noticed.
    End,
    /// It is held no longer than until then: it goes on over the socket there is, if that has not broken.
    Release {
        at: Instant,
    },
}

/// Reaches the task.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    next_stream: Arc<AtomicU32>,
    slots: Arc<Semaphore>,
    room: Arc<Semaphore>,
    ended: watch::Receiver<Option<GuestError>>,
    nonce: [u8; NONCE_BYTES],
    is_held: Arc<AtomicBool>,
}

impl Handle {
    /// What the agent knows this connection by.
    pub(crate) fn nonce(&self) -> [u8; NONCE_BYTES] {
        self.nonce
    }

    /// Whether it may go on over another socket.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::SeqCst)
    }

    /// Sends; when the task is gone there is nobody left to tell, and every stream has been ended with the reason.
    pub(crate) fn send(&self, command: Command) {
        if let Err(mpsc::error::SendError(Command::Open { shared, .. })) = self.commands.send(command) {
            shared.end(Err(self.reason()));
        }
    }

    /// Room in the queue for `bytes`.
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, GuestError> {
        let share = u32::try_from(bytes.min(QUEUE_BYTES)).expect("QUEUE_BYTES fits");
        Arc::clone(&self.room).acquire_many_owned(share).await.map_err(|_| self.reason())
    }

    pub(crate) async fn open(
        &self,
        opening: Opening,
        payload: Vec<u8>,
        shared: Arc<Shared>,
    ) -> Result<u32, GuestError> {
        if payload.len() > FROM_HOST_MAX {
            return Err(GuestError::TooLarge { bytes: payload.len(), max: FROM_HOST_MAX });
        }
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| self.busy_or_ended())?;
        let room = Some(self.room(payload.len()).await?);
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Open { stream, opening, payload: payload.into(), shared, room, slot });
        Ok(stream)
    }

    fn busy_or_ended(&self) -> GuestError {
        self.ended.borrow().clone().unwrap_or(GuestError::Busy)
    }

    /// Why the connection ended.
    fn reason(&self) -> GuestError {
        self.ended.borrow().clone().unwrap_or(GuestError::Closed)
    }

    /// Waits for the connection's end.
    pub(crate) async fn ended(&self) -> GuestError {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(GuestError::Closed),
            Err(_) => GuestError::Closed,
        }
    }
}

/// Starts the task of a connection whose hello has been read; `unread` is what came behind it.
pub(crate) fn start(
    socket: UnixStream,
    link: Link,
    unread: &[u8],
) -> (Handle, broadcast::Sender<Event>, broadcast::Receiver<Event>) {
    let (commands, receiver) = mpsc::unbounded_channel();
    let (events, first_listener) = broadcast::channel(EVENTS_KEPT);
    let (ended, ended_watch) = watch::channel(None);
    let slots = Arc::new(Semaphore::new(STREAMS_MAX));
    let room = Arc::new(Semaphore::new(QUEUE_BYTES));
    let outbox = Outbox::new(link.tag());
    let is_held = Arc::new(AtomicBool::new(false));
    let input = Input::holding(unread);
    let handle = Handle {
        commands,
        next_stream: Arc::new(AtomicU32::new(1)),
        slots: Arc::clone(&slots),
        room: Arc::clone(&room),
        ended: ended_watch,
        nonce: link.nonce(),
        is_held: Arc::clone(&is_held),
    };
    let task = Connection {
        socket,
        link,
        outbox,
        input,
        streams: HashMap::new(),
        events: events.clone(),
        commands: receiver,
        hold: None,
        is_held,
    };
    crate::supervise::spawn("agent connection", async move {
        let (mut task, reason) = task.run().await;
        tracing::debug!(%reason, "the connection to a guest's agent ended");
        ended.send_replace(Some(reason.clone()));
        room.close();
        slots.close();
        task.end_streams(&reason);
    });
    (handle, events, first_listener)
}

struct Connection {
    socket: UnixStream,
    link: Link,
    outbox: Outbox,
    input: Input,
    streams: HashMap<u32, Entry>,
    events: broadcast::Sender<Event>,
    commands: mpsc::UnboundedReceiver<Command>,
    hold: Option<Hold>,
    is_held: Arc<AtomicBool>,
}

/// A connection that is held.
#[derive(Default)]
struct Hold {
    /// What it was told meanwhile.
    waiting: Vec<Command>,
    /// Its socket broke.
    broke: bool,
    /// How long it is.
    until: Option<Instant>,
}

struct Entry {
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(mut self) -> (Connection, GuestError) {
        // What came behind the hello.
        let mut outcome = self.deliver();
        let reason = loop {
            if let Err(reason) = outcome {
                break reason;
            }
            outcome = self.turn().await;
        };
        (self, reason)
    }

    /// Waits for one thing and does it.
    async fn turn(&mut self) -> Result<(), GuestError> {
        let until = self.hold.as_ref().and_then(|hold| hold.until);
        let works = !self.hold.as_ref().is_some_and(|hold| hold.broke);
        tokio::select! {
            command = self.commands.recv() => {
                self.take(command.ok_or(GuestError::Closed)?)?;
                for _ in 1..COMMANDS_AT_ONCE {
                    let Ok(command) = self.commands.try_recv() else { break };
                    self.take(command)?;
                }
            }
            ready = self.socket.readable(), if works => {
                let read = ready
                    .map_err(GuestError::channel)
                    .and_then(|()| self.input.fill(|buffer| self.socket.try_read(buffer)));
                self.bear(read)?;
            }
            ready = self.socket.writable(), if works && !self.outbox.is_empty() => ready.map_err(GuestError::channel)?,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                if !works {
                    return Err(GuestError::Closed);
                }
                self.go_on()?;
            }
        }
        self.deliver()?;
        let written = self.outbox.flush(|slices| self.socket.try_write_vectored(slices)).map_err(GuestError::channel);
        self.bear(written.map(drop))
    }

    /// A socket that breaks is no end while the connection is held.
    fn bear(&mut self, done: Result<(), GuestError>) -> Result<(), GuestError> {
        match (done, &mut self.hold) {
            (Err(error), Some(hold)) => {
                tracing::debug!(%error, "a held connection broke");
                hold.broke = true;
                Ok(())
            }
            (done, _) => done,
        }
    }

    /// Obeys, or puts off until the connection goes on.
    fn take(&mut self, command: Command) -> Result<(), GuestError> {
        match (command, &mut self.hold) {
            (Command::End, _) => return Err(GuestError::Closed),
            (Command::GoOn { socket, unread }, Some(_)) => {
                self.socket = socket;
                self.input = Input::holding(&unread);
                self.go_on()?;
            }
            (Command::Release { at }, Some(hold)) => hold.until = Some(at),
            // It went on already, or never was held.
            (Command::GoOn { .. } | Command::Release { .. }, None) => {}
            (command, Some(hold)) => hold.waiting.push(command),
            (command, None) => self.apply(command),
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<(), GuestError> {
        self.is_held.store(false, Ordering::SeqCst);
        let waiting = self.hold.take().map(|hold| hold.waiting).unwrap_or_default();
        waiting.into_iter().try_for_each(|command| self.take(command))
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Open { stream, opening, payload, shared, room, slot } => {
                let head = Head { kind: Kind::Open, channel: Channel::Input, stream };
                if stream == 0 || self.streams.contains_key(&stream) {
                    // Only after four thousand million streams; the number is skipped.
                    shared.end(Err(GuestError::Busy));
                    return;
                }
                self.link.open(stream, opening);
                self.streams.insert(stream, Entry { shared, _slot: slot });
                self.outbox.frame(head, payload, room);
                if opening == Opening::Hold {
                    self.hold = Some(Hold::default());
                    self.is_held.store(true, Ordering::SeqCst);
                }
            }
            // `take` has seen to these.
            Command::GoOn { .. } | Command::Release { .. } | Command::End => {}
            Command::Frame { head, payload, room } => {
                if self.link.is_open(head.stream) {
                    self.link.sent(head.stream, if head.kind == Kind::Data { payload.len() } else { 0 });
                    self.outbox.frame(head, payload, room);
                }
            }
            Command::Grant { stream, channel, bytes } => {
                if self.link.is_open(stream) {
                    self.link.grant(stream, channel, bytes);
                    let head = Head { kind: Kind::Credit, channel, stream };
                    self.outbox.frame(head, Bytes::copy_from_slice(&bytes.to_le_bytes()), None);
                }
            }
            Command::Reset { stream } => {
                if self.link.is_open(stream) {
                    self.link.reset(stream);
                    self.streams.remove(&stream);
                    let head = Head { kind: Kind::Reset, channel: Channel::Input, stream };
                    self.outbox.frame(head, Bytes::new(), None);
                }
            }
        }
    }

    fn deliver(&mut self) -> Result<(), GuestError> {
        let Connection { link, input, streams, events, .. } = self;
        input.consume(link, &mut |incoming| match incoming {
            // The link lets no second hello pass, and the first was read before the task began.
            Incoming::Hello(_) => {}
            Incoming::Event(event) => {
                // Nobody listening is no error: events are news, not state.
                let _listeners = events.send(event);
            }
            Incoming::Reply { stream, reply, ending } => {
                if ending == super::link::Ending::Final {
                    if let Some(entry) = streams.remove(&stream) {
                        entry.shared.replied(reply, ending);
                    }
                } else if let Some(entry) = streams.get(&stream) {
                    entry.shared.replied(reply, ending);
                }
            }
            Incoming::Data { stream, channel, bytes } => {
                if let Some(entry) = streams.get(&stream) {
                    entry.shared.arrived(channel, bytes);
                }
            }
            Incoming::Eof { stream, channel } => {
                if let Some(entry) = streams.get(&stream) {
                    entry.shared.eof(channel);
                }
            }
            Incoming::Credit { stream, bytes } => {
                if let Some(entry) = streams.get(&stream) {
                    entry.shared.credit(bytes);
                }
            }
            Incoming::Reset { stream } => {
                if let Some(entry) = streams.remove(&stream) {
                    entry.shared.end(Err(GuestError::GaveUp));
                }
            }
        })?;
        Ok(())
    }

    /// Ends what is open and what was still to be opened.
    fn end_streams(&mut self, reason: &GuestError) {
        for (_, entry) in self.streams.drain() {
            entry.shared.end(Err(reason.clone()));
        }
        self.commands.close();
        let waiting = self.hold.take().map(|hold| hold.waiting).unwrap_or_default();
        let queued = std::iter::from_fn(|| self.commands.try_recv().ok());
        for command in waiting.into_iter().chain(queued) {
            if let Command::Open { shared, .. } = command {
                shared.end(Err(reason.clone()));
            }
        }
    }
}

/// Bytes read and not understood yet: less than one frame between two reads.
pub(crate) struct Input {
    buffer: Vec<u8>,
    filled: usize,
}

impl Input {
    pub(crate) fn new() -> Input {
        Input { buffer: vec![0; READ_BYTES], filled: 0 }
    }

    fn holding(bytes: &[u8]) -> Input {
        let mut input = Input::new();
        input.buffer[..bytes.len()].copy_from_slice(bytes);
        input.filled = bytes.len();
        input
    }

    /// What is not understood yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Reads once; that nothing is there is no error, that the peer is gone is one.
    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Result<(), GuestError> {
        match read(&mut self.buffer[self.filled..]) {
            Ok(0) => Err(GuestError::Closed),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(GuestError::channel(error)),
        }
    }

    /// Lets the link read it and keeps what it leaves.
    pub(crate) fn consume(&mut self, link: &mut Link, deliver: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Violation> {
        if self.filled == 0 {
            return Ok(());
        }
        let done = link.consume(&self.buffer[..self.filled], sys::clock::monotonic(), deliver)?;
        self.buffer.copy_within(done..self.filled, 0);
        self.filled -= done;
        Ok(())
    }
}
