//! A tar stream into a tree of the guest.
//!
//! Every parent is opened by openat2(2) beneath the destination, so no name and no link, of the stream or of the guest,
//! leads out of it. Below the root directory itself, links of the image are followed inside it (`/lib` is a link).
//! What is in an entry's way is replaced, directories are merged into. Directories get their mode and time last.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, makedev};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::sparse::{PaxSparse, write_data};
use super::{TreeError, split};

/// Names longer than this are nobody's: `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;

/// Unpacks `from` into `destination`, an open directory. `is_root`: it is the guest's root. Gives the bytes of content.
///
/// # Errors
/// When the stream is malformed, a name leads elsewhere, or the filesystem refuses.
pub fn unpack(destination: OwnedFd, is_root: bool, from: impl Read) -> Result<u64, TreeError> {
    let resolve = if is_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let may_own = rustix::process::geteuid().is_root();
    let mut unpacker = Unpacker { destination, resolve, may_own, directories: Vec::new(), bytes: 0 };
    let mut archive = Archive::new(from);
    let malformed = || TreeError::during::<io::Error>("read", b"the stream");
    for entry in archive.entries().map_err(malformed())? {
        unpacker.entry(entry.map_err(malformed())?)?;
    }
    unpacker.finish()?;
    // Whatever follows the end of the archive is padding; a sender is not left with a broken pipe.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(malformed())?;
    Ok(unpacker.bytes)
}

struct Unpacker {
    destination: OwnedFd,
    resolve: ResolveFlags,
    may_own: bool,
    directories: Vec<(Vec<u8>, Attributes)>,
    bytes: u64,
}

/// What an entry says of its file, apart from its content.
#[derive(Debug, Clone)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timespec,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), TreeError> {
        let (attributes, sparse) = attributes(&mut entry)?;
        let name = sparse.name.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = cleaned(&name)?;
        let during = |verb: &str| TreeError::during::<io::Error>(verb, &name);
        let kind = entry.header().entry_type();
        if path.is_empty() || kind == EntryType::Directory {
            return self.directory(path, attributes).map_err(during("make"));
        }
        let (parent, last) = split(&path);
        let parent = self.open_parent(parent).map_err(during("make the directory of"))?;
        clear(&parent, last).map_err(during("replace"))?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.bytes += self.file(&parent, last, &mut entry, &sparse, &attributes).map_err(during("write"))?;
                Ok(())
            }
            EntryType::Link => {
                let target = cleaned(&entry.link_name_bytes().unwrap_or_default())?;
                self.hard_link(&target, &parent, last).map_err(during("link"))
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                rustix::fs::symlinkat(target, &parent, last)
                    .map_err(io::Error::from)
                    .and_then(|()| self.dress(&parent, last, &attributes, Kind::Link))
                    .map_err(during("make"))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.node(&parent, last, &entry, &attributes).map_err(during("make"))
            }
            // Sockets and inventions: nothing a filesystem could hold.
            _ => Ok(()),
        }
    }

    /// Opens a directory beneath the destination, making what is missing of it.
    fn open_parent(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = if path.is_empty() { &b"."[..] } else { path };
        match rustix::fs::openat2(&self.destination, target, flags, Mode::empty(), self.resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) if !path.is_empty() => {}
            Err(errno) => return Err(errno.into()),
        }
        let (parent, last) = split(path);
        let parent = self.open_parent(parent)?;
        match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // What has got in its way meanwhile is no directory of ours.
        Ok(rustix::fs::openat(&parent, last, flags | OFlags::NOFOLLOW, Mode::empty())?)
    }

    fn directory(&mut self, path: Vec<u8>, attributes: Attributes) -> io::Result<()> {
        if !path.is_empty() {
            let (parent, last) = split(&path);
            let parent = self.open_parent(parent)?;
            let is_there = rustix::fs::openat2(
                &self.destination,
                path.as_slice(),
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                self.resolve,
            );
            if is_there.is_err() {
                clear(&parent, last)?;
                rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o700))?;
            }
        }
        self.directories.push((path, attributes));
        Ok(())
    }

    fn file<R: Read>(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &mut Entry<'_, R>,
        sparse: &PaxSparse,
        attributes: &Attributes,
    ) -> io::Result<u64> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        let bytes = if sparse.map.is_some() || sparse.major.is_some() {
            sparse.write(entry, &file)?
        } else {
            let holes = entry.header().entry_type() == EntryType::GNUSparse;
            write_data(entry, &file, holes)?
        };
        self.dress(parent, name, attributes, Kind::Other)?;
        Ok(bytes)
    }

    fn hard_link(&self, target: &[u8], parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let (from, from_name) = split(target);
        let from = self.open_parent(from)?;
        Ok(rustix::fs::linkat(&from, from_name, parent, name, AtFlags::empty())?)
    }

    fn node<R: Read>(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry<'_, R>,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = match kind {
            FileType::Fifo => 0,
            _ => makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
        };
        rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), number)?;
        self.dress(parent, name, attributes, Kind::Other)
    }

    /// Gives directories what would have been in the way of filling them.
    fn finish(&mut self) -> Result<(), TreeError> {
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let dressed = self.open_parent(&path).and_then(|fd| self.dress(&fd, b".", &attributes, Kind::Other));
            dressed.map_err(TreeError::during("set the mode and time of", &path))?;
        }
        Ok(())
    }

    /// Owner, then mode (which a change of owner would strip of setuid), then attributes, then time.
    fn dress(&self, parent: &OwnedFd, name: &[u8], attributes: &Attributes, kind: Kind) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.may_own {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), nofollow)?;
        }
        if kind == Kind::Other {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
        }
        for (key, value) in &attributes.xattrs {
            set_xattr(parent, name, key, value)?;
        }
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        Ok(rustix::fs::utimensat(parent, name, &times, nofollow)?)
    }
}

/// Links have no mode of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Link,
    Other,
}

fn set_xattr(parent: &OwnedFd, name: &[u8], key: &str, value: &[u8]) -> io::Result<()> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    match rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()) {
        // A filesystem or a user that cannot have this attribute has the file without it.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes what is at `name`, as long as it is no directory with something in it.
fn clear(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?),
        Err(errno) => Err(errno.into()),
    }
}

/// The components of a name, relative and without `.`; `..` is refused.
fn cleaned(name: &[u8]) -> Result<Vec<u8>, TreeError> {
    let refused = |why: &str| {
        let source = io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        TreeError::during("unpack", name)(source)
    };
    if name.len() > PATH_BYTES_MAX {
        return Err(refused("its name is too long"));
    }
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(refused("its name leads out of the destination"));
    }
    Ok(parts.join(&b'/'))
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> Result<(Attributes, PaxSparse), TreeError> {
    let malformed = || TreeError::during::<io::Error>("read", b"an entry's header");
    let header = entry.header();
    let id = |value: io::Result<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX - 1));
    let seconds = header.mtime().map_err(malformed())?;
    let mut attributes = Attributes {
        mode: header.mode().map_err(malformed())? & 0o7777,
        uid: id(header.uid()).map_err(malformed())?,
        gid: id(header.gid()).map_err(malformed())?,
        mtime: Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 },
        xattrs: Vec::new(),
    };
    let mut sparse = PaxSparse::default();
    if let Some(records) = entry.pax_extensions().map_err(malformed())? {
        for record in records {
            let record = record.map_err(malformed())?;
            let (Ok(key), value) = (record.key(), record.value_bytes()) else {
                continue;
            };
            let text = std::str::from_utf8(value).unwrap_or_default();
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                attributes.xattrs.push((name.to_owned(), value.to_vec()));
            } else if !sparse.take(key, value) {
                match key {
                    "mtime" => attributes.mtime = parse_time(text).unwrap_or(attributes.mtime),
                    "uid" => attributes.uid = text.parse().unwrap_or(attributes.uid),
                    "gid" => attributes.gid = text.parse().unwrap_or(attributes.gid),
                    _ => {}
                }
            }
        }
    }
    Ok((attributes, sparse))
}

/// `seconds[.fraction]`, negative before 1970.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    Some(if is_negative && nanoseconds > 0 {
        Timespec { tv_sec: seconds.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanoseconds }
    } else {
        Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, path) in [("a/b", "a/b"), ("/a//b/", "a/b"), ("./a/./b", "a/b"), ("./", ""), ("...", "...")] {
            assert_eq!(cleaned(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        for name in ["..", "a/..", "/../a", "a/../b"] {
            assert!(cleaned(name.as_bytes()).is_err(), "{name}");
        }
        assert!(cleaned(&[b'a'; 5000]).is_err());
    }

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, seconds, nanoseconds) in
            [("1", 1, 0), ("1.5", 1, 500_000_000), ("-1.25", -2, 750_000_000), ("-0.1", -1, 900_000_000)]
        {
            let time = parse_time(text).unwrap();
            assert_eq!((time.tv_sec, time.tv_nsec), (seconds, nanoseconds), "{text}");
        }
        assert!(parse_time("x").is_none() && parse_time("1.x").is_none());
    }
}
