//! Resumes a paused VM, and tells its guest the time: its own clock stood still.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wire::api::{Begun, ErrorCode};

use super::engine::Engine;
use super::failure::caused;
use super::pause::{self, PausePlan, controls};
use super::plan::Plan;
use super::world::Host;
use crate::model::vm::{Refused, VmEvent, VmState};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn resume() -> Saga<PausePlan, Host> {
    Saga::named("vm.resume")
        .then(RunProcessors) // undo: stop them again
        .then(SetClock) // undo: nothing, the time is the time
        .commit(MarkResumed)
}

/// How long the agent may take to set the clock. A guest that takes longer is set by the first command in it: every one
/// carries the time.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Decides a resumption of `vm`.
///
/// # Errors
/// When it is not paused.
pub async fn plan(host: &Host, vm: &VmRecord) -> Result<PausePlan, Cause> {
    let refuse = |refused| Err(StoreError::Refused { name: vm.name.to_string(), refused }.into());
    match &vm.state {
        VmState::Paused { boot } => pause::of_boot(host, vm, boot).await,
        VmState::Running { .. } => refuse(Refused::AlreadyRunning),
        state => refuse(pause::why_not(state)),
    }
}

impl Engine {
    /// Resumes the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn resume(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        if vm.state == VmState::Suspended {
            return self.start_free(&vm, None).await;
        }
        let plan = plan(self.host(), &vm).await?;
        self.begin(Plan::Resume(Box::new(plan))).await
    }
}

/// Lets the processors run again.
struct RunProcessors;

#[async_trait]
impl Step<PausePlan, Host> for RunProcessors {
    fn name(&self) -> &'static str {
        "run_processors"
    }

    async fn run(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        Ok(controls(cx.world)?.resume(&cx.plan.launch).await?)
    }

    async fn undo(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        let result = controls(host)?.pause(&plan.launch).await;
        // A VMM that has ended meanwhile has nothing to stop.
        if host.supervisors.is_live(&plan.vm, &plan.boot) { Ok(result?) } else { Ok(()) }
    }
}

/// Sets the guest's clock. A guest that cannot be told runs all the same.
struct SetClock;

#[async_trait]
impl Step<PausePlan, Host> for SetClock {
    fn name(&self) -> &'static str {
        "set_clock"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the time is the time, paused or not" }
    }

    async fn run(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        let Some(guest) = cx.world.supervisors.guest(&cx.plan.vm) else {
            return Ok(());
        };
        match tokio::time::timeout(CLOCK_TIMEOUT, guest.set_clock(sys::clock::unix_ns())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let why = caused(ErrorCode::GuestUnreachable, &error).message;
                cx.warning(&format!("the guest's clock is set by the first command in it: {why}"));
            }
            Err(_) => cx.warning("the guest's clock is set by the first command in it: the agent does not answer yet"),
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Marks the VM running.
struct MarkResumed;

#[async_trait]
impl Step<PausePlan, Host> for MarkResumed {
    fn name(&self) -> &'static str {
        "mark_resumed"
    }

    async fn run(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        cx.world.store.happen(&cx.plan.vm, VmEvent::ResumeDone { boot: cx.plan.boot.clone() }).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, PausePlan, Host>) -> Result<(), Cause> {
        let (plan, store) = (cx.plan, &cx.world.store);
        match store.happen(&plan.vm, VmEvent::PauseDone { boot: plan.boot.clone() }).await {
            Ok(_) | Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
