//! Refusals that every driver of machines has in common.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::VmmError;
use crate::model::machine::{DriveRole, MachineSpec};

/// Least memory a guest boots with.
pub const MEMORY_MIB_MIN: u64 = 128;
/// Most virtual processors: more than that is a mistake.
pub const VCPUS_MAX: u16 = 64;
/// Longest path of a Unix socket: 108 bytes with the terminating zero, unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Refuses numbers that no driver can run.
pub(super) fn check_size(driver: &'static str, spec: &MachineSpec) -> Result<(), VmmError> {
    let refused = |why: String| Err(VmmError::Refused { driver, why });
    if spec.vcpus == 0 || spec.vcpus > VCPUS_MAX {
        return refused(format!("a VM has 1 to {VCPUS_MAX} processors, not {}", spec.vcpus));
    }
    if spec.memory_mib < MEMORY_MIB_MIN {
        return refused(format!("a VM has at least {MEMORY_MIB_MIN} MiB of memory, not {}", spec.memory_mib));
    }
    Ok(())
}

/// Refuses a path that no socket can have.
pub(super) fn check_socket(driver: &'static str, path: &Path) -> Result<(), VmmError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let why = format!("the socket path {} has {length} bytes, at most {SOCKET_PATH_MAX} fit", path.display());
        return Err(VmmError::Refused { driver, why });
    }
    Ok(())
}

/// Refuses more memory than the host has left.
pub(super) fn check_memory(memory_mib: u64) -> Result<(), VmmError> {
    let Some(available) = sys::memory::available_bytes() else {
        return Ok(());
    };
    let available_mib = available >> 20;
    if memory_mib > available_mib { Err(VmmError::Memory { memory_mib, available_mib }) } else { Ok(()) }
}

/// What exists before any start has to be there. The disk and the initramfs may still be made.
pub(super) fn check_files(driver: &'static str, spec: &MachineSpec) -> Result<(), VmmError> {
    let kernel = std::iter::once(("kernel", &spec.vmlinux));
    let drives = spec.drives.iter().filter_map(|drive| match drive.serial {
        DriveRole::Rootfs => Some(("image", &drive.path)),
        DriveRole::Modules => Some(("kernel modules", &drive.path)),
        DriveRole::Disk => None,
    });
    for (what, path) in kernel.chain(drives) {
        if !path.is_file() {
            return Err(VmmError::FileMissing { what, path: path.clone() });
        }
    }
    check_elf(driver, &spec.vmlinux)
}

/// QEMU takes any file for a kernel of the oldest boot protocol and starts it; the guest would then stay silent.
fn check_elf(driver: &'static str, vmlinux: &Path) -> Result<(), VmmError> {
    let failed = |source| sys::fs::FsError { act: "read", path: vmlinux.to_path_buf(), source };
    let mut magic = [0; 4];
    let count = File::open(vmlinux).and_then(|mut file| file.read(&mut magic)).map_err(failed)?;
    if magic[..count] == *b"\x7fELF" {
        return Ok(());
    }
    Err(VmmError::Refused { driver, why: format!("{} is no unpacked kernel (ELF)", vmlinux.display()) })
}
