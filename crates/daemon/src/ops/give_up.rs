//! Stops a VM that is suspended: its memory is given up, and its disk is as after a power cut that it was ready for.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::Begun;
use wire::id::VmId;
use wire::naming::VmName;

use super::engine::Engine;
use super::plan::Plan;
use super::world::Host;
use crate::model::vm::VmEvent;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::snapshot::suspended_dir;
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub(super) fn give_up() -> Saga<GiveUpPlan, Host> {
    Saga::named("vm.give_up")
        .commit(MarkStopped) // the commit point
        .then(RemoveMemory) // forward only
}

/// One memory to be given up, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUpPlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
}

/// Decides that of `vm`, which is suspended.
#[must_use]
pub fn plan(vm: &VmRecord) -> GiveUpPlan {
    GiveUpPlan { vm: vm.id.clone(), name: vm.name.clone() }
}

impl Engine {
    /// Gives up the memory of `vm`, which is suspended.
    pub(super) async fn give_up(self: &Arc<Self>, vm: &VmRecord) -> Result<Begun, Cause> {
        self.begin(Plan::GiveUp(Box::new(plan(vm)))).await
    }
}

/// Marks the VM stopped.
struct MarkStopped;

#[async_trait]
impl Step<GiveUpPlan, Host> for MarkStopped {
    fn name(&self) -> &'static str {
        "mark_stopped"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "it is one write, done or not" }
    }

    async fn run(&self, cx: &Cx<'_, GiveUpPlan, Host>) -> Result<(), Cause> {
        cx.world.store.happen(&cx.plan.vm, VmEvent::MemoryGivenUp).await?;
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, GiveUpPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Removes what was saved.
struct RemoveMemory;

#[async_trait]
impl Step<GiveUpPlan, Host> for RemoveMemory {
    fn name(&self) -> &'static str {
        "remove_memory"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the VM is stopped, nobody goes on from it" }
    }

    async fn run(&self, cx: &Cx<'_, GiveUpPlan, Host>) -> Result<(), Cause> {
        Ok(sys::fs::remove_tree(&suspended_dir(&cx.world.dirs.state, &cx.plan.vm))?)
    }

    async fn undo(&self, _: &Cx<'_, GiveUpPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
