//! A blob on its way: hashed as it comes, resumed where somebody left it, published whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::{BlobError, Blobs, CHUNK_BYTES, Pin, failed, is_at, try_lock};
use crate::digest::Digest;

/// How it stands with a blob that somebody wants.
#[derive(Debug)]
pub enum Begun {
    /// It is there.
    There(Pin),
    /// Somebody else is fetching it.
    Elsewhere,
    /// It is the caller's to fetch; nobody else does as long as this lives.
    Mine(Incoming),
}

/// A blob that is being fetched.
#[derive(Debug)]
pub struct Incoming {
    digest: Digest,
    size: u64,
    file: File,
    part: PathBuf,
    whole: PathBuf,
    hasher: Sha256,
    bytes: u64,
}

impl Blobs {
    /// Begins to fetch a blob of `size` bytes, or goes on where somebody left it.
    ///
    /// # Errors
    /// When its file cannot be made, locked or read.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Begun, BlobError> {
        let (part, whole) = (self.part_path(digest), self.path(digest));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        loop {
            if let Some(pin) = self.pin(digest)? {
                return Ok(Begun::There(pin));
            }
            let file = options.open(&part).map_err(failed("open", &part))?;
            if !try_lock(&file, &part)? {
                return Ok(Begun::Elsewhere);
            }
            // Whoever had the lock may have published or removed the file.
            if !is_at(&file, &part)? {
                continue;
            }
            if let Some(pin) = self.pin(digest)? {
                sys::fs::remove_file(&part)?;
                return Ok(Begun::There(pin));
            }
            let mut incoming = Incoming { digest: *digest, size, file, part, whole, hasher: Sha256::new(), bytes: 0 };
            incoming.take_up()?;
            return Ok(Begun::Mine(incoming));
        }
    }
}

impl Incoming {
    /// Which blob it is.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes it has so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many it will have.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hashes what somebody left.
    fn take_up(&mut self) -> Result<(), BlobError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => {
                    self.hasher.update(&chunk[..count]);
                    self.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.part)(error)),
            }
        }
        if self.bytes > self.size { self.restart() } else { Ok(()) }
    }

    /// Forgets what there is: it comes from the beginning.
    ///
    /// # Errors
    /// When the file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), BlobError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(failed("empty", &self.part))?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are more than were announced, or cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if self.bytes + bytes.len() as u64 > self.size {
            return Err(BlobError::TooLarge { what: self.digest.to_string(), limit_bytes: self.size });
        }
        self.file.write_all(bytes).map_err(failed("write", &self.part))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Publishes it, if it is what it should be. Other bytes than those asked for are thrown away; too few are kept.
    ///
    /// # Errors
    /// When it is too short, something else, or cannot be published.
    pub fn finish(self) -> Result<Pin, BlobError> {
        if self.bytes < self.size {
            return Err(BlobError::Short { digest: self.digest, bytes: self.bytes, size: self.size });
        }
        let found = Digest::finish(self.hasher);
        if found != self.digest {
            sys::fs::remove_file(&self.part)?;
            return Err(BlobError::Mismatch { digest: self.digest, found });
        }
        publish(self.file, &self.part, self.digest, self.size, self.whole)
    }
}

/// Gives a whole file its final name, unless an equal one has it: then that one is used.
pub(super) fn publish(file: File, from: &Path, digest: Digest, size: u64, to: PathBuf) -> Result<Pin, BlobError> {
    file.sync_all().map_err(failed("sync", from))?;
    let lock = match sys::fs::link(from, &to) {
        Ok(()) => file,
        Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => sys::fs::open(&to)?,
        Err(error) => return Err(error.into()),
    };
    sys::fs::sync(to.parent().unwrap_or(&to))?;
    sys::fs::remove_file(from)?;
    flock(&lock, FlockOperation::LockShared).map_err(failed("lock", &to))?;
    Pin { digest, size, path: to, lock }.check_place()
}
