//! What is refused. Everything here looks at what is held open, or at what only root can change, so that nothing differs
//! between looking and using.

use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sys::confine::MountAccess;
use wire::helper::{Access, Act, Failure, JailFile, Program, Rule};

use crate::config::Config;

pub(crate) fn denied<T>(rule: Rule) -> Result<T, Failure> {
    Err(Failure::Denied { rule })
}

/// A failed system call, for the wire.
pub(crate) fn os(act: Act) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Os { act, errno: error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()) }
}

/// The same for what `rustix` says.
pub(crate) fn errno(act: Act) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::Os { act, errno: errno.raw_os_error() }
}

/// Both programs are root's alone to change.
pub(crate) fn check_programs(config: &Config) -> Result<(), Failure> {
    for (program, path) in [(Program::Firecracker, &config.firecracker), (Program::Jailer, &config.jailer)] {
        if !is_roots_program(path) {
            return denied(Rule::Program { program });
        }
    }
    Ok(())
}

/// A regular executable file, root's, that nobody else can write, over directories of the same kind, without a link.
fn is_roots_program(path: &Path) -> bool {
    let is_roots = |meta: &Metadata| meta.uid() == 0 && meta.mode() & 0o022 == 0;
    let way = path.ancestors().skip(1).all(|dir| dir.symlink_metadata().is_ok_and(|m| m.is_dir() && is_roots(&m)));
    way && path.symlink_metadata().is_ok_and(|meta| meta.is_file() && is_roots(&meta) && meta.mode() & 0o111 != 0)
}

/// The file of a jail, opened by us at the place its id gives, and shown to be the one its descriptor is of.
pub(crate) struct Checked {
    /// Open in our mount namespace, for mounting and nothing else.
    pub(crate) place: OwnedFd,
    stat: Stat,
    access: Access,
}

/// Opens what `place` leads to below `root`: over no link, no other filesystem, and never out of it.
pub(crate) fn check_file(
    (root, place): (&Path, &Path),
    came: &OwnedFd,
    file: &JailFile,
    owner: u32,
) -> Result<Checked, Failure> {
    let name = || file.name_in_jail().to_owned();
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, directory, Mode::empty()).map_err(errno(Act::UseFile))?;
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    // Not NOFOLLOW: with PATH it would open a link itself.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = match rustix::fs::openat2(&root, place, flags, Mode::empty(), resolve) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return denied(Rule::Path { file: name() }),
        Err(error) => return Err(errno(Act::UseFile)(error)),
    };
    let stat = rustix::fs::fstat(&place).map_err(errno(Act::UseFile))?;
    let its = rustix::fs::fstat(came).map_err(errno(Act::UseFile))?;
    if (stat.st_dev, stat.st_ino) != (its.st_dev, its.st_ino) {
        return denied(Rule::OtherFile { file: name() });
    }
    let access = file.access();
    if !shows_rights(flags_of(came)?, access) {
        return denied(Rule::Rights { file: name() });
    }
    if !is_fit(&stat, access, owner) {
        return denied(Rule::Kind { file: name() });
    }
    Ok(Checked { place, stat, access })
}

impl Checked {
    /// What may be done through its mount.
    pub(crate) fn mount_access(&self) -> MountAccess {
        match self.access {
            Access::Shared => MountAccess::ReadOnly,
            Access::Private => MountAccess::ReadWrite,
        }
    }

    /// Lets the VM's group at its own file. The owner keeps it: whoever only belongs to a file's group cannot change its
    /// mode.
    pub(crate) fn give_to(&self, gid: u32) -> Result<(), Failure> {
        if self.access == Access::Shared || self.stat.st_gid == gid {
            return Ok(());
        }
        rustix::fs::chownat(&self.place, c"", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
            .map_err(errno(Act::UseFile))
    }
}

fn flags_of(fd: impl AsFd) -> Result<OFlags, Failure> {
    rustix::fs::fcntl_getfl(fd).map_err(errno(Act::UseFile))
}

/// Whether a descriptor with these flags could only be had by somebody who may do as much. `O_PATH` takes no right.
fn shows_rights(flags: OFlags, access: Access) -> bool {
    let mode = flags & OFlags::RWMODE;
    !flags.contains(OFlags::PATH)
        && match access {
            Access::Shared => mode == OFlags::RDONLY || mode == OFlags::RDWR,
            Access::Private => mode == OFlags::RDWR,
        }
}

/// Whether the file is what it has to be: a private one the owner's, closed to others, with one name; a shared one the
/// owner's or root's and readable, because its VMs are neither.
fn is_fit(stat: &Stat, access: Access, owner: u32) -> bool {
    let mode = stat.st_mode;
    FileType::from_raw_mode(mode) == FileType::RegularFile
        && match access {
            Access::Shared => (stat.st_uid == owner || stat.st_uid == 0) && mode & 0o004 != 0,
            Access::Private => stat.st_uid == owner && stat.st_nlink == 1 && mode & 0o067 == 0o060,
        }
}

/// An output of the VMM can be appended to, and nothing else: it stays open in there.
pub(crate) fn check_output(came: &OwnedFd) -> Result<(), Failure> {
    let stat = rustix::fs::fstat(came).map_err(errno(Act::UseFile))?;
    let flags = flags_of(came)?;
    let is_append_only = flags & OFlags::RWMODE == OFlags::WRONLY && flags.contains(OFlags::APPEND);
    if is_append_only && !flags.contains(OFlags::PATH) && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
    {
        return Ok(());
    }
    denied(Rule::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_shown_by_what_a_descriptor_can_do() {
        let cases = [
            (OFlags::RDONLY, true, false),
            (OFlags::RDWR, true, true),
            (OFlags::WRONLY, false, false),
            (OFlags::PATH, false, false),
            (OFlags::PATH | OFlags::RDWR, false, false),
        ];
        for (flags, shared, private) in cases {
            assert_eq!(shows_rights(flags, Access::Shared), shared, "{flags:?}");
            assert_eq!(shows_rights(flags, Access::Private), private, "{flags:?}");
        }
    }

    #[test]
    fn programs_are_roots_alone() {
        assert!(is_roots_program(&Path::new("/bin/true").canonicalize().unwrap()));
        for bad in ["/etc/passwd", "/", "/none", "/tmp/none", "/proc/self/exe"] {
            assert!(!is_roots_program(Path::new(bad)), "{bad}");
        }
    }
}
