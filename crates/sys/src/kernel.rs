//! Kernel requests without a safe form elsewhere: growing a mounted ext4, feeding and renewing the random pool.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `EXT4_IOC_RESIZE_FS` of the kernel's `fs/ext4/ext4.h`: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
/// `RNDADDENTROPY` of random(4): `_IOW('R', 3, int[2])`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG` of random(4): `_IO('R', 7)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
/// Most bytes given to the random pool at once.
pub const ENTROPY_BYTES_MAX: usize = 512;

/// Grows the mounted ext4 that `mount_point` is on to `blocks` of its own block size.
///
/// # Errors
/// When the kernel refuses: no such filesystem, no room in its descriptors, a device that is smaller.
pub fn resize_ext4(mount_point: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: this request reads one u64 through the pointer.
    let result = unsafe { libc::ioctl(mount_point.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct rand_pool_info` of random(4), with room for the bytes.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; ENTROPY_BYTES_MAX],
}

/// Mixes `bytes` (at most [`ENTROPY_BYTES_MAX`], the rest is ignored) into the kernel's pool and counts them as random.
/// `device` is `/dev/random` or `/dev/urandom`, open.
///
/// # Errors
/// When this process may not.
pub fn add_entropy(device: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let bytes = &bytes[..bytes.len().min(ENTROPY_BYTES_MAX)];
    let count = libc::c_int::try_from(bytes.len()).expect("bounded just above");
    let mut info = RandPoolInfo { entropy_bits: count * 8, bytes: count, buffer: [0; ENTROPY_BYTES_MAX] };
    info.buffer[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: this request reads the structure and as many bytes behind it as it says, which are there.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), RNDADDENTROPY, &raw const info) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel make its generator's key anew from the pool, at once: what was added decides every byte from here on, on
/// every processor. `device` is `/dev/random` or `/dev/urandom`, open.
///
/// # Errors
/// When this process may not, or the pool was never full.
pub fn reseed(device: impl AsFd) -> io::Result<()> {
    // SAFETY: this request takes no argument.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), RNDRESEEDCRNG) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
