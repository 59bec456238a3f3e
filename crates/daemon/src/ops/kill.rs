//! Kills a VM: its VMM gets a signal, and is killed if it does not end of that. The guest is not asked; what it has not
//! written is lost, as at a power cut.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::KillSignal;

use super::engine::Engine;
use super::plan::Plan;
use super::stop::{self, DetachOld, MarkStopped, MarkStopping, StopPlan, Stopping};
use super::world::Host;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn kill() -> Saga<KillPlan, Host> {
    Saga::named("vm.kill")
        .then(MarkStopping) // undo: running again, if its VMM still runs
        .then(SendSignal) // undo: nothing, a signal cannot be called back
        .then(AwaitEnd) // undo: nothing, what has ended has ended
        .then(DetachOld) // undo: nothing, it belonged to what has ended
        .commit(MarkStopped)
}

/// How long a VMM may take to end of a signal it can handle: it closes its files, no more.
const GRACE: Duration = Duration::from_secs(5);

/// One kill, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillPlan {
    /// What ends; its grace is the VMM's.
    pub stop: StopPlan,
    /// What it gets.
    pub signal: KillSignal,
}

impl Stopping for KillPlan {
    fn stopping(&self) -> &StopPlan {
        &self.stop
    }

    fn how(&self) -> &str {
        "killed"
    }
}

/// Decides a kill of `vm`.
///
/// # Errors
/// When it does not run.
pub async fn plan(host: &Host, vm: &VmRecord, signal: KillSignal) -> Result<KillPlan, Cause> {
    Ok(KillPlan { stop: stop::plan(host, vm, Some(GRACE)).await?, signal })
}

impl Engine {
    /// Kills the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn kill(self: &std::sync::Arc<Self>, key: &str, signal: KillSignal) -> Result<wire::api::Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm, signal).await?;
        self.begin(Plan::Kill(Box::new(plan))).await
    }
}

/// Sends the signal.
struct SendSignal;

#[async_trait]
impl Step<KillPlan, Host> for SendSignal {
    fn name(&self) -> &'static str {
        "send_signal"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "a signal cannot be called back" }
    }

    async fn run(&self, cx: &Cx<'_, KillPlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        host.supervisors.expect_end(&plan.stop.vm, &plan.stop.boot, plan.how());
        Ok(host.vmm.signal(&plan.stop.launch, plan.signal)?)
    }

    async fn undo(&self, _: &Cx<'_, KillPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Waits for the VMM's end, and brings it about when the signal did not.
struct AwaitEnd;

#[async_trait]
impl Step<KillPlan, Host> for AwaitEnd {
    fn name(&self) -> &'static str {
        "await_end"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "what has ended has ended" }
    }

    async fn run(&self, cx: &Cx<'_, KillPlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (&cx.plan.stop, cx.world);
        let grace = Duration::from_millis(plan.grace_ms);
        tokio::select! {
            () = host.supervisors.ended(&plan.vm, &plan.boot) => {}
            () = cx.cancelled() => return Err(Cause::cancelled()),
            () = tokio::time::sleep(grace) => {
                let signal = cx.plan.signal.name();
                cx.warning(&format!("the VMM did not end of {signal} within {grace:?}: it is killed"));
            }
        }
        Ok(host.supervisors.ensure_gone(&plan.boot_ref()).await?)
    }

    async fn undo(&self, _: &Cx<'_, KillPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
