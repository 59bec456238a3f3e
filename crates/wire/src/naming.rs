//! Names: what a VM may be called, and what the host calls its parts.
//!
//! Host names are pure functions of ids, so an undo needs no output of the step it undoes and a sweep
//! finds our things without a database. The prefix [`PREFIX`] is the proof of ownership.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, ID_HEX_LEN, VmId};

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

/// The sockets and the pid file of one boot, below the runtime directory. Short: `sockaddr_un` holds 108 bytes (unix(7)).
#[must_use]
pub fn boot_dir(run: &Path, boot: &BootId) -> PathBuf {
    run.join("boots").join(boot.as_str())
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
