//! One stream, shared by the task that owns the connection and by whoever opened it.
//!
//! What arrives lies in at most one window of bytes a channel; taking it grants the guest as much again. What goes out
//! waits for the guest's credit *here*, so that the connection never holds bytes a guest does not want.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use wire::agent::WINDOW_BYTES;
use wire::agent::frame::{Channel, DATA_MAX, Head, Kind};
use wire::agent::message::Reply;

use super::GuestError;
use super::connection::{Command, Handle};
use super::link::{Ending, Opening};
use super::uses::Using;

/// Consumed bytes are granted anew in pieces of this: few frames, and the window never runs dry before one is sent.
const GRANT_BYTES: u32 = WINDOW_BYTES / 4;

/// What the two sides of a stream share.
#[derive(Debug)]
pub(crate) struct Shared {
    cell: Mutex<Cell>,
    /// Credit came.
    input: Notify,
    /// Bytes or an end came.
    output: Notify,
    error: Notify,
    /// A reply came.
    reply: Notify,
}

#[derive(Debug, Default)]
struct Cell {
    credit: u64,
    /// The guest takes no more input.
    input_closed: bool,
    output: Pipe,
    error: Pipe,
    started: Option<u32>,
    ended: Option<Result<Reply, GuestError>>,
}

/// Bytes that arrived and were not taken.
#[derive(Debug, Default)]
struct Pipe {
    bytes: BytesMut,
    eof: bool,
    /// Taken, not yet granted anew.
    taken: u32,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        let cell = Cell { credit: u64::from(WINDOW_BYTES), ..Cell::default() };
        Shared {
            cell: Mutex::new(cell),
            input: Notify::new(),
            output: Notify::new(),
            error: Notify::new(),
            reply: Notify::new(),
        }
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        // Nothing that runs under the lock can panic half way through a change.
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn arrived(&self, channel: Channel, bytes: &[u8]) {
        if let Some(pipe) = self.cell().pipe(channel) {
            pipe.bytes.extend_from_slice(bytes);
        }
        self.of(channel).notify_waiters();
    }

    pub(crate) fn eof(&self, channel: Channel) {
        let mut cell = self.cell();
        match cell.pipe(channel) {
            Some(pipe) => pipe.eof = true,
            None => cell.input_closed = true,
        }
        drop(cell);
        self.of(channel).notify_waiters();
    }

    pub(crate) fn credit(&self, bytes: u32) {
        let mut cell = self.cell();
        cell.credit = cell.credit.saturating_add(u64::from(bytes));
        drop(cell);
        self.input.notify_waiters();
    }

    pub(crate) fn replied(&self, reply: Reply, ending: Ending) {
        match (&reply, ending) {
            (Reply::Started { pid }, Ending::Interim) => {
                self.cell().started = Some(*pid);
                self.reply.notify_waiters();
            }
            _ => self.end(Ok(reply)),
        }
    }

    /// The stream is over; the first end counts.
    pub(crate) fn end(&self, how: Result<Reply, GuestError>) {
        self.cell().ended.get_or_insert(how);
        for waiters in [&self.input, &self.output, &self.error, &self.reply] {
            waiters.notify_waiters();
        }
    }

    fn of(&self, channel: Channel) -> &Notify {
        match channel {
            Channel::Input => &self.input,
            Channel::Output => &self.output,
            Channel::Error => &self.error,
        }
    }

    /// Waits until `ready` gives something. Cancel-safe: nothing is taken before it is given.
    async fn until<T>(&self, changed: &Notify, mut ready: impl FnMut(&mut Cell) -> Option<T>) -> T {
        loop {
            let waiting = changed.notified();
            tokio::pin!(waiting);
            waiting.as_mut().enable();
            if let Some(value) = ready(&mut self.cell()) {
                return value;
            }
            waiting.await;
        }
    }
}

impl Cell {
    fn pipe(&mut self, channel: Channel) -> Option<&mut Pipe> {
        match channel {
            Channel::Input => None,
            Channel::Output => Some(&mut self.output),
            Channel::Error => Some(&mut self.error),
        }
    }
}

/// An open stream. Dropping it tells the guest to give it up.
#[derive(Debug)]
pub(crate) struct Stream {
    number: u32,
    shared: Arc<Shared>,
    handle: Handle,
    _using: Option<Using>,
}

impl Stream {
    pub(crate) async fn open(
        handle: Handle,
        opening: Opening,
        payload: Vec<u8>,
        using: Option<Using>,
    ) -> Result<Stream, GuestError> {
        let shared = Arc::new(Shared::new());
        let number = handle.open(opening, payload, Arc::clone(&shared)).await?;
        Ok(Stream { number, shared, handle, _using: using })
    }

    fn head(&self, kind: Kind, channel: Channel) -> Head {
        Head { kind, channel, stream: self.number }
    }

    /// Waits for the process id of a command.
    pub(crate) async fn started(&self) -> Result<u32, GuestError> {
        self.shared
            .until(&self.shared.reply, |cell| match (cell.started, &cell.ended) {
                (Some(pid), _) => Some(Ok(pid)),
                (None, Some(Ok(Reply::Started { pid }))) => Some(Ok(*pid)),
                (None, Some(Ok(Reply::Failed(failure)))) => Some(Err(GuestError::Failed(failure.clone()))),
                (None, Some(Ok(other))) => Some(Err(GuestError::unexpected(other))),
                (None, Some(Err(error))) => Some(Err(error.clone())),
                (None, None) => None,
            })
            .await
    }

    /// Waits for the final reply.
    pub(crate) async fn ended(&self) -> Result<Reply, GuestError> {
        let ended = self.shared.until(&self.shared.reply, |cell| cell.ended.clone()).await?;
        match ended {
            Reply::Failed(failure) => Err(GuestError::Failed(failure)),
            other => Ok(other),
        }
    }

    /// Waits for the next bytes of a channel; `None` at its end.
    pub(crate) async fn read(&self, channel: Channel) -> Result<Option<Bytes>, GuestError> {
        let (chunk, grant) = self
            .shared
            .until(self.shared.of(channel), |cell| {
                let ended = cell.ended.clone();
                let pipe = cell.pipe(channel)?;
                if !pipe.bytes.is_empty() {
                    let chunk = pipe.bytes.split_to(pipe.bytes.len().min(DATA_MAX)).freeze();
                    pipe.taken += u32::try_from(chunk.len()).expect("a chunk is at most DATA_MAX");
                    let due = pipe.taken >= GRANT_BYTES && !pipe.eof && ended.is_none();
                    return Some(Ok((Some(chunk), if due { std::mem::take(&mut pipe.taken) } else { 0 })));
                }
                match ended {
                    _ if pipe.eof => Some(Ok((None, 0))),
                    Some(Ok(_)) => Some(Ok((None, 0))),
                    Some(Err(error)) => Some(Err(error)),
                    None => None,
                }
            })
            .await?;
        if grant > 0 {
            self.handle.send(Command::Grant { stream: self.number, channel, bytes: grant });
        }
        Ok(chunk)
    }

    /// Hands bytes to the connection as far as the guest takes them; false when it takes no more.
    pub(crate) async fn write(&self, mut bytes: Bytes) -> Result<bool, GuestError> {
        while !bytes.is_empty() {
            if !self.writable().await? {
                return Ok(false);
            }
            let room = self.handle.room(bytes.len().min(DATA_MAX)).await?;
            let Some(count) = self.take_credit(bytes.len().min(DATA_MAX)) else {
                continue;
            };
            let payload = bytes.split_to(count);
            self.handle.send(Command::Frame { head: self.head(Kind::Data, Channel::Input), payload, room: Some(room) });
        }
        Ok(true)
    }

    /// Waits until the guest takes input; false when it takes no more.
    pub(crate) async fn writable(&self) -> Result<bool, GuestError> {
        self.shared
            .until(&self.shared.input, |cell| match &cell.ended {
                Some(Ok(_)) => Some(Ok(false)),
                Some(Err(error)) => Some(Err(error.clone())),
                None if cell.input_closed => Some(Ok(false)),
                None if cell.credit > 0 => Some(Ok(true)),
                None => None,
            })
            .await
    }

    fn take_credit(&self, most: usize) -> Option<usize> {
        let mut cell = self.shared.cell();
        let count = most.min(usize::try_from(cell.credit).unwrap_or(usize::MAX));
        cell.credit -= u64::try_from(count).expect("it was made from this");
        (count > 0).then_some(count)
    }

    /// No more input follows.
    pub(crate) fn close_input(&self) {
        let head = self.head(Kind::Eof, Channel::Input);
        self.handle.send(Command::Frame { head, payload: Bytes::new(), room: None });
    }

    /// Sends a control message.
    pub(crate) async fn control(&self, payload: Vec<u8>) -> Result<(), GuestError> {
        let room = self.handle.room(payload.len()).await?;
        let head = self.head(Kind::Control, Channel::Input);
        self.handle.send(Command::Frame { head, payload: payload.into(), room: Some(room) });
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.shared.cell().ended.is_none() {
            self.handle.send(Command::Reset { stream: self.number });
        }
    }
}
