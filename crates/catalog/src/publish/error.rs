//! What can be in the way of publishing.

use std::io;
use std::path::PathBuf;

use sys::fs::FsError;

use crate::bundle::BundleError;
use crate::document::CatalogError;
use crate::keys::KeyError;

/// A catalog that could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody else is at it.
    #[error("somebody else is publishing into {}", site.display())]
    Busy {
        /// Where.
        site: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file cannot be changed.
    #[error(transparent)]
    Change(#[from] FsError),
    /// A file holds no key.
    #[error("cannot sign with the key in {}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: KeyError,
    },
    /// A key does not sign.
    #[error("cannot sign the catalog")]
    Sign(#[source] KeyError),
    /// The list that is there cannot be replaced.
    #[error("cannot replace {}", path.display())]
    Before {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CatalogError,
    },
    /// The new list would be none.
    #[error("cannot publish this catalog")]
    Catalog(#[source] CatalogError),
    /// A bundle is none.
    #[error("cannot publish {}", path.display())]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: BundleError,
    },
    /// A kernel's bundle without a manifest.
    #[error("{} does not say which kernel it is", path.display())]
    Nameless {
        /// Which.
        path: PathBuf,
    },
    /// Two bundles are the same thing.
    #[error("{} is another bundle of {name} for the same processor", path.display())]
    Twice {
        /// The second.
        path: PathBuf,
        /// Of what.
        name: String,
    },
    /// What is to be withdrawn is not there.
    #[error("there is no {name} to withdraw")]
    NotListed {
        /// What.
        name: String,
    },
    /// A file of an entry is missing.
    #[error("{} is in the catalog with {size} bytes and is not there like that", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Its length in the list.
        size: u64,
    },
}

impl PublishError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            PublishError::Key { source, .. } | PublishError::Sign(source) => source.hint(),
            PublishError::Before { source, .. } | PublishError::Catalog(source) => source.hint(),
            PublishError::Bundle { source, .. } => source.hint(),
            PublishError::Nameless { .. } => Some("make bundles with banger internal make-bundle"),
            PublishError::Twice { .. } => Some("publish one of them at a time: the second replaces the first"),
            PublishError::File { .. } => Some("put the file back, or withdraw its entry"),
            PublishError::Busy { .. } => Some("wait until it is done"),
            PublishError::Change(error) if error.is_full() => Some("make room on the disk"),
            PublishError::Read { .. } | PublishError::Change(_) | PublishError::NotListed { .. } => None,
        }
    }
}
