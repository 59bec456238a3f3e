//! A tar stream into a tree.
//!
//! Every parent is opened by openat2(2) beneath the destination, so no name and no link, of the stream or of the tree,
//! leads out of it. A file or a link in an entry's way is replaced, by a file once that is whole; directories are merged into
//! and keep what they have; a directory and something else in one place are an error, but for a directory without files in
//! the way of a stream that is marked. Directories made here get their mode
//! and time last, also when what was to go into them did not all arrive.
//!
//! | [`Policy`] | for | links below the destination | owners | devices, pipes | modes, xattrs |
//! |---|---|---|---|---|---|
//! | [`Policy::inside`] | the agent, in its guest | followed inside it | the stream's, for root | made | kept |
//! | [`Policy::hostile`] | the host, what a guest sends | never followed | the caller's | left out, named | no setuid, the umask; `user.*` only |
//! | the same with `archive`, for root | | never followed | the stream's | left out, named | kept, but what overlays obey |

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::io::Errno;
use tar::EntryType;

use crate::arrival::{Arrival, in_place};
use crate::dress::{Opened, Wardrobe, Xattrs, opened, replaced, umask};
use crate::hollow;
use crate::pack::is_kernels;
use crate::reader::{Attributes, Entry, Reader};
use crate::sparse::{CHUNK_BYTES, write_content};
use crate::{LeftOut, TreeError, malformed, split};

/// Names longer than this are nobody's: `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// What may be remembered of directories until their end: two million of them with ordinary names.
const REMEMBERED_BYTES_MAX: usize = 256 << 20;
/// What a vector, or a place in a table, takes beside its bytes, for each thing that is remembered.
const REMEMBERING_BYTES: usize = 64;
/// Entries of a hostile stream: more than a disk of ordinary size has files.
const ENTRIES_MAX: u64 = 10_000_000;
/// How many times an openat2(2) that raced with a rename is tried.
const TRIES: u32 = 16;

/// What is believed of a stream.
#[derive(Debug, Clone)]
pub struct Policy {
    resolve: ResolveFlags,
    special: Special,
    wardrobe: Wardrobe,
    called: Option<Vec<u8>>,
    mark: Option<&'static str>,
    pub(crate) limits: Limits,
}

/// Devices and pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    Made,
    LeftOut,
}

/// What a stream may cost beside the room for its files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) entries: u64,
    pub(crate) remembered_bytes: usize,
}

impl Policy {
    /// For a tree of the machine that the stream is meant for. `is_root`: the destination is that machine's root, below
    /// which absolute links are followed as they are meant (`/lib` is one).
    #[must_use]
    pub fn inside(is_root: bool) -> Policy {
        let may_own = rustix::process::geteuid().is_root();
        Policy {
            resolve: if is_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH },
            special: Special::Made,
            wardrobe: Wardrobe { may_own, modes: 0o7777, xattrs: Xattrs::All },
            called: None,
            mark: None,
            limits: Limits { entries: u64::MAX, remembered_bytes: REMEMBERED_BYTES_MAX },
        }
    }

    /// For a stream by somebody who means harm. `archive`: modes are whole, and where the caller is root, owners, setuid bits
    /// and attributes are the stream's too.
    #[must_use]
    pub fn hostile(archive: bool) -> Policy {
        let wardrobe = if archive && rustix::process::geteuid().is_root() {
            Wardrobe { may_own: true, modes: 0o7777, xattrs: Xattrs::Untrusted }
        } else {
            let modes = if archive { 0o777 } else { 0o777 & !umask() };
            Wardrobe { may_own: false, modes, xattrs: Xattrs::User }
        };
        Policy {
            resolve: ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            special: Special::LeftOut,
            wardrobe,
            called: None,
            mark: None,
            limits: Limits { entries: ENTRIES_MAX, remembered_bytes: REMEMBERED_BYTES_MAX },
        }
    }

    /// A stream that begins with a file of this name, in whatever directory, may leave a part of a new file behind when it
    /// is killed: that file says so as long as it is there.
    #[must_use]
    pub fn marked_by(self, mark: &'static str) -> Policy {
        Policy { mark: Some(mark), ..self }
    }

    /// The stream has one top, whatever it calls it, and that top becomes `name`: one component. An entry outside of it is
    /// an error.
    #[must_use]
    pub fn called(self, name: Option<Vec<u8>>) -> Policy {
        Policy { called: name, ..self }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Bytes of content, holes not counted.
    pub bytes: u64,
    /// Sockets, and devices and pipes that the policy does not make.
    pub left_out: LeftOut,
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
        entries: 0,
        bytes: 0,
        is_marked: false,
        last_parent: None,
        buffer: vec![0; CHUNK_BYTES],
    };
    let mut reader = Reader::new(from);
    let filled = unpacker.fill(&mut reader);
    let dressed = unpacker.finish();
    filled?;
    dressed?;
    let left_out = std::mem::take(reader.left_out());
    // A sender is not left with a broken pipe.
    reader.drain().map_err(unread())?;
    Ok(Unpacked { bytes: unpacker.bytes, left_out })
}

fn unread() -> impl FnOnce(io::Error) -> TreeError {
    TreeError::during("read", b"the stream")
}

struct Unpacker {
    destination: OwnedFd,
    policy: Policy,
    /// What the stream calls its top.
    top: Option<Vec<u8>>,
    /// Directories that were not there before.
    made: HashSet<Vec<u8>>,
    directories: Vec<Directory>,
    remembered_bytes: usize,
    entries: u64,
    bytes: u64,
    /// What is there may be a part, and is known to be.
    is_marked: bool,
    /// The directory of the last file, which is the next one's most of the time.
    last_parent: Option<(Vec<u8>, OwnedFd)>,
    /// What is read at once.
    buffer: Vec<u8>,
}

/// A directory that was made, to be dressed at the end.
struct Directory {
    path: Vec<u8>,
    /// Device and inode: somebody else's is not dressed.
    inode: (u64, u64),
    attributes: Attributes,
}

impl Unpacker {
    fn fill<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<(), TreeError> {
        while let Some(entry) = reader.next_entry().map_err(unread())? {
            self.entry(&entry, reader)?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > self.policy.limits.entries {
            return Err(TreeError::during("unpack", &entry.path)(malformed("too many files")));
        }
        let path = self.place_of(&entry.path)?;
        if self.entries == 1 {
            self.is_marked = self.policy.mark.is_some_and(|mark| is_at_end_of(mark.as_bytes(), &path));
        }
        let shown = match entry.path.as_slice() {
            [name @ .., b'/'] if !name.is_empty() => name,
            name => name,
        };
        let during = |verb: &str| TreeError::during::<io::Error>(verb, shown);
        let last_parent = self.last_parent.take();
        if path.is_empty() || entry.kind == EntryType::Directory {
            return self.directory(path, &entry.attributes).map_err(during("make"));
        }
        let (directory, name) = split(&path);
        let is_special = matches!(entry.kind, EntryType::Char | EntryType::Block | EntryType::Fifo);
        if is_special && self.policy.special == Special::LeftOut {
            reader.left_out().add(&entry.path);
            return Ok(());
        }
        let parent = |unpacker: &mut Unpacker| unpacker.open_parent(directory).map_err(during("make the directory of"));
        let place = |unpacker: &mut Unpacker| -> Result<OwnedFd, TreeError> {
            let parent = parent(unpacker)?;
            match clear(&parent, name) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && unpacker.is_hollow(&parent, name).map_err(during("replace"))? => {}
                cleared => cleared.map_err(during("replace"))?,
            }
            Ok(parent)
        };
        match entry.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                // It is where it was: a file in a directory does not move that.
                let parent = match last_parent.filter(|(path, _)| path == directory) {
                    Some((_, parent)) => parent,
                    None => parent(self)?,
                };
                self.bytes += self.file(&parent, name, entry, reader).map_err(during("write"))?;
                self.last_parent = Some((directory.to_vec(), parent));
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
                self.symlink(&parent, name, entry).map_err(during("make"))?;
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
        // A loop: as deep as a name can lead, a stack does not.
        let mut there = path;
        let mut parent = loop {
            match self.open(there, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(fd) => break fd,
                Err(Errno::NOENT) if !there.is_empty() => there = split(there).0,
                Err(Errno::LOOP) if self.policy.resolve.contains(ResolveFlags::NO_SYMLINKS) => {
                    return Err(malformed("a symbolic link is in its way"));
                }
                Err(Errno::NOTDIR) => return Err(malformed("something that is no directory is in its way")),
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut at = there.len();
        while at < path.len() {
            let start = if at == 0 { 0 } else { at + 1 };
            at = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |length| start + length);
            let name = &path[start..at];
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.remember(&path[..at])?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(refusal(&parent, errno)),
            }
            // What has got in its way meanwhile is no directory of ours.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            parent = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        }
        Ok(parent)
    }

    /// One that is there keeps its mode, its owner and its time.
    fn directory(&mut self, path: Vec<u8>, attributes: &Attributes) -> io::Result<()> {
        let made = match self.open(&path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) if !self.made.contains(&path) => return Ok(()),
            Ok(made) => made,
            Err(_) => {
                let (parent, name) = split(&path);
                let parent = self.open_parent(parent)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) => {
                        let why = "something there is no directory, and a directory does not replace it";
                        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
                    }
                    other => other.map_err(|errno| refusal(&parent, errno))?,
                }
                self.remember(&path)?;
                opened(&parent, name, FileType::Directory)?
            }
        };
        let mut attributes = attributes.clone();
        attributes.xattrs.retain(|(key, _)| self.policy.wardrobe.xattrs.allow(key));
        self.count(path.len())?;
        for (key, value) in &attributes.xattrs {
            self.count(key.len() + value.len())?;
        }
        self.directories.push(Directory { path, inode: inode(&made)?, attributes });
        Ok(())
    }

    fn remember(&mut self, path: &[u8]) -> io::Result<()> {
        self.count(path.len())?;
        self.made.insert(path.to_vec());
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.remembered_bytes += bytes + REMEMBERING_BYTES;
        if self.remembered_bytes > self.policy.limits.remembered_bytes {
            return Err(malformed("too many directories"));
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> io::Result<u64> {
        let begin = || match self.is_marked {
            true => Arrival::in_sight(parent, name, entry.attributes.mode & self.policy.wardrobe.modes),
            false => Arrival::new(parent, name),
        };
        let arrival = match begin() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.is_hollow(parent, name)? => begin()?,
            arrival => arrival?,
        };
        let (content, runs) = (&mut reader.content(), entry.runs.as_deref());
        let bytes = write_content(content, arrival.file(), entry.length, runs, &mut self.buffer)?;
        self.policy.wardrobe.dress(Opened::File(arrival.file()), FileType::RegularFile, &entry.attributes)?;
        arrival.place(name)?;
        Ok(bytes)
    }

    /// Whether a directory was in the way that nobody misses: one without files, where the sender knows of all files.
    fn is_hollow(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<bool> {
        if self.is_marked { hollow::remove(parent, name) } else { Ok(false) }
    }

    fn symlink(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        rustix::fs::symlinkat(entry.link.as_slice(), parent, name)?;
        let made = opened(parent, name, FileType::Symlink)?;
        self.policy.wardrobe.dress(Opened::Path(&made), FileType::Symlink, &entry.attributes)
    }

    fn hard_link(&mut self, target: &[u8], parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let (from, from_name) = split(target);
        let from = self.open(from, OFlags::PATH | OFlags::DIRECTORY)?;
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
        self.policy.wardrobe.dress(Opened::Path(&opened(parent, name, kind)?), kind, &entry.attributes)
    }

    /// Gives directories what would have been in the way of filling them. All of them: what one refuses is told at the end.
    fn finish(&mut self) -> Result<(), TreeError> {
        let mut finished = Ok(());
        for Directory { path, inode: made, attributes } in std::mem::take(&mut self.directories).into_iter().rev() {
            let opened = self.open(&path, OFlags::PATH | OFlags::DIRECTORY).map_err(io::Error::from);
            let dressed = opened.and_then(|fd| {
                if inode(&fd)? == made {
                    self.policy.wardrobe.dress(Opened::Path(&fd), FileType::Directory, &attributes)
                } else {
                    Err(replaced())
                }
            });
            let dressed = dressed.map_err(TreeError::during("set the mode and time of", &path));
            finished = finished.and(dressed);
        }
        finished
    }
}

/// What tells an open directory from every other.
fn inode(opened: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(opened)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Whether `path` is `name`, or ends in it behind a directory.
fn is_at_end_of(name: &[u8], path: &[u8]) -> bool {
    path.strip_suffix(name).is_some_and(|above| above.is_empty() || above.ends_with(b"/"))
}

/// Removes a file or link at `name`.
fn clear(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(in_place()),
        Err(errno) => Err(refusal(parent, errno)),
    }
}

/// Why nothing was made in `parent`. Filesystems of the kernel's answer as if the directory were not there, or closed.
pub(crate) fn refusal(parent: &OwnedFd, errno: Errno) -> io::Error {
    if is_kernels(parent) {
        return io::Error::other("the kernel's own directories take no files; a command can write to those in them");
    }
    errno.into()
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

    #[test]
    fn a_mark_is_a_whole_name() {
        for (path, is_it) in
            [(".x/mark", true), ("sub/.x/mark", true), ("sub.x/mark", false), ("x/mark", false), ("", false)]
        {
            assert_eq!(is_at_end_of(b".x/mark", path.as_bytes()), is_it, "{path}");
        }
    }
}
