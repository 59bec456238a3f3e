//! Reads an ext4 file entry by entry, without mounting it.
//!
//! A reader gets [`Record`]s as of an archive: directories before what is in them, a file with several names once with its
//! content and then as hard links, contents named by their place in the file. What the kernel would have to repair
//! first, and what is not understood whole, is refused: a journal to replay, files without extents, other block sizes.

use std::collections::HashMap;
use std::fs::File;

use mkext4::reader::{Fs, ReadAt};
use mkext4::spec::inode::FileType;
use mkext4::spec::{Extent, ExtentHeader, ExtentIdx, Inode, ROOT_INO, Superblock, XattrEntry, extent};

use super::CONTENT_MAX_BYTES;
use super::acl;
use super::tarball::{Content, Record, RecordKind, Segment};
use crate::image::ext4::{ENTRIES_MAX, Ext4Error, SUPERBLOCK_AT, SUPERBLOCK_BYTES, judged};
use crate::model::progress::{Cancelled, Watcher};

const BLOCK_BYTES: u64 = 4096;
/// `s_log_block_size` of such blocks: they are `1024 << 2` long.
const LOG_BLOCK_BYTES: u32 = 2;
/// Pieces of one file, and blocks of the tree that tells where they are.
const EXTENTS_MAX: usize = 100_000;
/// Blocks of one directory: a million names of 255 bytes.
const DIRECTORY_BLOCKS_MAX: u64 = 70_000;
/// Levels of that tree; ext4 makes no more (EXT4_MAX_EXTENT_DEPTH).
const DEPTH_MAX: u16 = 5;
/// The directory fsck(8) puts things into, which every filesystem has of its own.
const LOST_FOUND: &[u8] = b"lost+found";

/// Why a filesystem cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// No guest could mount it.
    #[error("it cannot be mounted as it is: {0}")]
    Unmountable(String),
    /// Nothing is wrong with it, but it cannot be read here.
    #[error("it is made in a way that cannot be read here: {0}")]
    Foreign(&'static str),
    /// Its parts cannot be where it says.
    #[error("the filesystem is damaged: {0}")]
    Damaged(&'static str),
    /// It is damaged, or has what is not understood.
    #[error("cannot read the filesystem")]
    Read(#[source] mkext4::Error),
    /// An entry that cannot be taken over.
    #[error("entry {path:?} is refused: {why}")]
    Refused {
        /// The entry.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// An entry does not fit the tree.
    #[error(transparent)]
    Tree(#[from] Ext4Error),
    /// More names than an image may have.
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

impl FilesystemError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unmountable(_) => {
                Some("an unmounted ext4 filesystem without partitions around it is needed; e2fsck -f FILE repairs one")
            }
            Self::Foreign(_) | Self::Read(mkext4::Error::Unsupported(_)) => {
                Some("make it anew of its content: mkfs.ext4 -b 4096 -d DIRECTORY FILE")
            }
            Self::Damaged(_)
            | Self::Read(_)
            | Self::Refused { .. }
            | Self::Tree(_)
            | Self::TooManyEntries
            | Self::Cancelled(_) => None,
        }
    }
}

/// Refuses what no guest mounts, and what a reader would miscalculate with.
fn check(file: &impl ReadAt, bytes: u64) -> Result<(), FilesystemError> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    if bytes < SUPERBLOCK_AT + superblock.len() as u64 {
        return Err(FilesystemError::Unmountable(format!("it has {bytes} bytes")));
    }
    let read = file.read_exact_at(SUPERBLOCK_AT, &mut superblock);
    read.map_err(|err| FilesystemError::Read(mkext4::Error::Io(err)))?;
    judged(&superblock, bytes).map_err(FilesystemError::Unmountable)?;
    let superblock = Superblock::decode(&superblock).map_err(FilesystemError::Read)?;
    let blocks = superblock.blocks_count;
    if superblock.log_block_size != LOG_BLOCK_BYTES {
        return Err(FilesystemError::Foreign("its blocks are not of 4096 bytes"));
    }
    if superblock.first_data_block != 0 || blocks == 0 || blocks > bytes / BLOCK_BYTES {
        return Err(FilesystemError::Damaged("it is longer than its file"));
    }
    if !matches!(superblock.desc_size(), 32 | 64) {
        return Err(FilesystemError::Damaged("its groups are described in an unknown way"));
    }
    Ok(())
}

/// Refuses what [`records`] does not begin with: the superblock tells, before anything else is read.
///
/// # Errors
/// [`FilesystemError`]
pub(crate) fn check_file(file: &File) -> Result<(), FilesystemError> {
    check(file, file.metadata().map_err(|err| FilesystemError::Read(mkext4::Error::Io(err)))?.len())
}

/// Everything in the filesystem `file`; contents are places in it.
///
/// # Errors
/// [`FilesystemError`]
pub(crate) fn records(file: &File, watcher: Watcher<'_>) -> Result<Vec<Record>, FilesystemError> {
    let bytes = file.metadata().map_err(|err| FilesystemError::Read(mkext4::Error::Io(err)))?.len();
    records_of(file, bytes, watcher)
}

/// [`records`] of what is `bytes` long.
pub(crate) fn records_of<R: ReadAt>(file: R, bytes: u64, watcher: Watcher<'_>) -> Result<Vec<Record>, FilesystemError> {
    check(&file, bytes)?;
    let fs = Fs::open(file).map_err(FilesystemError::Read)?;
    let blocks = fs.superblock().blocks_count;
    for group in 0..fs.superblock().group_count() {
        if fs.group_desc(group).map_err(FilesystemError::Read)?.inode_table >= blocks {
            return Err(FilesystemError::Damaged("its inodes are outside"));
        }
    }
    let mut walk = Walk { fs, bytes, records: Vec::new(), seen: HashMap::new() };
    let mut directories = vec![walk.root()?];
    while let Some((inode, path)) = directories.pop() {
        watcher.check()?;
        let below = walk.directory(inode, &path)?;
        directories.extend(below.into_iter().rev());
    }
    Ok(walk.records)
}

struct Walk<R: ReadAt> {
    fs: Fs<R>,
    /// Length of the file.
    bytes: u64,
    records: Vec<Record>,
    /// What was met, by inode, with its first path.
    seen: HashMap<u32, String>,
}

fn refused(path: &str, why: &'static str) -> FilesystemError {
    FilesystemError::Refused { path: path.chars().take(200).collect(), why }
}

impl<R: ReadAt> Walk<R> {
    fn root(&mut self) -> Result<(u32, String), FilesystemError> {
        let inode = self.fs.inode(ROOT_INO).map_err(FilesystemError::Read)?;
        self.seen.insert(ROOT_INO, String::new());
        self.take(ROOT_INO, &inode, String::new(), RecordKind::Dir)?;
        Ok((ROOT_INO, String::new()))
    }

    /// Takes what is in a directory; gives the directories among it.
    fn directory(&mut self, inode: u32, path: &str) -> Result<Vec<(u32, String)>, FilesystemError> {
        let mut below = Vec::new();
        let node = self.fs.inode(inode).map_err(FilesystemError::Read)?;
        // Both are bounded by it, whatever the inode says of its length.
        let blocks: u64 = self.extents(&node, path)?.iter().map(|extent| u64::from(extent.len())).sum();
        if node.size / BLOCK_BYTES > blocks || blocks > DIRECTORY_BLOCKS_MAX {
            return Err(refused(path, "it is a damaged directory"));
        }
        let mut entries = self.fs.read_dir(inode).map_err(FilesystemError::Read)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let is_lost_found = inode == ROOT_INO && entry.name == LOST_FOUND;
            if entry.inode == 0 || entry.name == b"." || entry.name == b".." || is_lost_found {
                continue;
            }
            let name = String::from_utf8(entry.name).map_err(|error| {
                refused(&format!("{path}/{}", error.as_bytes().escape_ascii()), "its name is not UTF-8")
            })?;
            let full = if path.is_empty() { name } else { format!("{path}/{name}") };
            if self.entry(entry.inode, full.clone())? {
                below.push((entry.inode, full));
            }
        }
        Ok(below)
    }

    /// Takes one entry; says whether it is a directory.
    fn entry(&mut self, number: u32, path: String) -> Result<bool, FilesystemError> {
        let inode = self.fs.inode(number).map_err(FilesystemError::Read)?;
        let kind = inode.file_type();
        if let Some(first) = self.seen.get(&number) {
            if kind == FileType::Dir {
                return Err(refused(&path, "it is a directory of two names"));
            }
            let kind = RecordKind::HardLink(first.clone());
            self.take(number, &inode, path, kind)?;
            return Ok(false);
        }
        let kind = match kind {
            FileType::Dir => RecordKind::Dir,
            FileType::Regular => RecordKind::File(self.content(&inode, &path)?),
            FileType::Symlink => {
                if inode.fast_symlink_target().is_none() && !inode.uses_extents() {
                    return Err(refused(&path, "its target is not in extents"));
                }
                self.extents(&inode, &path)?;
                let target = self.fs.symlink_target(number).map_err(FilesystemError::Read)?;
                RecordKind::Symlink(String::from_utf8(target).map_err(|_| refused(&path, "its target is not UTF-8"))?)
            }
            FileType::CharDev | FileType::BlockDev => {
                let (major, minor) = inode.dev_numbers().ok_or_else(|| refused(&path, "it is no device"))?;
                if kind == FileType::CharDev {
                    RecordKind::CharDevice { major, minor }
                } else {
                    RecordKind::BlockDevice { major, minor }
                }
            }
            FileType::Fifo => RecordKind::Fifo,
            // A socket means nothing once whoever listened is gone.
            FileType::Socket => return Ok(false),
            FileType::Unknown => return Err(refused(&path, "it is of no known type")),
        };
        let is_directory = kind == RecordKind::Dir;
        self.seen.insert(number, path.clone());
        self.take(number, &inode, path, kind)?;
        Ok(is_directory)
    }

    fn take(&mut self, number: u32, inode: &Inode, path: String, kind: RecordKind) -> Result<(), FilesystemError> {
        if self.records.len() >= ENTRIES_MAX {
            return Err(FilesystemError::TooManyEntries);
        }
        let mut xattrs = Vec::new();
        if !matches!(kind, RecordKind::HardLink(_)) {
            for entry in self.fs.xattrs(number).map_err(FilesystemError::Read)? {
                xattrs.push(attribute(entry).ok_or_else(|| refused(&path, "it has an attribute of no known kind"))?);
            }
        }
        let mtime = Inode::timestamp(inode.mtime, inode.mtime_extra);
        let (mode, uid, gid) = (inode.mode & 0o7777, inode.uid, inode.gid);
        self.records.push(Record { path, kind, mode, uid, gid, mtime, xattrs });
        Ok(())
    }

    /// The extents of an inode. A tree that leads nowhere, or back to itself, is refused.
    fn extents(&self, inode: &Inode, path: &str) -> Result<Vec<Extent>, FilesystemError> {
        let damaged = || refused(path, "its extents are damaged");
        let Some(root) = inode.extent_root() else {
            return if inode.uses_extents() { Err(damaged()) } else { Ok(Vec::new()) };
        };
        let (mut found, mut nodes) = (Vec::new(), vec![(root.to_vec(), None)]);
        let mut visited = 0;
        while let Some((node, expected)) = nodes.pop() {
            let header = ExtentHeader::decode(&node).map_err(FilesystemError::Read)?;
            let capacity = (node.len() - ExtentHeader::LEN) / ExtentHeader::ENTRY_LEN;
            let is_wrong =
                usize::from(header.entries) > capacity || expected.is_some_and(|depth| depth != header.depth);
            visited += 1;
            if is_wrong || header.depth > DEPTH_MAX || visited > EXTENTS_MAX {
                return Err(damaged());
            }
            for at in 0..usize::from(header.entries) {
                let entry = extent::entry(&node, at);
                if header.depth == 0 {
                    found.push(Extent::decode(entry));
                } else {
                    let leaf = ExtentIdx::decode(entry).leaf;
                    if leaf >= self.bytes / BLOCK_BYTES {
                        return Err(damaged());
                    }
                    nodes.push((self.fs.read_block(leaf).map_err(FilesystemError::Read)?, Some(header.depth - 1)));
                }
                if found.len() + nodes.len() > EXTENTS_MAX {
                    return Err(damaged());
                }
            }
        }
        Ok(found)
    }

    /// Where a file's bytes are.
    fn content(&self, inode: &Inode, path: &str) -> Result<Content, FilesystemError> {
        let size_bytes = inode.size;
        if size_bytes > CONTENT_MAX_BYTES {
            return Err(refused(path, "it is too large"));
        }
        if size_bytes > 0 && !inode.uses_extents() {
            return Err(refused(path, "its content is not in extents"));
        }
        let mut extents = self.extents(inode, path)?;
        extents.sort_by_key(|extent| extent.logical);
        let mut segments: Vec<Segment> = Vec::with_capacity(extents.len());
        for extent in extents.iter().filter(|extent| !extent.is_unwritten()) {
            let segment = segment(extent, size_bytes);
            let follows = segments.last().is_none_or(|last| last.offset + last.len <= segment.offset);
            if !follows || segment.at.saturating_add(segment.len) > self.bytes {
                return Err(refused(path, "its extents are damaged"));
            }
            segments.push(segment);
        }
        segments.retain(|segment| segment.len > 0);
        Ok(Content { size_bytes, segments })
    }
}

/// An extent as far as the file goes.
fn segment(extent: &Extent, size_bytes: u64) -> Segment {
    let offset = u64::from(extent.logical) * BLOCK_BYTES;
    let len = (u64::from(extent.len()) * BLOCK_BYTES).min(size_bytes.saturating_sub(offset));
    Segment { offset, len, at: extent.start.saturating_mul(BLOCK_BYTES) }
}

/// An attribute as the kernel shows it.
fn attribute(entry: XattrEntry) -> Option<(String, Vec<u8>)> {
    let name = String::from_utf8(entry.full_name()?).ok()?;
    let is_acl = name == "system.posix_acl_access" || name == "system.posix_acl_default";
    let value = if is_acl { acl::from_ext4(&entry.value)? } else { entry.value };
    Some((name, value))
}
