//! The VM's disk: one ext4 that holds everything the VM may keep.
//!
//! ```text
//! system/upper  system/work   the overlay's writable layer
//! home-root                   /root, kept over a reset of the system
//! direct/<name>               paths that must not be on overlayfs
//! trash/<n>                   what a reset replaced, until it is removed
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount as mount_call};

use super::devices::Drives;
use super::{BootError, Report};
use crate::root_dir::RootDir;

/// Where the disk is mounted while the root is built.
pub const DISK: &str = "/disk";
/// `noinit_itable`: the kernel would otherwise write every inode table of a sparse disk in the background.
const OPTIONS: &std::ffi::CStr = c"noinit_itable,errors=remount-ro";
/// Offset and length of the superblock: `fs/ext4/ext4.h`.
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

/// Mounts the disk, grown to its device, with its directories and without what an earlier reset replaced.
///
/// # Errors
/// When it cannot be mounted or has no room for its directories.
pub fn mount(drives: &Drives, report: &mut Report) -> Result<RootDir, BootError> {
    super::root::mount_point(DISK).map_err(BootError::during("make a mount point"))?;
    mount_call(&drives.disk, DISK, "ext4", MountFlags::NOATIME, OPTIONS)
        .map_err(BootError::during("mount the VM's disk"))?;
    let mount_point = rustix::fs::open(DISK, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let grown = mount_point.map_err(io::Error::from).and_then(|on_it| grow(&drives.disk, on_it.as_fd()));
    report.note("grow the disk's filesystem", grown);
    let disk = RootDir::open(DISK).map_err(BootError::during("open the VM's disk"))?;
    empty_trash(&disk, report);
    ensure_directories(&disk)?;
    Ok(disk)
}

/// Empties the system layer.
///
/// # Errors
/// When it cannot be replaced.
pub fn reset_system(disk: &RootDir, report: &mut Report) -> Result<(), BootError> {
    discard_system(disk).map_err(BootError::during("reset the system layer"))?;
    ensure_directories(disk)?;
    // The host takes the reset off its list as soon as this boot is configured: a power cut must not bring the layer back.
    rustix::fs::syncfs(disk.as_fd()).map_err(BootError::during("write the reset to the VM's disk"))?;
    empty_trash(disk, report);
    Ok(())
}

fn ensure_directories(disk: &RootDir) -> Result<(), BootError> {
    for (path, mode) in [("/system/upper", 0o755), ("/system/work", 0o700), ("/direct", 0o700)] {
        disk.ensure_dir(path, mode).map_err(BootError::during(format!("make {path} on the VM's disk")))?;
    }
    Ok(())
}

/// Moves the system layer out of the way: one rename, so a boot cut short leaves the old layer or none.
fn discard_system(disk: &RootDir) -> io::Result<()> {
    disk.ensure_dir("/trash", 0o700)?;
    let name = format!("trash/{:016x}", u64::from_ne_bytes(sys::rand::bytes()));
    match rustix::fs::renameat_with(disk.as_fd(), "system", disk.as_fd(), &name, RenameFlags::NOREPLACE) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn empty_trash(disk: &RootDir, report: &mut Report) {
    if rustix::fs::statat(disk.as_fd(), "trash", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        // An immutable file (chattr(1)) stays, out of everybody's way.
        let removed = sys::fs::remove_tree(&Path::new(DISK).join("trash"));
        report.note("remove what a reset replaced", removed.map_err(|error| error.source));
    }
}

/// Grows the mounted filesystem that `on_it` is on to its device, when the host has made that larger.
///
/// # Errors
/// When the device cannot be read, or the kernel refuses.
pub fn grow(device: &Path, on_it: BorrowedFd<'_>) -> io::Result<()> {
    let file = File::open(device)?;
    let device_bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
    let mut superblock = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut superblock, SUPERBLOCK_AT)?;
    let Some(wanted) = blocks_wanted(&superblock, device_bytes) else {
        return Ok(());
    };
    sys::kernel::resize_ext4(on_it, wanted)
}

/// How many blocks the filesystem should have; none when it fills its device already. A rest smaller than a block group's
/// metadata is left alone by the kernel, and so by us.
fn blocks_wanted(superblock: &[u8; SUPERBLOCK_BYTES], device_bytes: u64) -> Option<u64> {
    let word = |at: usize| {
        superblock.get(at..at + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from(u32::from_le_bytes(*b)))
    };
    // s_blocks_count_lo, s_log_block_size, s_blocks_per_group, s_feature_incompat, s_blocks_count_hi.
    let is_64bit = word(0x60) & 0x80 != 0;
    let blocks = word(0x04) | if is_64bit { word(0x150) << 32 } else { 0 };
    let block_bytes = 1024_u64.checked_shl(u32::try_from(word(0x18)).ok()?)?;
    let wanted = device_bytes.checked_div(block_bytes)?;
    (wanted > blocks).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_larger_device_is_grown_to() {
        let mut superblock = [0; SUPERBLOCK_BYTES];
        superblock[0x04..0x08].copy_from_slice(&1000_u32.to_le_bytes());
        superblock[0x18] = 2;
        assert_eq!(blocks_wanted(&superblock, 1000 * 4096 + 4095), None);
        assert_eq!(blocks_wanted(&superblock, 5000 * 4096), Some(5000));
        superblock[0x60] = 0x80;
        superblock[0x150] = 1;
        assert_eq!(blocks_wanted(&superblock, 5000 * 4096), None);
        superblock[0x18] = 200;
        assert_eq!(blocks_wanted(&superblock, 5000 * 4096), None);
    }
}
