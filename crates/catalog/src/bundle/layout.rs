//! What may be in a bundle, and where: an entry is placed, or refused.

use std::collections::HashMap;

use tar::EntryType;
use tree::reader::Entry;
use tree::shown;

use super::read::Limits;
use super::{BundleError, CONFIG, INITRD, MANIFEST, MANIFEST_BYTES_MAX, MODULES, ROOTFS, VMLINUX};

/// Of a path below `modules/`.
const PATH_BYTES_MAX: usize = 1024;
/// Directories below each other.
const DEPTH_MAX: usize = 32;

/// What a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Kernel,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Image => "an image's bundle",
            Kind::Kernel => "a kernel's bundle",
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The directory that everything is in.
    Top,
    /// `manifest.json`.
    Manifest,
    /// `rootfs.ext4`.
    Rootfs,
    /// `vmlinux`, `initrd.img`, `config`.
    Kernel(&'static str),
    /// A directory of modules.
    Directory(String),
    /// A file below one.
    Module(String),
}

/// What was there so far.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    limits: &'a Limits,
    /// None as long as nothing told.
    pub(super) kind: Option<Kind>,
    seen: HashMap<String, Seen>,
    entries: u64,
    module_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    File,
    Directory,
}

impl Layout<'_> {
    pub(super) fn new(kind: Option<Kind>, limits: &Limits) -> Layout<'_> {
        Layout { limits, kind, seen: HashMap::new(), entries: 0, module_bytes: 0 }
    }

    /// Whether this file was there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.seen.get(path) == Some(&Seen::File)
    }

    /// Finds the place of the next entry.
    pub(super) fn place(&mut self, entry: &Entry) -> Result<Place, BundleError> {
        let name = || shown(&entry.path);
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(BundleError::TooMany { entry: name(), limit: self.limits.entries });
        }
        let is_directory = match entry.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => false,
            EntryType::Directory => true,
            _ => return Err(BundleError::NoFile { entry: name() }),
        };
        let path = safe(&entry.path, is_directory).ok_or_else(|| BundleError::UnsafePath { entry: name() })?;
        let place = self
            .named(&path, is_directory)
            .ok_or_else(|| BundleError::Foreign { entry: name(), kind: self.kind.map_or("a bundle", Kind::name) })?;
        self.note(&path, is_directory).ok_or_else(|| BundleError::Twice { entry: name() })?;
        self.bound(&place, entry)?;
        Ok(place)
    }

    fn named(&mut self, path: &str, is_directory: bool) -> Option<Place> {
        let is_module = path.strip_prefix(MODULES).is_some_and(|rest| rest.starts_with('/'));
        let (place, kind) = match (path, is_directory) {
            ("", true) => (Place::Top, None),
            (MANIFEST, false) => (Place::Manifest, None),
            (ROOTFS, false) => (Place::Rootfs, Some(Kind::Image)),
            (VMLINUX, false) => (Place::Kernel(VMLINUX), Some(Kind::Kernel)),
            (INITRD, false) => (Place::Kernel(INITRD), Some(Kind::Kernel)),
            (CONFIG, false) => (Place::Kernel(CONFIG), Some(Kind::Kernel)),
            (MODULES, true) => (Place::Directory(path.to_owned()), Some(Kind::Kernel)),
            (_, true) if is_module => (Place::Directory(path.to_owned()), Some(Kind::Kernel)),
            (_, false) if is_module => (Place::Module(path.to_owned()), Some(Kind::Kernel)),
            _ => return None,
        };
        match (self.kind, kind) {
            (None, told) => self.kind = told,
            (Some(_), None) => {}
            (Some(is), Some(told)) if is == told => {}
            (Some(_), Some(_)) => return None,
        }
        Some(place)
    }

    /// Remembers a path and the directories on the way to it; none, where something is in its way.
    fn note(&mut self, path: &str, is_directory: bool) -> Option<()> {
        for (at, _) in path.match_indices('/') {
            let above = self.seen.entry(path[..at].to_owned()).or_insert(Seen::Directory);
            if *above != Seen::Directory {
                return None;
            }
        }
        let new = if is_directory { Seen::Directory } else { Seen::File };
        match self.seen.insert(path.to_owned(), new) {
            // A directory may be named before its content, or after.
            Some(Seen::Directory) if is_directory => Some(()),
            Some(_) => None,
            None => Some(()),
        }
    }

    fn bound(&mut self, place: &Place, entry: &Entry) -> Result<(), BundleError> {
        let (bytes, limit_bytes) = match place {
            Place::Top | Place::Directory(_) => (entry.length, 0),
            Place::Manifest => (entry.length, MANIFEST_BYTES_MAX),
            Place::Rootfs => (entry.length, self.limits.rootfs_bytes),
            Place::Kernel(_) => (entry.length, self.limits.kernel_bytes),
            Place::Module(_) => {
                self.module_bytes = self.module_bytes.saturating_add(entry.length);
                (self.module_bytes, self.limits.modules_bytes)
            }
        };
        if bytes <= limit_bytes {
            return Ok(());
        }
        Err(BundleError::TooLarge { entry: shown(&entry.path), bytes, limit_bytes })
    }
}

/// A path that stays where it is, as it is written in this table: without `./` before and `/` behind it.
fn safe(path: &[u8], is_directory: bool) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = if is_directory { path.strip_suffix('/').unwrap_or(path) } else { path };
    if is_directory && (path.is_empty() || path == ".") {
        return Some(String::new());
    }
    let is_component = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_safe = path.len() <= PATH_BYTES_MAX
        && path.split('/').count() <= DEPTH_MAX
        && path.split('/').all(is_component)
        && !path.chars().any(char::is_control);
    is_safe.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_where_they_are() {
        for (path, is_directory, expected) in [
            ("rootfs.ext4", false, Some("rootfs.ext4")),
            ("./rootfs.ext4", false, Some("rootfs.ext4")),
            ("modules/", true, Some("modules")),
            ("./", true, Some("")),
            (".", true, Some("")),
            ("/rootfs.ext4", false, None),
            ("../rootfs.ext4", false, None),
            ("modules/../x", false, None),
            ("modules//x", false, None),
            ("modules/./x", false, None),
            ("modules/x/", false, None),
            ("modules/a\nb", false, None),
            ("", false, None),
            (".", false, None),
        ] {
            assert_eq!(safe(path.as_bytes(), is_directory).as_deref(), expected, "{path:?}");
        }
        assert_eq!(safe(b"modules/\xff", false), None);
        assert_eq!(safe(&[b"a/".repeat(40).as_slice(), b"x"].concat(), false), None);
        assert_eq!(safe(&b"a".repeat(2000), false), None);
    }
}
