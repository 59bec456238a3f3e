//! What can be wrong with a bundle. Each says with which entry.

use std::io;
use std::path::PathBuf;

use sys::fs::FsError;
use tree::TreeError;

use super::manifest::ManifestError;

/// A bundle that cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The stream is no bundle, or ends early.
    #[error("cannot read the bundle{}", behind(.after))]
    Stream {
        /// The entry that was read last.
        after: Option<String>,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An entry that leads elsewhere.
    #[error("the bundle's entry {entry} has an unsafe path")]
    UnsafePath {
        /// Which; escaped.
        entry: String,
    },
    /// An entry that does not belong there.
    #[error("the bundle's entry {entry} does not belong into {kind}")]
    Foreign {
        /// Which; escaped.
        entry: String,
        /// What the bundle is: `an image's bundle`.
        kind: &'static str,
    },
    /// A link, a device, a pipe.
    #[error("the bundle's entry {entry} is no regular file")]
    NoFile {
        /// Which; escaped.
        entry: String,
    },
    /// Something is there twice.
    #[error("the bundle's entry {entry} is there twice")]
    Twice {
        /// Which; escaped.
        entry: String,
    },
    /// It is larger than it may be.
    #[error("the bundle's entry {entry} has {bytes} bytes, more than the {limit_bytes} it may have")]
    TooLarge {
        /// Which; escaped.
        entry: String,
        /// How many it has, or makes the whole have.
        bytes: u64,
        /// How many it may have.
        limit_bytes: u64,
    },
    /// There are too many.
    #[error("the bundle has more than {limit} entries; {entry} is the first of the rest")]
    TooMany {
        /// The first too many; escaped.
        entry: String,
        /// How many there may be.
        limit: u64,
    },
    /// Something is missing.
    #[error("the bundle has no {entry}")]
    Missing {
        /// What.
        entry: &'static str,
    },
    /// It is neither an image nor a kernel.
    #[error("the bundle holds neither rootfs.ext4 nor vmlinux")]
    Nothing,
    /// Something stands behind its end.
    #[error("something follows the end of the bundle's last entry")]
    Trailing,
    /// What it says of itself cannot be.
    #[error("the bundle's manifest.json cannot be used")]
    Manifest(#[source] ManifestError),
    /// It says that it has another content.
    #[error("the bundle's rootfs.ext4 has the sha256 {found}, and its manifest.json says {said}")]
    Digest {
        /// As it says.
        said: String,
        /// As it is.
        found: String,
    },
    /// It is another one than the catalog says.
    #[error("the bundle is of {found}, and the catalog says {said}")]
    Another {
        /// As the catalog says.
        said: String,
        /// As it says itself.
        found: String,
    },
    /// Where it is to be unpacked there is something.
    #[error("{} is not empty", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// An entry cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// To where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file for a bundle cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file for a bundle is none.
    #[error("{} is no regular file and no directory", path.display())]
    Special {
        /// Which.
        path: PathBuf,
    },
    /// A file cannot be changed.
    #[error(transparent)]
    Change(#[from] FsError),
    /// The stream cannot be written.
    #[error(transparent)]
    Pack(#[from] TreeError),
}

impl BundleError {
    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            BundleError::Write { source, .. } => is_full(source),
            BundleError::Change(error) => error.is_full(),
            BundleError::Pack(error) => is_full(&error.source),
            _ => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            error if error.is_full() => Some("make room on the disk"),
            BundleError::TooLarge { .. } => Some("if the bundle is known to be good, allow it more"),
            BundleError::Foreign { .. }
            | BundleError::UnsafePath { .. }
            | BundleError::NoFile { .. }
            | BundleError::Twice { .. }
            | BundleError::TooMany { .. }
            | BundleError::Missing { .. }
            | BundleError::Nothing
            | BundleError::Trailing
            | BundleError::Manifest(_)
            | BundleError::Digest { .. }
            | BundleError::Another { .. } => Some("make bundles with banger internal make-bundle"),
            BundleError::Stream { .. }
            | BundleError::Occupied { .. }
            | BundleError::Write { .. }
            | BundleError::Read { .. }
            | BundleError::Special { .. }
            | BundleError::Change(_)
            | BundleError::Pack(_) => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn behind(entry: &Option<String>) -> String {
    entry.as_ref().map(|entry| format!(" after its entry {entry}")).unwrap_or_default()
}
