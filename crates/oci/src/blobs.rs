//! Content by its digest, in files: what one image has fetched, the next finds.
//!
//! ```text
//! <root>/sha256/<hex>             whole, verified, never changed
//! <root>/partial/<hex>.part       on its way; its writer holds an exclusive lock, whoever comes after goes on with it
//! <root>/partial/<random>/        what an archive holds, until it is known which of it is wanted; locked as long as in use
//! ```
//!
//! A file comes into being under its final name by a link, whole and synced, or not at all. Whoever uses a blob holds a
//! [`Pin`], a shared lock on its file: [`Blobs::prune`] removes only what it can lock alone, whatever process asks. Locks
//! are the kernel's and end with their holder, so nothing has to be tidied after a crash.

mod incoming;
mod staging;

use std::collections::HashSet;
use std::fs::{DirEntry, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use sys::fs::FsError;

use crate::digest::Digest;
use crate::manifest::Compression;
pub use incoming::{Begun, Incoming};
pub(crate) use staging::{Staged, Staging};

/// Bytes that are read and hashed at once.
const CHUNK_BYTES: usize = 256 << 10;
const PART_SUFFIX: &str = ".part";

/// A directory of blobs. Any number of processes may use it at once.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
}

/// A blob in use: it stays where it is as long as this lives.
#[derive(Debug)]
pub struct Pin {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// Its file. It is only read.
    pub path: PathBuf,
    /// Holds the shared lock.
    lock: File,
}

/// A blob that is there, used or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

/// What pruning brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Files that are gone.
    pub count: u64,
    /// What they took of the disk.
    pub bytes: u64,
}

/// A blob that could not be stored or used.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// A change of a file failed.
    #[error(transparent)]
    Change(#[from] FsError),
    /// Something else failed with a file.
    #[error("cannot {act} {}", path.display())]
    Use {
        /// What was being done.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Where it comes from, it cannot be read.
    #[error("cannot read what is to be stored")]
    Read(#[source] io::Error),
    /// It has more bytes than it may.
    #[error("{what} has more than the {limit_bytes} bytes it may have")]
    TooLarge {
        /// The blob, or the entry it comes from.
        what: String,
        /// The limit, or the length that was announced.
        limit_bytes: u64,
    },
    /// It ended early.
    #[error("{digest} ends after {bytes} of {size} bytes")]
    Short {
        /// Which.
        digest: Digest,
        /// How many came.
        bytes: u64,
        /// How many were announced.
        size: u64,
    },
    /// The bytes are others.
    #[error("what was to be {digest} is {found}")]
    Mismatch {
        /// What was asked for.
        digest: Digest,
        /// What came.
        found: Digest,
    },
    /// The cache holds a blob of another length than the manifest says.
    #[error("{digest} has {found} bytes and not {size}")]
    Size {
        /// Which.
        digest: Digest,
        /// As the manifest says.
        size: u64,
        /// As it is.
        found: u64,
    },
    /// Somebody pruned in the moment between its arrival and its use.
    #[error("{digest} was removed as soon as it had come")]
    Gone {
        /// Which.
        digest: Digest,
    },
}

impl BlobError {
    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let is_full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            BlobError::Change(error) => error.is_full(),
            BlobError::Use { source, .. } => is_full(source.kind()),
            _ => false,
        }
    }
}

fn failed<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl FnOnce(E) -> BlobError + use<E> {
    let path = path.to_owned();
    move |source| BlobError::Use { act, path, source: source.into() }
}

impl Blobs {
    /// The blobs below `root`, which is made when it is missing.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(root: &Path) -> Result<Blobs, BlobError> {
        let blobs = Blobs { root: root.to_owned() };
        sys::fs::create_private_dir(&blobs.whole_dir())?;
        sys::fs::create_private_dir(&blobs.partial_dir())?;
        Ok(blobs)
    }

    /// Where a blob is, once it is whole.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.whole_dir().join(digest.hex())
    }

    fn whole_dir(&self) -> PathBuf {
        self.root.join("sha256")
    }

    fn partial_dir(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn part_path(&self, digest: &Digest) -> PathBuf {
        self.partial_dir().join(format!("{}{PART_SUFFIX}", digest.hex()))
    }

    /// Takes a blob into use, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be opened or locked.
    pub fn pin(&self, digest: &Digest) -> Result<Option<Pin>, BlobError> {
        let path = self.path(digest);
        let lock = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        // Whoever holds it exclusively is removing it, which takes no time.
        flock(&lock, FlockOperation::LockShared).map_err(failed("lock", &path))?;
        if !is_at(&lock, &path)? {
            return Ok(None);
        }
        let size = lock.metadata().map_err(failed("look at", &path))?.len();
        Ok(Some(Pin { digest: *digest, size, path, lock }))
    }

    /// Stores bytes that are in memory: a manifest, a configuration.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub fn put(&self, bytes: &[u8]) -> Result<Pin, BlobError> {
        let digest = Digest::of(bytes);
        match self.pin(&digest)? {
            Some(pin) => Ok(pin),
            None => {
                let mut staging = Staging::new(self)?;
                let staged = staging.stage("bytes in memory", bytes, bytes.len() as u64)?;
                staging.publish(self, &staged)
            }
        }
    }

    /// Every whole blob.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>, BlobError> {
        let entries = entries(&self.whole_dir())?;
        let stored = entries.iter().filter_map(|entry| {
            let digest = Digest::from_hex(entry.file_name().to_str()?).ok()?;
            Some(Stored { digest, size: entry.metadata().ok()?.len() })
        });
        Ok(stored.collect())
    }

    /// Reads a blob again and compares it with its name.
    ///
    /// # Errors
    /// When it cannot be read or is something else by now.
    pub fn verify(&self, pin: &Pin) -> Result<(), BlobError> {
        let mut file = &pin.open()?;
        let found = hash(&mut file).map_err(failed("read", &pin.path))?;
        if found == pin.digest { Ok(()) } else { Err(BlobError::Mismatch { digest: pin.digest, found }) }
    }

    /// Removes what nobody wants to keep, nobody uses, and nobody is fetching; with it what others began and left.
    ///
    /// # Errors
    /// When a directory cannot be read or a file not removed; what was removed before stays removed.
    pub fn prune(&self, keep: &HashSet<Digest>) -> Result<Freed, BlobError> {
        let mut freed = Freed::default();
        for entry in entries(&self.whole_dir())? {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
            if !digest.is_some_and(|digest| keep.contains(&digest)) {
                remove_unless_locked(&entry.path(), &mut freed)?;
            }
        }
        for entry in entries(&self.partial_dir())? {
            remove_unless_locked(&entry.path(), &mut freed)?;
        }
        Ok(freed)
    }
}

impl Pin {
    /// Opens it for reading, from its beginning.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> Result<File, BlobError> {
        Ok(sys::fs::open(&self.path)?)
    }

    /// All of it, if that is not more than `limit_bytes`.
    ///
    /// # Errors
    /// When it is longer or cannot be read.
    pub fn read(&self, limit_bytes: u64) -> Result<Vec<u8>, BlobError> {
        if self.size > limit_bytes {
            return Err(BlobError::TooLarge { what: self.digest.to_string(), limit_bytes });
        }
        let mut bytes = Vec::new();
        self.open()?.take(limit_bytes).read_to_end(&mut bytes).map_err(failed("read", &self.path))?;
        Ok(bytes)
    }

    /// Its first bytes, as many as tell how it is packed.
    pub(crate) fn head(&self) -> Result<Vec<u8>, BlobError> {
        let mut head = Vec::new();
        let limit = Compression::HEAD_BYTES as u64;
        self.open()?.take(limit).read_to_end(&mut head).map_err(failed("read", &self.path))?;
        Ok(head)
    }

    /// Refuses a blob that has another length than somebody says of it.
    ///
    /// # Errors
    /// When it has.
    pub fn check_size(self, size: u64) -> Result<Pin, BlobError> {
        if self.size == size {
            return Ok(self);
        }
        Err(BlobError::Size { digest: self.digest, size, found: self.size })
    }

    /// Whether the lock is still that of the file with the blob's name.
    fn check_place(self) -> Result<Pin, BlobError> {
        if is_at(&self.lock, &self.path)? { Ok(self) } else { Err(BlobError::Gone { digest: self.digest }) }
    }
}

/// Whether `file` is what `path` names.
fn is_at(file: &File, path: &Path) -> Result<bool, BlobError> {
    let ours = file.metadata().map_err(failed("look at", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// A lock that is there at once or not: whether it is.
fn try_lock(file: &File, path: &Path) -> Result<bool, BlobError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(failed("lock", path)(error)),
    }
}

fn entries(dir: &Path) -> Result<Vec<DirEntry>, BlobError> {
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect);
    entries.map_err(failed("list", dir))
}

fn remove_unless_locked(path: &Path, freed: &mut Freed) -> Result<(), BlobError> {
    // Nothing that is opened here makes anybody wait, whatever somebody put there.
    let flags = i32::try_from((rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits()).unwrap_or_default();
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return Ok(()) };
    if !try_lock(&file, path)? || !is_at(&file, path)? {
        return Ok(());
    }
    let meta = file.metadata().map_err(failed("look at", path))?;
    let bytes = if meta.is_dir() {
        let inside = entries(path)?.into_iter().filter_map(|entry| entry.metadata().ok());
        let bytes = inside.map(|meta| meta.blocks() * 512).sum();
        sys::fs::remove_tree(path)?;
        bytes
    } else {
        sys::fs::remove_file(path)?;
        meta.blocks() * 512
    };
    freed.count += 1;
    freed.bytes += bytes;
    Ok(())
}

/// The digest of all that `from` has.
fn hash(from: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(Digest::finish(hasher)),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs what waits for the disk where that holds up nobody.
///
/// # Errors
/// Those of `work`, and when the runtime ends before it began.
pub async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(BlobError::Read(io::Error::new(io::ErrorKind::Interrupted, error))))
}

#[cfg(test)]
mod tests;
