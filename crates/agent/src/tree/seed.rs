//! First use of a directory that the VM's disk keeps: it begins as the image has it.

use std::fs::File;
use std::io;

use rustix::fs::{OFlags, RenameFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::pack::pack;
use super::unpack::unpack;
use crate::root_dir::RootDir;

/// Makes `name` on the disk, a copy of `path` of the image; empty when the image has no such directory. It appears whole or
/// not at all, so a boot cut short seeds again.
///
/// # Errors
/// When it cannot be copied: the disk is full, say.
pub fn first_use(image: &RootDir, path: &str, disk: &RootDir, name: &str, mode: u32) -> io::Result<()> {
    let staging = "/seeding";
    sys::fs::remove_tree(std::path::Path::new(&format!("{}{staging}", crate::boot::disk::DISK)))
        .map_err(|error| error.source)?;
    let has_one = image.open_at(path, OFlags::PATH | OFlags::DIRECTORY).is_ok();
    let last = path.rsplit('/').next().unwrap_or(path);
    let staged = format!("{staging}/{last}");
    if has_one {
        copy(image, path, disk, staging)?;
    } else {
        disk.ensure_dir(&staged, mode)?;
    }
    let from = disk.ensure_dir(staging, 0o700)?;
    if let Some((parent, _)) = name.rsplit_once('/') {
        disk.ensure_dir(&format!("/{parent}"), 0o700)?;
    }
    rustix::fs::renameat_with(from, last, disk.as_fd(), name, RenameFlags::NOREPLACE)?;
    Ok(())
}

/// Copies through a pipe: a forked child packs, this process unpacks.
fn copy(image: &RootDir, path: &str, disk: &RootDir, to: &str) -> io::Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let root = image.as_fd().try_clone_to_owned()?;
    let pid = sys::spawn::fork_with([writer, root], |[writer, root]| {
        i32::from(pack(&root, path.as_bytes(), io::BufWriter::with_capacity(1 << 16, File::from(writer))).is_err())
    })?;
    let destination = disk.ensure_dir(to, 0o700)?;
    let unpacked = unpack(destination, false, File::from(reader)).map_err(|error| error.source);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let packed = waitpid(pid, WaitOptions::empty())?.is_some_and(|(_, status)| status.exit_status() == Some(0));
    unpacked?;
    if packed { Ok(()) } else { Err(io::Error::other("the image's directory could not be read whole")) }
}
