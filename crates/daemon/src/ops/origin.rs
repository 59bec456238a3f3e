//! What a start goes on from instead of booting, decided.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wire::agent::message::Hello;
use wire::api::ErrorCode;
use wire::id::{BootId, ImageId, KernelId, VmId};

use super::failure::refused;
use super::go_on::snapshots;
use super::saving::SavePlan;
use super::start::StartPlan;
use super::world::Host;
use crate::model::machine::{MachineSpec, SavedMachine};
use crate::model::vm::VmState;
use crate::saga::Cause;
use crate::snapshot::{DISK, Snapshot, suspended_dir};
use crate::store::records::VmRecord;
use crate::template::Ingredients;
use crate::vmm::Launch;

/// A saved machine that a guest goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it is.
    pub kind: OriginKind,
    /// The VM that the saved guest takes itself for.
    pub vm: VmId,
    /// The same of its boot.
    pub boot: BootId,
    /// What becomes the VM's disk; none when that is as it was at the moment of saving.
    pub disk: Option<PathBuf>,
    /// What the driver decided to run.
    pub launch: Launch,
    /// The program that became the guest's init, if its image has one.
    pub init: Option<String>,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OriginKind {
    /// A fresh machine. The VM boots when it cannot go on.
    Template {
        /// The template's name.
        key: String,
    },
    /// The machine of the VM itself. It goes on as what it was.
    Suspended,
    /// The machine of the VM at an earlier time, with its disk.
    Snapshot,
    /// The machine of another VM a moment ago.
    Fork,
}

impl Origin {
    /// Whether these are the first words of the guest that was saved.
    pub(super) fn is_of(&self, hello: &Hello) -> bool {
        hello.vm == self.vm.as_str() && hello.boot == self.boot.as_str()
    }
}

/// The template that a start of `vm` goes on from, or what one would be made of that it could have gone on from. Neither for a
/// VM that has been started before, and where templates are off or cannot be.
///
/// # Errors
/// When the driver refuses to let the machine go on.
pub(super) fn of_template(
    host: &Host,
    vm: &VmRecord,
    start: &StartPlan,
    (image, kernel): (&ImageId, &KernelId),
) -> Result<(Option<Origin>, Option<Ingredients>), Cause> {
    let (machine, nic) = (&start.machine, &start.attachment);
    let Some(snapshots) = host.vmm.snapshots().filter(|_| host.settings.templates && is_fresh(host, vm)) else {
        return Ok((None, None));
    };
    // What cannot be saved boots.
    let Ok(shape) = snapshots.shape(machine, nic) else {
        return Ok((None, None));
    };
    let initramfs = machine.initramfs.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ingredients =
        Ingredients { image: image.clone(), kernel: kernel.clone(), initramfs, disk_bytes: vm.spec.disk_bytes, shape };
    let Some(found) = host.templates.find(&ingredients.key()) else {
        return Ok((None, Some(ingredients)));
    };
    let launch = host.vmm.plan(&going_on(machine, found.saved()), nic)?;
    let origin = Origin {
        kind: OriginKind::Template { key: found.key.clone() },
        vm: found.manifest.vm.clone(),
        boot: found.manifest.boot.clone(),
        disk: Some(found.disk()),
        launch,
        init: found.manifest.init,
    };
    Ok((Some(origin), None))
}

/// Whether nothing of anybody's is on the VM's disk: going on from a template replaces it.
fn is_fresh(host: &Host, vm: &VmRecord) -> bool {
    match vm.state {
        VmState::Creating => true,
        // A record may be older than the disk, as in a database that was put back from a copy.
        VmState::Created => !vm.reset_pending && host.storage.is_untouched(&vm.id),
        VmState::Starting { .. }
        | VmState::Running { .. }
        | VmState::Paused { .. }
        | VmState::Suspended
        | VmState::Stopping { .. }
        | VmState::Stopped
        | VmState::Deleting => false,
    }
}

/// What a suspended VM goes on from.
///
/// # Errors
/// When what was saved is gone, or this host cannot let it go on.
pub(super) fn of_suspended(host: &Host, vm: &VmRecord, start: &StartPlan) -> Result<Origin, Cause> {
    let dir = suspended_dir(&host.dirs.state, &vm.id);
    let Some(saved) = Snapshot::at(&dir) else {
        let message =
            format!("the memory of {}, which is suspended, is missing: there is none in {}", vm.name, dir.display());
        return Err(refused(ErrorCode::WrongState, message).with_hint(without_memory(vm)));
    };
    of_saved(host, start, &saved, OriginKind::Suspended).map_err(|cause| cause.with_hint(without_memory(vm)))
}

fn without_memory(vm: &VmRecord) -> String {
    format!("its disk is whole: `banger stop {}` gives its memory up, and the next start boots", vm.name)
}

/// The same, of any machine that was saved.
///
/// # Errors
/// When this host cannot let it go on.
pub(super) fn of_saved(host: &Host, start: &StartPlan, saved: &Snapshot, kind: OriginKind) -> Result<Origin, Cause> {
    let shape = snapshots(host)?.shape(&start.machine, &start.attachment)?;
    if let Some(why) = saved.manifest.shape.differs(&shape) {
        return Err(refused(ErrorCode::WrongState, format!("{} cannot go on here: {why}", saved.manifest.name)));
    }
    Ok(Origin {
        kind,
        vm: saved.manifest.vm.clone(),
        boot: saved.manifest.boot.clone(),
        disk: saved.disk(),
        launch: host.vmm.plan(&going_on(&start.machine, saved.saved()), &start.attachment)?,
        init: saved.manifest.init.clone(),
    })
}

/// What a VM goes on from that is forked from the machine `save` tells of, which is not saved yet.
///
/// # Errors
/// When a driver refuses.
pub(super) fn of_fork(host: &Host, start: &StartPlan, save: &SavePlan) -> Result<Origin, Cause> {
    let saved = SavedMachine::in_dir(&save.dir);
    Ok(Origin {
        kind: OriginKind::Fork,
        vm: save.vm.clone(),
        boot: save.boot.clone(),
        disk: Some(save.dir.join(DISK)),
        launch: host.vmm.plan(&going_on(&start.machine, saved), &start.attachment)?,
        init: save.manifest.init.clone(),
    })
}

/// The same machine, going on from what was saved.
pub(super) fn going_on(machine: &MachineSpec, saved: SavedMachine) -> MachineSpec {
    MachineSpec { saved: Some(saved), ..machine.clone() }
}
