//! Makes one root filesystem of an image's layers, as unpacking them one over the other as root would.
//!
//! ```text
//! each layer, some at once:  file ──unpack──► hash, spool ──tarball──► records ─┐
//! the lowest first:                                            whiteouts, then entries ──► one tree ──► rootfs.ext4
//! ```
//!
//! A compressed layer is unpacked once, into a file without a name beside the result; contents are read from there in the
//! order of the filesystem. A layer that is not compressed is read where it is.
//!
//! What a layer says of those below it is done before its own entries are added, wherever in it that stands (OCI image
//! specification, "Representing changes"): `.wh.NAME` takes `NAME` away, `.wh..wh..opq` everything in its directory. An
//! entry beneath a symbolic link of a lower layer goes where the link leads, never out of the tree. Refused, with layer and
//! entry: names and hard links that lead outside, more than the limits allow, and a layer that does not unpack to what the
//! configuration promises.

mod spool;
mod unpack;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use oci::{Compression, Layer};

use super::ext4::{Ext4Error, Links};
use super::rootfs::collected::Collected;
use super::rootfs::tarball::Record;
use super::rootfs::{FilesystemError, Rootfs, TarError, filesystem};
use super::stream::{Hashing, Watched, copy};
use crate::model::digest::Digest;
use crate::model::progress::{Cancelled, Watcher};
use unpack::Unpacked;

/// What a whiteout's name begins with.
const WHITEOUT: &str = ".wh.";
/// The name that hides all that lower layers have in a directory.
const OPAQUE: &str = ".wh..wh..opq";
/// What aufs wrote for itself into layers, and nobody unpacks.
const AUFS: &str = ".wh..wh.";

/// How much layers may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All of them, unpacked.
    pub unpacked_bytes: u64,
    /// A layer that unpacks to more than this …
    pub suspicious_bytes: u64,
    /// … may not be so many times as long as its file.
    pub ratio: u64,
    /// Names, targets and attributes of one layer.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        // Deflate cannot do better than 1 : 1032 (zlib's technical details); real trees are between 1 : 2 and 1 : 5.
        Limits { unpacked_bytes: 128 << 30, suspicious_bytes: 1 << 30, ratio: 200, metadata_bytes: 512 << 20 }
    }
}

/// Why layers do not become a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The layer's file cannot be read, or the unpacked one not be written.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// Its digest.
        layer: oci::Digest,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It is damaged, or has an entry that is refused.
    #[error("cannot use layer {layer}")]
    Tar {
        /// Its digest.
        layer: oci::Digest,
        /// Why.
        #[source]
        err: TarError,
    },
    /// An entry does not fit the layers below it.
    #[error("cannot apply layer {layer}")]
    Tree {
        /// Its digest.
        layer: oci::Digest,
        /// Why.
        #[source]
        err: Ext4Error,
    },
    /// It is not what the configuration says.
    #[error("layer {layer} unpacks to {found}, and not to {diff_id} as the image's configuration says")]
    DiffId {
        /// Its digest.
        layer: oci::Digest,
        /// As the configuration says.
        diff_id: oci::Digest,
        /// As it is.
        found: oci::Digest,
    },
    /// It holds more than it may.
    #[error("layer {layer} is refused at entry {entry:?}: {why}")]
    TooLarge {
        /// Its digest.
        layer: oci::Digest,
        /// How far it was read.
        entry: String,
        /// Which limit.
        why: String,
    },
    /// The filesystem that a layer goes over cannot be read.
    #[error("cannot use {}", .path.display())]
    Below {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        err: FilesystemError,
    },
    /// A layer's file cannot be read.
    #[error("cannot read {}", .path.display())]
    Plain {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// The filesystem cannot be written.
    #[error("cannot make a root filesystem")]
    Write(#[source] Ext4Error),
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

/// Writes the content of `layers`, the lowest first, to the new file `image`.
///
/// # Errors
/// [`LayersError`]; `image` may then be half written and is the caller's to remove.
pub fn flatten(layers: &[Layer], image: &Path, limits: Limits, watcher: Watcher<'_>) -> Result<Rootfs, LayersError> {
    watcher.stage("unpack layers");
    let spools = image.parent().unwrap_or(Path::new("."));
    let unpacked = unpack_all(layers, spools, limits, watcher)?;
    let mut collected = Collected::new(Links::Followed);
    let mut archives: Vec<File> = Vec::with_capacity(layers.len());
    for (layer, unpacked) in layers.iter().zip(unpacked) {
        let archive = archives.len();
        archives.push(unpacked.file);
        let applied = apply(&mut collected, archive, unpacked.records);
        applied.map_err(|err| LayersError::Tree { layer: layer.digest, err })?;
    }
    let diff_ids = layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>();
    let identity = Digest::of_parts(diff_ids.iter().map(String::as_bytes));
    written(&collected, &archives, image, identity, watcher)
}

/// Writes the filesystem `below`, of this digest, with the layer in the tar archive `layer` over it to the new file `image`.
///
/// # Errors
/// [`LayersError`]; `image` may then be half written and is the caller's to remove.
pub fn extend(
    (below, digest): (&Path, Digest),
    layer: &Path,
    image: &Path,
    watcher: Watcher<'_>,
) -> Result<Rootfs, LayersError> {
    watcher.stage("read image");
    let below_failed = |err| match watcher.check() {
        Ok(()) => LayersError::Below { path: below.to_owned(), err },
        Err(cancelled) => cancelled.into(),
    };
    let base = File::open(below).map_err(|err| below_failed(FilesystemError::Read(mkext4::Error::Io(err))))?;
    let mut collected = Collected::new(Links::Followed);
    for record in filesystem::records(&base, watcher).map_err(below_failed)? {
        collected.add(0, record).map_err(|err| below_failed(FilesystemError::Tree(err)))?;
    }
    watcher.stage("read changes");
    let layer = plain(layer, watcher)?;
    let spools = image.parent().unwrap_or(Path::new("."));
    let mut archives = vec![base];
    for unpacked in unpack_all(std::slice::from_ref(&layer), spools, Limits::default(), watcher)? {
        archives.push(unpacked.file);
        let applied = apply(&mut collected, 1, unpacked.records);
        applied.map_err(|err| LayersError::Tree { layer: layer.digest, err })?;
    }
    let identity = Digest::of_parts([digest.to_string().as_bytes(), layer.digest.to_string().as_bytes()]);
    written(&collected, &archives, image, identity, watcher)
}

/// A layer that is not packed, of whatever digest it has.
fn plain(path: &Path, watcher: Watcher<'_>) -> Result<Layer, LayersError> {
    let failed = |err| match watcher.check() {
        Ok(()) => LayersError::Plain { path: path.to_owned(), err },
        Err(cancelled) => cancelled.into(),
    };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut hashing = Hashing::new(Watched::new(file, watcher, Some(size)));
    copy(&mut hashing, &mut io::sink(), watcher).map_err(failed)?;
    let digest = format!("sha256:{}", hashing.finish().0).parse().expect("it is written as digests are");
    Ok(Layer { digest, diff_id: digest, compression: Compression::None, size, path: path.to_owned() })
}

fn written(
    collected: &Collected,
    archives: &[File],
    image: &Path,
    identity: Digest,
    watcher: Watcher<'_>,
) -> Result<Rootfs, LayersError> {
    collected.write(archives, image, identity, watcher).map_err(|err| match watcher.check() {
        Ok(()) => LayersError::Write(err),
        Err(cancelled) => cancelled.into(),
    })
}

/// Puts a layer over what is there.
fn apply(collected: &mut Collected, archive: usize, records: Vec<Record>) -> Result<(), Ext4Error> {
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        let path = record.path.trim_end_matches('/');
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        match name.strip_prefix(WHITEOUT) {
            None => entries.push(record),
            Some(_) if name == OPAQUE => collected.tree.clear(directory)?,
            Some(_) if name.starts_with(AUFS) => {}
            Some("" | "." | "..") => {
                return Err(Ext4Error::Name { path: path.to_owned(), why: "it removes what has no name" });
            }
            Some(removed) => collected.tree.remove(directory, removed)?,
        }
    }
    entries.into_iter().try_for_each(|record| collected.add(archive, record))
}

/// Unpacks every layer, as many at once as there are processors.
fn unpack_all(
    layers: &[Layer],
    spools: &Path,
    limits: Limits,
    watcher: Watcher<'_>,
) -> Result<Vec<Unpacked>, LayersError> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(layers.len());
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let shared = unpack::Shared::new(limits, layers.iter().map(|layer| layer.size).sum(), watcher, &has_failed);
    let results: Mutex<Vec<Option<Result<Unpacked, LayersError>>>> = Mutex::new(layers.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !has_failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(layer) = layers.get(index) else { return };
                    let result = unpack::unpack(layer, spools, &shared);
                    has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                }
            });
        }
    });
    watcher.check()?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut failed = Vec::new();
    let mut unpacked = Vec::with_capacity(layers.len());
    for result in results.into_iter().flatten() {
        match result {
            Ok(layer) => unpacked.push(layer),
            Err(error) => failed.push(error),
        }
    }
    // Those that were stopped because of another say so; the other is the cause.
    failed.sort_by_key(|error| matches!(error, LayersError::Cancelled(_)));
    match failed.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(unpacked),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
