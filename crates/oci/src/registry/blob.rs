//! A blob into the cache. A thread hashes and writes what the connection brings; when that breaks off, the next one goes on
//! where it did.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::attempts::Attempts;
use super::error::RegistryError;
use super::http::Pace;
use super::{Registry, Repository};
use crate::blobs::{Begun, BlobError, Blobs, Incoming, Pin, off_thread};
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
        let mut at = 0;
        loop {
            let from = Repository { endpoint: &endpoints[at], image, is_last: at + 1 == endpoints.len() };
            match self.blob_from(&from, wanted, blobs, progress).await {
                Err(error) if !from.is_last && !error.is_ours() => {
                    tracing::warn!(
                        mirror = from.endpoint.host,
                        error = &error as &dyn std::error::Error,
                        "passed over"
                    );
                    at += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn blob_from(
        &self,
        from: &Repository<'_>,
        wanted: &Descriptor,
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
            match self.fetch(from, wanted, incoming, progress).await {
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
        &self,
        from: &Repository<'_>,
        wanted: &Descriptor,
        mut incoming: Incoming,
        progress: &dyn Progress,
    ) -> Result<Pin, RegistryError> {
        let mut attempts = Attempts::new(&self.clients.patience, from.is_last);
        while incoming.bytes() < incoming.size() {
            let before = incoming.bytes();
            let tried;
            (incoming, tried) = self.try_fetch(from, wanted, incoming, progress).await;
            let Err(error) = tried else { continue };
            let brought = incoming.bytes().saturating_sub(before);
            let (pause, error) = attempts.after(error, brought, self.has_answered(from.endpoint))?;
            tracing::debug!(error = &error as &dyn std::error::Error, ?pause, "trying once more");
            progress.layer(&wanted.digest, LayerState::Retrying { cause: &error.to_string(), pause });
            tokio::time::sleep(pause).await;
        }
        let pin = off_thread(move || incoming.finish()).await.map_err(keep(wanted))?;
        progress.layer(&wanted.digest, LayerState::Done);
        Ok(pin)
    }

    async fn try_fetch(
        &self,
        from: &Repository<'_>,
        wanted: &Descriptor,
        mut incoming: Incoming,
        progress: &dyn Progress,
    ) -> (Incoming, Result<(), RegistryError>) {
        let what = format!("blob {}", wanted.digest);
        let url = from.endpoint.url(&format!("/v2/{}/blobs/{}", from.image.path(), wanted.digest));
        let client = self.clients.for_endpoint(from.endpoint);
        let begin = incoming.bytes();
        let request = || match begin {
            0 => client.get(&url),
            _ => client.get(&url).header(RANGE, format!("bytes={begin}-")),
        };
        let response = match self.ask(from, &what, request).await {
            Ok(response) => response,
            // The registry does not know such a part: it may know the whole.
            Err(RegistryError::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) if begin > 0 => {
                let restarted = incoming.restart().map_err(keep(wanted));
                let part = RegistryError::Part { host: from.endpoint.host.clone(), what };
                return (incoming, restarted.and(Err(part)));
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
            let part = RegistryError::Part { host: from.endpoint.host.clone(), what };
            return (incoming, Err(part));
        }
        self.receive(response, incoming, wanted, progress).await
    }

    /// Brings a body to the disk.
    async fn receive(
        &self,
        mut response: Response,
        incoming: Incoming,
        wanted: &Descriptor,
        progress: &dyn Progress,
    ) -> (Incoming, Result<(), RegistryError>) {
        let what = format!("blob {}", wanted.digest);
        let total_bytes = incoming.size();
        let mut done_bytes = incoming.bytes();
        let mut reported = None;
        let (pieces, queue) = mpsc::channel(QUEUE_PIECES);
        let writer = spawn_blocking(move || write(incoming, queue));
        let mut pace = Pace::new(&self.clients.patience);
        let ended = loop {
            if reported.is_none_or(|reported| done_bytes - reported >= REPORT_BYTES) {
                progress.layer(&wanted.digest, LayerState::Coming { done_bytes, total_bytes });
                reported = Some(done_bytes);
            }
            match pace.next(&mut response, &what, done_bytes).await {
                Ok(Some(piece)) => {
                    done_bytes += piece.len() as u64;
                    // A writer that is gone has a reason, which it tells below.
                    if pieces.send(piece).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) if done_bytes < total_bytes => {
                    break Err(RegistryError::BrokenOff { what, bytes: done_bytes, source: None });
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

fn keep(wanted: &Descriptor) -> impl FnOnce(BlobError) -> RegistryError + use<> {
    let what = format!("blob {}", wanted.digest);
    move |source| RegistryError::Keep { what, source }
}
