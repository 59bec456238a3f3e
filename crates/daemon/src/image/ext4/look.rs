//! Whether a file of somebody else's is an ext4 that a guest can mount from a read-only drive.
//!
//! Only the superblock is read: what is wrong behind it, the guest's kernel finds, and it is the guest that it hurts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the superblock is, and how long: fs/ext4/ext4.h.
pub(crate) const SUPERBLOCK_AT: u64 = 1024;
pub(crate) const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Guests have pages of 4 KiB, and blocks are no larger than those.
const BLOCK_BYTES_MAX: u64 = 4096;
/// Drives have whole sectors.
const SECTOR_BYTES: u64 = 512;
/// The journal has something that must be written first.
const INCOMPAT_RECOVER: u32 = 0x4;
/// Files that were deleted while open have to be cleared away (EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT).
const RO_COMPAT_ORPHANS: u32 = 0x1_0000;
/// `s_state`: the kernel found an error in it (EXT4_ERROR_FS).
const STATE_ERRORS: u16 = 0x2;
/// 64-bit numbers of blocks.
const INCOMPAT_64BIT: u32 = 0x80;
/// What the guest's kernels know: names with types, groups of metadata, extents, 64 bits, protection against two mounts, flexible groups,
/// large attributes, seeds of checksums, large directories, content in inodes.
const INCOMPAT_KNOWN: u32 = 0x2 | 0x10 | 0x40 | INCOMPAT_64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000;
/// There is a journal.
const COMPAT_JOURNAL: u32 = 0x4;

/// How full a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Bytes in use, its own included.
    pub(crate) used_bytes: u64,
    /// Files, directories and other entries.
    pub(crate) used_inodes: u64,
}

/// A file that no guest could mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmountable {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is something else, or damaged.
    #[error("its root filesystem is no ext4 that can be mounted read-only: {0}")]
    Refused(String),
}

/// Looks at the filesystem in `file`.
///
/// # Errors
/// When no guest could mount it.
pub(crate) fn look(file: &Path) -> Result<Contents, Unmountable> {
    let read = |source| Unmountable::Read { path: file.to_owned(), source };
    let opened = File::open(file).map_err(read)?;
    let length = opened.metadata().map_err(read)?.len();
    let mut block = [0; SUPERBLOCK_BYTES];
    if length < SUPERBLOCK_AT + SUPERBLOCK_BYTES as u64 {
        return Err(Unmountable::Refused(format!("it has {length} bytes")));
    }
    opened.read_exact_at(&mut block, SUPERBLOCK_AT).map_err(read)?;
    judged(&block, length).map_err(Unmountable::Refused)
}

/// Looks at a superblock, of a file of this length.
///
/// # Errors
/// Why no guest could mount it.
pub(crate) fn judged(block: &[u8; SUPERBLOCK_BYTES], length: u64) -> Result<Contents, String> {
    let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if half(0x38) != MAGIC {
        return Err("it has another format".to_owned());
    }
    let (compat, incompat) = (word(0x5c), word(0x60));
    let block_bytes = 1024_u64.checked_shl(word(0x18)).filter(|bytes| (1024..=BLOCK_BYTES_MAX).contains(bytes));
    let block_bytes = block_bytes.ok_or("its blocks are larger than a guest's pages")?;
    let wide = |low: usize, high: usize| {
        let high = if incompat & INCOMPAT_64BIT == 0 { 0 } else { u64::from(word(high)) };
        high << 32 | u64::from(word(low))
    };
    let (blocks, free_blocks) = (wide(0x4, 0x150), wide(0xc, 0x158));
    let bytes = blocks.checked_mul(block_bytes).filter(|bytes| *bytes <= length);
    let bytes = bytes.ok_or_else(|| {
        format!("it says that it has {blocks} blocks of {block_bytes} bytes, and the file has {length} bytes")
    })?;
    if !length.is_multiple_of(SECTOR_BYTES) {
        return Err(format!("{length} bytes are no whole number of sectors"));
    }
    if incompat & INCOMPAT_RECOVER != 0 {
        return Err("it was not unmounted, its journal has to be written first".to_owned());
    }
    if half(0x3a) & STATE_ERRORS != 0 {
        return Err("a kernel found errors in it".to_owned());
    }
    if word(0x64) & RO_COMPAT_ORPHANS != 0 {
        return Err("it has deleted files to clear away".to_owned());
    }
    if incompat & !INCOMPAT_KNOWN != 0 {
        return Err(format!("it has features that guests do not know: {:#x}", incompat & !INCOMPAT_KNOWN));
    }
    // Inode 8 is the usual place of a journal; without one it is on another device.
    if compat & COMPAT_JOURNAL != 0 && word(0xe0) == 0 {
        return Err("its journal is on another device".to_owned());
    }
    let used_bytes = bytes.saturating_sub(free_blocks.saturating_mul(block_bytes));
    let used_inodes = u64::from(word(0x0).saturating_sub(word(0x10)));
    Ok(Contents { used_bytes, used_inodes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::ext4::{Attributes, Links, Namespace, write};
    use crate::model::digest::Digest;
    use crate::model::progress::Watcher;

    /// One of ours, with some bytes of its superblock changed.
    fn changed(dir: &Path, at: usize, bytes: &[u8]) -> Result<Contents, Unmountable> {
        let file = dir.join("rootfs.ext4");
        if !file.exists() {
            let root = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
            let tree = Namespace::new(root, Links::Followed);
            let open = |_| Ok(io::empty());
            write(&tree, &file, Digest::of(b""), "test", open, Watcher::none()).unwrap();
        }
        let copy = dir.join("changed.ext4");
        std::fs::copy(&file, &copy).unwrap();
        let opened = File::options().write(true).open(&copy).unwrap();
        opened.write_all_at(bytes, SUPERBLOCK_AT + at as u64).unwrap();
        look(&copy)
    }

    #[test]
    fn only_what_guests_can_mount_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ours = changed(dir.path(), 0, &[]).unwrap();
        assert!(ours.used_bytes > 0 && ours.used_inodes >= 2, "{ours:?}");
        let incompat = |bit: u32| (0x60, bit.to_le_bytes().to_vec());
        for ((at, bytes), why) in [
            ((0x38, vec![0, 0]), "another format"),
            ((0x18, vec![3, 0, 0, 0]), "pages"),
            ((0x18, vec![0xff; 4]), "pages"),
            ((0x4, vec![0xff; 4]), "and the file has"),
            (incompat(0x42 | INCOMPAT_RECOVER), "unmounted"),
            ((0x3a, vec![3, 0]), "errors"),
            ((0x66, vec![1, 0]), "deleted files"),
            (incompat(0x42 | 0x1), "features"),
            (incompat(0x42 | 0x8), "features"),
            (incompat(0x42 | 0x20000), "features"),
            ((0xe0, vec![0; 4]), "another device"),
        ] {
            let refused = changed(dir.path(), at, &bytes).unwrap_err().to_string();
            assert!(refused.contains(why), "{at:#x}: {refused}");
        }
        std::fs::write(dir.path().join("short"), [0; 1500]).unwrap();
        assert!(look(&dir.path().join("short")).is_err());
        assert!(matches!(look(&dir.path().join("nowhere")), Err(Unmountable::Read { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_superblocks_never_panic(mut bytes in prop::collection::vec(any::<u8>(), SUPERBLOCK_BYTES), length: u64) {
            bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
            let log_blocks = u32::from(bytes[0x18] % 4);
            bytes[0x18..0x1c].copy_from_slice(&log_blocks.to_le_bytes());
            let _outcome = judged(bytes.as_slice().try_into().unwrap(), length);
        }
    }
}
