//! What is in a root filesystem that somebody else made, as it is known of ours.

use std::fs::File;
use std::path::Path;

use super::collected::Collected;
use super::filesystem::{self, FilesystemError};
use super::tarball::RecordKind;
use crate::image::ext4::Links;
use crate::model::progress::Watcher;

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Bytes of file content.
    pub(crate) content_bytes: u64,
    /// Names.
    pub(crate) entries: u64,
    /// The init it has, as a path from its root.
    pub(crate) init: Option<String>,
    /// Packages its dpkg database lists as installed, where it has one.
    pub(crate) packages: Option<u64>,
}

/// Reads all names in the filesystem `image`.
///
/// # Errors
/// When a kernel would have to repair it first, or it cannot be read whole.
pub(crate) fn contents(image: &Path, watcher: Watcher<'_>) -> Result<Contents, FilesystemError> {
    watcher.stage("read root filesystem");
    let unread = |err| FilesystemError::Read(mkext4::Error::Io(err));
    let file = File::open(image).map_err(unread)?;
    let records = filesystem::records(&file, watcher)?;
    let (entries, mut content_bytes) = (records.len() as u64, 0_u64);
    let mut collected = Collected::new(Links::Followed);
    for record in records {
        if let RecordKind::File(content) = &record.kind {
            let stored: u64 = content.segments.iter().map(|segment| segment.len).sum();
            content_bytes = content_bytes.saturating_add(stored);
        }
        collected.add(0, record)?;
    }
    let packages = collected.packages(&[file]).map_err(unread)?;
    Ok(Contents { content_bytes, entries, init: collected.init(), packages })
}
