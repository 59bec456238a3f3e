//! The VM's disk: an empty ext4 filesystem with a journal, in a sparse file.

use std::io;
use std::path::{Path, PathBuf};

use mkext4::{FsBuilder, InodeCount, Options};

use super::ext4::SparseSink;
use crate::model::digest::Digest;

/// Size of the journal: what mke2fs gives a filesystem of 8 GiB. It takes no room on the host until it is used.
const JOURNAL_BLOCKS: u32 = 16_384;
/// Smallest disk: the journal may take a quarter of it.
pub const DISK_MIN_BYTES: u64 = 512 << 20;

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A size no disk can have.
    #[error("a disk cannot have {bytes} bytes: it must be a multiple of 4096, at least {DISK_MIN_BYTES}")]
    Size {
        /// The size asked for.
        bytes: u64,
    },
    /// The filesystem cannot be laid out.
    #[error("cannot lay out a disk of {bytes} bytes")]
    Layout {
        /// The size asked for.
        bytes: u64,
        /// The cause.
        #[source]
        err: mkext4::Error,
    },
    /// The file cannot be made.
    #[error(transparent)]
    Create(#[from] sys::fs::FsError),
    /// The file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
}

/// Writes an empty filesystem of `bytes` to the new file `path`.
///
/// # Errors
/// [`DiskError`] when the size is impossible or the file cannot be written; what was written of it is removed.
pub fn write_blank_ext4(path: &Path, bytes: u64) -> Result<(), DiskError> {
    if bytes < DISK_MIN_BYTES || !bytes.is_multiple_of(4096) {
        return Err(DiskError::Size { bytes });
    }
    let file = sys::fs::create_new(path, 0o600)?;
    let outcome = file.set_len(bytes).map_err(|err| DiskError::Write { path: path.to_owned(), err }).and_then(|()| {
        let mut options = Options::new(bytes, Digest::of(b"banger disk").uuid(), 0);
        options.inodes = InodeCount::Auto;
        options.label = Some("banger-disk".to_owned());
        options.reserved_percent = 0;
        options.journal_blocks = Some(JOURNAL_BLOCKS);
        let layout =
            FsBuilder::new(options).and_then(FsBuilder::seal).map_err(|err| DiskError::Layout { bytes, err })?;
        let written = layout.writer(SparseSink { file }).and_then(mkext4::build::ImageWriter::finish);
        written.map(drop).map_err(|err| DiskError::Write { path: path.to_owned(), err: io::Error::other(err) })
    });
    if outcome.is_err() {
        sys::fs::remove_file(path)?;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(program: &str, args: &[&str], path: &Path) -> String {
        let mut command = sys::process::command(format!("/usr/sbin/{program}"));
        let out = sys::process::run(command.args(args).arg(path)).expect(program);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_blank_disk_is_clean_sparse_and_has_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.ext4");
        write_blank_ext4(&path, DISK_MIN_BYTES).unwrap();
        tool("e2fsck", &["-fn"], &path);
        let facts = tool("dumpe2fs", &["-h"], &path);
        assert!(facts.contains("has_journal") && facts.contains("Total journal size:       64M"), "{facts}");
        assert!(sys::fs::allocated_bytes(&path) < 1 << 20);
        assert!(write_blank_ext4(&path, DISK_MIN_BYTES).is_err(), "an existing file is kept");
        assert!(path.exists());
    }

    #[test]
    fn impossible_sizes_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.ext4");
        for bytes in [0, 4096, DISK_MIN_BYTES + 1, u64::MAX / 4096 * 4096] {
            assert!(write_blank_ext4(&path, bytes).is_err(), "{bytes}");
            assert!(!path.exists());
        }
    }
}
