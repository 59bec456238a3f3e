//! Taps: the host's side of a VM's NIC, tun(4) of `Documentation/networking/tuntap.rst`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::netlink::Routes;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
const TUNSETOWNER: libc::Ioctl = 0x4004_54cc;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// Frames carry a header about checksums and segments, as a VMM's virtio device uses it.
const IFF_VNET_HDR: u16 = 0x4000;
const NAME_BYTES: usize = 16;

/// `struct ifreq` of netdevice(7), as far as `TUNSETIFF` reads it.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// Makes sure of a tap that stays when nobody has it open, that only user `uid` can open without privilege, and that is
/// up. Gives the interface's index. One that somebody has open is left as it is.
///
/// # Errors
/// When an interface of that name is something else, or this process may not.
pub fn ensure(name: &str, uid: u32) -> io::Result<u32> {
    let mut request = IfReq { name: bytes_of(name)?, flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    let device = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: reads and writes the request, which is as large as the kernel's `struct ifreq`.
    let attached = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if attached < 0 {
        let error = io::Error::last_os_error();
        // It has one queue, and the VMM holds it.
        if error.raw_os_error() != Some(libc::EBUSY) || !is_tap(name)? {
            return Err(error);
        }
    } else {
        for (what, value) in [(TUNSETOWNER, uid), (TUNSETPERSIST, 1)] {
            // SAFETY: both take a number, no pointer.
            if unsafe { libc::ioctl(device.as_raw_fd(), what, libc::c_ulong::from(value)) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    let index = index_of(name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    Routes::open()?.set_up(index)?;
    Ok(index)
}

/// Removes a tap; one that is not there is removed already.
///
/// # Errors
/// When an interface of that name is no tap, or this process may not.
pub fn delete(name: &str) -> io::Result<()> {
    let Some(index) = index_of(name)? else {
        return Ok(());
    };
    if !is_tap(name)? {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    match Routes::open()?.delete(index) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// The names of all interfaces of this network namespace: `/proc/net/dev` of proc(5), whose first two lines are a heading.
///
/// # Errors
/// When it cannot be read.
pub fn interfaces() -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/self/net/dev")?;
    Ok(text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect())
}

const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo` of `linux/ethtool.h`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

/// `struct ifreq` of netdevice(7), as far as `SIOCETHTOOL` reads it.
#[repr(C)]
struct IfReqPointer {
    name: [u8; NAME_BYTES],
    data: *mut DriverInfo,
    rest: [u8; 16],
}

/// Whether the interface is driven by tun(4) and carries frames: its driver says so itself.
fn is_tap(name: &str) -> io::Result<bool> {
    let socket = socket()?;
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rest: [0; 64],
    };
    let mut request = IfReqPointer { name: bytes_of(name)?, data: &raw mut info, rest: [0; 16] };
    // SAFETY: reads the request, which is as large as the kernel's, and writes the structure it points to, whose size this
    // command fixes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
        let error = io::Error::last_os_error();
        // A driver that says nothing about itself is another one.
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(false) } else { Err(error) };
    }
    Ok(info.driver.starts_with(b"tun\0") && info.bus.starts_with(b"tap\0"))
}

fn index_of(name: &str) -> io::Result<Option<u32>> {
    match rustix::net::netdevice::name_to_index(socket()?, name) {
        Ok(index) => Ok(Some(index)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A socket to ask about interfaces by.
fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn bytes_of(name: &str) -> io::Result<[u8; NAME_BYTES]> {
    let mut bytes = [0; NAME_BYTES];
    if name.is_empty() || name.len() >= NAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name no interface can have"));
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}
