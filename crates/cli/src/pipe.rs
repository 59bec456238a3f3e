//! Between threads that read and write files and the task that speaks to the daemon: bytes in pieces, few of them at once.
//!
//! | | written by | read by |
//! |---|---|---|
//! | [`filled_by`] | a thread, through [`Pipe`] | a request's body |
//! | [`read_by`] | the task, through [`Feed`] | a thread, as [`Drawn`] |

use std::io::{self, Read, Write};
use std::thread;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use crate::client::Chunks;

/// Bytes of one piece.
const CHUNK_BYTES: usize = 128 * 1024;

/// Pieces on their way.
const QUEUE: usize = 4;

/// A request's body that `fill` writes in a thread of its own; an error of it breaks the request off.
pub(crate) fn filled_by(fill: impl FnOnce(Pipe) -> io::Result<()> + Send + 'static) -> Chunks {
    let (sender, receiver) = mpsc::channel(QUEUE);
    thread::spawn(move || {
        let pipe = Pipe { sender: sender.clone(), buffer: BytesMut::with_capacity(CHUNK_BYTES) };
        if let Err(error) = fill(pipe) {
            // When the other side is gone, it knows why itself.
            drop(sender.blocking_send(Err(error)));
        }
    });
    Chunks(receiver)
}

/// The writing end of a request's body. What is written goes out in whole pieces, and the rest when it is flushed.
pub(crate) struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK_BYTES)).freeze();
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Runs `read` in a thread of its own on what is fed to it.
pub(crate) fn read_by<T: Send + 'static>(read: impl FnOnce(Drawn) -> T + Send + 'static) -> Feed<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (outcome, result) = oneshot::channel();
    thread::spawn(move || {
        let got = read(Drawn { receiver, rest: Bytes::new() });
        // Whoever stopped listening does not want it.
        drop(outcome.send(got));
    });
    Feed { sender, result }
}

/// Feeds a thread. When it is dropped, the thread reads an end.
pub(crate) struct Feed<T> {
    sender: mpsc::Sender<Bytes>,
    result: oneshot::Receiver<T>,
}

impl<T> Feed<T> {
    /// Gives it bytes; false when it wants no more.
    pub(crate) async fn put(&self, bytes: Bytes) -> bool {
        self.sender.send(bytes).await.is_ok()
    }

    /// Ends what it reads and waits for its result; none when the thread died.
    pub(crate) async fn finish(self) -> Option<T> {
        drop(self.sender);
        self.result.await.ok()
    }
}

/// The reading end of a [`Feed`].
pub(crate) struct Drawn {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Drawn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.split_to(count).copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
