//! Resets a VM: its system layer is dropped, what it keeps beside it (`/root` and the direct paths) stays.
//!
//! The guest drops the layer itself, at the beginning of its next boot: the host never edits a disk. Until that boot runs the
//! reset is on record, so that it is done once, whoever dies in between. A VM that is off stays off; one that runs is
//! restarted when that was asked for.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode};
use wire::id::VmId;
use wire::naming::VmName;

use super::engine::Engine;
use super::failure::refused;
use super::plan::Plan;
use super::start::{self, Booting, StartPlan};
use super::stop::{self, MarkStopped, StopPlan, Stopping};
use super::world::Host;
use crate::model::vm::{Refused, VmState};
use crate::saga::{Cause, Cx, Saga, Step};
use crate::store::StoreError;
use crate::store::records::VmRecord;

/// The list, for a VM that is off.
#[must_use]
pub fn reset() -> Saga<ResetPlan, Host> {
    Saga::named("vm.reset") //
        .commit(MarkReset)
}

/// The list, for a VM that runs.
#[must_use]
pub fn reset_running() -> Saga<ResetPlan, Host> {
    start::with_steps(
        stop::ask(Saga::named("vm.reset")) // as in `vm.stop`
            .then(MarkStopped) // undo: nothing, the VM is off
            .then(MarkReset), // undo: as it was
    ) // as in `vm.start`
}

/// One reset, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetPlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// It was asked for before, and not done yet.
    pub was_pending: bool,
    /// The boots that end and begin, when the VM runs.
    pub restart: Option<Restart>,
}

/// A boot that ends, and the one that resets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Ends the present boot.
    pub stop: StopPlan,
    /// Begins the next.
    pub start: StartPlan,
}

impl ResetPlan {
    fn restart(&self) -> &Restart {
        self.restart.as_ref().expect("the boots' steps are only in the list of plans with boots")
    }
}

impl Booting for ResetPlan {
    fn booting(&self) -> &StartPlan {
        &self.restart().start
    }
}

impl Stopping for ResetPlan {
    fn stopping(&self) -> &StopPlan {
        &self.restart().stop
    }
}

/// Decides a reset of `vm`; `may_restart`: one that runs is restarted.
///
/// # Errors
/// When it runs and may not be restarted, or is on its way in or out of the world; else as of a stop and of a start.
pub async fn plan(host: &Host, vm: &VmRecord, may_restart: bool) -> Result<ResetPlan, Cause> {
    let no = |refused| StoreError::Refused { name: vm.name.to_string(), refused };
    match &vm.state {
        VmState::Creating => return Err(no(Refused::BeingCreated).into()),
        VmState::Deleting => return Err(no(Refused::BeingDeleted).into()),
        VmState::Suspended => return Err(no(Refused::Suspended).into()),
        VmState::Created | VmState::Stopped => {}
        VmState::Starting { .. } | VmState::Running { .. } | VmState::Paused { .. } | VmState::Stopping { .. }
            if may_restart => {}
        state @ (VmState::Starting { .. }
        | VmState::Running { .. }
        | VmState::Paused { .. }
        | VmState::Stopping { .. }) => {
            let (name, is) = (&vm.name, if matches!(state, VmState::Paused { .. }) { "paused" } else { "running" });
            let cause = refused(ErrorCode::WrongState, format!("{name} is {is}"));
            return Err(cause.with_hint(format!("add --restart, or stop it first: banger stop {name}")));
        }
    }
    let restart = if vm.state.boot().is_some() {
        let start = StartPlan { reset_system: true, ..start::plan(host, vm).await? };
        Some(Restart { stop: stop::plan(host, vm, None).await?, start })
    } else {
        None
    };
    Ok(ResetPlan { vm: vm.id.clone(), name: vm.name.clone(), was_pending: vm.reset_pending, restart })
}

impl Engine {
    /// Has the next boot of the VM that `key` stands for drop its system layer; `may_restart`: one that runs is restarted.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn reset(self: &Arc<Self>, key: &str, may_restart: bool) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm, may_restart).await?;
        self.begin(Plan::Reset(Box::new(plan))).await
    }
}

/// Puts the reset on record; the commit of the next boot takes it off.
struct MarkReset;

#[async_trait]
impl Step<ResetPlan, Host> for MarkReset {
    fn name(&self) -> &'static str {
        "mark_reset"
    }

    async fn run(&self, cx: &Cx<'_, ResetPlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.set_reset_pending(&cx.plan.vm, true).await?)
    }

    async fn undo(&self, cx: &Cx<'_, ResetPlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.set_reset_pending(&cx.plan.vm, cx.plan.was_pending).await?)
    }
}
