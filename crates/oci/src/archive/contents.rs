//! What a tar of images holds. Whoever wrote it is hostile: names stay inside, counts and sizes are bounded, and what such
//! an archive never holds is refused.

use std::collections::BTreeMap;
use std::io::Read;

use tar::EntryType;
use tree::reader::{Entry, Reader};

use super::ArchiveError;
use super::reading::Plain;
use crate::blobs::{BlobError, Blobs, Pin, Staged, Staging};
use crate::digest::Digest;
use crate::options::Limits;

/// Names in such archives have some 100 bytes.
const NAME_BYTES_MAX: usize = 1024;
/// Links that lead to links: Docker's lead to a layer at once.
const LINKS_MAX: usize = 8;
/// What follows the end of a tar in a pipe: its padding to whole records.
const PADDING_BYTES_MAX: u64 = 1 << 20;
/// Where layouts keep what is named by its digest.
const BLOBS: &str = "blobs/sha256/";

/// The files of an archive, staged in the cache, by their names.
pub(crate) struct Contents {
    staging: Staging,
    files: BTreeMap<String, Staged>,
    /// Symbolic and hard links, by where in the archive they lead.
    links: BTreeMap<String, String>,
}

impl Contents {
    /// Reads an archive to its end.
    pub(crate) fn read(stream: impl Read, limits: &Limits, blobs: &Blobs) -> Result<Contents, ArchiveError> {
        let mut contents = Contents { staging: Staging::new(blobs)?, files: BTreeMap::new(), links: BTreeMap::new() };
        let mut plain = Plain::new(stream).map_err(ArchiveError::Read)?;
        let mut reader = Reader::new(&mut plain);
        let (mut count, mut left) = (0, limits.image_bytes);
        while let Some(entry) = reader.next_entry().map_err(ArchiveError::Read)? {
            count += 1;
            if count > limits.archive_entries {
                return Err(ArchiveError::TooManyEntries {
                    limit: limits.archive_entries,
                    entry: tree::shown(&entry.path),
                });
            }
            contents.take(&entry, &mut reader, limits.layer_bytes, &mut left)?;
        }
        // Whoever writes into a pipe wants to get rid of the padding.
        let drained = std::io::copy(&mut plain.take(PADDING_BYTES_MAX), &mut std::io::sink());
        drained.map_err(ArchiveError::Read)?;
        Ok(contents)
    }

    fn take(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<impl Read>,
        file_bytes_max: u64,
        left: &mut u64,
    ) -> Result<(), ArchiveError> {
        let name = inside("", &entry.path).map_err(|why| refused(entry, why))?;
        if entry.kind.is_dir() {
            return Ok(());
        }
        let is_taken = self.links.contains_key(&name);
        let target = match entry.kind {
            EntryType::Regular | EntryType::Continuous if entry.runs.is_none() => None,
            EntryType::Symlink => Some(inside(parent(&name), &entry.link)),
            EntryType::Link => Some(inside("", &entry.link)),
            EntryType::GNUSparse | EntryType::Regular => return Err(refused(entry, "it is a sparse file")),
            _ => return Err(refused(entry, "it is neither a file nor a directory nor a link")),
        };
        if let Some(target) = target {
            let target = target.map_err(|_| refused(entry, "it leads out of the archive"))?;
            if is_taken || self.files.contains_key(&name) {
                return Err(refused(entry, "there are two of this name"));
            }
            self.links.insert(name, target);
            return Ok(());
        }
        let shown = tree::shown(&entry.path);
        let staged = self.staging.stage(&shown, reader.content(), file_bytes_max.min(*left));
        let staged = staged.map_err(|error| match error {
            BlobError::Read(source) => ArchiveError::Read(source),
            error => error.into(),
        })?;
        *left -= staged.size;
        check_name(&name, &staged, shown)?;
        let before = self.files.insert(name, staged.clone());
        if is_taken || before.is_some_and(|before| before.digest != staged.digest) {
            return Err(refused(entry, "there are two of this name"));
        }
        Ok(())
    }

    /// Whether there is a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file(name.as_bytes(), "").is_ok()
    }

    /// The file of this name, or where a link of this name leads.
    pub(crate) fn file(&self, name: &[u8], needed_by: &'static str) -> Result<&Staged, ArchiveError> {
        let missing = || ArchiveError::Missing { entry: tree::shown(name), needed_by };
        let mut name = inside("", name).map_err(|_| missing())?;
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&name) {
                return Ok(file);
            }
            name = self.links.get(&name).ok_or_else(missing)?.clone();
        }
        Err(missing())
    }

    /// A document, whole.
    pub(crate) fn document(&self, name: &str, needed_by: &'static str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        Ok(self.file(name.as_bytes(), needed_by)?.read(&tree::shown(name.as_bytes()), limit)?)
    }

    /// Makes a file a blob.
    pub(crate) fn publish(&self, file: &Staged, blobs: &Blobs) -> Result<Pin, ArchiveError> {
        Ok(self.staging.publish(blobs, file)?)
    }

    /// Makes the blob of a layout one of the cache.
    pub(crate) fn blob(&self, digest: &Digest, needed_by: &'static str, blobs: &Blobs) -> Result<Pin, ArchiveError> {
        let file = self.file(blob_name(digest).as_bytes(), needed_by)?;
        self.publish(file, blobs)
    }
}

/// The name of a blob in a layout.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// Refuses a file whose name is the digest of something else.
fn check_name(name: &str, staged: &Staged, shown: String) -> Result<(), ArchiveError> {
    let named = name.strip_prefix(BLOBS).or_else(|| name.strip_suffix(".json"));
    match named.and_then(|hex| Digest::from_hex(hex).ok()) {
        Some(digest) if digest != staged.digest => Err(ArchiveError::Mismatch { entry: shown, found: staged.digest }),
        _ => Ok(()),
    }
}

fn refused(entry: &Entry, why: &'static str) -> ArchiveError {
    ArchiveError::Entry { entry: tree::shown(&entry.path), why }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A path in the archive, from the directory `from` in it: without `.`, `..` and empty components.
///
/// # Errors
/// Why there is none.
pub(crate) fn inside(from: &str, path: &[u8]) -> Result<String, &'static str> {
    if path.len() > NAME_BYTES_MAX {
        return Err("its name is too long");
    }
    let path = std::str::from_utf8(path).map_err(|_| "its name is no UTF-8")?;
    if path.starts_with('/') {
        return Err("its name is absolute");
    }
    if path.contains('\0') {
        return Err("there is a zero byte in its name");
    }
    let mut components: Vec<&str> = from.split('/').filter(|component| !component.is_empty()).collect();
    let may_climb = !components.is_empty();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            // An entry's own name has no reason to climb, even if it stays inside.
            ".." if may_climb => {
                components.pop().ok_or("its name leads out of the archive")?;
            }
            ".." => return Err("there is .. in its name"),
            _ => components.push(component),
        }
    }
    Ok(components.join("/"))
}
