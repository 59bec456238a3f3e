//! Makes an ext4 file from a tree of names: collect a [`Namespace`], then [`write`] it.
//!
//! The order of the work is mkext4's: the whole tree with every size first, then the contents. The result depends on
//! the tree alone: names are declared in sorted order, and the filesystem is sized to what it holds. All-zero blocks
//! are left as holes in the file.
//!
//! mkext4 always makes a journal. It is empty, so a read-only mount has nothing to replay and works on a read-only drive.

mod look;
mod namespace;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub(crate) use look::{Contents, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Unmountable, judged, look};
use mkext4::{FsBuilder, InodeCount, InodeHandle, Layout, Meta, Options, ROOT, SparseSeg, SpecialKind};
pub(crate) use namespace::{Attributes, ENTRIES_MAX, Kind, Links, Namespace};

use crate::model::digest::Digest;
use crate::model::progress::Watcher;

const BLOCK_BYTES: u64 = 4096;
/// The kernel's jbd2 refuses a journal of under 1024 blocks.
const JOURNAL_BLOCKS: u32 = 1024;
/// mkext4 lets the journal take a quarter of the filesystem at most.
const BLOCKS_MIN: u64 = JOURNAL_BLOCKS as u64 * 4;
const BLOCKS_PER_GROUP: u64 = 32_768;
const INODES_PER_GROUP_MAX: u64 = 32_768;
/// Inodes below 12 belong to the filesystem.
const RESERVED_INODES: u64 = 12;
/// Times the estimate of the size is raised before giving up; each raises it by an eighth.
const SIZE_ATTEMPTS: u32 = 6;

/// Why a tree cannot become a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// A name that would leave the tree, or cannot be one.
    #[error("entry {path:?} is refused: {why}")]
    Name {
        /// The path as it was given.
        path: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// More names than allowed.
    #[error("more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    /// mkext4 does not accept an entry.
    #[error("cannot place {path:?} in the filesystem")]
    Declare {
        /// The entry.
        path: String,
        /// What mkext4 said.
        #[source]
        err: mkext4::Error,
    },
    /// The tree does not fit the layout.
    #[error("cannot lay out the filesystem")]
    Layout(#[source] mkext4::Error),
    /// A file's content cannot be read in full, or not be written.
    #[error("cannot write the content of {path:?} to {}", .file.display())]
    Content {
        /// The entry.
        path: String,
        /// The file being made.
        file: std::path::PathBuf,
        /// The cause.
        #[source]
        err: mkext4::Error,
    },
    /// The file cannot be given its length or be read again.
    #[error("cannot write {}", .file.display())]
    Write {
        /// The file being made.
        file: std::path::PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The file itself cannot be made.
    #[error(transparent)]
    Create(#[from] sys::fs::FsError),
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] crate::model::progress::Cancelled),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Bytes of file content in it.
    pub(crate) content_bytes: u64,
    /// Names in it.
    pub(crate) entries: u64,
}

impl Namespace {
    /// Blocks and inodes the tree needs, a little more rather than less.
    fn estimate(&self) -> (u64, u64) {
        let mut blocks = 0;
        let (reachable, _) = self.reachable();
        for node in reachable.iter().map(|&node| &self.nodes[node]) {
            let xattr_block = u64::from(!node.xattrs.is_empty());
            blocks += xattr_block
                + match &node.kind {
                    // One more for each 256 MiB, in case free space is fragmented by backup superblocks.
                    Kind::File { size_bytes, ranges, .. } => {
                        let pieces = ranges.as_ref().map_or(1, Vec::len) as u64;
                        data_bytes(*size_bytes, ranges).div_ceil(BLOCK_BYTES) + size_bytes / (256 << 20) + pieces / 300
                    }
                    Kind::Symlink(target) => u64::from(target.len() >= 60),
                    Kind::Dir => {
                        let entry = |name: &String| 12 + name.len() as u64;
                        let bytes: u64 = node.children.keys().map(entry).sum();
                        2 + bytes * 3 / 2 / BLOCK_BYTES
                    }
                    Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => 0,
                };
        }
        let inodes = reachable.len() as u64 + RESERVED_INODES;
        blocks += inodes.div_ceil(16) + u64::from(JOURNAL_BLOCKS) + 64;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP) + 1;
        let group_blocks = 2 + 1 + groups.div_ceil(128);
        blocks += groups * (group_blocks + 1);
        let for_inodes = (inodes.div_ceil(INODES_PER_GROUP_MAX) - 1) * BLOCKS_PER_GROUP + 1;
        (blocks.max(BLOCKS_MIN).max(for_inodes), inodes)
    }

    /// Declares the tree to mkext4 and freezes it; the files come back in the order of their data.
    fn lay_out(&self, blocks: u64, inodes: u64, uuid: [u8; 16], label: &str) -> Result<(Layout, Vec<Fill>), Ext4Error> {
        let mut options = Options::new(blocks * BLOCK_BYTES, uuid, 0);
        options.inodes = InodeCount::Exact(u32::try_from(inodes).unwrap_or(u32::MAX));
        options.label = Some(label.to_owned());
        options.reserved_percent = 0;
        options.journal_blocks = Some(JOURNAL_BLOCKS);
        let mut builder = FsBuilder::new(options).map_err(Ext4Error::Layout)?;
        let mut declared: Vec<Option<InodeHandle>> = vec![None; self.nodes.len()];
        let mut fills = Vec::new();
        let mut directories = vec![(0, ROOT, String::new())];
        self.describe(&mut builder, 0, ROOT, "/")?;
        while let Some((directory, handle, path)) = directories.pop() {
            let mut below = Vec::new();
            for (name, &child) in &self.nodes[directory].children {
                let path = format!("{path}{name}");
                let known = declared[child];
                let child_handle = self
                    .declare(&mut builder, handle, name, child, known)
                    .map_err(|err| Ext4Error::Declare { path: path.clone(), err })?;
                if known.is_some() {
                    continue;
                }
                declared[child] = Some(child_handle);
                self.describe(&mut builder, child, child_handle, &path)?;
                match &self.nodes[child].kind {
                    Kind::Dir => below.push((child, child_handle, path + "/")),
                    Kind::File { size_bytes, ranges, content } => {
                        let data_bytes = data_bytes(*size_bytes, ranges);
                        if data_bytes > 0 {
                            fills.push(Fill { handle: child_handle, path, data_bytes, content: *content });
                        }
                    }
                    Kind::Symlink(_) | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {}
                }
            }
            directories.extend(below.into_iter().rev());
        }
        Ok((builder.seal().map_err(Ext4Error::Layout)?, fills))
    }

    fn declare(
        &self,
        builder: &mut FsBuilder,
        parent: InodeHandle,
        name: &str,
        node: usize,
        known: Option<InodeHandle>,
    ) -> mkext4::Result<InodeHandle> {
        if let Some(handle) = known {
            builder.hardlink(parent, name, handle)?;
            return Ok(handle);
        }
        let meta = self.nodes[node].attributes.meta();
        match &self.nodes[node].kind {
            Kind::Dir => builder.mkdir(parent, name, meta),
            Kind::File { size_bytes, ranges: None, .. } => builder.file(parent, name, meta, *size_bytes),
            Kind::File { size_bytes, ranges: Some(ranges), .. } => {
                builder.file_sparse(parent, name, meta, &segments(*size_bytes, ranges))
            }
            Kind::Symlink(target) => builder.symlink(parent, name, target, Meta { mode: 0o777, ..meta }),
            Kind::CharDevice { major, minor } => {
                let (major, minor) = (*major, *minor);
                builder.mknod(parent, name, meta, SpecialKind::Char { major, minor })
            }
            Kind::BlockDevice { major, minor } => {
                let (major, minor) = (*major, *minor);
                builder.mknod(parent, name, meta, SpecialKind::Block { major, minor })
            }
            Kind::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo),
        }
    }

    /// Sets what a declaration does not take: extended attributes, and everything of the root.
    fn describe(&self, builder: &mut FsBuilder, node: usize, handle: InodeHandle, path: &str) -> Result<(), Ext4Error> {
        let failed = |err| Ext4Error::Declare { path: path.to_owned(), err };
        if node == 0 {
            builder.set_meta(ROOT, self.nodes[0].attributes.meta()).map_err(failed)?;
        }
        for (name, value) in &self.nodes[node].xattrs {
            builder.set_xattr(handle, name, value).map_err(failed)?;
        }
        Ok(())
    }
}

/// Bytes of data a file has.
fn data_bytes(size_bytes: u64, ranges: &Option<Vec<(u64, u64)>>) -> u64 {
    ranges.as_ref().map_or(size_bytes, |ranges| ranges.iter().map(|(_, len)| len).sum())
}

/// A file's ranges of data with the holes between them.
fn segments(size_bytes: u64, ranges: &[(u64, u64)]) -> Vec<SparseSeg> {
    let mut segments = Vec::with_capacity(2 * ranges.len() + 1);
    let mut at = 0;
    for (offset, len) in ranges {
        if *offset > at {
            segments.push(SparseSeg::Hole(offset - at));
        }
        segments.push(SparseSeg::Data(*len));
        at = offset + len;
    }
    if size_bytes > at {
        segments.push(SparseSeg::Hole(size_bytes - at));
    }
    segments
}

struct Fill {
    handle: InodeHandle,
    path: String,
    data_bytes: u64,
    content: u64,
}

/// Writes the tree to `file` as a filesystem with the UUID of `identity`, labelled `label`.
///
/// `open` gets a file's `content` and gives the bytes of its ranges, one after the other; it is asked in the order of
/// the data on disk.
pub(crate) fn write<R: Read>(
    tree: &Namespace,
    file: &Path,
    identity: Digest,
    label: &str,
    mut open: impl FnMut(u64) -> io::Result<R>,
    watcher: Watcher<'_>,
) -> Result<Written, Ext4Error> {
    let (mut blocks, inodes) = tree.estimate();
    let mut attempt = 1;
    let (layout, fills) = loop {
        match tree.lay_out(blocks, inodes, identity.uuid(), label) {
            Err(Ext4Error::Layout(_)) if attempt < SIZE_ATTEMPTS => {
                attempt += 1;
                blocks += blocks / 8;
            }
            outcome => break outcome?,
        }
    };
    let failed = |err| Ext4Error::Write { file: file.to_owned(), err };
    let mut sink = SparseSink { file: sys::fs::create_new(file, 0o600)? };
    sink.file.set_len(layout.image_len()).map_err(failed)?;
    let total = fills.iter().map(|fill| fill.data_bytes).sum();
    let mut writer = layout.writer(&mut sink).map_err(|err| Ext4Error::Content {
        path: "its metadata".to_owned(),
        file: file.to_owned(),
        err,
    })?;
    let (mut done, mut reported) = (0, 0);
    for fill in fills {
        watcher.check()?;
        open(fill.content)
            .map_err(mkext4::Error::Io)
            .and_then(|mut reader| writer.fill(fill.handle, &mut reader))
            .map_err(|err| Ext4Error::Content { path: fill.path, file: file.to_owned(), err })?;
        done += fill.data_bytes;
        if done - reported >= 1 << 20 || done == total {
            reported = done;
            watcher.bytes(done, Some(total));
        }
    }
    writer.finish().map_err(Ext4Error::Layout)?;
    // Whoever publishes the file relies on its content lasting as long as its name.
    sink.file.sync_all().map_err(failed)?;
    Ok(Written { bytes: layout.image_len(), content_bytes: total, entries: tree.reachable().1 })
}

/// Writes an image's bytes where they belong and leaves all-zero blocks unwritten.
struct SparseSink {
    file: File,
}

impl mkext4::RegionSink for SparseSink {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        sys::holes::write_data(bytes, &self.file, offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(()) // the file was made at its full length, so what is not written reads as zeros
    }
}
