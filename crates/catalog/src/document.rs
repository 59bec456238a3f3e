//! `catalog.json`: what there is, and by which content.
//!
//! ```json
//! { "version": 1, "serial": 7,
//!   "images":  [ { "name", "distro", "arch", "kernel_ref", "file", "sha256", "size", "description" } ],
//!   "kernels": [ { "name", "distro", "arch", "version",    "file", "sha256", "size", "description" } ] }
//! ```
//!
//! `version` is the major number of the format: another one is refused. `minor` counts what was added since: a document of
//! a later one may have fields that mean nothing here, one of this or an earlier one may not. `serial` grows with each
//! publication. Whoever wrote the document is hostile until its signature was checked, and careless afterwards.

use std::collections::{BTreeMap, HashSet};

use oci::{Architecture, Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::{Name, NotAName, Word, is_file_of};

/// What this program reads and writes.
pub const VERSION: u64 = 1;
/// The additions to it that this program knows.
pub const MINOR: u64 = 0;
/// Some ten thousand entries.
pub const CATALOG_BYTES_MAX: u64 = 4 << 20;
/// Of both kinds.
const ENTRIES_MAX: usize = 10_000;
/// Of a description, which is a sentence or two.
pub(crate) const DESCRIPTION_LETTERS_MAX: usize = 1000;
/// Of one file: as large as a layer of an image may be.
pub const FILE_BYTES_MAX: u64 = 64 << 30;
/// What numbers can count up to in every reader of JSON.
const SERIAL_MAX: u64 = 1 << 53;

/// A list of images and kernels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// Which publication it is.
    pub serial: u64,
    /// Images.
    pub images: Vec<ImageEntry>,
    /// Kernels.
    pub kernels: Vec<KernelEntry>,
}

/// The file of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its path beside the catalog.
    pub file: String,
    /// Its content.
    pub sha256: Digest,
    /// Its length.
    pub size: u64,
}

/// An image that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// Its name, as people type it.
    pub name: Name,
    /// The distribution in it.
    pub distro: Word,
    /// The processor it is for.
    pub arch: Word,
    /// The kernel of this catalog that it is meant for.
    pub kernel_ref: Option<Name>,
    /// Its bundle.
    pub artifact: Artifact,
    /// What it is, for people.
    pub description: String,
}

/// A kernel that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEntry {
    /// Its name, as people type it.
    pub name: Name,
    /// Whose configuration it has.
    pub distro: Word,
    /// The processor it is for.
    pub arch: Word,
    /// Its version.
    pub version: Word,
    /// Its bundle.
    pub artifact: Artifact,
    /// What it is, for people.
    pub description: String,
}

/// A catalog that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It has no end.
    #[error("the catalog has {bytes} bytes, more than {CATALOG_BYTES_MAX}")]
    TooLarge {
        /// How many it has.
        bytes: u64,
    },
    /// It is no JSON, or not this.
    #[error("the catalog is malformed")]
    Malformed(#[source] serde_json::Error),
    /// It is of another format.
    #[error("the catalog is of version {version}, and this banger reads version {VERSION}")]
    Version {
        /// Which.
        version: u64,
    },
    /// It has more in it than this program would write back.
    #[error("the catalog is of version {VERSION}.{minor}, and this banger writes {VERSION}.{MINOR}")]
    Minor {
        /// Which.
        minor: u64,
    },
    /// A part of it cannot be.
    #[error("{part} of the catalog cannot be used")]
    Part {
        /// Which: `image debian-bookworm`.
        part: String,
        /// Why not.
        #[source]
        why: Fault,
    },
}

/// What is wrong with a part of a catalog.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NotAName),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] oci::digest::NotADigest),
    /// A file that is elsewhere, or called otherwise.
    #[error("its file {0:?} is not called <name>-<arch>-<beginning of its sha256>.tar.zst")]
    File(String),
    /// Nothing, or too much.
    #[error("its file has {0} bytes, which is nothing or more than {FILE_BYTES_MAX}")]
    Size(u64),
    /// A description that drives a terminal, or a book.
    #[error("its description has more than {DESCRIPTION_LETTERS_MAX} letters, or some that control terminals")]
    Description,
    /// It is there twice.
    #[error("it is there twice")]
    Twice,
    /// There are too many.
    #[error("there are more than {ENTRIES_MAX} entries")]
    TooMany,
    /// Its publications were counted too far.
    #[error("the serial number {0} is too large")]
    Serial(u64),
    /// Something that this version does not have.
    #[error("it has a field {0:?}, which is not in version {VERSION}.{MINOR}")]
    Unknown(String),
}

impl CatalogError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CatalogError::Version { version } if *version > VERSION => Some("update banger"),
            CatalogError::Minor { .. } => Some("update banger"),
            CatalogError::Version { .. } | CatalogError::Malformed(_) => {
                Some("check that the address is that of a catalog that banger published")
            }
            CatalogError::TooLarge { .. } | CatalogError::Part { .. } => Some("tell whoever publishes the catalog"),
        }
    }
}

/// What of a document can be read whatever its version.
#[derive(Deserialize)]
struct Head {
    version: u64,
    #[serde(default)]
    minor: u64,
}

type Rest = BTreeMap<String, Value>;

#[derive(Serialize, Deserialize)]
struct Raw {
    version: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    minor: u64,
    serial: u64,
    #[serde(default)]
    images: Vec<RawEntry>,
    #[serde(default)]
    kernels: Vec<RawEntry>,
    #[serde(flatten)]
    rest: Rest,
}

/// An entry of either kind: what the other kind has as well counts as unknown.
#[derive(Serialize, Deserialize)]
struct RawEntry {
    name: String,
    distro: String,
    arch: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel_ref: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    file: String,
    sha256: String,
    size: u64,
    #[serde(default)]
    description: String,
    #[serde(flatten)]
    rest: Rest,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Catalog {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is too large, malformed, of another version, or one of its entries cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Catalog, CatalogError> {
        Catalog::parse_up_to(bytes, u64::MAX)
    }

    /// The same for a document that is going to be written again: one of a later minor would lose what is not known here.
    pub(crate) fn parse_to_replace(bytes: &[u8]) -> Result<Catalog, CatalogError> {
        Catalog::parse_up_to(bytes, MINOR)
    }

    fn parse_up_to(bytes: &[u8], minor_max: u64) -> Result<Catalog, CatalogError> {
        if bytes.len() as u64 > CATALOG_BYTES_MAX {
            return Err(CatalogError::TooLarge { bytes: bytes.len() as u64 });
        }
        let head: Head = serde_json::from_slice(bytes).map_err(CatalogError::Malformed)?;
        if head.version != VERSION {
            return Err(CatalogError::Version { version: head.version });
        }
        if head.minor > minor_max {
            return Err(CatalogError::Minor { minor: head.minor });
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(CatalogError::Malformed)?;
        let whole = |why| CatalogError::Part { part: "a part".to_owned(), why };
        let is_later = head.minor > MINOR;
        refuse_unknown(&raw.rest, is_later).map_err(whole)?;
        if raw.serial > SERIAL_MAX {
            return Err(whole(Fault::Serial(raw.serial)));
        }
        if raw.images.len().saturating_add(raw.kernels.len()) > ENTRIES_MAX {
            return Err(whole(Fault::TooMany));
        }
        let images = entries("image", raw.images, is_later, ImageEntry::try_from)?;
        let kernels = entries("kernel", raw.kernels, is_later, KernelEntry::try_from)?;
        let catalog = Catalog { serial: raw.serial, images, kernels };
        let names = catalog.images.iter().map(|entry| (&entry.name, &entry.arch));
        once("image", names)?;
        once("kernel", catalog.kernels.iter().map(|entry| (&entry.name, &entry.arch)))?;
        Ok(catalog)
    }

    /// Its text.
    ///
    /// # Panics
    /// Never: all of it can be JSON.
    #[must_use]
    pub fn render(&self) -> String {
        let images = self.images.iter().map(RawEntry::from).collect();
        let kernels = self.kernels.iter().map(RawEntry::from).collect();
        let raw = Raw { version: VERSION, minor: MINOR, serial: self.serial, images, kernels, rest: Rest::default() };
        let mut text = serde_json::to_string_pretty(&raw).expect("it is JSON");
        text.push('\n');
        text
    }

    /// The image of this name for this processor.
    #[must_use]
    pub fn image(&self, name: &str, architecture: Architecture) -> Option<&ImageEntry> {
        self.images.iter().find(|entry| entry.name.as_str() == name && entry.arch.is_for(architecture))
    }

    /// The kernel of this name for this processor.
    #[must_use]
    pub fn kernel(&self, name: &str, architecture: Architecture) -> Option<&KernelEntry> {
        self.kernels.iter().find(|entry| entry.name.as_str() == name && entry.arch.is_for(architecture))
    }

    /// The files of all entries.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        self.images.iter().map(|entry| &entry.artifact).chain(self.kernels.iter().map(|entry| &entry.artifact))
    }
}

fn refuse_unknown(rest: &Rest, is_later: bool) -> Result<(), Fault> {
    match rest.keys().next() {
        Some(field) if !is_later => Err(Fault::Unknown(field.chars().take(100).collect())),
        _ => Ok(()),
    }
}

fn entries<T>(
    kind: &str,
    raw: Vec<RawEntry>,
    is_later: bool,
    read: impl Fn(RawEntry) -> Result<T, Fault>,
) -> Result<Vec<T>, CatalogError> {
    let entry = |(at, raw): (usize, RawEntry)| {
        let name = raw.name.parse::<Name>().map_or_else(|_| format!("number {}", at + 1), String::from);
        let entry = refuse_unknown(&raw.rest, is_later).and_then(|()| read(raw));
        entry.map_err(|why| CatalogError::Part { part: format!("{kind} {name}"), why })
    };
    raw.into_iter().enumerate().map(entry).collect()
}

/// Refuses what has the same name for the same processor.
fn once<'a>(kind: &str, names: impl Iterator<Item = (&'a Name, &'a Word)>) -> Result<(), CatalogError> {
    let mut seen = HashSet::new();
    for (name, arch) in names {
        if !seen.insert((name, arch.processor())) {
            return Err(CatalogError::Part { part: format!("{kind} {name}"), why: Fault::Twice });
        }
    }
    Ok(())
}

/// Whether people can be shown it as it is.
pub(crate) fn is_description(text: &str) -> bool {
    text.chars().count() <= DESCRIPTION_LETTERS_MAX && !text.chars().any(char::is_control)
}

/// What entries of both kinds have.
struct Common {
    name: Name,
    distro: Word,
    arch: Word,
    artifact: Artifact,
    description: String,
}

fn common(raw: RawEntry) -> Result<Common, Fault> {
    let (name, distro, arch): (Name, Word, Word) = (raw.name.parse()?, raw.distro.parse()?, raw.arch.parse()?);
    let sha256 = Digest::from_hex(&raw.sha256)?;
    if !is_file_of(&raw.file, &name, &arch, &sha256) {
        return Err(Fault::File(raw.file.chars().take(100).collect()));
    }
    if raw.size == 0 || raw.size > FILE_BYTES_MAX {
        return Err(Fault::Size(raw.size));
    }
    if !is_description(&raw.description) {
        return Err(Fault::Description);
    }
    let artifact = Artifact { file: raw.file, sha256, size: raw.size };
    Ok(Common { name, distro, arch, artifact, description: raw.description })
}

impl TryFrom<RawEntry> for ImageEntry {
    type Error = Fault;

    fn try_from(mut raw: RawEntry) -> Result<ImageEntry, Fault> {
        if raw.version.is_some() {
            return Err(Fault::Unknown("version".to_owned()));
        }
        let kernel_ref = raw.kernel_ref.take().filter(|name| !name.is_empty());
        let kernel_ref = kernel_ref.map(|name| name.parse()).transpose()?;
        let Common { name, distro, arch, artifact, description } = common(raw)?;
        Ok(ImageEntry { name, distro, arch, kernel_ref, artifact, description })
    }
}

impl TryFrom<RawEntry> for KernelEntry {
    type Error = Fault;

    fn try_from(mut raw: RawEntry) -> Result<KernelEntry, Fault> {
        if raw.kernel_ref.is_some() {
            return Err(Fault::Unknown("kernel_ref".to_owned()));
        }
        let version = raw.version.take().unwrap_or_default().parse()?;
        let Common { name, distro, arch, artifact, description } = common(raw)?;
        Ok(KernelEntry { name, distro, arch, version, artifact, description })
    }
}

impl From<&ImageEntry> for RawEntry {
    fn from(entry: &ImageEntry) -> RawEntry {
        let raw = raw(&entry.name, &entry.distro, &entry.arch, &entry.artifact, &entry.description);
        RawEntry { kernel_ref: entry.kernel_ref.as_ref().map(ToString::to_string), ..raw }
    }
}

impl From<&KernelEntry> for RawEntry {
    fn from(entry: &KernelEntry) -> RawEntry {
        let raw = raw(&entry.name, &entry.distro, &entry.arch, &entry.artifact, &entry.description);
        RawEntry { version: Some(entry.version.to_string()), ..raw }
    }
}

fn raw(name: &Name, distro: &Word, arch: &Word, artifact: &Artifact, description: &str) -> RawEntry {
    RawEntry {
        name: name.to_string(),
        distro: distro.to_string(),
        arch: arch.to_string(),
        kernel_ref: None,
        version: None,
        file: artifact.file.clone(),
        sha256: artifact.sha256.hex(),
        size: artifact.size,
        description: description.to_owned(),
        rest: Rest::default(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
