//! Suspends a VM: its memory goes to the disk, its VMM ends. It needs nothing of the host's memory until it goes on from there.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::Begun;

use super::engine::Engine;
use super::plan::Plan;
use super::saving::{self, Freeze, MakeReady, SaveMachine, SavePlan, Saving, StandStill};
use super::stop::{self, MarkStopping, StopPlan, Stopping, close_boot};
use super::world::Host;
use crate::model::vm::VmEvent;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::snapshot::suspended_dir;
use crate::store::StoreError;
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn suspend() -> Saga<SuspendPlan, Host> {
    Saga::named("vm.suspend")
        .then(MarkStopping) // undo: running again
        .then(MakeReady) // undo: nothing, it goes with the VMM
        .then(Freeze) // undo: nothing, what is written is written
        .then(StandStill) // undo: let the processors run
        .then(SaveMachine) // undo: remove what was saved
        .commit(MarkSuspended) // undo: running again; the commit point: what was saved is the VM now
        .then(EndVmm) // forward only
}

/// One suspension, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendPlan {
    /// The run that ends.
    pub stop: StopPlan,
    /// Its machine.
    pub save: SavePlan,
}

impl Stopping for SuspendPlan {
    fn stopping(&self) -> &StopPlan {
        &self.stop
    }

    fn how(&self) -> &'static str {
        "suspended"
    }
}

impl Saving for SuspendPlan {
    fn saving(&self) -> &SavePlan {
        &self.save
    }
}

/// Decides a suspension of `vm`.
///
/// # Errors
/// When it does not run, or its driver has no such power.
pub async fn plan(host: &Host, vm: &VmRecord) -> Result<SuspendPlan, Cause> {
    let save = saving::plan(host, vm, "suspended".to_owned(), suspended_dir(&host.dirs.state, &vm.id)).await?;
    let stop = stop::plan(host, vm, None).await?;
    Ok(SuspendPlan { stop, save: SavePlan { with_disk: false, ..save } })
}

impl Engine {
    /// Suspends the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn suspend(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm).await?;
        self.begin(Plan::Suspend(Box::new(plan))).await
    }
}

/// Makes what was saved durable, and marks the VM suspended.
struct MarkSuspended;

#[async_trait]
impl Step<SuspendPlan, Host> for MarkSuspended {
    fn name(&self) -> &'static str {
        "mark_suspended"
    }

    async fn run(&self, cx: &Cx<'_, SuspendPlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (&cx.plan.stop, cx.world);
        saving::complete(&cx.plan.save).await?;
        host.supervisors.expect_end(&plan.vm, &plan.boot, cx.plan.how());
        host.store.happen(&plan.vm, VmEvent::SuspendDone { boot: plan.boot.clone() }).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, SuspendPlan, Host>) -> Result<(), Cause> {
        let (plan, store) = (&cx.plan.stop, &cx.world.store);
        match store.happen(&plan.vm, VmEvent::StopUnwound { boot: plan.boot.clone() }).await {
            Ok(_) | Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Kills the VMM, which stands still, and removes what it leaves.
struct EndVmm;

#[async_trait]
impl Step<SuspendPlan, Host> for EndVmm {
    fn name(&self) -> &'static str {
        "end_vmm"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "what was saved is the VM now" }
    }

    async fn run(&self, cx: &Cx<'_, SuspendPlan, Host>) -> Result<(), Cause> {
        let (boot, host) = (cx.plan.stop.boot_ref(), cx.world);
        host.supervisors.ensure_gone(&boot).await?;
        close_boot(host, &boot).await?;
        Ok(host.store.end_boot(&boot.boot, cx.plan.how(), (host.now_ms)()).await?)
    }

    async fn undo(&self, _: &Cx<'_, SuspendPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
