//! What can go wrong between a catalog and its user, and what a person can do.

use std::io;
use std::path::PathBuf;

use oci::Architecture;
use oci::blobs::BlobError;
use oci::registry::RegistryError;

use crate::document::CatalogError;
use crate::signature::SignatureError;

/// A catalog that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing can be asked for.
    #[error("cannot ask for the catalog at {site}")]
    SetUp {
        /// Whose.
        site: String,
        /// Why not.
        #[source]
        source: Box<RegistryError>,
    },
    /// The server does not give it.
    #[error("cannot fetch the catalog from {site}")]
    Get {
        /// From where.
        site: String,
        /// Why not.
        #[source]
        source: Box<RegistryError>,
    },
    /// The directory does not have it.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There are no signatures.
    #[error("the catalog at {site} has no signature")]
    Unsigned {
        /// Which.
        site: String,
    },
    /// Nobody who is trusted has signed it.
    #[error("the catalog at {site} is not trusted")]
    Signature {
        /// Which.
        site: String,
        /// Why not.
        #[source]
        source: SignatureError,
    },
    /// It cannot be read.
    #[error("the catalog at {site} cannot be used")]
    Catalog {
        /// Which.
        site: String,
        /// Why not.
        #[source]
        source: CatalogError,
    },
    /// It is older than one that was there before.
    #[error("the catalog at {site} has the serial number {serial}, and one with {last} was seen before")]
    Rollback {
        /// Which.
        site: String,
        /// What it has.
        serial: u64,
        /// What was accepted last.
        last: u64,
    },
    /// No such thing is listed.
    #[error("the catalog has no {kind} {name:?} for {architecture}")]
    NoEntry {
        /// `image` or `kernel`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// For which processor.
        architecture: Architecture,
    },
    /// There is no list.
    #[error("no catalog is configured, so there is no {kind} {name:?}")]
    NotConfigured {
        /// `image` or `kernel`.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
}

/// A file of a catalog that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The server does not give it, or gives something else.
    #[error("cannot pull {file} from {site}")]
    Get {
        /// Which.
        file: String,
        /// From where.
        site: String,
        /// Why not.
        #[source]
        source: Box<RegistryError>,
    },
    /// The directory does not have it.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not what the catalog says, or cannot be kept.
    #[error("cannot keep {file}")]
    Keep {
        /// Which.
        file: String,
        /// Why not.
        #[source]
        source: BlobError,
    },
}

/// What a person can do when a server does not answer, or does not give a file.
fn hint_of(error: &RegistryError) -> Option<String> {
    match error {
        RegistryError::Reach { .. } | RegistryError::Silent { .. } => {
            Some("check the catalog's address and this host's network".to_owned())
        }
        RegistryError::NotFound { .. } => Some("check the catalog's address, or refresh the catalog".to_owned()),
        RegistryError::Unauthorized { .. } | RegistryError::Forbidden { .. } => {
            Some("catalogs are served to everybody: check its address".to_owned())
        }
        RegistryError::Keep { source, .. } => keep_hint(source),
        _ => None,
    }
}

fn keep_hint(error: &BlobError) -> Option<String> {
    match error {
        BlobError::Mismatch { .. } | BlobError::Short { .. } | BlobError::TooLarge { .. } => {
            Some("the server gives another file than its catalog lists: tell whoever publishes it".to_owned())
        }
        error if error.is_full() => Some("make room, for instance by pruning images".to_owned()),
        _ => None,
    }
}

impl FetchError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            FetchError::Get { source, .. } => hint_of(source),
            FetchError::Unsigned { .. } => Some("its publisher has to sign it: catalog.json.sig is missing".to_owned()),
            FetchError::Signature { source, .. } => source.hint().map(str::to_owned),
            FetchError::Catalog { source, .. } => source.hint().map(str::to_owned),
            FetchError::Rollback { .. } => Some(
                "somebody may be giving out an old one; if its publisher began anew, ask him for a higher number"
                    .to_owned(),
            ),
            FetchError::NotConfigured { .. } => Some(
                "set the address or the directory of a catalog and the key that signs it; there is no public one yet"
                    .to_owned(),
            ),
            FetchError::NoEntry { .. } => Some("look what there is in the catalog's list".to_owned()),
            FetchError::SetUp { .. } | FetchError::Read { .. } => None,
        }
    }

    /// Whether somebody may be at work: what came is not what the publisher made.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        matches!(self, FetchError::Unsigned { .. } | FetchError::Signature { .. } | FetchError::Rollback { .. })
    }
}

impl PullError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PullError::Get { source, .. } => hint_of(source),
            PullError::Keep { source, .. } => keep_hint(source),
            PullError::Read { .. } => None,
        }
    }
}
