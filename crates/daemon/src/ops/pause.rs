//! Pauses a VM: its processors stand still until they are resumed; everything it holds on the host stays.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode};
use wire::id::{BootId, VmId};
use wire::naming::VmName;

use super::engine::Engine;
use super::failure::{caused, refused};
use super::plan::Plan;
use super::world::Host;
use crate::model::vm::{Refused, VmEvent, VmState};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::BootRef;
use crate::vmm::{Controls, Launch};

/// The list.
#[must_use]
pub fn pause() -> Saga<PausePlan, Host> {
    Saga::named("vm.pause")
        .then(StopProcessors) // undo: let them run again
        .commit(MarkPaused)
}

/// One pause, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausePlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// The run that stands still.
    pub boot: BootId,
    /// What runs.
    pub launch: Launch,
}

/// Decides a pause of `vm`.
///
/// # Errors
/// When it does not run, or its driver has no such power.
pub async fn plan(host: &Host, vm: &VmRecord) -> Result<PausePlan, Cause> {
    let refuse = |refused| Err(StoreError::Refused { name: vm.name.to_string(), refused }.into());
    match &vm.state {
        VmState::Running { boot } => of_boot(host, vm, boot).await,
        VmState::Paused { .. } => refuse(Refused::Paused),
        state => refuse(why_not(state)),
    }
}

/// Why a VM that neither runs nor is paused is neither paused nor resumed.
pub(super) fn why_not(state: &VmState) -> Refused {
    let probe = VmEvent::PauseDone { boot: BootId::from_random([0; 8]) };
    state.after(&probe).err().unwrap_or(Refused::NotRunning)
}

pub(super) async fn of_boot(host: &Host, vm: &VmRecord, boot: &BootId) -> Result<PausePlan, Cause> {
    controls(host)?;
    let record = host.store.boot(boot).await?;
    let boot = BootRef::of(&record).map_err(|error| caused(ErrorCode::Internal, &error))?;
    Ok(PausePlan { vm: vm.id.clone(), name: vm.name.clone(), boot: boot.boot, launch: boot.launch })
}

/// The driver's power over machines.
pub(super) fn controls(host: &Host) -> Result<&dyn Controls, Cause> {
    let why = || refused(ErrorCode::Unsupported, format!("the {} driver cannot stop a machine", host.vmm.name()));
    host.vmm.controls().ok_or_else(why)
}

/// Lets the processors of a boot run, if it is still there. Idempotent.
pub(super) async fn ensure_resumed(host: &Host, vm: &VmId, boot: &BootId, launch: &Launch) -> Result<(), Cause> {
    let Some(controls) = host.vmm.controls() else {
        return Ok(());
    };
    let result = controls.resume(launch).await;
    // A VMM that has ended meanwhile has nothing to run.
    if host.supervisors.is_live(vm, boot) { Ok(result?) } else { Ok(()) }
}

impl Engine {
    /// Pauses the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn pause(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm).await?;
        self.begin(Plan::Pause(Box::new(plan))).await
    }
}

/// Stops the processors.
struct StopProcessors;

#[async_trait]
impl Step<PausePlan, Host> for StopProcessors {
    fn name(&self) -> &'static str {
        "stop_processors"
    }

    async fn run(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        Ok(controls(cx.world)?.pause(&cx.plan.launch).await?)
    }

    async fn undo(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        ensure_resumed(cx.world, &cx.plan.vm, &cx.plan.boot, &cx.plan.launch).await
    }
}

/// Marks the VM paused.
struct MarkPaused;

#[async_trait]
impl Step<PausePlan, Host> for MarkPaused {
    fn name(&self) -> &'static str {
        "mark_paused"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Here
    }

    async fn run(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        cx.world.store.happen(&cx.plan.vm, VmEvent::PauseDone { boot: cx.plan.boot.clone() }).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        mark_running(cx.world, cx.plan).await
    }
}

/// Marks a VM as running that is on this boot; one that has ended meanwhile stays as it is.
pub(super) async fn mark_running(host: &Host, plan: &PausePlan) -> Result<(), Cause> {
    match host.store.happen(&plan.vm, VmEvent::ResumeDone { boot: plan.boot.clone() }).await {
        Ok(_) | Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
