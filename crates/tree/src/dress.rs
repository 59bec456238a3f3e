//! What a file has beside its content: owner, mode, extended attributes, time. All of it is set through a descriptor, so
//! that nothing which takes the file's name meanwhile gets it: directories may belong to others.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::reader::Attributes;

/// What is believed of a stream's attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wardrobe {
    /// Owners are the stream's.
    pub(crate) may_own: bool,
    /// Bits of modes that are the stream's.
    pub(crate) modes: u32,
    /// Extended attributes that are set.
    pub(crate) xattrs: Xattrs,
}

/// Which extended attributes are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Xattrs {
    All,
    /// All but those of which an overlay could take orders.
    Untrusted,
    /// `user.*` but those: nothing that the kernel acts on.
    User,
}

impl Xattrs {
    /// Whether the attribute `key` is set.
    pub(crate) fn allow(self, key: &str) -> bool {
        let is_overlays = key.starts_with("trusted.") || key.starts_with("user.overlay.");
        match self {
            Xattrs::All => true,
            Xattrs::Untrusted => !is_overlays,
            Xattrs::User => key.starts_with("user.") && !is_overlays,
        }
    }
}

/// What is dressed, by its descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opened<'a> {
    /// A file that can be written to.
    File(&'a File),
    /// Anything, opened as `O_PATH`: reached through `/proc`, which takes as long as making a small file.
    Path(&'a OwnedFd),
}

impl Opened<'_> {
    fn stat(self) -> rustix::io::Result<Stat> {
        match self {
            Opened::File(file) => rustix::fs::fstat(file),
            Opened::Path(fd) => rustix::fs::fstat(fd),
        }
    }

    fn set_owner(self, uid: Uid, gid: Gid) -> rustix::io::Result<()> {
        match self {
            Opened::File(file) => rustix::fs::fchown(file, Some(uid), Some(gid)),
            Opened::Path(fd) => rustix::fs::chownat(CWD, named(fd), Some(uid), Some(gid), AtFlags::empty()),
        }
    }

    fn set_mode(self, mode: Mode) -> rustix::io::Result<()> {
        match self {
            Opened::File(file) => rustix::fs::fchmod(file, mode),
            Opened::Path(fd) => rustix::fs::chmodat(CWD, named(fd), mode, AtFlags::empty()),
        }
    }

    fn set_xattr(self, key: &str, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Opened::File(file) => rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()),
            Opened::Path(fd) => rustix::fs::setxattr(named(fd), key, value, XattrFlags::empty()),
        }
    }

    fn set_times(self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Opened::File(file) => rustix::fs::futimens(file, times),
            Opened::Path(fd) => rustix::fs::utimensat(CWD, named(fd), times, AtFlags::empty()),
        }
    }
}

/// The name of a descriptor: proc_pid_fd(5).
fn named(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

impl Wardrobe {
    /// Gives what is open owner, then mode (which a change of owner would strip of setuid),
    /// then attributes, then time. What it has already is not set again: each takes as long as making a small file.
    ///
    /// # Errors
    /// When one of them is refused.
    pub(crate) fn dress(self, opened: Opened<'_>, kind: FileType, attributes: &Attributes) -> io::Result<()> {
        let has = opened.stat()?;
        let is_owned = !self.may_own || (has.st_uid, has.st_gid) == (attributes.uid, attributes.gid);
        if !is_owned {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            opened.set_owner(uid, gid)?;
        }
        // Links have no mode of their own.
        let mode = attributes.mode & self.modes;
        if kind != FileType::Symlink && !(is_owned && has.st_mode & 0o7777 == mode) {
            opened.set_mode(Mode::from_raw_mode(mode))?;
        }
        for (key, value) in attributes.xattrs.iter().filter(|(key, _)| self.xattrs.allow(key)) {
            match opened.set_xattr(key, value) {
                // A filesystem or a user that cannot have this attribute has the file without it.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let times = Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime };
        Ok(opened.set_times(&times)?)
    }
}

/// Opens what was made as `name` and is of `kind`, to dress it.
///
/// # Errors
/// When it is gone, or something else has its name.
pub(crate) fn opened(parent: &OwnedFd, name: &[u8], kind: FileType) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) == kind { Ok(opened) } else { Err(replaced()) }
}

/// The refusal to go on with what somebody else put there.
pub(crate) fn replaced() -> io::Error {
    io::Error::other("something else has taken its place meanwhile")
}

/// What this process takes away from modes. umask(2) tells it only by changing it, for all threads.
pub(crate) fn umask() -> u32 {
    mask_in(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()).unwrap_or(0o022)
}

/// The mask in the status of a process: proc_pid_status(5).
fn mask_in(status: &str) -> Option<u32> {
    status.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("Umask:")?.trim(), 8).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_attribute_of_a_guest_gives_orders() {
        for (key, all, untrusted, user) in [
            ("user.note", true, true, true),
            ("user.overlay.opaque", true, false, false),
            ("trusted.overlay.redirect", true, false, false),
            ("security.capability", true, true, false),
            ("system.posix_acl_access", true, true, false),
        ] {
            let allowed = [Xattrs::All, Xattrs::Untrusted, Xattrs::User].map(|xattrs| xattrs.allow(key));
            assert_eq!(allowed, [all, untrusted, user], "{key}");
        }
    }

    #[test]
    fn the_mask_is_that_of_the_process() {
        let mut other = sys::process::command("sh");
        let status = sys::process::run(other.args(["-c", "umask 027; cat /proc/self/status"])).unwrap();
        assert_eq!(mask_in(&String::from_utf8(status).unwrap()), Some(0o027));
        assert_eq!(mask_in("Name:\tx\n"), None);
    }
}
