//! The files a jail may hold: a closed list, each with its place on the host and its place in the jail.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, ImageId, KernelId, VmId};
use crate::naming;

/// What a jail does with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Many VMs share it, and none may change it.
    Shared,
    /// It is this VM's alone, to read and to write.
    Private,
}

/// The SHA-256 that names an initramfs in the cache: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct InitramfsKey(String);

impl InitramfsKey {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no [`InitramfsKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an initramfs is named by 64 hexadecimal digits")]
pub struct InitramfsKeyError;

impl TryFrom<String> for InitramfsKey {
    type Error = InitramfsKeyError;

    fn try_from(text: String) -> Result<Self, InitramfsKeyError> {
        let is_key = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_key { Ok(Self(text)) } else { Err(InitramfsKeyError) }
    }
}

impl FromStr for InitramfsKey {
    type Err = InitramfsKeyError;

    fn from_str(text: &str) -> Result<Self, InitramfsKeyError> {
        text.to_owned().try_into()
    }
}

/// One file of a jail. The VM and the boot are those of the jail, so that no request can ask for another VM's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "file", rename_all = "snake_case", deny_unknown_fields)]
pub enum JailFile {
    /// An uncompressed kernel.
    Kernel {
        /// Which one.
        kernel: KernelId,
    },
    /// A kernel's module tree, as a filesystem.
    Modules {
        /// Of which kernel.
        kernel: KernelId,
    },
    /// The agent and the modules it needs.
    Initramfs {
        /// Which one.
        key: InitramfsKey,
    },
    /// An image's root filesystem.
    Image {
        /// Which one.
        image: ImageId,
    },
    /// The VM's disk.
    Disk {},
    /// What the VMM has to say during this boot.
    Log {},
    /// What the VMM counts during this boot.
    Metrics {},
    /// The memory of the saved machine that the VMM goes on from.
    Memory {},
    /// That machine's processors and devices.
    Devices {},
    /// Where the VMM writes its machine's memory when it is saved.
    SaveMemory {},
    /// The same of processors and devices.
    SaveDevices {},
}

/// Which of the helper's fixed directories a file lies beneath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// What is kept.
    State,
    /// What can be made again.
    Cache,
}

impl JailFile {
    /// Its name in the jail's root directory.
    #[must_use]
    pub fn name_in_jail(&self) -> &'static str {
        match self {
            JailFile::Kernel { .. } => "kernel",
            JailFile::Modules { .. } => "modules",
            JailFile::Initramfs { .. } => "initramfs",
            JailFile::Image { .. } => "image",
            JailFile::Disk {} => "disk",
            JailFile::Log {} => "log",
            JailFile::Metrics {} => "metrics",
            JailFile::Memory {} => "memory",
            JailFile::Devices {} => "devices",
            JailFile::SaveMemory {} => "save-memory",
            JailFile::SaveDevices {} => "save-devices",
        }
    }

    /// What the jail does with it.
    #[must_use]
    pub fn access(&self) -> Access {
        match self {
            JailFile::Kernel { .. }
            | JailFile::Modules { .. }
            | JailFile::Initramfs { .. }
            | JailFile::Image { .. }
            | JailFile::Memory {}
            | JailFile::Devices {} => Access::Shared,
            JailFile::Disk {}
            | JailFile::Log {}
            | JailFile::Metrics {}
            | JailFile::SaveMemory {}
            | JailFile::SaveDevices {} => Access::Private,
        }
    }

    /// Where it lies on the host, for this VM and boot: a directory and a way down from it.
    #[must_use]
    pub fn place(&self, vm: &VmId, boot: &BootId) -> (Root, PathBuf) {
        let here = std::path::Path::new("");
        match self {
            JailFile::Kernel { kernel } => (Root::State, naming::kernel_file(here, kernel)),
            JailFile::Modules { kernel } => (Root::State, naming::modules_file(here, kernel)),
            JailFile::Initramfs { key } => (Root::Cache, naming::initramfs_file(here, key.as_str())),
            JailFile::Image { image } => (Root::State, naming::image_rootfs(here, image)),
            JailFile::Disk {} => (Root::State, naming::vm_disk(here, vm)),
            JailFile::Log {} => (Root::State, naming::vmm_log(here, vm, boot)),
            JailFile::Metrics {} => (Root::State, naming::vmm_metrics(here, vm, boot)),
            JailFile::Memory {} => (Root::State, naming::vm_gone_on_from(here, vm).join(naming::MEMORY_FILE)),
            JailFile::Devices {} => (Root::State, naming::vm_gone_on_from(here, vm).join(naming::DEVICES_FILE)),
            JailFile::SaveMemory {} => (Root::State, naming::vm_saved_to(here, vm).join(naming::MEMORY_FILE)),
            JailFile::SaveDevices {} => (Root::State, naming::vm_saved_to(here, vm).join(naming::DEVICES_FILE)),
        }
    }
}
