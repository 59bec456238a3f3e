//! A directory that any web server can serve: bundles by their content, a list of them, its signatures.
//!
//! ```text
//! lock the directory ─► copy each bundle in, look through the copy, name it by its content
//!                    ─► merge with the list that is there, serial + 1 ─► catalog.json.sig ─► catalog.json ─► prune, if told
//! ```
//!
//! Files come first and the list last, each by a rename, and `catalog.json.sig` has the signatures of both lists while one
//! replaces the other: whoever fetches in between gets something whole that is signed. Files of entries that are replaced stay,
//! for those who have the old list, until somebody prunes.

mod error;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::bundle::{self, Inspected, KernelBundle, Limits, Watch};
use crate::document::{Artifact, CATALOG_BYTES_MAX, Catalog, ImageEntry, KernelEntry};
use crate::keys::{KEY_FILE_BYTES_MAX, PrivateKey};
use crate::name::{BUNDLE_SUFFIX, Name, Word, file_name, is_content_addressed};
use crate::signature::{SIGNATURE_BYTES_MAX, Signatures};
use crate::source::{CATALOG_FILE, SIGNATURE_FILE};
pub use error::PublishError;

/// What a bundle is called while it is looked through.
const INCOMING: &str = "incoming";

/// What happens to files that no entry has any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Old {
    /// They stay.
    #[default]
    Kept,
    /// They are removed.
    Pruned,
}

/// What is to be published.
#[derive(Debug)]
pub struct Publication<'a> {
    /// The bundles to add; one replaces the entry of its name and processor.
    pub bundles: &'a [PathBuf],
    /// Entries to take out of the list, by name, of either kind.
    pub withdrawn: &'a [Name],
    /// The directory that is served.
    pub site: &'a Path,
    /// What signs the list; none for a list that only this host believes.
    pub keys: &'a [PrivateKey],
    /// What happens to files that no entry has any more.
    pub old: Old,
    /// How much a bundle may hold.
    pub limits: Limits,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The list.
    pub catalog: Catalog,
    /// Files that were not there before.
    pub added: Vec<String>,
    /// Files that are not there any more.
    pub removed: Vec<String>,
}

/// The bundles in a directory, by name.
///
/// # Errors
/// When it cannot be read.
pub fn bundles_in(directory: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let mut bundles: Vec<PathBuf> = names(directory)?
        .into_iter()
        .filter(|name| name.ends_with(BUNDLE_SUFFIX) && !name.starts_with('.'))
        .map(|name| directory.join(name))
        .collect();
    bundles.sort();
    Ok(bundles)
}

/// Reads the key in a file.
///
/// # Errors
/// When it cannot be read, or is no key that signs catalogs.
pub fn read_key(path: &Path) -> Result<PrivateKey, PublishError> {
    let file = read_at_most(path, KEY_FILE_BYTES_MAX)?;
    PrivateKey::parse(&file).map_err(|source| PublishError::Key { path: path.to_owned(), source })
}

/// Publishes. `watch` is told of the bytes that bundles unpack to.
///
/// # Errors
/// When a bundle cannot be published, or the directory cannot be changed: the list is then the one before.
pub fn publish(publication: &Publication<'_>, watch: &mut Watch<'_>) -> Result<Published, PublishError> {
    let site = publication.site;
    if !site.is_dir() {
        std::fs::create_dir_all(site).map_err(|source| PublishError::Read { path: site.to_owned(), source })?;
    }
    let _lock = lock(site)?;
    sweep(site)?;
    let before = Before::read(site)?;
    let mut added = Vec::new();
    match replace(publication, &before, &mut added, watch) {
        Ok(catalog) => {
            let removed = match publication.old {
                Old::Kept => Vec::new(),
                Old::Pruned => prune(site, &catalog)?,
            };
            Ok(Published { catalog, added, removed })
        }
        Err(error) => {
            for file in added {
                sys::fs::remove_file(&site.join(file))?;
            }
            Err(error)
        }
    }
}

/// Has the new list in place of the old; `added` are the files that came for it.
fn replace(
    publication: &Publication<'_>,
    before: &Before,
    added: &mut Vec<String>,
    watch: &mut Watch<'_>,
) -> Result<Catalog, PublishError> {
    let mut catalog = before.catalog.clone();
    let mut seen = HashSet::new();
    for path in publication.bundles {
        let entry = take_in(path, publication, watch)?;
        if entry.is_new {
            added.push(entry.artifact.file.clone());
        }
        if !seen.insert(entry.key()) {
            return Err(PublishError::Twice { path: path.clone(), name: entry.name().to_string() });
        }
        entry.put_into(&mut catalog);
    }
    withdraw(&mut catalog, publication.withdrawn)?;
    catalog.images.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    catalog.kernels.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    catalog.serial += 1;
    check_files(publication.site, &catalog)?;
    before.replace_by(&catalog, publication)?;
    Ok(catalog)
}

/// What was published before.
struct Before {
    catalog: Catalog,
    sha256: Option<Digest>,
    signatures: Signatures,
}

impl Before {
    fn read(site: &Path) -> Result<Before, PublishError> {
        let path = site.join(CATALOG_FILE);
        let bytes = match read_at_most(&path, CATALOG_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(PublishError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Before { catalog: Catalog::default(), sha256: None, signatures: Signatures::default() });
            }
            Err(error) => return Err(error),
        };
        let catalog = Catalog::parse_to_replace(&bytes).map_err(|source| PublishError::Before { path, source })?;
        // Signatures that cannot be read sign nothing.
        let signatures = read_at_most(&site.join(SIGNATURE_FILE), SIGNATURE_BYTES_MAX).ok();
        let signatures = signatures.and_then(|bytes| Signatures::parse(&bytes).ok()).unwrap_or_default();
        Ok(Before { catalog, sha256: Some(Digest::of(&bytes)), signatures })
    }

    fn replace_by(&self, catalog: &Catalog, publication: &Publication<'_>) -> Result<(), PublishError> {
        let text = catalog.render();
        // What is published reads back, whatever was asked for.
        Catalog::parse(text.as_bytes()).map_err(PublishError::Catalog)?;
        let signature_file = publication.site.join(SIGNATURE_FILE);
        if publication.keys.is_empty() {
            sys::fs::write_atomic(&publication.site.join(CATALOG_FILE), text.as_bytes(), 0o644)?;
            // It would be another list's.
            return Ok(sys::fs::remove_file(&signature_file)?);
        }
        let mut signatures = Signatures::sign(text.as_bytes(), publication.keys).map_err(PublishError::Sign)?;
        if let Some(sha256) = &self.sha256 {
            signatures = signatures.and_those_of(&self.signatures, sha256);
        }
        sys::fs::write_atomic(&signature_file, signatures.render().as_bytes(), 0o644)?;
        Ok(sys::fs::write_atomic(&publication.site.join(CATALOG_FILE), text.as_bytes(), 0o644)?)
    }
}

/// A bundle that is in the directory by now.
struct Taken {
    entry: Entry,
    artifact: Artifact,
    is_new: bool,
}

enum Entry {
    Image(Box<bundle::ImageManifest>),
    Kernel(bundle::KernelManifest),
}

impl Taken {
    fn names(&self) -> (&Name, &Word) {
        match &self.entry {
            Entry::Image(image) => (&image.name, &image.arch),
            Entry::Kernel(kernel) => (&kernel.name, &kernel.arch),
        }
    }

    fn name(&self) -> &Name {
        self.names().0
    }

    fn key(&self) -> (bool, String, String) {
        let (name, arch) = self.names();
        (matches!(self.entry, Entry::Image(_)), name.to_string(), arch.processor().to_owned())
    }

    fn put_into(self, catalog: &mut Catalog) {
        let (_, name, processor) = self.key();
        let artifact = self.artifact;
        match self.entry {
            Entry::Image(manifest) => {
                let is_other = |entry: &ImageEntry| entry.name.as_str() != name || entry.arch.processor() != processor;
                catalog.images.retain(is_other);
                let bundle::ImageManifest { name, distro, arch, kernel_ref, description, .. } = *manifest;
                catalog.images.push(ImageEntry { name, distro, arch, kernel_ref, artifact, description });
            }
            Entry::Kernel(manifest) => {
                let is_other = |entry: &KernelEntry| entry.name.as_str() != name || entry.arch.processor() != processor;
                catalog.kernels.retain(is_other);
                let bundle::KernelManifest { name, distro, arch, version, description } = manifest;
                catalog.kernels.push(KernelEntry { name, distro, arch, version, artifact, description });
            }
        }
    }
}

/// Copies a bundle in and looks through the copy: what is published is what was looked through.
fn take_in(path: &Path, publication: &Publication<'_>, watch: &mut Watch<'_>) -> Result<Taken, PublishError> {
    let incoming = sys::fs::sibling(&publication.site.join(INCOMING));
    let taken = take_copy(path, &incoming, publication, watch);
    if taken.is_err() {
        sys::fs::remove_file(&incoming)?;
    }
    taken
}

fn take_copy(
    path: &Path,
    incoming: &Path,
    publication: &Publication<'_>,
    watch: &mut Watch<'_>,
) -> Result<Taken, PublishError> {
    sys::fs::copy_sparse(path, incoming, 0o644)?;
    let unusable = |source| PublishError::Bundle { path: path.to_owned(), source };
    let mut hashing = Hashing { inner: sys::fs::open(incoming)?, hasher: Sha256::new(), bytes: 0 };
    let inspected = bundle::inspect(&mut hashing, &publication.limits, watch).map_err(unusable)?;
    let read = |source| PublishError::Read { path: incoming.to_owned(), source };
    // What the unpacking left unread is a part of the file all the same.
    io::copy(&mut hashing, &mut io::sink()).map_err(read)?;
    let (sha256, size) = (Digest::finish(hashing.hasher), hashing.bytes);
    let entry = match inspected {
        Inspected::Image(image) => Entry::Image(Box::new(image.manifest)),
        Inspected::Kernel(KernelBundle { manifest, .. }) => {
            let nameless = || PublishError::Nameless { path: path.to_owned() };
            Entry::Kernel(manifest.ok_or_else(nameless)?)
        }
    };
    let mut taken = Taken { entry, artifact: Artifact { file: String::new(), sha256, size }, is_new: false };
    let (name, arch) = taken.names();
    let file = file_name(name, arch, &sha256);
    let target = publication.site.join(&file);
    let is_there = target.is_file();
    sys::fs::sync(incoming)?;
    // Also where one is: nobody knows whether it still has the content that its name promises.
    sys::fs::rename(incoming, &target)?;
    (taken.artifact.file, taken.is_new) = (file, !is_there);
    Ok(taken)
}

/// A file that is hashed as it is read.
struct Hashing {
    inner: File,
    hasher: Sha256,
    bytes: u64,
}

impl io::Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

fn withdraw(catalog: &mut Catalog, names: &[Name]) -> Result<(), PublishError> {
    for name in names {
        let before = catalog.images.len() + catalog.kernels.len();
        catalog.images.retain(|entry| entry.name != *name);
        catalog.kernels.retain(|entry| entry.name != *name);
        if catalog.images.len() + catalog.kernels.len() == before {
            return Err(PublishError::NotListed { name: name.to_string() });
        }
    }
    Ok(())
}

/// Refuses a list with a file that is not there.
fn check_files(site: &Path, catalog: &Catalog) -> Result<(), PublishError> {
    for artifact in catalog.artifacts() {
        let path = site.join(&artifact.file);
        let found = path.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
        if found != Some(artifact.size) {
            return Err(PublishError::File { path, size: artifact.size });
        }
    }
    Ok(())
}

/// Removes bundles that no entry has.
fn prune(site: &Path, catalog: &Catalog) -> Result<Vec<String>, PublishError> {
    let used: HashSet<&str> = catalog.artifacts().map(|artifact| artifact.file.as_str()).collect();
    let mut removed = Vec::new();
    for name in names(site)? {
        let is_ours = is_content_addressed(&name) && site.join(&name).is_file();
        if is_ours && !used.contains(name.as_str()) {
            sys::fs::remove_file(&site.join(&name))?;
            removed.push(name);
        }
    }
    removed.sort();
    Ok(removed)
}

/// Removes what somebody who was killed left half made; whoever holds the lock makes it alone.
fn sweep(site: &Path) -> Result<(), PublishError> {
    let ours = [INCOMING, CATALOG_FILE, SIGNATURE_FILE].map(|name| format!(".{name}."));
    for name in names(site)? {
        if ours.iter().any(|prefix| name.starts_with(prefix)) {
            sys::fs::remove_file(&site.join(name))?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>, PublishError> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| PublishError::Read { path: directory.to_owned(), source })?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// One at a time publishes into a directory; the kernel's lock ends with its holder.
fn lock(site: &Path) -> Result<File, PublishError> {
    let directory = sys::fs::open(site)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PublishError::Busy { site: site.to_owned() }),
        Err(error) => Err(PublishError::Read { path: site.to_owned(), source: error.into() }),
    }
}

/// A small file; of a longer one no more than tells that it is longer.
fn read_at_most(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, PublishError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        let mut limited = io::Read::take(file, limit_bytes + 1);
        io::Read::read_to_end(&mut limited, &mut bytes)
    });
    read.map_err(|source| PublishError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
