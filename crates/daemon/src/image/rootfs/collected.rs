//! What archives hold, as one tree, and the filesystem that is made of it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::acl;
use super::tarball::{Content, Record, RecordKind, Segment};
use crate::image::ext4::{self, Attributes, Ext4Error, Kind, Links, Namespace};
use crate::image::stream::hash_file;
use crate::model::digest::Digest;
use crate::model::progress::Watcher;

/// Where an init may be, in the order the agent looks.
const INITS: &[&str] = &["sbin/init", "usr/sbin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd"];
/// Symbolic links followed on the way to an init.
const LINKS_MAX: usize = 16;
/// Where dpkg(1) keeps what is installed.
const DPKG_STATUS: &str = "var/lib/dpkg/status";

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

/// Entries of archives, each over those before it; their contents stay in the archives.
pub(crate) struct Collected {
    pub(crate) tree: Namespace,
    /// By archive and place in it.
    contents: Vec<(usize, Content)>,
}

impl Collected {
    /// Nothing yet.
    pub(crate) fn new(links: Links) -> Collected {
        let root = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
        Collected { tree: Namespace::new(root, links), contents: Vec::new() }
    }

    /// Adds an entry of the archive with this number.
    pub(crate) fn add(&mut self, archive: usize, record: Record) -> Result<(), Ext4Error> {
        let attributes = Attributes { mode: record.mode, uid: record.uid, gid: record.gid, mtime: record.mtime };
        let kind = match record.kind {
            RecordKind::HardLink(target) => return self.tree.link(&record.path, &target),
            RecordKind::Dir => Kind::Dir,
            RecordKind::Symlink(target) => Kind::Symlink(target),
            RecordKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            RecordKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            RecordKind::Fifo => Kind::Fifo,
            RecordKind::File(content) => {
                let index = self.contents.len();
                let size_bytes = content.size_bytes;
                let ranges = content.ranges();
                self.contents.push((archive, content));
                let is_whole = ranges == [(0, size_bytes)] || size_bytes == 0;
                Kind::File { size_bytes, ranges: (!is_whole).then_some(ranges), content: index as u64 }
            }
        };
        let xattrs = record.xattrs.into_iter().filter_map(|(name, value)| kept_xattr(name, value)).collect();
        self.tree.add(&record.path, kind, attributes, xattrs)
    }

    /// Writes the tree to the new file `image`, reading contents from `archives`.
    ///
    /// # Errors
    /// [`Ext4Error`]; `image` may then be half written and is the caller's to remove.
    pub(crate) fn write(
        &self,
        archives: &[File],
        image: &Path,
        identity: Digest,
        watcher: Watcher<'_>,
    ) -> Result<Rootfs, Ext4Error> {
        watcher.stage("write root filesystem");
        let open = |index: u64| Ok(self.contents_at(archives, index));
        let written = ext4::write(&self.tree, image, identity, "banger-rootfs", open, watcher)?;
        let unread = |err| Ext4Error::Content {
            path: DPKG_STATUS.to_owned(),
            file: image.to_owned(),
            err: mkext4::Error::Io(err),
        };
        let packages = self.packages(archives).map_err(unread)?;
        watcher.stage("hash root filesystem");
        let failed = |err| Ext4Error::Write { file: image.to_owned(), err };
        let sha256 = hash_file(image, watcher).map_err(|err| match watcher.check() {
            Ok(()) => failed(err),
            Err(cancelled) => cancelled.into(),
        })?;
        Ok(Rootfs {
            sha256,
            bytes: written.bytes,
            content_bytes: written.content_bytes,
            entries: written.entries,
            init: self.init(),
            packages,
        })
    }

    /// The first init there is, following links as the guest would.
    pub(crate) fn init(&self) -> Option<String> {
        let found = INITS.iter().find(|init| resolves_to_file(&self.tree, init))?;
        Some(format!("/{found}"))
    }

    /// How many packages are installed, where there is a dpkg database.
    pub(crate) fn packages(&self, archives: &[File]) -> io::Result<Option<u64>> {
        match self.tree.kind(DPKG_STATUS) {
            Some(Kind::File { content, .. }) => {
                count_packages(BufReader::new(self.contents_at(archives, *content))).map(Some)
            }
            Some(Kind::Dir | Kind::Symlink(_) | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo)
            | None => Ok(None),
        }
    }

    fn contents_at<'a>(&'a self, archives: &'a [File], index: u64) -> Contents<'a> {
        let (archive, content) = &self.contents[index as usize];
        Contents::new(&archives[*archive], content)
    }
}

/// The attribute as ext4 stores it; `None` for one that it cannot store or that belongs to another filesystem.
fn kept_xattr(name: String, value: Vec<u8>) -> Option<(String, Vec<u8>)> {
    if name == "system.posix_acl_access" || name == "system.posix_acl_default" {
        return Some((name, acl::to_ext4(&value)?));
    }
    let kept = ["user.", "security.", "trusted."].iter().any(|space| name.starts_with(space));
    (kept && !name.starts_with("trusted.overlay.")).then_some((name, value))
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
pub(crate) struct Contents<'a> {
    archive: &'a File,
    content: &'a Content,
    ranges: std::vec::IntoIter<(u64, u64)>,
    /// What is left of the range being read.
    at: u64,
    end: u64,
    segment: usize,
}

impl<'a> Contents<'a> {
    pub(crate) fn new(archive: &'a File, content: &'a Content) -> Self {
        Self { archive, content, ranges: content.ranges().into_iter(), at: 0, end: 0, segment: 0 }
    }
}

impl<'a> Contents<'a> {
    /// All of a file, its holes too.
    pub(crate) fn whole(archive: &'a File, content: &'a Content) -> Self {
        let ranges = vec![(0, content.size_bytes)].into_iter();
        Self { archive, content, ranges, at: 0, end: 0, segment: 0 }
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
