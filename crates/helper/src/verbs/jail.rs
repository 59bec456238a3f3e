//! Create and destroy a jail: what the host keeps of it. What the VMM sees is made anew when it starts, in memory.
//!
//! ```text
//! RUN/jails/BOOT/           root and the owner's group, closed to others
//! RUN/jails/BOOT/jail.json  whose it is; root's alone
//! RUN/jails/BOOT/vmm.pid    the process that runs in it; root's alone
//! RUN/jails/BOOT/sock/      the VM's user and the owner's group: both may make sockets there
//! ```

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::helper::{Act, CreateJail, Failure, Gone, JailReady, LIVE_MAX, Rule};
use wire::id::{BootId, VmId};
use wire::naming::{self, Slot};

use super::vmm;
use crate::config::Config;
use crate::policy::{denied, os};

/// Whose a jail is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jail {
    pub(crate) vm: VmId,
    pub(crate) boot: BootId,
    pub(crate) slot: Slot,
}

/// Where the process of a jail is written down.
pub(crate) fn pid_file(run: &Path, boot: &BootId) -> PathBuf {
    naming::jail_dir(run, boot).join("vmm.pid")
}

pub(crate) fn create(config: &Config, wanted: &CreateJail) -> Result<JailReady, Failure> {
    let jail = Jail { vm: wanted.vm.clone(), boot: wanted.boot.clone(), slot: wanted.slot };
    let boots = all(&config.run)?;
    if boots.len() >= LIVE_MAX && !boots.contains(&jail.boot) {
        return denied(Rule::TooMany);
    }
    for boot in boots {
        match read(&config.run, &boot) {
            Ok(other) if other.boot == jail.boot && other != jail => return denied(Rule::OtherJail),
            Ok(other) if other.boot != jail.boot && other.slot == jail.slot => {
                return Err(Failure::SlotTaken { slot: jail.slot });
            }
            // One without a record was never finished: it uses no slot.
            Ok(_) | Err(Failure::NoJail) => {}
            Err(failure) => return Err(failure),
        }
    }
    let uid = naming::vm_uid(jail.slot);
    make(config, &jail, uid).map_err(os(Act::MakeJail))?;
    Ok(JailReady { uid })
}

/// The record comes last: a jail without one counts for nothing.
fn make(config: &Config, jail: &Jail, uid: u32) -> io::Result<()> {
    let source = |error: sys::fs::FsError| error.source;
    let (dir, sockets) = (naming::jail_dir(&config.run, &jail.boot), naming::jail_sockets_dir(&config.run, &jail.boot));
    for (dir, mode, uid) in [(&dir, 0o750, 0), (&sockets, 0o2770, uid)] {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        lchown(dir, Some(uid), Some(config.owner_gid))?;
        sys::fs::set_mode(dir, mode).map_err(source)?;
    }
    let record = serde_json::to_vec(jail)?;
    sys::fs::write_atomic(&dir.join("jail.json"), &record, 0o600).map_err(source)
}

/// Ends what runs there first.
pub(crate) fn destroy(run: &Path, boot: &BootId) -> Result<Gone, Failure> {
    vmm::kill(run, boot)?;
    sys::fs::remove_tree(&naming::jail_dir(run, boot)).map_err(|error| os(Act::RemoveJail)(error.source))?;
    Ok(Gone {})
}

pub(crate) fn read(run: &Path, boot: &BootId) -> Result<Jail, Failure> {
    let text = match std::fs::read(naming::jail_dir(run, boot).join("jail.json")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::NoJail),
        Err(error) => return Err(os(Act::ReadJail)(error)),
    };
    serde_json::from_slice(&text).map_err(|error| os(Act::ReadJail)(error.into()))
}

/// The boots that have a directory, finished or not.
pub(crate) fn all(run: &Path) -> Result<Vec<BootId>, Failure> {
    let entries = match std::fs::read_dir(naming::jails_dir(run)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(os(Act::ReadJail)(error)),
    };
    let mut boots = Vec::new();
    for entry in entries {
        let name = entry.map_err(os(Act::ReadJail))?.file_name();
        boots.extend(name.to_str().and_then(|name| name.parse::<BootId>().ok()));
    }
    Ok(boots)
}
