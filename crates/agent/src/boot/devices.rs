//! The machine: pseudo filesystems, kernel modules, the port to the host, the drives.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use sys::clock::monotonic;
use sys::netlink::Uevents;
use wire::agent::{DRIVES, PORT_NAME, TRANSPORT, Transport, VSOCK_PORT};

use super::{BootError, Found, Report};
use crate::serve::Name;
use crate::serve::port::Port;

/// How long a device may take to appear after its driver was loaded, on a machine without a core to spare.
const DEVICE_WAIT: Duration = Duration::from_secs(30);
/// Modules to load, in this order, one absolute path of the initramfs a line. A blank line ends a group.
const MODULES_LIST: &str = "/modules.list";

/// The modules to load, by what waits for them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// The way to every device.
    pub transport: Vec<String>,
    /// The filesystems, which need no device.
    pub filesystems: Vec<String>,
    /// The drives.
    pub drives: Vec<String>,
    /// The virtio-serial port to the host.
    pub serial: Vec<String>,
    /// The vsock to the host.
    pub vsock: Vec<String>,
    /// What the guest needs later.
    pub others: Vec<String>,
}

/// The drives, as `/dev/…` paths.
#[derive(Debug)]
pub struct Drives {
    /// The image, read-only.
    pub rootfs: PathBuf,
    /// The VM's disk.
    pub disk: PathBuf,
    /// The kernel's module tree, read-only; a kernel without modules has none.
    pub modules: Option<PathBuf>,
}

/// Loads the modules of the way to the host, opens it, and reads who we are.
///
/// # Errors
/// When there is no way to talk to the host.
pub fn channel(modules: &Modules, report: &mut Report) -> Result<Found, BootError> {
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let port = match transport(&command_line) {
        Transport::VirtioSerial => {
            load(&modules.serial, report);
            let port = open_port().map_err(BootError::during(format!("open the port {PORT_NAME}")))?;
            Port::device(port).map_err(BootError::during("watch the port"))?
        }
        Transport::Vsock => {
            load(&modules.vsock, report);
            sys::vsock::probe().map_err(BootError::during("reach the host by vsock"))?;
            Port::dialer(Box::new(|| sys::vsock::dial(VSOCK_PORT)), monotonic())
        }
    };
    report.reached("port");
    Ok((name(&command_line), port))
}

/// The value of a word of the kernel command line.
fn value<'a>(command_line: &'a str, key: &str) -> Option<&'a str> {
    command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn transport(command_line: &str) -> Transport {
    value(command_line, TRANSPORT).and_then(Transport::of).unwrap_or(Transport::VirtioSerial)
}

/// The VM's and the boot's id on the kernel command line.
fn name(command_line: &str) -> Name {
    let value = |key: &str| value(command_line, key).unwrap_or("").to_owned();
    Name { vm: value("banger.vm"), boot: value("banger.boot") }
}

/// Mounts the pseudo filesystems.
///
/// # Errors
/// When one is missing that nothing works without.
pub fn mount_pseudo() -> Result<(), BootError> {
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, at, flags, data) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
        ("proc", "/proc", closed, c""),
        ("sysfs", "/sys", closed, c""),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755"),
    ] {
        mount_at(kind, at, flags, data).map_err(BootError::during(format!("mount {kind} on {at}")))?;
    }
    Ok(())
}

/// Mounts what only some commands or inits want. An init that mounts these finds them mounted, with the options it would use.
pub fn mount_optional(report: &mut Report) {
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let cgroup = mount_at("cgroup2", "/sys/fs/cgroup", closed, c"nsdelegate,memory_recursiveprot")
        .or_else(|_| mount_at("cgroup2", "/sys/fs/cgroup", closed, c""));
    report.note("mount cgroup2", cgroup);
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    report.note("mount devpts", mount_at("devpts", "/dev/pts", terminals, c"mode=0620,gid=5,ptmxmode=0666"));
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    report.note("mount /dev/shm", mount_at("tmpfs", "/dev/shm", shared, c"mode=1777"));
}

fn mount_at(kind: &str, at: &str, flags: MountFlags, data: &std::ffi::CStr) -> io::Result<()> {
    match rustix::fs::mkdir(at, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        // A kernel without cgroups has no /sys/fs/cgroup, and none can be made.
        Err(errno) => return Err(errno.into()),
    }
    match mount(kind, at, kind, flags, data) {
        // devtmpfs may be mounted by the kernel already (CONFIG_DEVTMPFS_MOUNT).
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What the initramfs has to load; nothing for a kernel that has all of it built in.
#[must_use]
pub fn modules() -> Modules {
    grouped(&std::fs::read_to_string(MODULES_LIST).unwrap_or_default())
}

fn grouped(list: &str) -> Modules {
    let mut groups = [const { Vec::new() }; 6];
    let mut at = 0;
    for line in list.lines() {
        match groups.get_mut(at) {
            Some(group) if !line.is_empty() => group.push(line.to_owned()),
            _ => at += 1,
        }
    }
    let [transport, filesystems, drives, serial, vsock, others] = groups;
    Modules { transport, filesystems, drives, serial, vsock, others }
}

/// Loads modules, in their order.
pub fn load(modules: &[String], report: &mut Report) {
    for path in modules {
        let loaded = File::open(path).and_then(|file| match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        });
        report.note(&format!("load {path}"), loaded);
        // Its memory is of use to the guest; a file that stays costs little.
        let _: rustix::io::Result<()> = rustix::fs::unlink(path);
    }
}

/// Waits for `found` to find something, looking again whenever the kernel announces a device.
fn wait_for<T>(mut found: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let events = Uevents::open()?;
    let deadline = monotonic() + DEVICE_WAIT;
    loop {
        if let Some(found) = found()? {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(monotonic());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such device"));
        }
        events.wait(left)?;
    }
}

fn open_port() -> io::Result<OwnedFd> {
    wait_for(|| {
        let Some(device) = entry_whose("/sys/class/virtio-ports", "name", PORT_NAME) else {
            return Ok(None);
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        match rustix::fs::open(Path::new("/dev").join(device), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            // Its node comes a moment after its entry.
            Err(Errno::NOENT | Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    })
}

/// The entry of a sysfs directory whose attribute has this value.
fn entry_whose(directory: &str, attribute: &str, value: &str) -> Option<String> {
    std::fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join(attribute)).ok()?;
        (text.trim() == value).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Finds the drives by the serial numbers the host gave them, or by their order where it says so.
///
/// # Errors
/// When the image or the disk is not there.
pub fn drives() -> Result<Drives, BootError> {
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let find = |serial: &str| {
        let device = match value(&command_line, DRIVES) {
            Some(order) => nth(order, serial)?,
            None => entry_whose("/sys/block", "serial", serial)?,
        };
        let path = Path::new("/dev").join(device);
        path.exists().then_some(path)
    };
    let wait =
        |serial: &str| wait_for(|| Ok(find(serial))).map_err(BootError::during(format!("find the drive {serial:?}")));
    // Drives appear in order: with the first two there, the third is there or does not exist.
    Ok(Drives { rootfs: wait("rootfs")?, disk: wait("disk")?, modules: find("modules") })
}

/// The device of the drive `serial`, when `order` names the drives as the kernel finds them: virtio_blk counts with letters.
fn nth(order: &str, serial: &str) -> Option<String> {
    let at = order.split(',').position(|name| name == serial)?;
    Some(format!("vd{}", ('a'..='z').nth(at)?))
}

/// The running kernel's release.
#[must_use]
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_groups() {
        let all = grouped("/a\n/b\n\n/c\n\n\n/d\n\n/v\n\n/e\n\n");
        assert_eq!((all.transport.len(), all.filesystems, all.drives.len()), (2, vec!["/c".to_owned()], 0));
        let one = |path: &str| vec![path.to_owned()];
        assert_eq!((all.serial, all.vsock, all.others), (one("/d"), one("/v"), one("/e")));
        assert_eq!(grouped("\n\n/c\n\n").drives, ["/c"]);
        assert_eq!(grouped(""), Modules::default());
    }

    #[test]
    fn the_command_line_names_vm_and_boot() {
        let name = name("quiet banger.vm=a1 banger.boot=b2 banger.transport=virtio-serial\n");
        assert_eq!((name.vm.as_str(), name.boot.as_str()), ("a1", "b2"));
    }

    #[test]
    fn drives_are_named_by_their_order() {
        let device = |serial| nth("rootfs,disk,modules", serial);
        assert_eq!(device("rootfs").as_deref(), Some("vda"));
        assert_eq!(device("modules").as_deref(), Some("vdc"));
        assert_eq!(device("disk2"), None);
    }

    #[test]
    fn the_command_line_names_the_transport() {
        assert_eq!(transport("quiet banger.transport=vsock"), Transport::Vsock);
        assert_eq!(transport("banger.transport=virtio-serial quiet"), Transport::VirtioSerial);
        assert_eq!(transport("quiet"), Transport::VirtioSerial);
    }
}
