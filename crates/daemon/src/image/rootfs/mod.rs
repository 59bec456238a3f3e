//! Makes an image's root filesystem: a tar archive in, a read-only ext4 file out.
//!
//! The archive is read twice: once for names, sizes and its digest (`tarball.rs`), once for the contents, which go to
//! their place in the order of the filesystem. Owners, permissions, times, hard links, devices, sparse files and extended
//! attributes are kept; ACLs too (`acl.rs`), if the archive has them as extended attributes and not as text.
//! Attributes of namespaces that ext4 does not have, and overlayfs's own, are left out. Equal archives give equal files.
//!
//! A name that leads outside, a name beneath a link and more than the limits allow are refused with the entry named.

mod acl;
pub(crate) mod archive;
pub(crate) mod collected;
mod existing;
pub(crate) mod filesystem;
pub(crate) mod tarball;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

pub use archive::ArchiveError;
pub use collected::Rootfs;
pub(crate) use existing::contents;
pub use filesystem::FilesystemError;
pub use tarball::TarError;

use super::ext4::{Ext4Error, Links};
use super::stream::{Hashing, Watched, copy};
use crate::model::digest::Digest;
use crate::model::progress::{Cancelled, Watcher};
use collected::Collected;
use tarball::{RecordKind, Tarball};

/// Bytes of content one image may have.
pub(crate) const CONTENT_MAX_BYTES: u64 = 256 << 30;
/// Why an archive does not become a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The archive cannot be opened.
    #[error("cannot read {}", .tar.display())]
    Open {
        /// The archive.
        tar: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The archive is damaged or has an entry that is refused.
    #[error("cannot use {}", .tar.display())]
    Tar {
        /// The archive.
        tar: PathBuf,
        /// The cause.
        #[source]
        err: TarError,
    },
    /// An entry does not fit the tree.
    #[error("cannot make a root filesystem of {}", .tar.display())]
    Tree {
        /// The archive.
        tar: PathBuf,
        /// The cause.
        #[source]
        err: Ext4Error,
    },
    /// The archive holds too much.
    #[error("{} holds more than {CONTENT_MAX_BYTES} bytes of content, at entry {entry:?}", .tar.display())]
    TooLarge {
        /// The archive.
        tar: PathBuf,
        /// The entry that is too much.
        entry: String,
    },
    /// The archive is empty.
    #[error("{} has no entries", .tar.display())]
    Empty {
        /// The archive.
        tar: PathBuf,
    },
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

/// Writes the content of the archive `tar` to the new file `image`.
///
/// # Errors
/// [`RootfsError`]; `image` may then be half written and is the caller's to remove.
pub fn write(tar: &Path, image: &Path, watcher: Watcher<'_>) -> Result<Rootfs, RootfsError> {
    watcher.stage("read archive");
    let (collected, digest) = scan(tar, watcher)?;
    let archive = File::open(tar).map_err(|err| RootfsError::Open { tar: tar.to_owned(), err })?;
    collected.write(&[archive], image, digest, watcher).map_err(|err| match watcher.check() {
        Ok(()) => RootfsError::Tree { tar: tar.to_owned(), err },
        Err(cancelled) => cancelled.into(),
    })
}

/// What the first reading finds, and the digest of the archive.
fn scan(tar: &Path, watcher: Watcher<'_>) -> Result<(Collected, Digest), RootfsError> {
    let opened = |err| RootfsError::Open { tar: tar.to_owned(), err };
    let file = File::open(tar).map_err(opened)?;
    let length = file.metadata().map_err(opened)?.len();
    let reader = BufReader::with_capacity(1 << 20, Watched::new(file, watcher, Some(length)));
    let mut tarball = Tarball::new(Hashing::new(reader));
    let mut collected = Collected::new(Links::Refused);
    let (mut content_bytes, mut entries) = (0u64, 0);
    let failed = |err| match watcher.check() {
        Ok(()) => RootfsError::Tar { tar: tar.to_owned(), err },
        Err(cancelled) => cancelled.into(),
    };
    while let Some(record) = tarball.next().map_err(failed)? {
        entries += 1;
        if let RecordKind::File(content) = &record.kind {
            let stored: u64 = content.segments.iter().map(|segment| segment.len).sum();
            content_bytes = content_bytes.saturating_add(stored);
            if content_bytes > CONTENT_MAX_BYTES || content.size_bytes > CONTENT_MAX_BYTES {
                return Err(RootfsError::TooLarge { tar: tar.to_owned(), entry: record.path });
            }
        }
        collected.add(0, record).map_err(|err| RootfsError::Tree { tar: tar.to_owned(), err })?;
    }
    if entries == 0 {
        return Err(RootfsError::Empty { tar: tar.to_owned() });
    }
    let mut rest = tarball.into_inner();
    copy(&mut rest, &mut io::sink(), watcher).map_err(opened)?;
    Ok((collected, rest.finish().0))
}

#[cfg(test)]
mod tests;
