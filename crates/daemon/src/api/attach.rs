//! The relay of one exec, or of one client of a session: between an upgraded connection and a stream of the guest.
//!
//! ```text
//! client ── Input ──► queue (≤ the window granted) ──► guest        granted again as the guest takes it
//! client ── Resize, Signal ──────────────────────────► guest        never behind input
//! client ◄── Output, Error ──────────────────────────── guest       taken only as fast as the client reads
//! client ◄── Skipped ────────────────────────────────── guest       a session's client that was too slow
//! client ◄── Ended
//! ```
//! A client that goes away takes its command with it: dropping the guest's stream resets it. A session is only left.

use std::pin::pin;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use wire::agent::WINDOW_BYTES;
use wire::agent::message::{Control, TerminalSize};
use wire::agent::session::Source;
use wire::attach::{self, AttachError, Ended, HEADER_BYTES, Kind};

use super::error::guest_error;
use crate::guest::session::{SessionStream, Shown};
use crate::guest::{ExecStream, GuestError};

/// Input messages on their way to the guest: more than a window holds, because empty ones cost nothing of it.
const INPUT_QUEUE: usize = 64;

/// What a client did that ends the relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// It went away, or its connection broke.
    #[error("the client went away")]
    Client(#[from] std::io::Error),
    /// It does not speak the protocol.
    #[error("the client broke the protocol")]
    Protocol(#[from] AttachError),
    /// It sent more input than it was granted.
    #[error("the client sent more input than it was granted")]
    Window,
}

/// Relays until the command has ended or the client is gone. `begun` waits until the command runs, and gives up a guest that
/// stands still; one that does so later ends nothing, because it may be paused on purpose.
///
/// # Errors
/// When the client went away or broke the protocol; the command is then given up.
pub(crate) async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    stream: &ExecStream,
    begun: impl Future<Output = Result<u32, GuestError>>,
) -> Result<(), RelayError> {
    let (reader, mut writer) = tokio::io::split(client);
    let (grant, granted) = mpsc::channel::<u32>(INPUT_QUEUE);
    let outward = async {
        let ended = output(&mut writer, stream, granted, begun).await?;
        finish(&mut writer, &ended).await
    };
    both(outward, stream, reader, &grant).await
}

/// Relays until a session's command has ended, all that was to be seen is sent, or the client is gone.
///
/// # Errors
/// When the client went away or broke the protocol; the session goes on.
pub(crate) async fn relay_session(
    client: impl AsyncRead + AsyncWrite + Unpin,
    stream: &SessionStream,
) -> Result<(), RelayError> {
    let (reader, mut writer) = tokio::io::split(client);
    let (grant, granted) = mpsc::channel::<u32>(INPUT_QUEUE);
    let outward = async {
        let ended = session_output(&mut writer, stream, granted).await?;
        finish(&mut writer, &ended).await
    };
    both(outward, stream.input(), reader, &grant).await
}

async fn finish(writer: &mut (impl AsyncWrite + Unpin), ended: &Ended) -> std::io::Result<()> {
    let json = serde_json::to_vec(ended).expect("the end of a command has only plain fields");
    send(writer, Kind::Ended, Bytes::from(json)).await?;
    writer.shutdown().await
}

/// Both directions, until one ends.
async fn both(
    outward: impl Future<Output = std::io::Result<()>>,
    stream: &ExecStream,
    reader: impl AsyncRead + Unpin,
    grant: &mpsc::Sender<u32>,
) -> Result<(), RelayError> {
    let (input, queued) = mpsc::channel::<Option<Bytes>>(INPUT_QUEUE);
    let inward = async { tokio::join!(pump(stream, queued, grant), read_client(reader, stream, input)).1 };
    tokio::select! {
        done = outward => done.map_err(RelayError::Client),
        gone = inward => gone,
    }
}

/// Writes a message; header and payload leave together.
async fn send(writer: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: Bytes) -> std::io::Result<()> {
    let length = u32::try_from(payload.len()).expect("a payload is at most one frame of the guest");
    let header = attach::header(kind, length);
    writer.write_all_buf(&mut Buf::chain(&header[..], payload)).await
}

/// Sends what the command prints and what input was taken, until the command has ended.
async fn output(
    writer: &mut (impl AsyncWrite + Unpin),
    stream: &ExecStream,
    mut granted: mpsc::Receiver<u32>,
    begun: impl Future<Output = Result<u32, GuestError>>,
) -> std::io::Result<Ended> {
    send(writer, Kind::InputCredit, Bytes::copy_from_slice(&WINDOW_BYTES.to_le_bytes())).await?;
    let mut begun = pin!(begun);
    let mut has_begun = false;
    let (mut is_out_open, mut is_error_open, mut is_input_open) = (true, true, true);
    while is_out_open || is_error_open {
        tokio::select! {
            bytes = stream.read_output(), if is_out_open => match bytes {
                Ok(Some(bytes)) => send_all(writer, Kind::Output, bytes).await?,
                Ok(None) | Err(_) => is_out_open = false,
            },
            bytes = stream.read_error(), if is_error_open => match bytes {
                Ok(Some(bytes)) => send_all(writer, Kind::Error, bytes).await?,
                Ok(None) | Err(_) => is_error_open = false,
            },
            pid = &mut begun, if !has_begun => match pid {
                Err(error @ GuestError::Stuck { .. }) => return Ok(Ended::Failed { error: guest_error(&error) }),
                // Why it does not run, if it does not, is told by its end.
                Ok(_) | Err(_) => has_begun = true,
            },
            count = granted.recv(), if is_input_open => match count {
                Some(count) => send(writer, Kind::InputCredit, Bytes::copy_from_slice(&count.to_le_bytes())).await?,
                None => is_input_open = false,
            },
        }
    }
    // Why the output ended early, if it did, is told here too.
    Ok(match stream.exited().await {
        Ok(status) => Ended::Exited { status },
        Err(error) => Ended::Failed { error: guest_error(&error) },
    })
}

/// The same of a session, whose two streams come in the order in which they were printed.
async fn session_output(
    writer: &mut (impl AsyncWrite + Unpin),
    stream: &SessionStream,
    mut granted: mpsc::Receiver<u32>,
) -> std::io::Result<Ended> {
    send(writer, Kind::InputCredit, Bytes::copy_from_slice(&WINDOW_BYTES.to_le_bytes())).await?;
    let mut is_input_open = true;
    loop {
        tokio::select! {
            shown = stream.read() => match shown {
                Ok(Some(Shown::Bytes(Source::Output, bytes))) => send_all(writer, Kind::Output, bytes).await?,
                Ok(Some(Shown::Bytes(Source::Error, bytes))) => send_all(writer, Kind::Error, bytes).await?,
                Ok(Some(Shown::Skipped(count))) => {
                    send(writer, Kind::Skipped, Bytes::copy_from_slice(&count.to_le_bytes())).await?;
                }
                Ok(None) => break,
                Err(error @ GuestError::Records(_)) => return Ok(Ended::Failed { error: guest_error(&error) }),
                // Why the output ended early is told below.
                Err(_) => break,
            },
            count = granted.recv(), if is_input_open => match count {
                Some(count) => send(writer, Kind::InputCredit, Bytes::copy_from_slice(&count.to_le_bytes())).await?,
                None => is_input_open = false,
            },
        }
    }
    Ok(match stream.ended().await {
        Ok(Some(status)) => Ended::Exited { status },
        Ok(None) => Ended::Read,
        Err(error) => Ended::Failed { error: guest_error(&error) },
    })
}

async fn send_all(writer: &mut (impl AsyncWrite + Unpin), kind: Kind, mut bytes: Bytes) -> std::io::Result<()> {
    while bytes.len() > attach::PAYLOAD_MAX {
        send(writer, kind, bytes.split_to(attach::PAYLOAD_MAX)).await?;
    }
    send(writer, kind, bytes).await
}

/// Gives queued input to the guest and grants the client as much again.
async fn pump(stream: &ExecStream, mut queued: mpsc::Receiver<Option<Bytes>>, grant: &mpsc::Sender<u32>) {
    while let Some(item) = queued.recv().await {
        let Some(bytes) = item else {
            stream.close_input();
            continue;
        };
        let count = u32::try_from(bytes.len()).expect("a payload is far below 4 GiB");
        // A command that takes no more input gets none; what it does with its output goes on.
        let is_taken = stream.write(bytes).await.unwrap_or(false);
        if !is_taken || grant.send(count).await.is_err() {
            queued.close();
            while queued.recv().await.is_some() {}
            return;
        }
    }
}

/// Reads the client until it goes away. Ends only with the reason.
async fn read_client(
    mut reader: impl AsyncRead + Unpin,
    stream: &ExecStream,
    input: mpsc::Sender<Option<Bytes>>,
) -> Result<(), RelayError> {
    loop {
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header).await?;
        let (kind, length) = attach::parse_header(header)?;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        match kind {
            Kind::Input => queue(&input, Some(Bytes::from(payload)))?,
            Kind::InputEof => queue(&input, None)?,
            Kind::Resize => {
                if let Ok(size) = serde_json::from_slice::<TerminalSize>(&payload) {
                    control(stream, Control::Resize(size)).await;
                }
            }
            Kind::Signal => {
                if let [signal] = payload[..] {
                    control(stream, Control::Signal { signal: i32::from(signal) }).await;
                }
            }
            Kind::Output | Kind::Error | Kind::InputCredit | Kind::Ended | Kind::Skipped => {
                return Err(AttachError::Kind { kind: header[0] }.into());
            }
        }
    }
}

/// Queues input without waiting: whoever keeps to its window always finds room.
fn queue(input: &mpsc::Sender<Option<Bytes>>, item: Option<Bytes>) -> Result<(), RelayError> {
    match input.try_send(item) {
        // Closed: the command takes no more input.
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(RelayError::Window),
    }
}

/// Tells a running command something; one that has just ended does not mind.
async fn control(stream: &ExecStream, control: Control) {
    if let Err(error) = stream.control(control).await {
        tracing::debug!(%error, "a control came too late");
    }
}

#[cfg(test)]
mod tests;
