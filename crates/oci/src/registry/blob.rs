//! A blob into the cache, from whatever [`Origin`]. A thread hashes and writes what the connection brings; when that breaks
//! off, the next one goes on where it did.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::attempts::Attempts;
use super::error::RegistryError;
use super::http::{Clients, Pace};
use super::{Registry, Repository};
use crate::blobs::{Begun, BlobError, Blobs, Incoming, Pin, off_thread};
use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::options::Endpoint;
use crate::progress::{LayerState, Progress};
use crate::reference::Reference;

/// Pieces between the connection and the disk: enough to keep both busy, and at most some MiB.
const QUEUE_PIECES: usize = 16;
/// Bytes between two reports.
const REPORT_BYTES: u64 = 256 << 10;
/// How often it is looked whether another pull has the blob by now.
const ELSEWHERE_POLL: Duration = Duration::from_millis(50);

/// Somebody who has a blob.
pub(super) trait Origin {
    /// What it is called.
    fn host(&self) -> &str;
    /// What it is asked with.
    fn clients(&self) -> &Clients;
    /// There is nobody to ask besides.
    fn is_last(&self) -> bool;
    /// It has answered something before.
    fn has_answered(&self) -> bool;
    /// Asks for the blob, from this byte on.
    async fn ask(&self, wanted: &Wanted, begin: u64) -> Result<Response, RegistryError>;
}

/// A blob that somebody wants.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What errors call it.
    pub(super) what: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A blob of an image, at a registry.
struct OfRepository<'a> {
    registry: &'a Registry,
    repository: Repository<'a>,
}

impl Origin for OfRepository<'_> {
    fn host(&self) -> &str {
        &self.repository.endpoint.host
    }

    fn clients(&self) -> &Clients {
        &self.registry.clients
    }

    fn is_last(&self) -> bool {
        self.repository.is_last
    }

    fn has_answered(&self) -> bool {
        self.registry.has_answered(self.repository.endpoint)
    }

    async fn ask(&self, wanted: &Wanted, begin: u64) -> Result<Response, RegistryError> {
        let from = &self.repository;
        let url = from.endpoint.url(&format!("/v2/{}/blobs/{}", from.image.path(), wanted.digest));
        let client = self.clients().for_endpoint(from.endpoint);
        self.registry.ask(from, &wanted.what, || from_byte(client.get(&url), begin)).await
    }
}

impl Registry {
    /// A blob of an image, from the cache or from the first that has it.
    pub(crate) async fn blob(
        &self,
        endpoints: &[Endpoint],
        image: &Reference,
        wanted: &Descriptor,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<Pin, RegistryError> {
        let what = format!("blob {}", wanted.digest);
        let wanted = Wanted { what, digest: wanted.digest, size: wanted.size };
        let mut at = 0;
        loop {
            let repository = Repository { endpoint: &endpoints[at], image, is_last: at + 1 == endpoints.len() };
            let from = OfRepository { registry: self, repository };
            match blob_from(&from, &wanted, blobs, progress).await {
                Err(error) if !from.is_last() && !error.is_ours() => {
                    tracing::warn!(mirror = from.host(), error = &error as &dyn std::error::Error, "passed over");
                    at += 1;
                }
                ended => return ended,
            }
        }
    }
}

/// A blob, from the cache or from `from`; when somebody else is fetching it, what he gets.
pub(super) async fn blob_from(
    from: &impl Origin,
    wanted: &Wanted,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Pin, RegistryError> {
    let mut may_start_over = true;
    loop {
        let begun = {
            let (blobs, digest, size) = (blobs.clone(), wanted.digest, wanted.size);
            off_thread(move || blobs.begin(&digest, size)).await.map_err(keep(wanted))?
        };
        let incoming = match begun {
            Begun::There(pin) => {
                let pin = pin.check_size(wanted.size).map_err(keep(wanted))?;
                progress.layer(&wanted.digest, LayerState::Cached);
                return Ok(pin);
            }
            Begun::Elsewhere => {
                progress.layer(&wanted.digest, LayerState::Elsewhere);
                tokio::time::sleep(ELSEWHERE_POLL).await;
                continue;
            }
            Begun::Mine(incoming) => incoming,
        };
        let is_resumed = incoming.bytes() > 0;
        match fetch(from, wanted, incoming, progress).await {
            // What somebody left may have been wrong: that is no reason to refuse the image.
            Err(RegistryError::Keep { source: BlobError::Mismatch { .. }, .. }) if is_resumed && may_start_over => {
                may_start_over = false;
            }
            ended => return ended,
        }
    }
}

/// Fetches what is missing, in as many tries as it takes.
async fn fetch(
    from: &impl Origin,
    wanted: &Wanted,
    mut incoming: Incoming,
    progress: &dyn Progress,
) -> Result<Pin, RegistryError> {
    let mut attempts = Attempts::new(&from.clients().patience, from.is_last());
    while incoming.bytes() < incoming.size() {
        let before = incoming.bytes();
        let tried;
        (incoming, tried) = try_fetch(from, wanted, incoming, progress).await;
        let Err(error) = tried else { continue };
        let brought = incoming.bytes().saturating_sub(before);
        let (pause, error) = attempts.after(error, brought, from.has_answered())?;
        tracing::debug!(error = &error as &dyn std::error::Error, ?pause, "trying once more");
        progress.layer(&wanted.digest, LayerState::Retrying { cause: &error.to_string(), pause });
        tokio::time::sleep(pause).await;
    }
    let pin = off_thread(move || incoming.finish()).await.map_err(keep(wanted))?;
    progress.layer(&wanted.digest, LayerState::Done);
    Ok(pin)
}

async fn try_fetch(
    from: &impl Origin,
    wanted: &Wanted,
    mut incoming: Incoming,
    progress: &dyn Progress,
) -> (Incoming, Result<(), RegistryError>) {
    let begin = incoming.bytes();
    let part = || RegistryError::Part { host: from.host().to_owned(), what: wanted.what.clone() };
    let response = match from.ask(wanted, begin).await {
        Ok(response) => response,
        // There is no such part: there may be the whole.
        Err(RegistryError::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) if begin > 0 => {
            let restarted = incoming.restart().map_err(keep(wanted));
            return (incoming, restarted.and(Err(part())));
        }
        Err(error) => return (incoming, Err(error)),
    };
    let begins_at = match response.status() {
        StatusCode::PARTIAL_CONTENT => part_begin(&response),
        _ => Some(0),
    };
    if begins_at != Some(begin)
        && let Err(error) = incoming.restart()
    {
        return (incoming, Err(keep(wanted)(error)));
    }
    if begins_at != Some(begin) && begins_at != Some(0) {
        return (incoming, Err(part()));
    }
    receive(from, response, incoming, wanted, progress).await
}

/// Brings a body to the disk.
async fn receive(
    from: &impl Origin,
    mut response: Response,
    incoming: Incoming,
    wanted: &Wanted,
    progress: &dyn Progress,
) -> (Incoming, Result<(), RegistryError>) {
    let what = wanted.what.as_str();
    let total_bytes = incoming.size();
    let mut done_bytes = incoming.bytes();
    let mut reported = None;
    let (pieces, queue) = mpsc::channel(QUEUE_PIECES);
    let writer = spawn_blocking(move || write(incoming, queue));
    let mut pace = Pace::new(&from.clients().patience);
    let ended = loop {
        if reported.is_none_or(|reported| done_bytes - reported >= REPORT_BYTES) {
            progress.layer(&wanted.digest, LayerState::Coming { done_bytes, total_bytes });
            reported = Some(done_bytes);
        }
        match pace.next(&mut response, what, done_bytes).await {
            Ok(Some(piece)) => {
                done_bytes += piece.len() as u64;
                // A writer that is gone has a reason, which it tells below.
                if pieces.send(piece).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) if done_bytes < total_bytes => {
                break Err(RegistryError::BrokenOff { what: what.to_owned(), bytes: done_bytes, source: None });
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(pieces);
    let (incoming, written) = writer.await.expect("writing does not panic, and nobody aborts it");
    progress.layer(&wanted.digest, LayerState::Coming { done_bytes: incoming.bytes(), total_bytes });
    (incoming, written.map_err(keep(wanted)).and(ended))
}

/// The same request for all that comes from this byte on.
pub(super) fn from_byte(request: RequestBuilder, begin: u64) -> RequestBuilder {
    match begin {
        0 => request,
        _ => request.header(RANGE, format!("bytes={begin}-")),
    }
}

/// Writes what comes until nothing does.
fn write(mut incoming: Incoming, mut queue: mpsc::Receiver<Bytes>) -> (Incoming, Result<(), BlobError>) {
    while let Some(piece) = queue.blocking_recv() {
        if let Err(error) = incoming.write(&piece) {
            return (incoming, Err(error));
        }
    }
    (incoming, Ok(()))
}

/// Where a part begins: `bytes 100-199/200`.
fn part_begin(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.trim().strip_prefix("bytes")?.trim_start().split_once('-')?.0.trim().parse().ok()
}

fn keep(wanted: &Wanted) -> impl FnOnce(BlobError) -> RegistryError + use<> {
    let what = wanted.what.clone();
    move |source| RegistryError::Keep { what, source }
}
