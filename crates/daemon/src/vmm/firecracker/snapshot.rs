//! Machines saved, and going on from what was saved.
//!
//! Firecracker writes where its jail and the daemon both see it ([`super::tray`]); a machine goes on in a new Firecracker whose
//! jail shows it the files, and nobody else, read-only. What is written is told by [`super::tracking`].
//!
//! Whoever is saved loses its vsock connections when it goes on: Firecracker resets them for the machine that is restored, and
//! for the one that was saved as well (`send_transport_reset_event`). The guest's agent connects again.

use std::path::Path;

use async_trait::async_trait;
use serde_json::json;

use super::controls::failed;
use super::features::{Feature, Version};
use super::tracking::{Saves, Since};
use super::{Firecracker, api, api_socket, config, controls, jail, jail_of, refused};
use crate::model::machine::{MachineShape, MachineSpec, NicAttachment, SavedMachine};
use crate::vmm::{Launch, Snapshots, VmmError};

/// More memory than this is in two pieces, beside the devices' addresses; in MiB.
const ONE_PIECE_MIB: u64 = 3 << 10;

/// Whether Firecracker writes what was written since into the right places of a file: versions from 1.13 to 1.14 do not where
/// the memory is in two pieces.
fn writes_diffs(version: Version, memory_mib: u64) -> bool {
    let is_wrong = version.has(Feature::Pci) && version < Version::new(1, 15);
    memory_mib <= ONE_PIECE_MIB || !is_wrong
}

/// Has a Firecracker that runs nothing yet read the machine its jail shows it. It stands still then.
pub(super) async fn load(socket: &Path, version: Option<Version>) -> Result<(), VmmError> {
    // The same under two names.
    let track = match version {
        Some(version) if !version.has(Feature::Pci) => "enable_diff_snapshots",
        _ => "track_dirty_pages",
    };
    let body = json!({
        "snapshot_path": jail::STATE,
        "mem_backend": {"backend_type": "File", "backend_path": jail::MEMORY},
        track: true,
        "resume_vm": false,
    });
    let loaded = async {
        api::put(socket, "/metrics", &json!({"metrics_path": jail::METRICS})).await?;
        api::put(socket, "/snapshot/load", &body).await
    };
    loaded.await.map_err(failed("read the saved machine"))
}

/// What a launch without saves is told.
pub(super) fn not_savable() -> VmmError {
    VmmError::Control { act: "save the machine", why: "it was started before it could be: restart it".to_owned() }
}

fn saves_of(launch: &Launch) -> Result<Saves, VmmError> {
    jail_of(launch).as_ref().and_then(Saves::in_jail).ok_or_else(not_savable)
}

/// Work on files, beside everything else.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, sys::fs::FsError> + Send + 'static,
) -> Result<T, VmmError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?)
}

/// What a machine of this configuration needs of whoever lets it go on.
pub(super) fn shape(
    driver: &'static str,
    version: Version,
    config: &config::Config,
) -> Result<MachineShape, serde_json::Error> {
    Ok(MachineShape {
        driver: driver.to_owned(),
        vmm: format!("Firecracker {version}"),
        cpu: sys::kvm::processor(),
        machine: serde_json::to_string(config)?,
    })
}

/// Readies `saves` for a Firecracker of this version.
pub(super) async fn make_ready(saves: Saves, version: Option<Version>) -> Result<(), VmmError> {
    // An older one writes over what is there.
    if version.is_some_and(|version| version.has(Feature::MergedDiffs)) {
        return blocking(move || saves.make_ready()).await;
    }
    Ok(())
}

/// Saves a machine that stands still, by way of `saves`.
pub(super) async fn save(
    launch: &Launch,
    saves: Saves,
    version: Version,
    memory_mib: u64,
    to: &SavedMachine,
) -> Result<(), VmmError> {
    let bytes = memory_mib << 20;
    let merges = version.has(Feature::MergedDiffs) || saves.since() == Since::Zeros;
    let whole = !(merges && writes_diffs(version, memory_mib) && saves.is_ready(bytes));
    saves.open(whole)?;
    let [memory, devices] = saves.seen_in_jail();
    let body = json!({
        "snapshot_type": if whole { "Full" } else { "Diff" },
        "snapshot_path": devices,
        "mem_file_path": memory,
    });
    let written = api::put(&api_socket(&launch.boot_dir), "/snapshot/create", &body).await;
    let taken = match written {
        Ok(()) => {
            let (saves, to) = (saves.clone(), to.clone());
            blocking(move || saves.close(whole, bytes, &to)).await
        }
        Err(error) => Err(failed("save the machine")(error)),
    };
    if taken.is_err()
        && let Err(error) = saves.give_up()
    {
        tracing::warn!(%error, "what was saved in vain takes room until the VMM ends");
    }
    taken
}

/// Lets a machine that was loaded go on.
pub(super) async fn go_on(launch: &Launch) -> Result<(), VmmError> {
    let info = api::describe(&api_socket(&launch.boot_dir)).await;
    match info.map_err(failed("let the saved machine go on"))?.state.as_str() {
        // It has gone on: a daemon died before it could say so.
        "Running" => Ok(()),
        _ => controls::resume(launch).await,
    }
}

#[async_trait]
impl Snapshots for Firecracker {
    fn shape(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<MachineShape, VmmError> {
        let (_, version) = self.usable().map_err(refused)?;
        let shape = shape(Firecracker::NAME, version, &config::shape(spec, nic, version));
        shape.map_err(|error| refused(error.to_string()))
    }

    fn breaks_channel(&self, _launch: &Launch) -> bool {
        true
    }

    async fn make_ready(&self, launch: &Launch) -> Result<(), VmmError> {
        make_ready(saves_of(launch)?, self.version()).await
    }

    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError> {
        let (saves, (_, version)) = (saves_of(launch)?, self.usable().map_err(refused)?);
        save(launch, saves, version, memory_mib, to).await
    }

    async fn go_on(&self, launch: &Launch) -> Result<(), VmmError> {
        go_on(launch).await
    }

    async fn plug(&self, _launch: &Launch) -> Result<(), VmmError> {
        // Firecracker has no such thing: whoever carries the tap's frames keeps them until then.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_be_written_wrongly_is_not_asked_for() {
        for (version, memory_mib, writes) in [
            (Version::new(1, 12), 8192, true),
            (Version::new(1, 13), 3072, true),
            (Version::new(1, 14), 3073, false),
            (Version::new(1, 15), 8192, true),
        ] {
            assert_eq!(writes_diffs(version, memory_mib), writes, "{version} {memory_mib}");
        }
    }
}
