//! What is made in a staging directory and published whole: shared by image builds and kernel imports.
//!
//! A finished directory holds `manifest.json` and `operation.json`, the operation that made it; by that a run after a
//! crash finds what it has placed already.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wire::api::ErrorCode;
use wire::id::OpId;

use super::failure::{caused, refused};
use super::world::{Host, blocking};
use crate::model::digest::Digest;
use crate::model::progress::{Progress, Watcher};
use crate::saga::{self, Cause, Cx};

/// Most bytes of a manifest: a kernel with thousands of modules needs some hundred KiB.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// Who made a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    pub(super) operation: OpId,
    /// What the same content was called before, when it was there already.
    #[serde(default)]
    pub(super) was: Option<String>,
}

/// Checks the name of an image or a kernel.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Cause> {
    if wire::naming::is_artifact_name(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let rule = "letters, digits, '.', '_' and '-', at most 128, and does not begin with '.' or '-'";
    Err(refused(ErrorCode::BadRequest, format!("the name of {what} must consist of {rule}, not {shown:?}")))
}

/// The first eight bytes: what ids are made of.
pub(super) fn leading(digest: &Digest) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&digest.as_bytes()[..8]);
    id
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Cause> {
    let length = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(caused(ErrorCode::OperationFailed, &error)),
    };
    let damaged = || refused(ErrorCode::OperationFailed, format!("{} is damaged", path.display()));
    if length > MANIFEST_BYTES_MAX {
        return Err(damaged());
    }
    let bytes = std::fs::read(path).map_err(|error| caused(ErrorCode::OperationFailed, &error))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged())
}

/// The manifest of a finished directory; none when there is none.
pub(super) fn read_manifest<T: DeserializeOwned>(dir: &Path) -> Result<Option<T>, Cause> {
    read_json(&dir.join("manifest.json"))
}

/// Finishes a directory: its manifest comes last, so that what has one is whole.
pub(super) fn write_manifest(dir: &Path, manifest: &impl Serialize, staged: &Staged) -> Result<(), Cause> {
    let write = |name: &str, bytes: Result<Vec<u8>, serde_json::Error>| -> Result<(), Cause> {
        let bytes = bytes.map_err(|error| caused(ErrorCode::Internal, &error))?;
        Ok(sys::fs::write_atomic(&dir.join(name), &bytes, 0o600)?)
    };
    write("operation.json", serde_json::to_vec(staged))?;
    write("manifest.json", serde_json::to_vec_pretty(manifest))
}

/// Changes what a finished directory says of itself.
pub(super) fn rewrite_manifest(dir: &Path, manifest: &impl Serialize) -> Result<(), Cause> {
    let bytes = serde_json::to_vec_pretty(manifest).map_err(|error| caused(ErrorCode::Internal, &error))?;
    Ok(sys::fs::write_atomic(&dir.join("manifest.json"), &bytes, 0o600)?)
}

/// Who made the finished directory `dir`.
pub(super) fn staged_in(dir: &Path) -> Result<Option<Staged>, Cause> {
    read_json(&dir.join("operation.json"))
}

/// Says that an operation found its content in `dir` already.
pub(super) fn adopt(dir: &Path, staged: &Staged) -> Result<(), Cause> {
    let bytes = serde_json::to_vec(staged).map_err(|error| caused(ErrorCode::Internal, &error))?;
    Ok(sys::fs::write_atomic(&dir.join("operation.json"), &bytes, 0o600)?)
}

/// The directory below `dir` that `operation` has placed, staging directories left aside.
pub(super) fn placed_by(dir: &Path, operation: &OpId) -> Result<Option<PathBuf>, Cause> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(caused(ErrorCode::OperationFailed, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| caused(ErrorCode::OperationFailed, &error))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if staged_in(&entry.path())?.is_some_and(|staged| staged.operation == *operation) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// The operation that placed the directory `dir`, as far as it says.
#[must_use]
pub fn maker_of(dir: &Path) -> Option<OpId> {
    staged_in(dir).ok().flatten().map(|staged| staged.operation)
}

/// Removes a tree on a thread that may block: root filesystems take a while.
pub(super) async fn remove_tree(path: PathBuf) -> Result<(), Cause> {
    blocking(move || Ok(sys::fs::remove_tree(&path)?)).await
}

/// Runs long blocking work whose progress and cancellation are those of the step.
pub(super) async fn watched<P: Sync, T: Send + 'static>(
    cx: &Cx<'_, P, Host>,
    work: impl FnOnce(Watcher<'_>) -> Result<T, Cause> + Send + 'static,
) -> Result<T, Cause> {
    let (sender, mut reports) = mpsc::unbounded_channel();
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let worker = blocking(move || {
        let report = move |progress| {
            // A step that has given up hears no more reports.
            drop(sender.send(progress));
        };
        work(Watcher::new(&report, &told))
    });
    tokio::pin!(worker);
    let mut stage = None;
    loop {
        tokio::select! {
            result = &mut worker => {
                while let Ok(report) = reports.try_recv() {
                    cx.progress(translate(&mut stage, report));
                }
                // A failure that follows a cancellation is that cancellation.
                return if cx.is_cancelled() { result.map_err(|_| Cause::cancelled()) } else { result };
            }
            Some(report) = reports.recv() => cx.progress(translate(&mut stage, report)),
            () = cx.cancelled(), if !stop.load(Ordering::Relaxed) => stop.store(true, Ordering::Relaxed),
        }
    }
}

/// Where asynchronous work reports to, and where its step hears it.
pub(super) fn reports() -> (impl Fn(Progress) + Send + Sync, mpsc::UnboundedReceiver<Progress>) {
    let (sender, reports) = mpsc::unbounded_channel();
    let report = move |progress| {
        // A step that has given up hears no more reports.
        drop(sender.send(progress));
    };
    (report, reports)
}

/// Waits for asynchronous work, passes its [`reports`] on, and ends it at once when the step is cancelled.
pub(super) async fn followed<P: Sync, T>(
    cx: &Cx<'_, P, Host>,
    mut reports: mpsc::UnboundedReceiver<Progress>,
    work: impl Future<Output = Result<T, Cause>> + Send,
) -> Result<T, Cause> {
    tokio::pin!(work);
    let mut stage = None;
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(report) = reports.recv() => cx.progress(translate(&mut stage, report)),
            () = cx.cancelled() => return Err(Cause::cancelled()),
        }
    }
}

/// A report as steps make it.
pub(super) fn translate(stage: &mut Option<String>, report: Progress) -> saga::Progress {
    let (part, done, total, unit) = match report {
        Progress::Stage(name) => {
            *stage = Some(name.into_owned());
            (None, 0, None, saga::Unit::Items)
        }
        Progress::Bytes { done, total } => (None, done, total, saga::Unit::Bytes),
        Progress::Part { name, done, total } => (Some(name), done, Some(total), saga::Unit::Bytes),
        Progress::Percent(percent) => (None, u64::from(percent), Some(100), saga::Unit::Percent),
    };
    saga::Progress { stage: stage.clone(), part, done, total, unit }
}
