//! Machines saved in jails of the helper's, and going on from what was saved.
//!
//! | in the jail | on the host, below the VM's directory | what |
//! |---|---|---|
//! | `/memory /devices` | `saves/from/` | what the machine goes on from, read-only; these names are removed when it has read it |
//! | `/save-memory /save-devices` | `saves/shared/` | where Firecracker writes when it is saved; empty but for that |
//!
//! A file of a jail cannot be taken away from it, so what was written is copied. Which pages are written, and what for, is as in
//! session mode: [`super::super::tracking`].

use std::path::Path;

use async_trait::async_trait;
use wire::helper::JailFile;

use super::{Jailed, Jailer, in_jail, jailed_of, refused};
use crate::model::machine::{MachineShape, MachineSpec, NicAttachment, SavedMachine};
use crate::vmm::firecracker::api;
use crate::vmm::firecracker::config;
use crate::vmm::firecracker::controls::failed;
use crate::vmm::firecracker::features::Version;
use crate::vmm::firecracker::snapshot::{self, blocking, not_savable};
use crate::vmm::firecracker::tracking::Saves;
use crate::vmm::firecracker::tray::Kind;
use crate::vmm::{Launch, Snapshots, VmmError};

/// The files by which a machine is saved, and goes on from what was.
pub(super) fn files(saved: Option<&SavedMachine>) -> Vec<JailFile> {
    let mut files = vec![JailFile::SaveMemory {}, JailFile::SaveDevices {}];
    if saved.is_some() {
        files.extend([JailFile::Memory {}, JailFile::Devices {}]);
    }
    files
}

/// Where the machine is saved; none for a jail that was planned before there was such a place.
fn saves(jailed: &Jailed) -> Option<Saves> {
    let has_them = jailed.files.contains(&JailFile::SaveMemory {});
    has_them.then(|| Saves::beside(&jailed.disk, Kind::Files))
}

fn saves_of(launch: &Launch) -> Result<Saves, VmmError> {
    jailed_of(launch).as_ref().and_then(saves).ok_or_else(not_savable)
}

/// Makes the files of a machine that begins.
pub(super) async fn begin(jailed: &Jailed) -> Result<(), VmmError> {
    let (Some(saves), saved) = (saves(jailed), jailed.saved.clone()) else {
        return Ok(());
    };
    blocking(move || saves.begin(saved.as_ref())).await
}

/// Has a Firecracker that knows nothing yet read what the machine goes on from. It stands still then.
pub(super) async fn load(socket: &Path, jailed: &Jailed, version: Option<Version>) -> Result<(), VmmError> {
    let (path, body) = super::logger();
    api::put(socket, &path, &body).await.map_err(failed("tell the VMM what to log"))?;
    snapshot::load(socket, version).await?;
    match saves(jailed) {
        Some(saves) => Ok(saves.loaded()?),
        None => Ok(()),
    }
}

/// Removes what a machine leaves.
pub(super) fn end(launch: &Launch) -> Result<(), VmmError> {
    match jailed_of(launch).as_ref().and_then(saves) {
        Some(saves) => Ok(saves.end()?),
        None => Ok(()),
    }
}

impl Jailer {
    fn version(&self) -> Result<Version, VmmError> {
        self.usable().map(|(_, version)| version).map_err(refused)
    }
}

#[async_trait]
impl Snapshots for Jailer {
    fn shape(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<MachineShape, VmmError> {
        let version = self.version()?;
        let shape = snapshot::shape(Jailer::NAME, version, &in_jail(config::shape(spec, nic, version)));
        shape.map_err(|error| refused(error.to_string()))
    }

    fn breaks_channel(&self, _launch: &Launch) -> bool {
        true
    }

    async fn make_ready(&self, launch: &Launch) -> Result<(), VmmError> {
        snapshot::make_ready(saves_of(launch)?, self.version().ok()).await
    }

    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError> {
        snapshot::save(launch, saves_of(launch)?, self.version()?, memory_mib, to).await
    }

    async fn go_on(&self, launch: &Launch) -> Result<(), VmmError> {
        snapshot::go_on(launch).await
    }

    async fn plug(&self, _launch: &Launch) -> Result<(), VmmError> {
        // Nobody is at the other end of its tap.
        Ok(())
    }
}

#[cfg(test)]
mod tests;
