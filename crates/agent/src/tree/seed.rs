//! First use of a directory that the VM's disk keeps: it begins as the image has it.

use std::io;

use crate::root_dir::RootDir;

/// Makes `name` on the disk.
pub fn first_use(_lower: &RootDir, _path: &str, disk: &RootDir, name: &str, mode: u32) -> io::Result<()> {
    disk.ensure_dir(name, mode).map(|_| ())
}
