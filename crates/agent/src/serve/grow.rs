//! The disk grows while the guest runs: the host made the device larger, the filesystem follows.
//!
//! The disk is found by what lies on it: `/root`, which every guest has from it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fstat, major, minor, openat};
use sys::clock::monotonic;
use wire::agent::message::{Failure, Reply};

use super::requests::os;
use crate::boot::disk;

/// What lies on the disk in every guest, below its root.
const ON_DISK: &str = "root";
/// How long the kernel may take to notice that the device is larger: an interrupt and a work item.
const NOTICE_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What `/sys` counts a device's size in.
const SECTOR_BYTES: u64 = 512;

/// Grows the filesystem to its device once that has `bytes`.
///
/// # Errors
/// When the disk is not found, the device does not grow, or the kernel refuses.
pub fn grow(root: &OwnedFd, bytes: u64) -> Result<Reply, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let home = openat(root, ON_DISK, flags, Mode::empty());
    let home = home.map_err(|errno| os("cannot open /root on the VM's disk", &errno.into()))?;
    let failed = |error: io::Error| os("cannot grow the filesystem of the VM's disk", &error);
    let device = Device::of(&home).map_err(failed)?;
    device.wait_until(bytes).map_err(|error| os("the VM's disk has not grown in the guest", &error))?;
    disk::grow(&device.node, home.as_fd()).map_err(failed)?;
    Ok(Reply::Done { bytes: 0 })
}

/// The device a directory is on.
struct Device {
    /// Below `/sys/dev/block`.
    entry: PathBuf,
    /// Below `/dev`.
    node: PathBuf,
}

impl Device {
    fn of(directory: &OwnedFd) -> io::Result<Device> {
        let number = fstat(directory)?.st_dev;
        let entry = Path::new("/sys/dev/block").join(format!("{}:{}", major(number), minor(number)));
        let target = std::fs::read_link(&entry)?;
        let name = target.file_name().ok_or(io::ErrorKind::NotFound)?;
        Ok(Device { node: Path::new("/dev").join(name), entry })
    }

    fn wait_until(&self, bytes: u64) -> io::Result<()> {
        let deadline = monotonic() + NOTICE_WITHIN;
        loop {
            let sectors = std::fs::read_to_string(self.entry.join("size"))?;
            let sectors: u64 = sectors.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            if sectors.saturating_mul(SECTOR_BYTES) >= bytes {
                return Ok(());
            }
            if monotonic() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
