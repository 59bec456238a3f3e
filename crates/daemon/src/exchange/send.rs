//! A repository on its way into a guest: what the guest has is asked first, then what it lacks is streamed, read as it is
//! sent.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use wire::agent::workspace::{Added, Found};

use super::ExchangeError;
use super::run::capture;
use super::thread::blocking;
use crate::guest::{Guest, GuestError};
use crate::model::progress::{Progress, Watcher};
use crate::workspace::{GuestFound, Notes, Repository, Transfer, WorkspaceError};

/// Pieces of the stream between the thread that reads files and the guest.
const QUEUE: usize = 4;
/// Bytes of one piece.
const CHUNK_BYTES: usize = 256 * 1024;
/// Longest answer of git about a commit.
const COMMIT_BYTES_MAX: usize = 1024;

/// What is sent, and who follows it.
pub struct Sending {
    /// The repository, looked at.
    pub repository: Repository,
    /// What was sent to that place before.
    pub notes: Option<Notes>,
    /// Where in the guest.
    pub guest_path: String,
    /// The guest's own changes may be overwritten.
    pub force: bool,
    /// An empty directory.
    pub scratch: PathBuf,
    /// Hears how far it is.
    pub report: Arc<dyn Fn(Progress) + Send + Sync>,
    /// Becomes true when nobody wants it any more.
    pub cancelled: Arc<AtomicBool>,
}

/// Brings the guest up to date; what is to be remembered of it.
///
/// # Errors
/// When the guest's own work would be overwritten, or something cannot be read or sent.
pub async fn send(guest: &Guest, sending: Sending) -> Result<Notes, ExchangeError> {
    let Sending { repository, notes, guest_path, force, scratch, report, cancelled } = sending;
    report(Progress::Stage("look at the guest".into()));
    let mut transfer = plan(guest, &guest_path, repository, notes, force, scratch).await?;
    if transfer.is_empty() {
        return Ok(transfer.notes());
    }
    let remove = transfer.remove();
    if !remove.is_empty() {
        guest.remove(&guest_path, &remove).await?;
    }
    let (files, _) = transfer.totals();
    report(Progress::Stage(format!("send {files} {}", if files == 1 { "file" } else { "files" }).into()));
    let (sender, receiver) = mpsc::channel(QUEUE);
    let streaming = blocking(move || {
        let watcher = Watcher::new(&*report, &cancelled);
        let done = transfer.stream(Pieces { sender, waiting: Vec::with_capacity(CHUNK_BYTES) }, watcher);
        done.map(|()| transfer)
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece: Bytes| (io::Result::Ok(piece), receiver))
    });
    let tar = tokio_util::io::StreamReader::new(Box::pin(pieces));
    let putting = guest.put_tree(&guest_path, tar);
    let (streamed, put) = tokio::join!(streaming, putting);
    // Why the guest took no more is the cause of a stream that broke off, and why reading failed of one that ended early.
    let transfer = match (streamed, put) {
        (Ok(transfer), Ok(_bytes)) => transfer,
        (Err(error), Ok(_)) => return Err(error),
        (_, Err(error)) => return Err(error.into()),
    };
    for (path, records) in transfer.settle() {
        guest.settle(&below(&guest_path, &path)?, &records).await?;
    }
    Ok(transfer.notes())
}

/// Decides what travels. Files that were added in the guest are named first, and read only where that is in conflict with
/// the host: both sides may have added the same.
async fn plan(
    guest: &Guest,
    guest_path: &str,
    repository: Repository,
    notes: Option<Notes>,
    force: bool,
    scratch: PathBuf,
) -> Result<Transfer, ExchangeError> {
    // Files that were added there are in the way of those that are new on the host.
    let added = if notes.is_some() { Added::Named } else { Added::Not };
    let found = find(guest, guest_path, notes.as_ref(), added).await?;
    let (again, known, first) = (repository.clone(), notes.clone(), scratch.join("first"));
    let planned = blocking(move || repository.plan(notes.as_ref(), &found, force, &first)).await;
    match planned {
        Err(ExchangeError::Workspace(WorkspaceError::Conflict { .. })) if added == Added::Named => {
            let found = find(guest, guest_path, known.as_ref(), Added::Hashed).await?;
            blocking(move || again.plan(known.as_ref(), &found, force, &scratch.join("second"))).await
        }
        planned => planned,
    }
}

/// What the guest has of each repository that was sent, and at the top.
async fn find(
    guest: &Guest,
    guest_path: &str,
    notes: Option<&Notes>,
    added: Added,
) -> Result<BTreeMap<Vec<u8>, GuestFound>, ExchangeError> {
    let mut paths: Vec<Vec<u8>> = vec![Vec::new()];
    paths.extend(notes.iter().flat_map(|notes| notes.repositories()).map(|(path, _)| path));
    paths.dedup();
    let mut all = BTreeMap::new();
    for path in paths {
        let place = below(guest_path, &path)?;
        let (surveyed, differences) = guest.survey(&place, added).await?;
        let head = if surveyed.found == Found::Workspace { head(guest, &place).await? } else { None };
        let index_changed = surveyed.index_changed;
        all.insert(path, GuestFound { found: surveyed.found, index_changed, head, differences });
    }
    Ok(all)
}

/// The commit a repository of the guest is at; none where there is no git, or no commit.
async fn head(guest: &Guest, place: &str) -> Result<Option<String>, ExchangeError> {
    let words = ["git", "-c", "core.fsmonitor=", "-c", "safe.directory=*", "rev-parse", "--verify", "--quiet", "HEAD"];
    let argv: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let env = [("GIT_OPTIONAL_LOCKS".to_owned(), "0".to_owned()), ("LC_ALL".to_owned(), "C".to_owned())];
    match capture(guest, &argv, place, &env, COMMIT_BYTES_MAX).await {
        Ok(captured) => {
            let text = String::from_utf8_lossy(captured.stdout.trim_ascii()).into_owned();
            let is_commit = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            Ok((captured.status.shell_code() == 0 && is_commit).then_some(text))
        }
        Err(ExchangeError::Guest(GuestError::Failed(wire::agent::message::Failure::ProgramNotFound { .. }))) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A repository's place in the guest.
fn below(guest_path: &str, path: &[u8]) -> Result<String, ExchangeError> {
    if path.is_empty() {
        return Ok(guest_path.to_owned());
    }
    let path = std::str::from_utf8(path).map_err(|_| ExchangeError::Name)?;
    Ok(format!("{guest_path}/{path}"))
}

/// The writing end of the stream: whole pieces, and the rest when it is flushed.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    waiting: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK_BYTES));
        self.sender.blocking_send(Bytes::from(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
