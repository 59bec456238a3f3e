//! A command in a guest: its bytes, its signals, its end.

use bytes::Bytes;
use wire::agent::frame::Channel;
use wire::agent::message::{Control, ExitStatus, Reply};

use super::GuestError;
use super::stream::Stream;

/// One command. Dropping it before its end tells the guest to give it up, which ends the command.
///
/// Every method takes `&self`, and reading, writing and waiting go on side by side: `select!` over them. Reading and
/// waiting can be cancelled at any time; a cancelled [`ExecStream::write`] may have written a part.
#[derive(Debug)]
pub struct ExecStream {
    stream: Stream,
}

impl ExecStream {
    pub(super) fn new(stream: Stream) -> ExecStream {
        ExecStream { stream }
    }

    /// Waits until the command runs; its process id in the guest.
    ///
    /// # Errors
    /// When it does not run: [`GuestError::Failed`] says why.
    pub async fn started(&self) -> Result<u32, GuestError> {
        self.stream.started().await
    }

    /// Writes to the command's input; returns when the guest has room for all of it and it is on its way. False when the
    /// command takes no more input.
    ///
    /// # Errors
    /// When the command failed to run or the guest is gone.
    pub async fn write(&self, bytes: Bytes) -> Result<bool, GuestError> {
        self.stream.write(bytes).await
    }

    /// Ends the command's input. Nothing may be written after it.
    pub fn close_input(&self) {
        self.stream.close_input();
    }

    /// The next bytes of standard output, or of the terminal, at most 64 KiB; `None` at its end.
    ///
    /// # Errors
    /// When the connection ended before the output did.
    pub async fn read_output(&self) -> Result<Option<Bytes>, GuestError> {
        self.stream.read(Channel::Output).await
    }

    /// The next bytes of standard error, at most 64 KiB; `None` at its end.
    ///
    /// # Errors
    /// When the connection ended before the output did.
    pub async fn read_error(&self) -> Result<Option<Bytes>, GuestError> {
        self.stream.read(Channel::Error).await
    }

    /// Resizes the terminal or sends a signal. One that comes after the command's end is dropped.
    ///
    /// # Errors
    /// When the guest is gone.
    pub async fn control(&self, control: Control) -> Result<(), GuestError> {
        let payload = serde_json::to_vec(&control).expect("every control has a form in JSON");
        self.stream.control(payload).await
    }

    /// Waits for the command's end. Its output was complete before that and can still be read.
    ///
    /// # Errors
    /// When it did not run, or nobody can tell how it ended.
    pub async fn exited(&self) -> Result<ExitStatus, GuestError> {
        match self.reply().await? {
            Reply::Exited(status) => Ok(status),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Waits for the final reply, whatever it is.
    pub(super) async fn reply(&self) -> Result<Reply, GuestError> {
        self.stream.ended().await
    }
}
