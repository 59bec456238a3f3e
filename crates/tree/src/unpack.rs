//! A tar stream into a tree.
//!
//! Every parent is opened by openat2(2) beneath the destination, so no name and no link, of the stream or of the tree,
//! leads out of it. A file or a link in an entry's way is replaced; directories are merged into and keep what they have;
//! a directory and something else in one place are an error. Directories made here get their mode and time last.
//!
//! | [`Policy`] | for | links below the destination | owners | devices, pipes | setuid, xattrs |
//! |---|---|---|---|---|---|
//! | [`Policy::inside`] | the agent, in its guest | followed inside it | the stream's, for root | made | kept |
//! | [`Policy::hostile`] | the host, what a guest sends | never followed | the caller's | left out, counted | `user.*` only |
//! | the same with `archive`, for root | | never followed | the stream's | left out, counted | kept, but `trusted.*` |

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid, XattrFlags, makedev};
use rustix::io::Errno;
use tar::EntryType;

use crate::reader::{Attributes, Entry, Reader};
use crate::sparse::write_content;
use crate::{TreeError, malformed, split};

/// Names longer than this are nobody's: `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// What may be remembered of directories until their end: two million of them with ordinary names.
const REMEMBERED_BYTES_MAX: usize = 256 << 20;
/// How many times an openat2(2) that raced with a rename is tried.
const TRIES: u32 = 16;

/// What is believed of a stream.
#[derive(Debug, Clone)]
pub struct Policy {
    resolve: ResolveFlags,
    may_own: bool,
    special: Special,
    modes: u32,
    xattrs: Xattrs,
    called: Option<Vec<u8>>,
}

/// Devices and pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    Made,
    LeftOut,
}

/// Which extended attributes are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Xattrs {
    All,
    /// All but those of which another overlay could take orders.
    Untrusted,
    /// `user.*`: nothing that the kernel acts on.
    User,
}

impl Policy {
    /// For a tree of the machine that the stream is meant for. `is_root`: the destination is that machine's root, below
    /// which absolute links are followed as they are meant (`/lib` is one).
    #[must_use]
    pub fn inside(is_root: bool) -> Policy {
        let resolve = if is_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
        let may_own = rustix::process::geteuid().is_root();
        Policy { resolve, may_own, special: Special::Made, modes: 0o7777, xattrs: Xattrs::All, called: None }
    }

    /// For a stream by somebody who means harm. `archive`: where the caller is root, owners are the stream's, and modes
    /// and attributes are kept whole.
    #[must_use]
    pub fn hostile(archive: bool) -> Policy {
        let whole = archive && rustix::process::geteuid().is_root();
        Policy {
            resolve: ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            may_own: whole,
            special: Special::LeftOut,
            modes: if whole { 0o7777 } else { 0o777 },
            xattrs: if whole { Xattrs::Untrusted } else { Xattrs::User },
            called: None,
        }
    }

    /// The stream has one top, whatever it calls it, and that top becomes `name`: one component. An entry outside of it is
    /// an error.
    #[must_use]
    pub fn called(self, name: Option<Vec<u8>>) -> Policy {
        Policy { called: name, ..self }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Bytes of content, holes not counted.
    pub bytes: u64,
    /// Devices and pipes that the policy does not make.
    pub left_out: u64,
}

/// Unpacks `from` into `destination`, an open directory.
///
/// # Errors
/// When the stream is malformed or cut short, a name leads elsewhere, or the filesystem refuses.
pub fn unpack(destination: OwnedFd, policy: Policy, from: impl Read) -> Result<Unpacked, TreeError> {
    let mut unpacker = Unpacker {
        destination,
        policy,
        top: None,
        made: HashSet::new(),
        directories: Vec::new(),
        remembered_bytes: 0,
        done: Unpacked::default(),
    };
    let broken = || TreeError::during::<io::Error>("read", b"the stream");
    let mut reader = Reader::new(from);
    while let Some(entry) = reader.next_entry().map_err(broken())? {
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    // A sender is not left with a broken pipe.
    reader.drain().map_err(broken())?;
    Ok(unpacker.done)
}

struct Unpacker {
    destination: OwnedFd,
    policy: Policy,
    /// What the stream calls its top.
    top: Option<Vec<u8>>,
    /// Directories that were not there before.
    made: HashSet<Vec<u8>>,
    directories: Vec<(Vec<u8>, Attributes)>,
    remembered_bytes: usize,
    done: Unpacked,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), TreeError> {
        let path = self.place_of(&entry.path)?;
        let during = |verb: &str| TreeError::during::<io::Error>(verb, &entry.path);
        if path.is_empty() || entry.kind == EntryType::Directory {
            return self.directory(path, &entry.attributes).map_err(during("make"));
        }
        let (directory, name) = split(&path);
        let is_special = matches!(entry.kind, EntryType::Char | EntryType::Block | EntryType::Fifo);
        if is_special && self.policy.special == Special::LeftOut {
            self.done.left_out += 1;
            return Ok(());
        }
        let place = |unpacker: &mut Unpacker| -> Result<OwnedFd, TreeError> {
            let parent = unpacker.open_parent(directory).map_err(during("make the directory of"))?;
            clear(&parent, name).map_err(during("replace"))?;
            Ok(parent)
        };
        match entry.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let parent = place(self)?;
                self.done.bytes += self.file(&parent, name, entry, reader).map_err(during("write"))?;
            }
            EntryType::Link => {
                let target = self.place_of(&entry.link)?;
                if target != path {
                    let parent = place(self)?;
                    self.hard_link(&target, &parent, name).map_err(during("link"))?;
                }
            }
            EntryType::Symlink => {
                let parent = place(self)?;
                rustix::fs::symlinkat(entry.link.as_slice(), &parent, name)
                    .map_err(io::Error::from)
                    .and_then(|()| self.dress(&parent, name, &entry.attributes, Kind::Link))
                    .map_err(during("make"))?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let parent = place(self)?;
                self.node(&parent, name, entry).map_err(during("make"))?;
            }
            // Sockets and inventions: nothing a filesystem could hold.
            _ => {}
        }
        Ok(())
    }

    /// Where an entry of this name belongs, below the destination.
    fn place_of(&mut self, name: &[u8]) -> Result<Vec<u8>, TreeError> {
        let path = cleaned(name)?;
        let Some(called) = &self.policy.called else { return Ok(path) };
        let (first, rest) = match path.iter().position(|byte| *byte == b'/') {
            Some(at) => path.split_at(at),
            None => (path.as_slice(), &b""[..]),
        };
        let top = self.top.get_or_insert_with(|| first.to_vec());
        if top != first || first.is_empty() {
            return Err(TreeError::during("unpack", name)(malformed("it is not below what was asked for")));
        }
        Ok([called, rest].concat())
    }

    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let target = if path.is_empty() { &b"."[..] } else { path };
        let resolve = self.policy.resolve | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.destination, target, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens a directory beneath the destination, making what is missing of it.
    fn open_parent(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) if !path.is_empty() => {}
            Err(errno) => return Err(errno.into()),
        }
        let (parent, name) = split(path);
        let parent = self.open_parent(parent)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.remember(path)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // What has got in its way meanwhile is no directory of ours.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?)
    }

    /// One that is there keeps its mode, its owner and its time.
    fn directory(&mut self, path: Vec<u8>, attributes: &Attributes) -> io::Result<()> {
        match self.open(&path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) if !self.made.contains(&path) => return Ok(()),
            Ok(_) => {}
            Err(_) => {
                let (parent, name) = split(&path);
                let parent = self.open_parent(parent)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) => {
                        let why = "something that is no directory is in its place";
                        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
                    }
                    other => other?,
                }
                self.remember(&path)?;
            }
        }
        self.count(path.len() + attributes.xattrs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>())?;
        self.directories.push((path, attributes.clone()));
        Ok(())
    }

    fn remember(&mut self, path: &[u8]) -> io::Result<()> {
        self.count(path.len())?;
        self.made.insert(path.to_vec());
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        // What a vector and a place in a table take beside the bytes.
        self.remembered_bytes += bytes + 64;
        if self.remembered_bytes > REMEMBERED_BYTES_MAX {
            return Err(malformed("too many directories"));
        }
        Ok(())
    }

    fn file<R: Read>(&self, parent: &OwnedFd, name: &[u8], entry: &Entry, reader: &mut Reader<R>) -> io::Result<u64> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        let bytes = write_content(&mut reader.content(), &file, entry.length, entry.runs.as_deref())?;
        self.dress(parent, name, &entry.attributes, Kind::Other)?;
        Ok(bytes)
    }

    fn hard_link(&mut self, target: &[u8], parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let (from, from_name) = split(target);
        let from = self.open(from, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::linkat(&from, from_name, parent, name, AtFlags::empty())?)
    }

    fn node(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        let kind = match entry.kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), number)?;
        self.dress(parent, name, &entry.attributes, Kind::Other)
    }

    /// Gives directories what would have been in the way of filling them.
    fn finish(&mut self) -> Result<(), TreeError> {
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let opened = self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io::Error::from);
            let dressed = opened.and_then(|fd| self.dress(&fd, b".", &attributes, Kind::Other));
            dressed.map_err(TreeError::during("set the mode and time of", &path))?;
        }
        Ok(())
    }

    /// Owner, then mode (which a change of owner would strip of setuid), then attributes, then time.
    fn dress(&self, parent: &OwnedFd, name: &[u8], attributes: &Attributes, kind: Kind) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.policy.may_own {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), nofollow)?;
        }
        if kind == Kind::Other {
            let mode = Mode::from_raw_mode(attributes.mode & self.policy.modes);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        for (key, value) in &attributes.xattrs {
            if self.policy.xattrs.allow(key) {
                set_xattr(parent, name, key, value)?;
            }
        }
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        Ok(rustix::fs::utimensat(parent, name, &times, nofollow)?)
    }
}

impl Xattrs {
    fn allow(self, key: &str) -> bool {
        match self {
            Xattrs::All => true,
            Xattrs::Untrusted => !key.starts_with("trusted."),
            Xattrs::User => key.starts_with("user."),
        }
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

/// Removes a file or link at `name`.
fn clear(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "a directory is in its place")),
        Err(errno) => Err(errno.into()),
    }
}

/// The components of a name, relative and without `.`; `..` is refused.
fn cleaned(name: &[u8]) -> Result<Vec<u8>, TreeError> {
    let refused = |why: &str| TreeError::during("unpack", name)(malformed(why));
    if name.len() > PATH_BYTES_MAX {
        return Err(refused("its name is too long"));
    }
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(refused("its name leads out of the destination"));
    }
    Ok(parts.join(&b'/'))
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
}
