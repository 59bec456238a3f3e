//! What an archive holds, file by file, before it is known which of it an image is made of.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::incoming::publish;
use super::{BlobError, Blobs, CHUNK_BYTES, Pin, failed, try_lock};
use crate::digest::Digest;
use crate::manifest::Compression;

/// A directory for what may become blobs. What was not published goes with it.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    count: u64,
    /// Tells those who prune that somebody is here.
    _lock: File,
}

/// A file in it.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Its first bytes.
    pub(crate) head: Vec<u8>,
    path: PathBuf,
}

impl Staging {
    pub(crate) fn new(blobs: &Blobs) -> Result<Staging, BlobError> {
        loop {
            let name = format!("{:016x}", u64::from_ne_bytes(sys::rand::bytes()));
            let dir = blobs.partial_dir().join(name);
            sys::fs::create_private_dir(&dir)?;
            // Somebody may prune in this very moment; then there is another name.
            let lock = match File::open(&dir) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("open", &dir)(error)),
            };
            if try_lock(&lock, &dir)? && super::is_at(&lock, &dir)? {
                return Ok(Staging { dir, count: 0, _lock: lock });
            }
        }
    }

    /// Takes all that `from` has, which is called `what`.
    pub(crate) fn stage(&mut self, what: &str, mut from: impl Read, limit_bytes: u64) -> Result<Staged, BlobError> {
        self.count += 1;
        let path = self.dir.join(self.count.to_string());
        let mut file = sys::fs::create_new(&path, 0o600)?;
        let mut hasher = Sha256::new();
        let mut head = Vec::new();
        let mut size = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(BlobError::Read(error)),
            };
            size += count as u64;
            if size > limit_bytes {
                return Err(BlobError::TooLarge { what: what.to_owned(), limit_bytes });
            }
            hasher.update(&chunk[..count]);
            let missing = Compression::HEAD_BYTES.saturating_sub(head.len()).min(count);
            head.extend_from_slice(&chunk[..missing]);
            file.write_all(&chunk[..count]).map_err(failed("write", &path))?;
        }
        Ok(Staged { digest: Digest::finish(hasher), size, head, path })
    }

    /// Makes it a blob.
    pub(crate) fn publish(&self, blobs: &Blobs, staged: &Staged) -> Result<Pin, BlobError> {
        if let Some(pin) = blobs.pin(&staged.digest)? {
            return Ok(pin);
        }
        let file = sys::fs::open(&staged.path)?;
        publish(file, &staged.path, staged.digest, staged.size, blobs.path(&staged.digest))
    }
}

impl Staged {
    /// All of it, if that is not more than `limit_bytes`.
    pub(crate) fn read(&self, what: &str, limit_bytes: u64) -> Result<Vec<u8>, BlobError> {
        if self.size > limit_bytes {
            return Err(BlobError::TooLarge { what: what.to_owned(), limit_bytes });
        }
        let mut bytes = Vec::new();
        let path: &Path = &self.path;
        sys::fs::open(path)?.take(limit_bytes).read_to_end(&mut bytes).map_err(failed("read", path))?;
        Ok(bytes)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = sys::fs::remove_tree(&self.dir) {
            tracing::warn!(%error, "what an archive held stays behind until the next prune");
        }
    }
}
