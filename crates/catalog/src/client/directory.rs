//! A catalog in a directory: its documents, and its files into the cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use oci::blobs::{Begun, BlobError, Incoming, Pin, off_thread};
use oci::progress::LayerState;
use oci::{Blobs, Progress};

use super::PullError;
use crate::document::Artifact;

/// Bytes that are copied and hashed at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes between two reports.
const REPORT_BYTES: u64 = 4 << 20;
/// How often it is looked whether another pull has the file by now.
const ELSEWHERE_POLL: Duration = Duration::from_millis(50);

/// All of a small file; of a longer one no more than tells that it is longer.
pub(super) async fn read(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = move || {
        let mut bytes = Vec::new();
        open(&path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    waiting(read).await
}

async fn waiting<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Opens a regular file; whatever else is there makes nobody wait.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// A file of a directory into the cache.
pub(super) async fn copy(
    path: &Path,
    artifact: &Artifact,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Pin, PullError> {
    let keep = |source| PullError::Keep { file: artifact.file.clone(), source };
    let (digest, size) = (artifact.sha256, artifact.size);
    let mut incoming = loop {
        let its_blobs = blobs.clone();
        match off_thread(move || its_blobs.begin(&digest, size)).await.map_err(keep)? {
            Begun::There(pin) => {
                progress.layer(&digest, LayerState::Cached);
                return pin.check_size(size).map_err(keep);
            }
            Begun::Elsewhere => {
                progress.layer(&digest, LayerState::Elsewhere);
                tokio::time::sleep(ELSEWHERE_POLL).await;
            }
            Begun::Mine(incoming) => break incoming,
        }
    };
    // What somebody left is from a network: the file itself is right here.
    incoming.restart().map_err(keep)?;
    let opening = path.to_owned();
    let opened = waiting(move || open(&opening)).await;
    let mut file = opened.map_err(|source| PullError::Read { path: path.to_owned(), source })?;
    loop {
        progress.layer(&digest, LayerState::Coming { done_bytes: incoming.bytes(), total_bytes: size });
        let is_ended;
        (file, incoming, is_ended) = off_thread(move || stretch(file, incoming)).await.map_err(keep)?;
        if is_ended {
            break;
        }
    }
    let pin = off_thread(move || incoming.finish()).await.map_err(keep)?;
    progress.layer(&digest, LayerState::Done);
    Ok(pin)
}

/// Takes what comes until the next report, and says whether that is all.
fn stretch(mut file: File, mut incoming: Incoming) -> Result<(File, Incoming, bool), BlobError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let end = incoming.bytes().saturating_add(REPORT_BYTES);
    while incoming.bytes() < end {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((file, incoming, true)),
            Ok(count) => incoming.write(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BlobError::Read(error)),
        }
    }
    Ok((file, incoming, false))
}
