//! Whether a process has a file open: the file itself, whatever its name leads to by now.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::process::Identity;

impl Identity {
    /// Whether this very process has the file open that `path` leads to now, and not one that was there before. None when
    /// it has ended or does not let itself be looked at.
    #[must_use]
    pub fn has_open(&self, path: &Path) -> Option<bool> {
        let wanted = std::fs::metadata(path).ok().as_ref().map(file_of);
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        // A descriptor's link is followed to the open file itself, which may have no name any more.
        let mut files = open.flatten().filter_map(|descriptor| std::fs::metadata(descriptor.path()).ok());
        let found = wanted.is_some_and(|wanted| files.any(|meta| file_of(&meta) == wanted));
        self.is_alive().then_some(found)
    }
}

/// What tells a file from every other: its filesystem and its number there.
fn file_of(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_is_not_the_one_that_is_open() {
        let own = Identity::of(std::process::id()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("disk"), dir.path().join("other"));
        let held = std::fs::File::create(&path).unwrap();
        assert_eq!(own.has_open(&path), Some(true));
        std::fs::write(&other, b"").unwrap();
        assert_eq!(own.has_open(&other), Some(false));
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(own.has_open(&path), Some(false), "replaced");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(own.has_open(&path), Some(false), "removed");
        drop(held);
        let another = Identity { start_ticks: own.start_ticks + 1, ..own };
        assert_eq!(another.has_open(&path), None, "another process of that number is none of ours");
    }
}
