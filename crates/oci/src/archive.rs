//! Images in files: what `docker save` writes, and OCI layouts, packed or as a directory.
//!
//! ```text
//! tar, once from its beginning to its end ──► staged files by name ──► docker: manifest.json ─┐
//!                                                                  └─► layout: index.json ────┴─► blobs
//! directory ─────────────────────────────────────────────────────────► layout
//! ```
//!
//! | module | what |
//! |---|---|
//! | `contents` | what a tar holds, by name; what is hostile in it is refused with its entry |
//! | `docker` | images of `docker save`, with layers in directories of their own too |
//! | `layout` | images of an OCI layout |
//! | `reading` | the stream: counted, ended when nobody waits, unpacked when somebody packed it |
//!
//! A tar is read in one pass, since it may come through a pipe and say at its very end what it holds. Which of the files an
//! image is made of is known then; the others are thrown away.

pub(crate) mod contents;
mod docker;
mod layout;
pub(crate) mod reading;

use std::io::{self, Read};
use std::path::Path;

use crate::blobs::{BlobError, Blobs, Pin};
use crate::digest::Digest;
use crate::manifest::{Manifest, ManifestError};
use crate::options::Options;
use crate::reference::Reference;
use crate::source::Choice;
use contents::Contents;
use reading::Gauge;
pub use reading::{Inlet, Outlet, pipe};

/// Names of images that an error lists.
const LISTED_MAX: usize = 20;

/// What an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes.
    Docker,
    /// A tar of an OCI layout.
    Oci,
    /// Either. Docker's newer archives are both, and one image in either view.
    Any,
}

/// An image that was found in an archive, in the cache.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// What the archive calls it.
    pub(crate) called: Option<Reference>,
    /// What was chosen: an index or the manifest.
    pub(crate) target: Digest,
    pub(crate) manifest: Manifest,
    /// The configuration.
    pub(crate) config: Vec<u8>,
    /// The manifest and what leads to it, the configuration.
    pub(crate) pins: Vec<Pin>,
    /// One a layer, the lowest first.
    pub(crate) layers: Vec<Pin>,
}

/// An archive or a layout that no image can be taken from.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Where it should be.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no tar, or breaks off.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// An entry is not what it should be.
    #[error("the archive's entry {entry} is refused: {why}")]
    Entry {
        /// Which; escaped.
        entry: String,
        /// Why.
        why: &'static str,
    },
    /// It has more entries than any such archive has.
    #[error("the archive has more than {limit} entries; it was read up to {entry}")]
    TooManyEntries {
        /// How many it may have.
        limit: u64,
        /// The first too many; escaped.
        entry: String,
    },
    /// An entry holds something else than its name says.
    #[error("the archive's entry {entry} is {found}")]
    Mismatch {
        /// Which; escaped.
        entry: String,
        /// What it holds.
        found: Digest,
    },
    /// Something is not there.
    #[error("{needed_by} names {entry}, which is not there")]
    Missing {
        /// What; escaped.
        entry: String,
        /// Who needs it.
        needed_by: &'static str,
    },
    /// A document in it is malformed.
    #[error("cannot read {entry}")]
    Parse {
        /// Which.
        entry: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// It is a tar, and no image.
    #[error("it holds no image: there is neither manifest.json nor index.json in it")]
    NoImage,
    /// It does not have what was asked for.
    #[error("it has no image {wanted}, but {}", listed(.offered))]
    NotThere {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// It has several, and nobody said which.
    #[error("it has several images: {}", listed(.offered))]
    Several {
        /// What there is.
        offered: Vec<String>,
    },
    /// An index leads to an index leads to an index.
    #[error("the layout leads from index to index")]
    Nested,
    /// A manifest or a configuration cannot be used.
    #[error("cannot use its manifest")]
    Manifest(#[from] ManifestError),
    /// Something cannot be kept.
    #[error("cannot keep what it holds")]
    Keep(#[from] BlobError),
}

impl ArchiveError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ArchiveError::Several { .. } => Some("say which: put :NAME or :@NUMBER behind the path".to_owned()),
            ArchiveError::NoImage => Some("it should be written by docker save, skopeo, buildah or podman".to_owned()),
            ArchiveError::Keep(source) if source.is_full() => {
                Some("make room, for instance by pruning images".to_owned())
            }
            _ => None,
        }
    }
}

fn listed(offered: &[String]) -> String {
    let mut shown: Vec<_> = offered.iter().take(LISTED_MAX).map(|name| tree::shown(name.as_bytes())).collect();
    if offered.len() > LISTED_MAX {
        shown.push("…".to_owned());
    }
    if shown.is_empty() { "none with a name".to_owned() } else { shown.join(", ") }
}

/// Takes one image from a tar.
pub(crate) fn unpack(
    stream: impl Read,
    format: Format,
    choice: &Choice,
    options: &Options,
    blobs: &Blobs,
) -> Result<Unpacked, ArchiveError> {
    let contents = Contents::read(stream, &options.limits, blobs)?;
    let is_docker = match format {
        Format::Docker => true,
        Format::Oci => false,
        Format::Any => contents.has(docker::MANIFEST),
    };
    if !contents.has(if is_docker { docker::MANIFEST } else { layout::INDEX }) {
        return Err(ArchiveError::NoImage);
    }
    if is_docker { docker::take(&contents, choice, blobs) } else { layout::take(&contents, choice, options, blobs) }
}

/// Takes one image from a directory with an OCI layout.
pub(crate) fn copy(
    directory: &Path,
    gauge: Gauge,
    choice: &Choice,
    options: &Options,
    blobs: &Blobs,
) -> Result<Unpacked, ArchiveError> {
    layout::take(&layout::Directory::new(directory, gauge), choice, options, blobs)
}

#[cfg(test)]
mod tests;
