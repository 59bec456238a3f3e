//! Machines of VMs that were saved: snapshots, and what a suspended VM goes on from.
//!
//! ```text
//! vms/<vm>/suspended/          memory, devices, manifest.json: the disk is the VM's own
//! vms/<vm>/snapshots/<name>/   the same, and disk.ext4
//! forks/<op>/                  the same, for as long as the fork takes
//! ```
//! They are files and no rows: they go with the VM's directory, and a directory that has a manifest is whole.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::id::{BootId, VmId};
use wire::naming::vm_dir;

use crate::model::machine::{MachineShape, SavedMachine};

/// The disk's file beside a saved machine.
pub const DISK: &str = "disk.ext4";
const MANIFEST: &str = "manifest.json";

/// What is on record of a saved machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What its user calls it.
    pub name: String,
    /// The VM that the guest takes itself for.
    pub vm: VmId,
    /// The same of its boot.
    pub boot: BootId,
    /// The program that is its init, if its image has one.
    pub init: Option<String>,
    /// What it needs of whoever lets it go on.
    pub shape: MachineShape,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// When it was saved.
    pub created_at_ms: u64,
}

/// One that is whole.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where it is.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

impl Snapshot {
    /// The one in `dir`; none when there is none, or it is damaged.
    #[must_use]
    pub fn at(dir: &Path) -> Option<Snapshot> {
        let manifest = serde_json::from_slice(&std::fs::read(dir.join(MANIFEST)).ok()?).ok()?;
        let snapshot = Snapshot { dir: dir.to_path_buf(), manifest };
        let saved = snapshot.saved();
        (saved.memory.is_file() && saved.devices.is_file()).then_some(snapshot)
    }

    /// The saved machine.
    #[must_use]
    pub fn saved(&self) -> SavedMachine {
        SavedMachine::in_dir(&self.dir)
    }

    /// The disk at that moment, if it was saved too.
    #[must_use]
    pub fn disk(&self) -> Option<PathBuf> {
        Some(self.dir.join(DISK)).filter(|disk| disk.is_file())
    }

    /// What it takes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        ["memory", "devices", DISK].iter().map(|file| sys::fs::allocated_bytes(&self.dir.join(file))).sum()
    }
}

/// Completes what is in `dir`: durably, so that whoever has the manifest has the rest.
///
/// # Errors
/// When a file is missing or cannot be written.
pub fn complete(dir: &Path, manifest: &Manifest) -> Result<(), sys::fs::FsError> {
    let saved = SavedMachine::in_dir(dir);
    for file in [&saved.memory, &saved.devices] {
        sys::fs::sync(file)?;
    }
    let disk = dir.join(DISK);
    if disk.exists() {
        sys::fs::sync(&disk)?;
    }
    let json = serde_json::to_vec_pretty(manifest).expect("plain fields have a form in JSON");
    sys::fs::write_atomic(&dir.join(MANIFEST), &json, 0o600)
}

/// Where a suspended VM's machine is.
#[must_use]
pub fn suspended_dir(state: &Path, vm: &VmId) -> PathBuf {
    vm_dir(state, vm).join("suspended")
}

/// Where it is once the guest has gone on: its disk has moved on, nobody else may.
#[must_use]
pub fn spent_dir(state: &Path, vm: &VmId) -> PathBuf {
    vm_dir(state, vm).join("suspended-spent")
}

/// Holds a VM's snapshots.
#[must_use]
pub fn snapshots_dir(state: &Path, vm: &VmId) -> PathBuf {
    vm_dir(state, vm).join("snapshots")
}

/// A VM's snapshots that are whole, the oldest first.
#[must_use]
pub fn all(state: &Path, vm: &VmId) -> Vec<Snapshot> {
    let entries = std::fs::read_dir(snapshots_dir(state, vm)).into_iter().flatten().flatten();
    let mut all: Vec<Snapshot> = entries.filter_map(|entry| Snapshot::at(&entry.path())).collect();
    all.sort_by(|a, b| (a.manifest.created_at_ms, &a.manifest.name).cmp(&(b.manifest.created_at_ms, &b.manifest.name)));
    all
}

/// The VM's snapshot of this name.
#[must_use]
pub fn find(state: &Path, vm: &VmId, name: &str) -> Option<Snapshot> {
    Snapshot::at(&snapshots_dir(state, vm).join(name)).filter(|snapshot| snapshot.manifest.name == name)
}

/// Holds what forks are made of.
#[must_use]
pub fn forks_dir(state: &Path) -> PathBuf {
    state.join("forks")
}

/// Removes one. A machine that went on from it keeps what it has mapped.
///
/// # Errors
/// When something is left.
pub fn remove(snapshot: &Snapshot) -> Result<(), sys::fs::FsError> {
    // Without it nobody takes the rest for a snapshot.
    sys::fs::remove_file(&snapshot.dir.join(MANIFEST))?;
    sys::fs::remove_tree(&snapshot.dir)
}
