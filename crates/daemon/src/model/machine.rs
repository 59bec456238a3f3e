//! What a VMM is asked to run: one boot of one VM, with every path and number fixed beforehand.
//! Serialisable, because it is part of an operation's frozen plan.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::api::Publish;
use wire::id::{BootId, VmId};
use wire::naming::Slot;

/// One boot of one VM, before any driver looked at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The VM.
    pub vm: VmId,
    /// This run of it.
    pub boot: BootId,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// The unpacked kernel.
    pub vmlinux: PathBuf,
    /// The initramfs that holds the agent and the modules it needs.
    pub initramfs: PathBuf,
    /// In the order the guest sees them.
    pub drives: Vec<DriveSpec>,
    /// The guest's NIC.
    pub nic: NicSpec,
    /// Holds the sockets and the pid file of this boot; private, made before the VMM starts.
    pub boot_dir: PathBuf,
    /// Receives the guest's console.
    pub console_log: PathBuf,
    /// Receives what the VMM prints.
    pub vmm_log: PathBuf,
    /// What the machine goes on from; none when it boots.
    #[serde(default)]
    pub saved: Option<SavedMachine>,
    /// The VM's number among those of this host, where its driver needs one.
    #[serde(default)]
    pub slot: Option<Slot>,
}

/// The files of a machine that was saved while it stood still. Its drives are saved beside them: they must be what they were
/// then. Nobody writes the memory again: every machine that goes on from it maps it copy-on-write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMachine {
    /// The guest's memory, page by page, with holes for pages of zeros.
    pub memory: PathBuf,
    /// The processors and devices, in the VMM's own format.
    pub devices: PathBuf,
}

impl SavedMachine {
    /// The files as they are called in a directory of their own.
    #[must_use]
    pub fn in_dir(dir: &Path) -> SavedMachine {
        SavedMachine { memory: dir.join("memory"), devices: dir.join("devices") }
    }
}

/// What a saved machine needs of whoever lets it go on: one that differs in anything is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineShape {
    /// The driver.
    pub driver: String,
    /// The VMM's program, told from other versions of it.
    pub vmm: String,
    /// The processor, as far as a guest may rely on it.
    pub cpu: String,
    /// The machine: sizes, devices, the kernel's options. No id and no path is in it.
    pub machine: String,
}

impl MachineShape {
    /// Why a machine of this shape cannot go on as one of `other`; none when it can.
    #[must_use]
    pub fn differs(&self, other: &MachineShape) -> Option<&'static str> {
        if self.driver != other.driver {
            Some("it was saved by another kind of VMM")
        } else if self.vmm != other.vmm {
            Some("it was saved by another version of the VMM")
        } else if self.cpu != other.cpu {
            Some("it was saved on another processor")
        } else if self.machine != other.machine {
            Some("it had other processors, memory or devices")
        } else {
            None
        }
    }
}

/// A drive of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveSpec {
    /// How the guest knows it: its virtio serial, at `/sys/block/*/serial`.
    pub serial: DriveRole,
    /// The file behind it.
    pub path: PathBuf,
}

/// What a drive is for; decides whether it is writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveRole {
    /// The image's root filesystem, shared and never written.
    Rootfs,
    /// The VM's own disk.
    Disk,
    /// The kernel's module tree, shared and never written.
    Modules,
}

impl DriveRole {
    /// The virtio serial (at most 20 bytes: virtio 1.2, section 5.2.6).
    #[must_use]
    pub fn serial(self) -> &'static str {
        match self {
            DriveRole::Rootfs => "rootfs",
            DriveRole::Disk => "disk",
            DriveRole::Modules => "modules",
        }
    }

    /// Whether the guest may write it.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        match self {
            DriveRole::Rootfs | DriveRole::Modules => true,
            DriveRole::Disk => false,
        }
    }
}

/// The guest's NIC as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Locally administered, a pure function of the VM's id.
    pub mac: String,
    /// Whether the guest reaches the outside.
    pub nat: bool,
    /// Host ports on 127.0.0.1 that lead into the guest.
    pub publish: Vec<Publish>,
}

impl NicSpec {
    /// The MAC address of a VM's NIC: `52:54` (QEMU's locally administered range) and four bytes of the id.
    #[must_use]
    pub fn mac_of(vm: &VmId) -> String {
        let hex = vm.as_str();
        format!("52:54:{}:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6], &hex[6..8])
    }
}

/// What a network driver made of a NIC, as the VMM has to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "attachment", rename_all = "snake_case")]
pub enum NicAttachment {
    /// QEMU's own user-mode network, with nothing behind it but the published ports.
    QemuUser {
        /// Host ports on 127.0.0.1.
        publish: Vec<Publish>,
    },
    /// A stream socket that carries Ethernet frames, each behind its length (passt(1), `--socket`).
    StreamSocket {
        /// Where it listens.
        path: PathBuf,
    },
    /// A tap, in a network namespace that the VMM's driver makes.
    Tap {
        /// The socket that takes over the tap's frames; none for a NIC that leads nowhere.
        uplink: Option<PathBuf>,
    },
}

/// How a boot ended, seen from outside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "exit", rename_all = "snake_case")]
pub enum ExitReason {
    /// The VMM process ended by itself: the guest powered off or reset.
    Ended {
        /// Its exit status, when we were its parent.
        code: Option<i32>,
    },
    /// We killed it.
    Killed,
    /// A signal nobody here sent ended it.
    Crashed {
        /// The signal, when we were its parent.
        signal: Option<i32>,
    },
}
