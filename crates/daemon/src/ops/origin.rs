//! What a start goes on from instead of booting, decided.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wire::agent::message::Hello;
use wire::id::{BootId, ImageId, KernelId, VmId};

use super::world::Host;
use crate::model::machine::{MachineSpec, NicAttachment, SavedMachine};
use crate::model::vm::VmState;
use crate::saga::Cause;
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
    machine: &MachineSpec,
    nic: &NicAttachment,
    (image, kernel): (&ImageId, &KernelId),
) -> Result<(Option<Origin>, Option<Ingredients>), Cause> {
    let is_fresh = matches!(vm.state, VmState::Creating | VmState::Created) && !vm.reset_pending;
    let Some(snapshots) = host.vmm.snapshots().filter(|_| host.settings.templates && is_fresh) else {
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

/// The same machine, going on from what was saved.
pub(super) fn going_on(machine: &MachineSpec, saved: SavedMachine) -> MachineSpec {
    MachineSpec { saved: Some(saved), ..machine.clone() }
}
