//! Directories with nothing but directories in them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Deeper ones are left alone.
const DEPTH_MAX: u32 = 64;

/// Removes `name` when it is a directory with nothing but directories in it, however many; false when there is anything
/// else.
///
/// # Errors
/// When it cannot be looked into, or the filesystem refuses.
pub(crate) fn remove(parent: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    remove_within(parent, name, DEPTH_MAX)
}

fn remove_within(parent: &OwnedFd, name: &[u8], depth: u32) -> io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => return Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) if depth > 0 => {}
        // Something is mounted there.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let within = entry.file_name().to_bytes();
        if within != b"." && within != b".." && !remove_within(&directory, within, depth - 1)? {
            return Ok(false);
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok())
}
