//! What a VM changed of its image: the overlay's upper layer read beside the lower one.
//!
//! | in the upper layer | is told as |
//! |---|---|
//! | a whiteout over something | deleted |
//! | anything where the image has nothing | added, with all in it |
//! | a file or a link where the image has something | modified |
//! | a directory of the image | what is in it; itself when its mode or owner differ |
//! | a directory that hides the image's, or was renamed | what the guest sees in it, compared with the image |
//!
//! The layers are mounted once more for as long as this takes, by descriptors that nobody else has: the disk's own mount is
//! detached when the root is built, and a descriptor that was kept would keep the disk from being unmounted at the end.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use tree::pack::LayerPacker;

use crate::boot::devices;
use crate::root_dir::path_of;

/// What the agent itself writes at every boot: who this guest is, and no change of it.
const IDENTITY: [&str; 4] = ["etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"];
/// Host keys, in as many files as there are algorithms.
const HOST_KEYS: &str = "etc/ssh/ssh_host_";

/// The layers of this guest's root, and the root itself.
#[derive(Debug)]
pub struct Layers {
    /// The image.
    pub lower: OwnedFd,
    /// What was written over it.
    pub upper: OwnedFd,
    /// Both, as the guest sees them.
    pub view: OwnedFd,
}

impl Layers {
    /// Mounts the layers of this guest.
    ///
    /// # Errors
    /// When a drive is gone or cannot be mounted.
    pub fn mount(view: OwnedFd) -> io::Result<Layers> {
        let drives = devices::drives().map_err(|error| error.source)?;
        let lower = mounted(&drives.rootfs, Access::ReadOnly)?;
        // The disk is mounted for writing already, and a device is either or; this mount of it writes nothing.
        let disk = mounted(&drives.disk, Access::Shared)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::openat(&disk, "system/upper", flags | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Layers { lower, upper, view })
    }
}

/// How the device of a mount is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    Shared,
}

/// A mount without a place, which goes with its descriptor.
fn mounted(device: &Path, access: Access) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    if access == Access::ReadOnly {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    let closed = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, closed)?)
}

/// How what is in a directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The upper layer over the lower one.
    Layered,
    /// What the guest sees beside what the image has.
    Compared,
    /// The image has none of it.
    New,
}

/// Writes every change to `to`: `A`, `M` or `D`, the absolute path, a zero; in the order of a walk. Gives their number.
///
/// # Errors
/// When a layer cannot be read, or the changes not written.
pub fn write_changes(layers: &Layers, mut to: impl Write) -> io::Result<u64> {
    let mut count = 0;
    each_change(layers, |change, path| {
        count += 1;
        to.write_all(&[&[change, b'/'][..], path, b"\0"].concat())
    })?;
    to.flush()?;
    Ok(count)
}

/// Packs every change as a layer over the image. Gives the bytes of content in it.
///
/// # Errors
/// When a layer cannot be read, or the stream not written.
pub fn pack_changes(layers: &Layers, to: impl Write) -> io::Result<u64> {
    let mut packer = LayerPacker::new(layers.view.try_clone()?, to).map_err(io::Error::other)?;
    each_change(layers, |change, path| {
        let packed = if change == b'D' { packer.gone(path) } else { packer.changed(path) };
        packed.map_err(io::Error::other)
    })?;
    packer.finish().map_err(io::Error::other)
}

/// Tells `told` of every change: `A`, `M` or `D`, and the path from the root without a slash before it.
fn each_change(layers: &Layers, mut told: impl FnMut(u8, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut waiting: Vec<(Vec<u8>, How)> = Vec::new();
    below(layers, b"", How::Layered, &mut waiting)?;
    while let Some((path, how)) = waiting.pop() {
        let (change, inside) = look(layers, &path, how)?;
        if let Some(change) = change.filter(|_| !is_identity(&path)) {
            told(change, &path)?;
        }
        if let Some(how) = inside {
            below(layers, &path, how, &mut waiting)?;
        }
    }
    Ok(())
}

fn is_identity(path: &[u8]) -> bool {
    IDENTITY.iter().any(|own| own.as_bytes() == path) || path.starts_with(HOST_KEYS.as_bytes())
}

/// What became of a path, and how what is in it is looked at when it is a directory.
fn look(layers: &Layers, path: &[u8], how: How) -> io::Result<(Option<u8>, Option<How>)> {
    let lower = if how == How::New { None } else { stat(&layers.lower, path)? };
    let now = stat(if how == How::Layered { &layers.upper } else { &layers.view }, path)?;
    let now = now.filter(|now| !is_whiteout(now));
    Ok(match (&lower, &now) {
        (None, None) => (None, None),
        (Some(_), None) => (Some(b'D'), None),
        (None, Some(now)) => (Some(b'A'), is_directory(now).then_some(How::New)),
        (Some(lower), Some(now)) if is_directory(lower) && is_directory(now) => {
            let inside = if how == How::Layered && is_replaced(&layers.upper, path)? { How::Compared } else { how };
            ((!same_owner_and_mode(lower, now)).then_some(b'M'), Some(inside))
        }
        (Some(_), Some(now)) if is_directory(now) => (Some(b'M'), Some(How::New)),
        (Some(lower), Some(now)) => {
            // In the upper layer is what was written to; of what is only compared, only differences are.
            let is_same = how == How::Compared && is_same(lower, now);
            ((!is_same).then_some(b'M'), None)
        }
    })
}

/// Puts what is in a directory on the list of what is looked at, last name first.
fn below(layers: &Layers, path: &[u8], how: How, waiting: &mut Vec<(Vec<u8>, How)>) -> io::Result<()> {
    let mut names = BTreeSet::new();
    match how {
        How::Layered => list(&layers.upper, path, &mut names)?,
        How::New => list(&layers.view, path, &mut names)?,
        How::Compared => {
            list(&layers.view, path, &mut names)?;
            list(&layers.lower, path, &mut names)?;
        }
    }
    let full = |name: &Vec<u8>| if path.is_empty() { name.clone() } else { [path, b"/", name].concat() };
    waiting.extend(names.iter().rev().map(|name| (full(name), how)));
    Ok(())
}

/// Opens what is at a path of a layer: no link is followed, and what is mounted over the root is not entered.
fn open(layer: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(layer, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn stat(layer: &OwnedFd, path: &[u8]) -> io::Result<Option<Stat>> {
    match open(layer, path, OFlags::PATH) {
        Ok(opened) => Ok(Some(rustix::fs::fstat(opened)?)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn list(layer: &OwnedFd, path: &[u8], names: &mut BTreeSet<Vec<u8>>) -> io::Result<()> {
    let directory = match open(layer, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        // It went while it was looked at, or something is mounted over it.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    for entry in Dir::read_from(directory.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(name);
        }
    }
    Ok(())
}

/// A directory that hides the one below it, or shows another.
fn is_replaced(upper: &OwnedFd, path: &[u8]) -> io::Result<bool> {
    let opened = open(upper, path, OFlags::PATH | OFlags::DIRECTORY)?;
    let mut value = [0; 16];
    let has = |key: &CStr, value: &mut [u8]| match rustix::fs::getxattr(path_of(&opened), key, value) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(io::Error::from(errno)),
    };
    Ok(has(c"trusted.overlay.opaque", &mut value)? || has(c"trusted.overlay.redirect", &mut value)?)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_directory(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn same_owner_and_mode(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    same_owner_and_mode(a, b) && a.st_size == b.st_size && a.st_rdev == b.st_rdev && time(a) == time(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn told(lower: &Path, upper: &Path, view: &Path) -> Vec<String> {
        let open = |path: &Path| fs::File::open(path).unwrap().into();
        let layers = Layers { lower: open(lower), upper: open(upper), view: open(view) };
        let mut out = Vec::new();
        let count = write_changes(&layers, &mut out).unwrap();
        let lines: Vec<String> =
            out.split_inclusive(|byte| *byte == 0).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert_eq!(lines.len() as u64, count);
        lines.iter().map(|line| line.strip_suffix('\0').unwrap().to_owned()).collect()
    }

    fn whiteout(path: &Path) {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, mode, 0).unwrap();
    }

    #[test]
    fn layers_are_told_apart() {
        let world = tempfile::tempdir().unwrap();
        let at = |path: &str| world.path().join(path);
        for directory in
            ["lower/etc/old", "lower/opt", "lower/kept", "upper/etc/new/sub", "upper/kept", "view/etc/new/sub"]
        {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for file in
            ["lower/etc/changed", "lower/etc/removed", "lower/etc/untouched", "lower/kept/x", "upper/etc/changed"]
        {
            fs::write(at(file), "x").unwrap();
        }
        for layer in ["upper", "view"] {
            fs::write(at(layer).join("etc/new/sub/file"), "x").unwrap();
            symlink("/nowhere", at(layer).join("etc/new/link")).unwrap();
        }
        fs::write(at("upper/etc/hostname"), "web").unwrap();
        fs::write(at("upper/opt"), "a file now").unwrap();
        fs::set_permissions(at("upper/kept"), fs::Permissions::from_mode(0o700)).unwrap();
        for path in ["upper/etc/removed", "upper/etc/old", "upper/etc/never was"] {
            whiteout(&at(path));
        }
        assert_eq!(
            told(&at("lower"), &at("upper"), &at("view")),
            [
                "M/etc/changed",
                "A/etc/new",
                "A/etc/new/link",
                "A/etc/new/sub",
                "A/etc/new/sub/file",
                "D/etc/old",
                "D/etc/removed",
                "M/kept",
                "M/opt",
            ]
        );
    }

    #[test]
    fn a_directory_that_hides_the_images_is_compared_with_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let world = tempfile::tempdir().unwrap();
        let at = |path: &str| world.path().join(path);
        for layer in ["lower", "upper", "view"] {
            fs::create_dir_all(at(layer).join("d/sub")).unwrap();
        }
        let marked =
            rustix::fs::setxattr(at("upper/d"), "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty());
        marked.unwrap();
        fs::write(at("lower/d/gone"), "x").unwrap();
        fs::write(at("lower/d/same"), "x").unwrap();
        let times = fs::metadata(at("lower/d/same")).unwrap().modified().unwrap();
        for layer in ["upper", "view"] {
            for (name, text) in [("same", "x"), ("sub/new", "y")] {
                fs::write(at(layer).join("d").join(name), text).unwrap();
            }
            fs::File::options().write(true).open(at(layer).join("d/same")).unwrap().set_modified(times).unwrap();
        }
        assert_eq!(told(&at("lower"), &at("upper"), &at("view")), ["D/d/gone", "A/d/sub/new"]);
    }
}
