//! Makes an image's root filesystem: a tar archive in, a read-only ext4 file out.
//!
//! The archive is read twice: once for names, sizes and its digest (`tarball.rs`), once for the contents, which go to
//! their place in the order of the filesystem. Owners, permissions, times, hard links, devices, sparse files and extended
//! attributes are kept; ACLs too (`acl.rs`), if the archive has them as extended attributes and not as text.
//! Attributes of namespaces that ext4 does not have, and overlayfs's own, are left out. Equal archives give equal files.
//!
//! A name that leads outside, a name beneath a link and more than the limits allow are refused with the entry named.

mod acl;
mod tarball;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use tarball::TarError;

use super::ext4::{self, Attributes, Ext4Error, Kind, Namespace};
use super::stream::{Hashing, Watched, copy};
use crate::model::digest::Digest;
use crate::model::progress::{Cancelled, Watcher};
use tarball::{Content, Record, RecordKind, Segment, Tarball};

/// Bytes of content one image may have.
const CONTENT_MAX_BYTES: u64 = 256 << 30;
/// Where an init may be, in the order the agent looks.
const INITS: &[&str] = &["sbin/init", "usr/sbin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd"];
/// Symbolic links followed on the way to an init.
const LINKS_MAX: usize = 16;

/// Why an archive does not become a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The archive cannot be opened.
    #[error("cannot read {}", .tar.display())]
    Open {
        /// The archive.
        tar: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The archive is damaged or has an entry that is refused.
    #[error("cannot use {}", .tar.display())]
    Tar {
        /// The archive.
        tar: PathBuf,
        /// The cause.
        #[source]
        err: TarError,
    },
    /// An entry does not fit the tree.
    #[error("cannot make a root filesystem of {}", .tar.display())]
    Tree {
        /// The archive.
        tar: PathBuf,
        /// The cause.
        #[source]
        err: Ext4Error,
    },
    /// The archive holds too much.
    #[error("{} holds more than {CONTENT_MAX_BYTES} bytes of content, at entry {entry:?}", .tar.display())]
    TooLarge {
        /// The archive.
        tar: PathBuf,
        /// The entry that is too much.
        entry: String,
    },
    /// The archive is empty.
    #[error("{} has no entries", .tar.display())]
    Empty {
        /// The archive.
        tar: PathBuf,
    },
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

/// A root filesystem that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Its length; it is sparse.
    pub bytes: u64,
    /// Bytes of file content in it.
    pub content_bytes: u64,
    /// Names in it.
    pub entries: u64,
    /// The init it has, as a path from its root.
    pub init: Option<String>,
    /// Packages its dpkg database lists as installed, where it has one.
    pub packages: Option<u64>,
}

/// Writes the content of the archive `tar` to the new file `image`.
///
/// # Errors
/// [`RootfsError`]; `image` may then be half written and is the caller's to remove.
pub fn write(tar: &Path, image: &Path, watcher: Watcher<'_>) -> Result<Rootfs, RootfsError> {
    watcher.stage("read archive");
    let scanned = scan(tar, watcher)?;
    watcher.stage("write root filesystem");
    let opened = |err| RootfsError::Open { tar: tar.to_owned(), err };
    let archive = File::open(tar).map_err(opened)?;
    let open = |index: u64| Ok(Contents::new(&archive, &scanned.contents[index as usize]));
    let tree = |err| match watcher.check() {
        Ok(()) => RootfsError::Tree { tar: tar.to_owned(), err },
        Err(cancelled) => cancelled.into(),
    };
    let written = ext4::write(&scanned.tree, image, scanned.digest, "banger-rootfs", open, watcher).map_err(tree)?;
    let status = scanned.dpkg_status.map(|index| Contents::new(&archive, &scanned.contents[index]));
    let packages = status.map(|status| count_packages(BufReader::new(status))).transpose().map_err(opened)?;
    watcher.stage("hash root filesystem");
    let failed = |err| RootfsError::Tree { tar: tar.to_owned(), err: Ext4Error::Write { file: image.to_owned(), err } };
    let file = File::open(image).map_err(failed)?;
    let mut hashing = Hashing::new(Watched::new(file, watcher, Some(written.bytes)));
    copy(&mut hashing, &mut io::sink(), watcher).map_err(|err| match watcher.check() {
        Ok(()) => failed(err),
        Err(cancelled) => cancelled.into(),
    })?;
    Ok(Rootfs {
        sha256: hashing.finish().0,
        bytes: written.bytes,
        content_bytes: written.content_bytes,
        entries: written.entries,
        init: find_init(&scanned.tree),
        packages,
    })
}

/// What the first reading finds.
struct Scanned {
    tree: Namespace,
    contents: Vec<Content>,
    digest: Digest,
    dpkg_status: Option<usize>,
}

fn scan(tar: &Path, watcher: Watcher<'_>) -> Result<Scanned, RootfsError> {
    let opened = |err| RootfsError::Open { tar: tar.to_owned(), err };
    let file = File::open(tar).map_err(opened)?;
    let length = file.metadata().map_err(opened)?.len();
    let reader = BufReader::with_capacity(1 << 20, Watched::new(file, watcher, Some(length)));
    let mut tarball = Tarball::new(Hashing::new(reader));
    let mut scanned = Scanned {
        tree: Namespace::new(Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) }),
        contents: Vec::new(),
        digest: Digest::of(b""),
        dpkg_status: None,
    };
    let (mut content_bytes, mut entries) = (0u64, 0);
    let failed = |err| match watcher.check() {
        Ok(()) => RootfsError::Tar { tar: tar.to_owned(), err },
        Err(cancelled) => cancelled.into(),
    };
    while let Some(record) = tarball.next().map_err(failed)? {
        entries += 1;
        if let RecordKind::File(content) = &record.kind {
            let stored: u64 = content.segments.iter().map(|segment| segment.len).sum();
            content_bytes = content_bytes.saturating_add(stored);
            if content_bytes > CONTENT_MAX_BYTES || content.size_bytes > CONTENT_MAX_BYTES {
                return Err(RootfsError::TooLarge { tar: tar.to_owned(), entry: record.path });
            }
        }
        add(&mut scanned, record).map_err(|err| RootfsError::Tree { tar: tar.to_owned(), err })?;
    }
    if entries == 0 {
        return Err(RootfsError::Empty { tar: tar.to_owned() });
    }
    let mut rest = tarball.into_inner();
    copy(&mut rest, &mut io::sink(), watcher).map_err(opened)?;
    scanned.digest = rest.finish().0;
    Ok(scanned)
}

fn add(scanned: &mut Scanned, record: Record) -> Result<(), Ext4Error> {
    let attributes = Attributes { mode: record.mode, uid: record.uid, gid: record.gid, mtime: record.mtime };
    let kind = match record.kind {
        RecordKind::HardLink(target) => return scanned.tree.link(&record.path, &target),
        RecordKind::Dir => Kind::Dir,
        RecordKind::Symlink(target) => Kind::Symlink(target),
        RecordKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
        RecordKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
        RecordKind::Fifo => Kind::Fifo,
        RecordKind::File(content) => {
            let index = scanned.contents.len();
            if record.path.trim_start_matches("./") == "var/lib/dpkg/status" {
                scanned.dpkg_status = Some(index);
            }
            let size_bytes = content.size_bytes;
            let ranges = content.ranges();
            scanned.contents.push(content);
            let is_whole = ranges == [(0, size_bytes)] || size_bytes == 0;
            Kind::File { size_bytes, ranges: (!is_whole).then_some(ranges), content: index as u64 }
        }
    };
    let xattrs = record.xattrs.into_iter().filter_map(|(name, value)| kept_xattr(name, value)).collect();
    scanned.tree.add(&record.path, kind, attributes, xattrs)
}

/// The attribute as ext4 stores it; `None` for one that it cannot store or that belongs to another filesystem.
fn kept_xattr(name: String, value: Vec<u8>) -> Option<(String, Vec<u8>)> {
    if name == "system.posix_acl_access" || name == "system.posix_acl_default" {
        return Some((name, acl::to_ext4(&value)?));
    }
    let kept = ["user.", "security.", "trusted."].iter().any(|space| name.starts_with(space));
    (kept && !name.starts_with("trusted.overlay.")).then_some((name, value))
}

/// The first init there is, following links as the guest would.
fn find_init(tree: &Namespace) -> Option<String> {
    let found = INITS.iter().find(|init| resolves_to_file(tree, init))?;
    Some(format!("/{found}"))
}

fn resolves_to_file(tree: &Namespace, path: &str) -> bool {
    let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            _ => at.push(name),
        }
        match tree.kind(&at.join("/")) {
            Some(Kind::Dir) => {}
            Some(Kind::File { .. }) => return left.is_empty(),
            Some(Kind::Symlink(target)) => {
                links += 1;
                if links > LINKS_MAX {
                    return false;
                }
                at.pop();
                if target.starts_with('/') {
                    at.clear();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
            Some(Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo) | None => return false,
        }
    }
    false
}

/// Counts the packages a dpkg status file lists as installed, dpkg-query(1).
fn count_packages(status: impl io::BufRead) -> io::Result<u64> {
    let mut count = 0;
    for line in status.split(b'\n') {
        if line? == b"Status: install ok installed" {
            count += 1;
        }
    }
    Ok(count)
}

/// Reads the ranges of a file that hold data out of the archive, zeros where a range is wider than the data.
struct Contents<'a> {
    archive: &'a File,
    content: &'a Content,
    ranges: std::vec::IntoIter<(u64, u64)>,
    /// What is left of the range being read.
    at: u64,
    end: u64,
    segment: usize,
}

impl<'a> Contents<'a> {
    fn new(archive: &'a File, content: &'a Content) -> Self {
        Self { archive, content, ranges: content.ranges().into_iter(), at: 0, end: 0, segment: 0 }
    }
}

impl Read for Contents<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            let Some((offset, len)) = self.ranges.next() else {
                return Ok(0);
            };
            (self.at, self.end) = (offset, offset + len);
        }
        let ended = |segment: &&Segment| segment.offset + segment.len <= self.at;
        self.segment += self.content.segments[self.segment..].iter().take_while(ended).count();
        let segment = self.content.segments.get(self.segment);
        let (data_at, data_end) = segment.map_or((u64::MAX, u64::MAX), |it| (it.offset, it.offset + it.len));
        let until = if self.at < data_at { self.end.min(data_at) } else { self.end.min(data_end) };
        let want = buf.len().min(usize::try_from(until - self.at).unwrap_or(usize::MAX));
        let got = match segment {
            Some(segment) if self.at >= segment.offset => {
                let got = self.archive.read_at(&mut buf[..want], segment.at + (self.at - segment.offset))?;
                if got == 0 && want > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                got
            }
            _ => {
                buf[..want].fill(0);
                want
            }
        };
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
