//! A file or tree into a tar stream.
//!
//! Names are relative to the parent of what is packed. Symbolic links are packed as links. Sockets are left out and named:
//! they mean nothing elsewhere. Other filesystems below are packed as well, as `cp -a` does, but the kernel's own (`/proc`, `/sys`)
//! stay empty directories, and are refused where they are asked for. A file of theirs that is asked for by name is read to its
//! end, whatever size it claims; below a directory of theirs, what cannot be read is left out and named.

mod files;
mod layer;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags};
use tar::{Builder, EntryType, Header};

use crate::sparse::{RunsReader, runs_of, write_map};
use crate::{LeftOut, TreeError, malformed, pax, split};

pub use files::pack_files;
pub use layer::LayerPacker;

/// Bytes of a name in a header; longer ones go into a PAX record.
pub(crate) const NAME_BYTES: usize = 100;
/// Most bytes of one extended attribute: `XATTR_SIZE_MAX` of xattr(7).
const XATTR_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a file of the kernel's: its largest ones are logs.
const KERNEL_FILE_BYTES_MAX: u64 = 64 << 20;
/// `linux/magic.h`: bpf, cgroup, cgroup2, configfs, debugfs, devpts, efivarfs, proc, pstore, securityfs, sysfs, tracefs.
const KERNEL_FILESYSTEMS: [u64; 12] = [
    0xcafe_4a11,
    0x0027_e0eb,
    0x6367_7270,
    0x6265_6570,
    0x6462_6720,
    0x1cd1,
    0xde5e_81e4,
    0x9fa0,
    0x6165_676c,
    0x7363_6673,
    0x6265_6572,
    0x7472_6163,
];

/// What is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct What<'a> {
    /// Where it is. The last component is not followed when it is a link, unless a slash or a dot stands behind it.
    pub path: &'a [u8],
    /// It is followed even so.
    pub follow: bool,
    /// What its top is called in the stream, instead of its own last component.
    pub called: Option<&'a [u8]>,
    /// What is kept of each file.
    pub fidelity: Fidelity,
}

/// What is kept of a file beside its content, its times and its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// Everything.
    Whole,
    /// Read, write and execute bits and `user.*` attributes: all files are root's.
    Plain,
    /// Read, write and execute bits: all files are root's.
    Bare,
}

impl Fidelity {
    fn keeps(self, xattr: &str) -> bool {
        // What overlayfs keeps for itself belongs to one overlay.
        match self {
            Fidelity::Whole => !xattr.starts_with("trusted.overlay."),
            Fidelity::Plain => xattr.starts_with("user."),
            Fidelity::Bare => false,
        }
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Bytes of file content, holes not counted.
    pub bytes: u64,
    /// Sockets, and files of the kernel's that cannot be read.
    pub left_out: LeftOut,
}

/// Packs `what`, resolved inside `root`, into `to`.
///
/// # Errors
/// When something cannot be read, or the stream not written.
pub fn pack(root: &OwnedFd, what: &What<'_>, to: impl Write) -> Result<Packed, TreeError> {
    let mut trimmed = what.path;
    while let [rest @ .., b'/'] = trimmed {
        trimmed = rest;
    }
    let follow = what.follow || trimmed.len() < what.path.len();
    let (parent, name) = split(trimmed);
    let name = if name.is_empty() { &b"."[..] } else { name };
    let parent = if parent.is_empty() { &b"/"[..] } else { parent };
    let opened = |path: &[u8], flags| {
        open(root, path, flags | OFlags::PATH, ResolveFlags::IN_ROOT).map_err(TreeError::during("open", what.path))
    };
    let (base, top, called) = if follow && name != b"." {
        // The link's own name, whatever it leads to.
        let place = opened(trimmed, OFlags::empty())?;
        let stat = rustix::fs::fstat(&place).map_err(TreeError::during("look at", what.path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => (place, Top::Named(b"."), what.called.unwrap_or(name)),
            _ => (opened(parent, OFlags::DIRECTORY)?, Top::Open(place), what.called.unwrap_or(name)),
        }
    } else {
        (opened(parent, OFlags::DIRECTORY)?, Top::Named(name), what.called.unwrap_or(name))
    };
    let mut packer = Packer::new(base, what.fidelity, to).map_err(TreeError::during("look at", what.path))?;
    packer.called = called.to_vec();
    let mut waiting = Vec::new();
    match top {
        Top::Named(name) => {
            packer.top = name.to_vec();
            waiting.push(name.to_vec());
        }
        Top::Open(place) => packer.put(b"", place, &mut waiting)?,
    }
    while let Some(path) = waiting.pop() {
        packer.entry(&path, &mut waiting)?;
    }
    packer.finish(what.path)
}

/// Where packing begins.
enum Top<'a> {
    /// Below the base.
    Named(&'a [u8]),
    /// What a link led to.
    Open(OwnedFd),
}

fn open(at: &OwnedFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(at, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

struct Packer<W: Write> {
    base: OwnedFd,
    /// How every path begins, and how its name in the stream does instead.
    top: Vec<u8>,
    called: Vec<u8>,
    fidelity: Fidelity,
    /// The filesystem of the base.
    device: u64,
    builder: Builder<W>,
    /// Files with several names, by device and inode: the name they were packed under.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
}

impl<W: Write> Packer<W> {
    /// One with nothing packed yet.
    fn new(base: OwnedFd, fidelity: Fidelity, to: W) -> io::Result<Packer<W>> {
        let device = rustix::fs::fstat(&base)?.st_dev;
        let (links, packed) = (HashMap::new(), Packed::default());
        Ok(Packer {
            base,
            top: Vec::new(),
            called: Vec::new(),
            fidelity,
            device,
            builder: Builder::new(to),
            links,
            packed,
        })
    }

    /// Ends the stream.
    fn finish(mut self, path: &[u8]) -> Result<Packed, TreeError> {
        let ended = self.builder.finish().and_then(|()| self.builder.get_mut().flush());
        ended.map_err(TreeError::during("write the end of the stream for", path))?;
        Ok(self.packed)
    }

    fn entry(&mut self, path: &[u8], waiting: &mut Vec<Vec<u8>>) -> Result<(), TreeError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let place = match open(&self.base, path, OFlags::PATH | OFlags::NOFOLLOW, resolve) {
            Ok(place) => place,
            // It went while its directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != self.top => return Ok(()),
            Err(error) => return Err(TreeError::during("open", path)(error)),
        };
        self.put(path, place, waiting)
    }

    /// Packs what is open.
    fn put(&mut self, path: &[u8], place: OwnedFd, waiting: &mut Vec<Vec<u8>>) -> Result<(), TreeError> {
        let stat = rustix::fs::fstat(&place).map_err(TreeError::during("look at", path))?;
        let name = [&self.called, path.strip_prefix(self.top.as_slice()).unwrap_or_default()].concat();
        let is_top = path == self.top;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if is_kernels(&place) => {
                if is_top && is_mounted(&place).map_err(TreeError::during("look at", path))? {
                    let why = "the kernel makes up all of it as it is read; name what is wanted of it";
                    return Err(TreeError::during("read", &name)(io::Error::other(why)));
                }
                self.append(&name, &place, &stat, EntryType::Directory, None)?;
                if stat.st_dev != self.device {
                    return Ok(());
                }
                let listed = list(&place, path, waiting);
                self.or_left_out(&name, is_top, listed).map(drop)
            }
            FileType::Directory => {
                self.append(&name, &place, &stat, EntryType::Directory, None)?;
                list(&place, path, waiting)
            }
            FileType::RegularFile if is_kernels(&place) => {
                let content = kernels(&place).map_err(TreeError::during("read", &name));
                match self.or_left_out(&name, is_top, content)? {
                    Some(content) => self.kernel_file(&name, &place, &stat, &content),
                    None => Ok(()),
                }
            }
            FileType::RegularFile => self.file(&name, &place, &stat),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&place, "", Vec::new()).map_err(TreeError::during("read", &name));
                let is_asked_for = is_top || !is_kernels(&place);
                match self.or_left_out(&name, is_asked_for, target)? {
                    Some(target) => self.append(&name, &place, &stat, EntryType::Symlink, Some(target.as_bytes())),
                    None => Ok(()),
                }
            }
            FileType::CharacterDevice => self.append(&name, &place, &stat, EntryType::Char, None),
            FileType::BlockDevice => self.append(&name, &place, &stat, EntryType::Block, None),
            FileType::Fifo => self.append(&name, &place, &stat, EntryType::Fifo, None),
            FileType::Socket | FileType::Unknown => self.leave_out(&name),
        }
    }

    /// What was read of a file of the kernel's; one that nobody asked for by name is left out when it cannot be read.
    fn or_left_out<T>(
        &mut self,
        name: &[u8],
        is_asked_for: bool,
        read: Result<T, TreeError>,
    ) -> Result<Option<T>, TreeError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if is_asked_for => Err(error),
            Err(_) => self.leave_out(name).map(|()| None),
        }
    }

    /// Says so in the stream, too.
    fn leave_out(&mut self, name: &[u8]) -> Result<(), TreeError> {
        self.packed.left_out.add(name);
        let records = pax::record(pax::SOCKET, name);
        let mut header = Header::new_ustar();
        copy_name(&mut header.as_old_mut().name, b"pax_global_header");
        header.set_entry_type(EntryType::XGlobalHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.builder.append(&header, records.as_slice()).map_err(TreeError::during("send", name))
    }

    /// A file whose size is known once it is read.
    fn kernel_file(&mut self, path: &[u8], place: &OwnedFd, stat: &Stat, content: &[u8]) -> Result<(), TreeError> {
        self.records(path, place, stat, None)?;
        let mut header = header(path, stat, EntryType::Regular, None, self.fidelity);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.builder.append(&header, content).map_err(TreeError::during("send", path))?;
        self.packed.bytes += content.len() as u64;
        Ok(())
    }

    fn file(&mut self, path: &[u8], place: &OwnedFd, stat: &Stat) -> Result<(), TreeError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                return self.append(path, place, stat, EntryType::Link, Some(&first));
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let file = reopen(place, OFlags::RDONLY | OFlags::NONBLOCK).map_err(TreeError::during("read", path))?;
        let file = File::from(file);
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let runs = runs_of(&file, length, blocks).map_err(TreeError::during("find the holes of", path))?;
        self.records(path, place, stat, None)?;
        let kind = if runs.is_some() { EntryType::GNUSparse } else { EntryType::Regular };
        let mut header = header(path, stat, kind, None, self.fidelity);
        let whole = [(0, length)];
        let map = runs.as_ref().map(|runs| write_map(&mut header, runs, length)).unwrap_or_default();
        let runs = runs.as_deref().unwrap_or(&whole);
        let data: u64 = runs.iter().map(|(_, bytes)| bytes).sum();
        header.set_size(data);
        header.set_cksum();
        let body = map.as_slice().chain(RunsReader::new(&file, runs));
        self.builder.append(&header, body).map_err(TreeError::during("send", path))?;
        self.packed.bytes += data;
        Ok(())
    }

    fn append(
        &mut self,
        path: &[u8],
        place: &OwnedFd,
        stat: &Stat,
        kind: EntryType,
        target: Option<&[u8]>,
    ) -> Result<(), TreeError> {
        self.records(path, place, stat, target)?;
        let mut header = header(path, stat, kind, target, self.fidelity);
        header.set_cksum();
        self.builder.append(&header, io::empty()).map_err(TreeError::during("send", path))
    }

    /// What the header has no room for.
    fn records(&mut self, path: &[u8], place: &OwnedFd, stat: &Stat, target: Option<&[u8]>) -> Result<(), TreeError> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if path.len() >= NAME_BYTES {
            records.push(("path".to_owned(), path.to_vec()));
        }
        if let Some(target) = target.filter(|target| target.len() >= NAME_BYTES) {
            records.push(("linkpath".to_owned(), target.to_vec()));
        }
        if stat.st_mtime_nsec != 0 || stat.st_mtime < 0 {
            records.push(("mtime".to_owned(), decimal_time(stat).into_bytes()));
        }
        for (name, value) in xattrs(place, self.fidelity).map_err(TreeError::during("read the attributes of", path))? {
            records.push((format!("SCHILY.xattr.{name}"), value));
        }
        if records.is_empty() {
            return Ok(());
        }
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(records).map_err(TreeError::during("send", path))
    }
}

/// Seconds and nanoseconds; a time before 1970 counts its fraction the other way round.
fn decimal_time(stat: &Stat) -> String {
    let (seconds, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec);
    if seconds >= 0 || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
}

fn header(path: &[u8], stat: &Stat, kind: EntryType, target: Option<&[u8]>, fidelity: Fidelity) -> Header {
    let mut header = Header::new_gnu();
    let mut name = path.to_vec();
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    copy_name(&mut header.as_old_mut().name, &name);
    copy_name(&mut header.as_old_mut().linkname, target.unwrap_or_default());
    let (modes, uid, gid) = match fidelity {
        Fidelity::Whole => (0o7777, stat.st_uid, stat.st_gid),
        Fidelity::Plain | Fidelity::Bare => (0o777, 0, 0),
    };
    header.set_mode(stat.st_mode & modes);
    header.set_uid(u64::from(uid));
    header.set_gid(u64::from(gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header.set_entry_type(kind);
    if matches!(kind, EntryType::Char | EntryType::Block)
        && let Some(gnu) = header.as_gnu_mut()
    {
        gnu.set_device_major(rustix::fs::major(stat.st_rdev));
        gnu.set_device_minor(rustix::fs::minor(stat.st_rdev));
    }
    header
}

/// As much of a name as fits; the PAX record has all of it.
pub(crate) fn copy_name(slot: &mut [u8; NAME_BYTES], name: &[u8]) {
    let count = name.len().min(NAME_BYTES - 1);
    slot[..count].copy_from_slice(&name[..count]);
}

/// Opens what an `O_PATH` descriptor refers to.
fn reopen(place: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// The content of a file of the kernel's.
fn kernels(place: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = reopen(place, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut content = Vec::new();
    File::from(file).take(KERNEL_FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > KERNEL_FILE_BYTES_MAX {
        return Err(malformed("it does not end within 64 MiB, as files of the kernel's do that can be copied"));
    }
    Ok(content)
}

/// Whether a filesystem begins here.
fn is_mounted(place: &OwnedFd) -> io::Result<bool> {
    let told = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether it is on a filesystem whose files the kernel makes up.
pub(crate) fn is_kernels(place: &OwnedFd) -> bool {
    rustix::fs::fstatfs(place).is_ok_and(|stat| {
        // The type has another sign on each architecture.
        u64::try_from(stat.f_type & 0xffff_ffff).is_ok_and(|magic| KERNEL_FILESYSTEMS.contains(&magic))
    })
}

fn list(place: &OwnedFd, path: &[u8], waiting: &mut Vec<Vec<u8>>) -> Result<(), TreeError> {
    let directory = reopen(place, OFlags::RDONLY | OFlags::DIRECTORY).map_err(TreeError::during("list", path))?;
    let entries = Dir::read_from(directory.as_fd()).map_err(TreeError::during("list", path))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TreeError::during("list", path))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push([path, b"/", name].concat());
        }
    }
    // The last is taken first: in order, and a directory's content right behind it.
    names.sort_unstable_by(|a, b| b.cmp(a));
    waiting.append(&mut names);
    Ok(())
}

/// Extended attributes; a filesystem without them has none.
fn xattrs(place: &OwnedFd, fidelity: Fidelity) -> io::Result<Vec<(String, Vec<u8>)>> {
    if fidelity == Fidelity::Bare {
        return Ok(Vec::new());
    }
    // fgetxattr(2) refuses O_PATH descriptors, and opening a device or link to read its attributes is out of the question.
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let mut names = vec![0; XATTR_BYTES_MAX];
    let count = match rustix::fs::listxattr(&path, &mut names) {
        Ok(count) => count,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut all = Vec::new();
    let mut value = vec![0; XATTR_BYTES_MAX];
    for name in names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Names are text wherever they were made by programs.
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| fidelity.keeps(name)) else {
            continue;
        };
        match rustix::fs::getxattr(&path, name, &mut value) {
            Ok(count) => all.push((name.to_owned(), value[..count].to_vec())),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(all)
}
