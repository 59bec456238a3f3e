//! Names: what a VM may be called, and what the host calls its parts.
//!
//! Host names are pure functions of ids, so an undo needs no output of the step it undoes and a sweep
//! finds our things without a database. The prefix [`PREFIX`] is the proof of ownership.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, ID_HEX_LEN, ImageId, KernelId, VmId};

/// What every host resource of ours begins with.
pub const PREFIX: &str = "banger";

/// Longest VM name: one DNS label (RFC 1035, section 2.3.4).
pub const VM_NAME_LEN_MAX: usize = 63;

/// Why a VM name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmNameError {
    /// Nothing was given.
    #[error("a VM name cannot be empty")]
    Empty,
    /// Longer than a DNS label.
    #[error("a VM name has at most {VM_NAME_LEN_MAX} characters, this one has {len}")]
    TooLong {
        /// Characters given.
        len: usize,
    },
    /// A character outside `a-z`, `0-9`, `-`.
    #[error("a VM name holds only a-z, 0-9 and -, not {found:?}")]
    Character {
        /// The first offender.
        found: char,
    },
    /// A leading or trailing hyphen.
    #[error("a VM name neither begins nor ends with -")]
    Hyphen,
    /// Sixteen hexadecimal digits could be taken for an id.
    #[error("a VM name cannot look like a VM id")]
    LooksLikeId,
}

/// A VM's name: a DNS label, checked once and never normalised, because it ends in host names, paths and DNS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
pub struct VmName(String);

impl VmName {
    /// The name as typed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), VmNameError> {
    if text.is_empty() {
        return Err(VmNameError::Empty);
    }
    if let Some(found) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(VmNameError::Character { found });
    }
    if text.len() > VM_NAME_LEN_MAX {
        return Err(VmNameError::TooLong { len: text.len() });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(VmNameError::Hyphen);
    }
    if text.len() == ID_HEX_LEN && text.parse::<VmId>().is_ok() {
        return Err(VmNameError::LooksLikeId);
    }
    Ok(())
}

impl FromStr for VmName {
    type Err = VmNameError;

    fn from_str(text: &str) -> Result<Self, VmNameError> {
        check(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for VmName {
    type Error = VmNameError;

    fn try_from(text: String) -> Result<Self, VmNameError> {
        check(&text).map(|()| Self(text))
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> String {
        name.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` may name an image or a kernel: a path component of letters, digits, `.`, `_`, `-`, at most 128 long,
/// not beginning with `.` or `-`.
#[must_use]
pub fn is_artifact_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Where the directories of all VMs are, each called by its VM's id.
#[must_use]
pub fn vms_dir(state: &Path) -> PathBuf {
    state.join("vms")
}

/// Where the files of one VM live below the state directory.
#[must_use]
pub fn vm_dir(state: &Path, vm: &VmId) -> PathBuf {
    vms_dir(state).join(vm.as_str())
}

/// A VM's disk in its directory.
pub const DISK_FILE: &str = "disk.ext4";

/// The VM's disk: one sparse ext4 file.
#[must_use]
pub fn vm_disk(state: &Path, vm: &VmId) -> PathBuf {
    vm_dir(state, vm).join(DISK_FILE)
}

/// The guest's console of one boot, kept after it.
#[must_use]
pub fn console_log(state: &Path, vm: &VmId, boot: &BootId) -> PathBuf {
    vm_dir(state, vm).join("logs").join(format!("{boot}.console.log"))
}

/// What the VMM itself printed during one boot.
#[must_use]
pub fn vmm_log(state: &Path, vm: &VmId, boot: &BootId) -> PathBuf {
    vm_dir(state, vm).join("logs").join(format!("{boot}.vmm.log"))
}

/// What the VMM counted during one boot.
#[must_use]
pub fn vmm_metrics(state: &Path, vm: &VmId, boot: &BootId) -> PathBuf {
    vmm_log(state, vm, boot).with_extension("metrics")
}

/// In a VM's directory: what its VMM is saved into and goes on from, for as long as it runs.
pub const SAVES_DIR: &str = "saves";

/// In [`SAVES_DIR`]: what the VMM writes when it is saved.
pub const SAVED_TO: &str = "shared";

/// In [`SAVES_DIR`]: names of its own for what the VMM goes on from.
pub const GONE_ON_FROM: &str = "from";

/// The memory of a machine that is saved, in the directory it is in.
pub const MEMORY_FILE: &str = "memory";

/// Its processors and devices.
pub const DEVICES_FILE: &str = "devices";

/// See [`SAVED_TO`].
#[must_use]
pub fn vm_saved_to(state: &Path, vm: &VmId) -> PathBuf {
    vm_dir(state, vm).join(SAVES_DIR).join(SAVED_TO)
}

/// See [`GONE_ON_FROM`].
#[must_use]
pub fn vm_gone_on_from(state: &Path, vm: &VmId) -> PathBuf {
    vm_dir(state, vm).join(SAVES_DIR).join(GONE_ON_FROM)
}

/// Where the directories of all images are, each called by its image's id.
#[must_use]
pub fn images_dir(state: &Path) -> PathBuf {
    state.join("images")
}

/// An image's root filesystem.
#[must_use]
pub fn image_rootfs(state: &Path, image: &ImageId) -> PathBuf {
    images_dir(state).join(image.as_str()).join("rootfs.ext4")
}

/// Where the directories of all kernels are, each called by its kernel's id.
#[must_use]
pub fn kernels_dir(state: &Path) -> PathBuf {
    state.join("kernels")
}

/// An uncompressed kernel.
#[must_use]
pub fn kernel_file(state: &Path, kernel: &KernelId) -> PathBuf {
    kernels_dir(state).join(kernel.as_str()).join("vmlinux")
}

/// A kernel's module tree, as a filesystem.
#[must_use]
pub fn modules_file(state: &Path, kernel: &KernelId) -> PathBuf {
    kernels_dir(state).join(kernel.as_str()).join("modules.ext4")
}

/// Where initramfs archives are kept.
#[must_use]
pub fn initramfs_dir(cache: &Path) -> PathBuf {
    cache.join("initramfs")
}

/// The initramfs of this SHA-256.
#[must_use]
pub fn initramfs_file(cache: &Path, sha256: &str) -> PathBuf {
    initramfs_dir(cache).join(initramfs_name(sha256))
}

/// What the initramfs of this SHA-256 is called.
#[must_use]
pub fn initramfs_name(sha256: &str) -> String {
    format!("initramfs-{sha256}.cpio")
}

/// The sockets and the pid file of one boot, below the runtime directory. Short: `sockaddr_un` holds 108 bytes (unix(7)).
#[must_use]
pub fn boot_dir(run: &Path, boot: &BootId) -> PathBuf {
    run.join("boots").join(boot.as_str())
}

/// A small number that a VM has for itself while it exists; names and user ids with a length or a range follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

/// The largest slot.
pub const SLOT_MAX: u16 = 9999;

/// A number above [`SLOT_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a slot is at most {SLOT_MAX}")]
pub struct SlotError;

impl TryFrom<u16> for Slot {
    type Error = SlotError;

    fn try_from(number: u16) -> Result<Self, SlotError> {
        if number <= SLOT_MAX { Ok(Self(number)) } else { Err(SlotError) }
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> u16 {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The user and group id of slot 0. systemd's table of ids (UIDS-GIDS) gives 1879048192 to 2147352575 to nobody: they lie
/// above the containers', below the foreign ones, and far from what useradd(8) and subuid(5) hand out.
pub const VM_UID_BASE: u32 = 1_900_000_000;

/// The user id, and the group id, of a slot's VMM.
#[must_use]
pub fn vm_uid(slot: Slot) -> u32 {
    VM_UID_BASE + u32::from(slot.0)
}

/// What every tap of ours begins with.
const TAP_PREFIX: &str = "banger-t";

/// A slot's tap. At most 15 bytes: the kernel's `IFNAMSIZ` without the zero.
#[must_use]
pub fn tap_name(slot: Slot) -> String {
    format!("{TAP_PREFIX}{slot}")
}

/// The slot whose tap has this name.
#[must_use]
pub fn slot_of_tap(name: &str) -> Option<Slot> {
    let slot = name.strip_prefix(TAP_PREFIX)?.parse::<u16>().ok()?.try_into().ok()?;
    (tap_name(slot) == name).then_some(slot)
}

/// Where the jails of a system install are, each called by its boot's id; `run` is `/run/banger`.
#[must_use]
pub fn jails_dir(run: &Path) -> PathBuf {
    run.join("jails")
}

/// What the host sees of one boot's jail.
#[must_use]
pub fn jail_dir(run: &Path, boot: &BootId) -> PathBuf {
    jails_dir(run).join(boot.as_str())
}

/// Where the host sees the sockets of a jail, which the jail sees as [`SOCKETS_IN_JAIL`]. Short enough for `sockaddr_un`.
#[must_use]
pub fn jail_sockets_dir(run: &Path, boot: &BootId) -> PathBuf {
    jail_dir(run, boot).join("sock")
}

/// Where a jail sees its sockets.
pub const SOCKETS_IN_JAIL: &str = "/sock";

/// A tap that is in a jail's own network namespace.
pub const TAP_IN_JAIL: &str = "tap0";

/// The helper's socket, as its unit says.
pub const HELPER_SOCKET: &str = "/run/banger/helper.sock";

/// The VMM's API socket, in either.
pub const API_SOCKET: &str = "api.sock";

/// The systemd scope of one boot's VMM.
#[must_use]
pub fn scope_name(boot: &BootId) -> String {
    format!("{PREFIX}-vm-{boot}.scope")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        let long = "a".repeat(63);
        for good in ["a", "web", "calm-otter", "0", "a--b", long.as_str()] {
            assert!(good.parse::<VmName>().is_ok(), "{good:?}");
        }
        let too_long = "a".repeat(64);
        let cases = [
            ("", VmNameError::Empty),
            ("Web", VmNameError::Character { found: 'W' }),
            ("a b", VmNameError::Character { found: ' ' }),
            ("a.b", VmNameError::Character { found: '.' }),
            ("../x", VmNameError::Character { found: '.' }),
            ("é", VmNameError::Character { found: 'é' }),
            ("-a", VmNameError::Hyphen),
            ("a-", VmNameError::Hyphen),
            (too_long.as_str(), VmNameError::TooLong { len: 64 }),
            ("0123456789abcdef", VmNameError::LooksLikeId),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<VmName>().unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn sockets_fit_into_an_address() {
        let boot = BootId::from_random([255; 8]);
        let longest = boot_dir(Path::new("/tmp/banger-runtime-4294967295"), &boot).join("agent.sock");
        assert!(longest.as_os_str().len() < 108);
        let jail = jail_sockets_dir(Path::new("/run/banger"), &boot).join("agent.sock_4294967295");
        assert!(jail.as_os_str().len() < 108);
    }

    #[test]
    fn slots() {
        let last = Slot::try_from(SLOT_MAX).unwrap();
        assert!(Slot::try_from(SLOT_MAX + 1).is_err());
        assert!(tap_name(last).len() <= 15);
        assert_eq!(slot_of_tap(&tap_name(last)), Some(last));
        for foreign in ["banger-t", "banger-t01", "banger-t10000", "banger-t+1", "banger-t1x", "banger0", "eth0", ""] {
            assert_eq!(slot_of_tap(foreign), None, "{foreign}");
        }
        assert!(vm_uid(Slot::try_from(0).unwrap()) > 1_879_048_191 && vm_uid(last) < 2_147_352_576);
    }

    proptest! {
        #[test]
        fn a_name_is_a_safe_path_component(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<VmName>() {
                prop_assert_eq!(Path::new(name.as_str()).components().count(), 1);
                prop_assert_eq!(name.as_str(), text.as_str());
            }
            if is_artifact_name(&text) {
                prop_assert_eq!(Path::new(&text).components().count(), 1);
                prop_assert!(text != "..");
            }
        }
    }
}
