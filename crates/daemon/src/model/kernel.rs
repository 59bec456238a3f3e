//! What is recorded about an imported kernel: its files, what its configuration allows, what to load in which order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::id::KernelId;

use super::digest::Digest;

/// The manifest of one kernel directory, stored beside the files it describes as `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelManifest {
    /// What names this kernel: a digest of its contents, equal for equal imports.
    pub digest: Digest,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The processor family it is built for, as Debian calls it: `amd64`.
    pub arch: String,
    /// What was imported, for a person: a file name, not a path to open again.
    pub source: String,
    /// SHA-256 of `vmlinux`.
    pub vmlinux_sha256: Digest,
    /// Size of `vmlinux`.
    pub vmlinux_bytes: u64,
    /// Whether the kernel has a PVH entry, which a VMM needs to boot the bare ELF file.
    pub pvh: bool,
    /// Where the facts about the configuration come from.
    pub config_source: ConfigSource,
    /// The options banger looked at, by name with `CONFIG_`.
    pub options: BTreeMap<String, OptionState>,
    /// How module files are compressed in the tree.
    pub module_compression: ModuleCompression,
    /// The read-only drive with the module tree (`modules.ext4`), absent for a kernel without modules.
    pub modules: Option<ModuleDrive>,
    /// The modules of the initramfs in the order to load them.
    pub load_order: Vec<LoadModule>,
}

impl KernelManifest {
    /// The kernel's id: the beginning of its digest.
    #[must_use]
    pub fn id(&self) -> KernelId {
        KernelId::from_random(self.digest.id_bytes())
    }
}

/// The drive with a kernel's module tree: the content of `/lib/modules/<release>` at its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleDrive {
    /// SHA-256 of `modules.ext4`.
    pub sha256: Digest,
    /// Length of `modules.ext4`; the file is sparse.
    pub bytes: u64,
    /// Modules in the tree.
    pub count: u64,
}

/// One module of the initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadModule {
    /// The module's name, with `_` for `-`.
    pub name: String,
    /// Its file beneath `needed-modules/`, uncompressed.
    pub file: String,
}

/// How an option is set, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionState {
    /// `=y`: part of the kernel image.
    BuiltIn,
    /// `=m`: a module.
    Module,
    /// Not set.
    Absent,
    /// There is no configuration to read and the option leaves no trace elsewhere.
    Unknown,
}

/// Where the facts about a kernel's configuration come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigSource {
    /// A configuration file that came with the kernel or was named.
    File,
    /// The copy inside the kernel image (`CONFIG_IKCONFIG`).
    Ikconfig,
    /// No configuration: derived from `modules.dep` and `modules.builtin`.
    ModuleTree,
}

/// How the module files of a tree are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleCompression {
    /// `.ko`
    None,
    /// `.ko.gz`
    Gzip,
    /// `.ko.xz`
    Xz,
    /// `.ko.zst`
    Zstd,
}
