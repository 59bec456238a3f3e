//! Some files of a tree, by their names.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tar::EntryType;

use super::{Fidelity, Packed, Packer};
use crate::TreeError;

/// Packs the files and links beneath `top` that `names` says, in that order and under these names. What is not there, or
/// behind a link, is left out.
///
/// # Errors
/// When something cannot be read, or the stream not written.
pub fn pack_files<'a>(
    top: OwnedFd,
    names: impl IntoIterator<Item = &'a [u8]>,
    to: impl Write,
) -> Result<Packed, TreeError> {
    let mut packer = Packer::new(top, Fidelity::Bare, to).map_err(TreeError::during("look at", b"."))?;
    for name in names {
        packer.named(name)?;
    }
    packer.finish(b".")
}

impl<W: Write> Packer<W> {
    /// Packs a file or a link, if it is there.
    fn named(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let place = match openat2(&self.base, path, flags, Mode::empty(), resolve) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(()),
            Err(errno) => return Err(TreeError::during("open", path)(errno)),
        };
        let stat = rustix::fs::fstat(&place).map_err(TreeError::during("look at", path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(path, &place, &stat),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&place, "", Vec::new()).map_err(TreeError::during("read", path))?;
                self.append(path, &place, &stat, EntryType::Symlink, Some(target.as_bytes()))
            }
            _ => Ok(()),
        }
    }
}
