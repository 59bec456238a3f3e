//! Sessions of a guest, as its agent keeps them: see [`wire::agent::session`]. Nothing of them is kept here.

use bytes::Bytes;
use tokio::sync::Mutex;
use wire::agent::message::{ExecRequest, ExitStatus, Reply, Request};
use wire::agent::session::{
    Piece, RecordError, Records, SessionAttach, SessionRecord, SessionReply, SessionRequest, Source, is_session_name,
};

use super::exec::ExecStream;
use super::link::Opening;
use super::{Guest, GuestError};

impl Guest {
    /// Starts a session.
    ///
    /// # Errors
    /// When the command does not run, or the name is taken.
    pub async fn start_session(&self, name: Option<String>, command: ExecRequest) -> Result<SessionRecord, GuestError> {
        self.one_session(SessionRequest::Start { name, command }).await
    }

    /// All sessions of this boot, in the order in which they were started.
    ///
    /// # Errors
    /// When the guest does not say.
    pub async fn sessions(&self) -> Result<Vec<SessionRecord>, GuestError> {
        match self.call(&Request::Session(SessionRequest::List)).await? {
            Reply::Session(SessionReply::Sessions { mut sessions }) => {
                // No agent of ours has others, and whoever names one back could not mean it.
                sessions.retain(|session| is_session_name(&session.name));
                Ok(sessions)
            }
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Looks at a session. That there is none is said by [`SessionStream::ended`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn attach_session(&self, attach: SessionAttach) -> Result<SessionStream, GuestError> {
        let request = Request::Session(SessionRequest::Attach(attach));
        let stream = ExecStream::new(self.open(Opening::Tree, &request).await?);
        Ok(SessionStream { stream, reading: Mutex::default() })
    }

    /// Opens a way into the input of a session's command.
    ///
    /// # Errors
    /// When the connection is gone; what the guest refuses is said by [`SessionInput::finish`].
    pub async fn send_session(&self, name: &str, ends: bool) -> Result<SessionInput, GuestError> {
        let request = Request::Session(SessionRequest::Send { name: name.to_owned(), ends });
        Ok(SessionInput { stream: ExecStream::new(self.open(Opening::Call, &request).await?) })
    }

    /// Sends a signal to a session's command.
    ///
    /// # Errors
    /// When there is none that runs.
    pub async fn signal_session(&self, name: &str, signal: i32) -> Result<SessionRecord, GuestError> {
        self.one_session(SessionRequest::Signal { name: name.to_owned(), signal }).await
    }

    /// Ends a session's command, by force after `grace_ms`, and waits until it has.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stop_session(&self, name: &str, grace_ms: u64) -> Result<ExitStatus, GuestError> {
        match self.call(&Request::Session(SessionRequest::Stop { name: name.to_owned(), grace_ms })).await? {
            Reply::Exited(status) => Ok(status),
            other => Err(GuestError::unexpected(&other)),
        }
    }

    /// Forgets a session that has ended.
    ///
    /// # Errors
    /// When there is none, or it runs.
    pub async fn forget_session(&self, name: &str) -> Result<SessionRecord, GuestError> {
        self.one_session(SessionRequest::Forget { name: name.to_owned() }).await
    }

    async fn one_session(&self, request: SessionRequest) -> Result<SessionRecord, GuestError> {
        match self.call(&Request::Session(request)).await? {
            Reply::Session(SessionReply::Session(record)) if is_session_name(&record.name) => Ok(record),
            other => Err(GuestError::unexpected(&other)),
        }
    }
}

/// What came of a session's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Bytes the command printed.
    Bytes(Source, Bytes),
    /// So many bytes came too fast and are missing here.
    Skipped(u64),
}

/// A session that is looked at. Dropping it leaves the session as it is.
#[derive(Debug)]
pub struct SessionStream {
    stream: ExecStream,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    records: Records,
    unread: Bytes,
}

impl SessionStream {
    /// Where input, its end and sizes go.
    #[must_use]
    pub fn input(&self) -> &ExecStream {
        &self.stream
    }

    /// The next output; `None` at its end. Can be cancelled: nothing is lost then.
    ///
    /// # Errors
    /// When the connection ended before the output did, or what came is no output of a session.
    pub async fn read(&self) -> Result<Option<Shown>, GuestError> {
        let mut reading = self.reading.lock().await;
        loop {
            if let Some(shown) = reading.next()? {
                return Ok(Some(shown));
            }
            match self.stream.read_output().await? {
                Some(bytes) => reading.unread = bytes,
                None => return Ok(None),
            }
        }
    }

    /// How the command ended; none when only what is kept was to be shown.
    ///
    /// # Errors
    /// When there is no such session, or the connection is gone.
    pub async fn ended(&self) -> Result<Option<ExitStatus>, GuestError> {
        match self.stream.reply().await? {
            Reply::Exited(status) => Ok(Some(status)),
            Reply::Done { .. } => Ok(None),
            other => Err(GuestError::unexpected(&other)),
        }
    }
}

impl Reading {
    fn next(&mut self) -> Result<Option<Shown>, RecordError> {
        let mut rest = &self.unread[..];
        let piece = self.records.next(&mut rest)?;
        let shown = piece.map(|piece| match piece {
            Piece::Bytes(source, bytes) => Shown::Bytes(source, self.unread.slice_ref(bytes)),
            Piece::Skipped(count) => Shown::Skipped(count),
        });
        self.unread = self.unread.slice_ref(rest);
        Ok(shown)
    }
}

/// Bytes on their way into a session. Dropping it before its end gives up what the command has not taken yet.
#[derive(Debug)]
pub struct SessionInput {
    stream: ExecStream,
}

impl SessionInput {
    /// Sends more; false when the guest takes none, which [`SessionInput::finish`] explains.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write(&self, bytes: Bytes) -> Result<bool, GuestError> {
        self.stream.write(bytes).await
    }

    /// Waits until the command has taken all of it; how many bytes that were.
    ///
    /// # Errors
    /// When there is no such session, or it takes no input any more.
    pub async fn finish(self) -> Result<u64, GuestError> {
        self.stream.close_input();
        match self.stream.reply().await? {
            Reply::Done { bytes } => Ok(bytes),
            other => Err(GuestError::unexpected(&other)),
        }
    }
}
