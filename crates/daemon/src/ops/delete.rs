//! Deletes a VM, running or not: its VMM is killed at once, nothing in it is saved.
//! Once the VMM is gone there is no way back; a deletion that then fails is stuck, and deleting again goes on with it.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode};
use wire::id::{BootId, VmId};
use wire::naming::{self, VmName};

use super::engine::Engine;
use super::failure::caused;
use super::pause::ensure_resumed;
use super::plan::Plan;
use super::stop::{close_boot, close_ended};
use super::world::Host;
use crate::model::machine::NicAttachment;
use crate::model::vm::{Refused, VmEvent, VmState};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::BootRef;
use crate::vmm::Launch;

/// The list.
#[must_use]
pub fn delete() -> Saga<DeletePlan, Host> {
    Saga::named("vm.delete")
        .then(MarkDeleting) // undo: running again if its VMM still runs, else stopped
        .commit(KillVmm) // undo: nothing, it was to go
        .then(RemoveFiles) // only forward
        .then(ForgetVm) // only forward
}

/// One deletion, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletePlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// The runs that are not known to have ended; usually one or none.
    pub boots: Vec<RunningBoot>,
    /// Its processors stand still; they run again if the deletion is taken back.
    #[serde(default)]
    pub is_paused: bool,
    /// Only if it is off when it comes to it.
    #[serde(default)]
    pub only_off: bool,
}

/// A run to be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningBoot {
    /// Its id.
    pub boot: BootId,
    /// What runs.
    pub launch: Launch,
    /// How its NIC is attached.
    pub attachment: NicAttachment,
}

impl DeletePlan {
    fn boots(&self) -> impl Iterator<Item = BootRef> {
        self.boots.iter().map(|boot| BootRef {
            vm: self.vm.clone(),
            boot: boot.boot.clone(),
            launch: boot.launch.clone(),
            attachment: boot.attachment.clone(),
        })
    }
}

/// Decides a deletion of `vm`.
///
/// # Errors
/// When the database cannot be read.
pub async fn plan(host: &Host, vm: &VmRecord) -> Result<DeletePlan, Cause> {
    let mut boots = Vec::new();
    for record in host.store.open_boots().await?.iter().filter(|boot| boot.vm == vm.id) {
        let boot = BootRef::of(record).map_err(|error| caused(ErrorCode::Internal, &error))?;
        boots.push(RunningBoot { boot: boot.boot, launch: boot.launch, attachment: boot.attachment });
    }
    let is_paused = matches!(vm.state, VmState::Paused { .. });
    Ok(DeletePlan { vm: vm.id.clone(), name: vm.name.clone(), boots, is_paused, only_off: false })
}

/// Decides a deletion of `vm`, which must be off.
///
/// # Errors
/// When it is not, or is just rebooting.
pub async fn plan_if_off(host: &Host, vm: &VmRecord) -> Result<DeletePlan, Cause> {
    refuse_running(host, vm).await?;
    Ok(DeletePlan { only_off: true, ..plan(host, vm).await? })
}

/// A guest that reboots is off for a moment, until its next boot begins.
const REBOOT_WITHIN_MS: u64 = 10_000;

async fn refuse_running(host: &Host, vm: &VmRecord) -> Result<(), Cause> {
    let refuse = |refused| Err(StoreError::Refused { name: vm.name.to_string(), refused }.into());
    match vm.state {
        VmState::Starting { .. } | VmState::Running { .. } => return refuse(Refused::AlreadyRunning),
        VmState::Paused { .. } => return refuse(Refused::Paused),
        VmState::Stopping { .. } => return refuse(Refused::AlreadyStopping),
        VmState::Creating | VmState::Created | VmState::Stopped | VmState::Suspended | VmState::Deleting => {}
    }
    let last = host.store.last_boot(&vm.id).await?;
    let rebooted_at_ms = last.filter(|boot| boot.ended.as_deref() == Some("reboot")).and_then(|boot| boot.ended_at_ms);
    match rebooted_at_ms {
        Some(at_ms) if (host.now_ms)().saturating_sub(at_ms) < REBOOT_WITHIN_MS => refuse(Refused::Rebooting),
        Some(_) | None => Ok(()),
    }
}

impl Engine {
    /// Deletes the VM that `key` stands for, unless it runs.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn delete_if_off(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan_if_off(self.host(), &vm).await?;
        self.begin(Plan::Delete(Box::new(plan))).await
    }
}

/// Marks the VM as going away.
struct MarkDeleting;

#[async_trait]
impl Step<DeletePlan, Host> for MarkDeleting {
    fn name(&self) -> &'static str {
        "mark_deleting"
    }

    async fn run(&self, cx: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        if plan.only_off {
            // Another operation may have come and gone since the plan; none can from here on.
            refuse_running(host, &host.store.vm(&plan.vm).await?).await?;
        }
        host.store.happen(&plan.vm, VmEvent::DeleteBegun).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        let mut running = None;
        for boot in plan.boots() {
            if host.supervisors.is_live(&boot.vm, &boot.boot) {
                running = Some(boot.boot);
            } else {
                close_ended(host, &boot, "deleted").await?;
            }
        }
        match host.store.happen(&plan.vm, VmEvent::DeleteUnwound { boot: running }).await {
            Ok(VmState::Running { .. }) if plan.is_paused => {
                for boot in plan.boots() {
                    ensure_resumed(host, &boot.vm, &boot.boot, &boot.launch).await?;
                }
            }
            Ok(_) => {}
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        // The owner left the VM alone while it was being deleted; an end in between is noticed here.
        for boot in plan.boots() {
            if !host.supervisors.is_live(&boot.vm, &boot.boot) {
                close_ended(host, &boot, "deleted").await?;
            }
        }
        let error = cx.cause.filter(|cause| !cause.is_cancellation()).map(|cause| cause.message.clone());
        Ok(host.store.set_last_error(&plan.vm, error).await?)
    }
}

/// Kills the VMM and removes what its boot left outside the VM's own directory.
struct KillVmm;

#[async_trait]
impl Step<DeletePlan, Host> for KillVmm {
    fn name(&self) -> &'static str {
        "kill_vmm"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the boot was to end with the VM" }
    }

    async fn run(&self, cx: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        for boot in cx.plan.boots() {
            cx.world.supervisors.ensure_gone(&boot).await?;
            close_boot(cx.world, &boot).await?;
            cx.world.store.end_boot(&boot.boot, "deleted", (cx.world.now_ms)()).await?;
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Removes the disk and everything else of the VM.
struct RemoveFiles;

#[async_trait]
impl Step<DeletePlan, Host> for RemoveFiles {
    fn name(&self) -> &'static str {
        "remove_files"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the files were to go with the VM" }
    }

    async fn run(&self, cx: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        cx.world.storage.ensure_deleted(&cx.plan.vm).await?;
        Ok(sys::fs::remove_tree(&naming::vm_dir(&cx.world.dirs.state, &cx.plan.vm))?)
    }

    async fn undo(&self, _: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Removes the row: the name is free again.
struct ForgetVm;

#[async_trait]
impl Step<DeletePlan, Host> for ForgetVm {
    fn name(&self) -> &'static str {
        "forget_vm"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the VM was to go" }
    }

    async fn run(&self, cx: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.delete_vm(&cx.plan.vm).await?)
    }

    async fn undo(&self, _: &Cx<'_, DeletePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
