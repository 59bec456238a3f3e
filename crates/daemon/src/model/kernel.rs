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

    /// What developers miss in a guest with this kernel. An option that its import did not look at is not missed.
    pub fn missed(&self) -> impl Iterator<Item = &'static Wish> {
        WISHES.iter().filter(|wish| self.options.get(wish.option) == Some(&OptionState::Absent))
    }
}

/// An option that a guest boots without, and that somebody will miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The option.
    pub option: &'static str,
    /// The module that carries it, where it can be one.
    pub module: Option<&'static str>,
    /// What is not there without it, to tell a person.
    pub without: &'static str,
}

const fn wish(option: &'static str, module: Option<&'static str>, without: &'static str) -> Wish {
    Wish { option, module, without }
}

/// What is missed where it is not there.
pub const WISHES: &[Wish] = &[
    wish("CONFIG_NF_TABLES", Some("nf_tables"), "no firewall in the guest, no containers with a network of their own"),
    wish("CONFIG_BRIDGE", Some("bridge"), "no containers with a network of their own"),
    wish("CONFIG_VETH", Some("veth"), "no containers with a network of their own"),
    wish("CONFIG_TUN", Some("tun"), "no tunnels made by programs: OpenVPN, rootless containers"),
    wish("CONFIG_WIREGUARD", Some("wireguard"), "no WireGuard"),
    wish("CONFIG_FUSE_FS", Some("fuse"), "no filesystems made by programs: sshfs, AppImage, rootless containers"),
    wish("CONFIG_EROFS_FS", Some("erofs"), "no erofs images"),
    wish("CONFIG_BPF_SYSCALL", None, "no bpf: systemd's filters of devices and addresses, tracing"),
    wish("CONFIG_MEMCG", None, "no limits of memory for services and containers"),
    wish("CONFIG_CGROUP_PIDS", None, "no limits of processes for services and containers"),
    wish("CONFIG_SECCOMP", None, "no filters of system calls: Docker, systemd's sandboxes"),
    wish("CONFIG_USER_NS", None, "no rootless containers"),
    wish("CONFIG_IPV6", Some("ipv6"), "no IPv6"),
    wish("CONFIG_HW_RANDOM_VIRTIO", Some("virtio_rng"), "no random numbers from the host"),
    wish("CONFIG_VMGENID", Some("vmgenid"), "a kernel that is not told when its machine was copied, but by the agent"),
    wish("CONFIG_SERIAL_8250_CONSOLE", None, "a console without the kernel's messages"),
];

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
