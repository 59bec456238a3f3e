//! Stops a VM: the guest writes everything out and powers off; one that does not is killed at the deadline.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::agent::message::Ending;
use wire::api::ErrorCode;
use wire::id::{BootId, VmId};
use wire::naming::VmName;

use super::failure::{caused, refused};
use super::pause::ensure_resumed;
use super::unexported::note_last_look;
use super::world::Host;
use crate::guest::Guest;
use crate::model::machine::NicAttachment;
use crate::model::vm::{Refused, VmEvent, VmState};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::BootRef;
use crate::vmm::Launch;

/// The list.
#[must_use]
pub fn stop() -> Saga<StopPlan, Host> {
    ask(Saga::named("vm.stop")) //
        .commit(MarkStopped)
}

/// The steps of a stop behind those of `saga`, up to the one that marks the VM stopped.
pub(super) fn ask<P: Stopping + Send + Sync + 'static>(saga: Saga<P, Host>) -> Saga<P, Host> {
    saga.then(MarkStopping) // undo: running again, if its VMM still runs
        .then(AskGuest) // undo: nothing, a guest that was asked cannot be unasked
        .then(AwaitExit) // undo: nothing, what has ended has ended
        .then(DetachOld) // undo: nothing, it belonged to what has ended
}

/// How long a guest that takes everything else may take to write its disk out, beside the time to power off.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an agent that is not connected may take to be so: the daemon may just have been started again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One stop, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// The run to end.
    pub boot: BootId,
    /// What runs.
    pub launch: Launch,
    /// How its NIC is attached.
    pub attachment: NicAttachment,
    /// How long the guest may take before it is killed.
    pub grace_ms: u64,
    /// Its processors stand still: it can only be asked when they run again, and they do if the stop is taken back.
    #[serde(default)]
    pub is_paused: bool,
    /// Why the daemon does it; none when somebody asked.
    #[serde(default)]
    pub reason: Option<String>,
}

impl StopPlan {
    pub(super) fn boot_ref(&self) -> BootRef {
        BootRef {
            vm: self.vm.clone(),
            boot: self.boot.clone(),
            launch: self.launch.clone(),
            attachment: self.attachment.clone(),
        }
    }
}

/// A plan that holds a stop.
pub(super) trait Stopping {
    /// The stop.
    fn stopping(&self) -> &StopPlan;

    /// How the boot's end is recorded.
    fn how(&self) -> &str {
        "stop"
    }
}

impl Stopping for StopPlan {
    fn stopping(&self) -> &StopPlan {
        self
    }

    fn how(&self) -> &str {
        self.reason.as_deref().unwrap_or("stop")
    }
}

/// Decides a stop of `vm`.
///
/// # Errors
/// When it does not run.
pub async fn plan(host: &Host, vm: &VmRecord, grace: Option<Duration>) -> Result<StopPlan, Cause> {
    let Some(boot) = vm.state.boot() else {
        let probe = VmEvent::StopBegun { boot: BootId::from_random([0; 8]) };
        let why = vm.state.after(&probe).err().unwrap_or(Refused::NotRunning);
        return Err(StoreError::Refused { name: vm.name.to_string(), refused: why }.into());
    };
    let record = host.store.boot(boot).await?;
    let boot = BootRef::of(&record).map_err(|error| caused(ErrorCode::Internal, &error))?;
    let grace = grace.unwrap_or(host.settings.stop_timeout);
    Ok(StopPlan {
        vm: vm.id.clone(),
        name: vm.name.clone(),
        boot: boot.boot,
        launch: boot.launch,
        attachment: boot.attachment,
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        is_paused: matches!(vm.state, VmState::Paused { .. }),
        reason: None,
    })
}

/// Marks the VM stopping.
pub(super) struct MarkStopping;

#[async_trait]
impl<P: Stopping + Sync> Step<P, Host> for MarkStopping {
    fn name(&self) -> &'static str {
        "mark_stopping"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.stopping();
        match cx.world.store.happen(&plan.vm, VmEvent::StopBegun { boot: plan.boot.clone() }).await {
            // It went off by itself in between: what was asked for is so.
            Ok(_) | Err(StoreError::Refused { refused: Refused::NotRunning, .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan.stopping(), cx.world);
        if !host.supervisors.is_live(&plan.vm, &plan.boot) {
            return close_ended(host, &plan.boot_ref(), cx.plan.how()).await;
        }
        match host.store.happen(&plan.vm, VmEvent::StopUnwound { boot: plan.boot.clone() }).await {
            Ok(_) | Err(StoreError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if plan.is_paused {
            ensure_resumed(host, &plan.vm, &plan.boot, &plan.launch).await?;
        }
        // The owner left the VM alone while it was stopping; an end in between is noticed here.
        if host.supervisors.is_live(&plan.vm, &plan.boot) {
            return Ok(());
        }
        close_ended(host, &plan.boot_ref(), cx.plan.how()).await
    }
}

/// Has the guest write everything out, then power off. A guest that cannot be asked is killed by the next step.
struct AskGuest;

#[async_trait]
impl<P: Stopping + Sync> Step<P, Host> for AskGuest {
    fn name(&self) -> &'static str {
        "ask_guest"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "a guest that was asked to power off cannot be unasked" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan.stopping(), cx.world);
        host.supervisors.expect_end(&plan.vm, &plan.boot, cx.plan.how());
        if plan.is_paused {
            ensure_resumed(host, &plan.vm, &plan.boot, &plan.launch).await?;
        }
        let Some(guest) = answering(cx).await? else {
            return Ok(());
        };
        let grace = Duration::from_millis(plan.grace_ms);
        if let Err(cause) = note_last_look(host, &plan.vm, &plan.boot, &guest).await {
            cx.warning(&format!("how its workspace is left is not recorded: {}", cause.message));
        }
        let asked = async {
            guest.sync().await?;
            guest.shutdown(Ending::PowerOff).await
        };
        tokio::select! {
            asked = asked => if let Err(error) = asked {
                let why = caused(ErrorCode::GuestUnreachable, &error).message;
                cx.warning(&format!("the guest could not be asked to power off: {why}"));
            },
            () = host.supervisors.ended(&plan.vm, &plan.boot) => {}
            () = cx.cancelled() => return Err(Cause::cancelled()),
            () = tokio::time::sleep(grace.saturating_add(SYNC_TIMEOUT)) => {
                cx.warning("the guest did not write its disk out in time");
            }
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// The guest, if it answers within a moment; else its VMM is killed, or has ended.
async fn answering<P: Stopping + Sync>(cx: &Cx<'_, P, Host>) -> Result<Option<Guest>, Cause> {
    let (plan, supervisors) = (cx.plan.stopping(), &cx.world.supervisors);
    let Some(mut view) = supervisors.view(&plan.vm, &plan.boot) else {
        return Ok(None);
    };
    let wait = Duration::from_millis(plan.grace_ms).min(ANSWER_TIMEOUT);
    let known = view.wait_for(|view| view.guest.is_some() || view.ended.is_some());
    let answer = tokio::time::timeout(wait, known).await.map(|view| view.ok().and_then(|view| view.guest.clone()));
    if answer.is_err() {
        cx.warning("the guest's agent does not answer: the VM is killed, what its guest has not written is lost");
        supervisors.ensure_gone(&plan.boot_ref()).await?;
    }
    Ok(answer.ok().flatten())
}

/// Waits for the VMM's end, and brings it about at the deadline.
struct AwaitExit;

#[async_trait]
impl<P: Stopping + Sync> Step<P, Host> for AwaitExit {
    fn name(&self) -> &'static str {
        "await_exit"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "what has ended has ended" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan.stopping(), cx.world);
        let grace = Duration::from_millis(plan.grace_ms);
        tokio::select! {
            () = host.supervisors.ended(&plan.vm, &plan.boot) => {}
            () = cx.cancelled() => return Err(Cause::cancelled()),
            // With no time at all the guest was not meant to.
            () = tokio::time::sleep(grace) => if !grace.is_zero() {
                cx.warning(&format!("the guest did not power off within {grace:?}: it is killed"));
            },
        }
        Ok(host.supervisors.ensure_gone(&plan.boot_ref()).await?)
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Detaches the NIC and removes the boot's directory.
pub(super) struct DetachOld;

#[async_trait]
impl<P: Stopping + Sync> Step<P, Host> for DetachOld {
    fn name(&self) -> &'static str {
        "detach_old"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "it belonged to what has ended" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        close_boot(cx.world, &cx.plan.stopping().boot_ref()).await
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Removes what a boot that has ended leaves outside the VM's own directory. Idempotent.
pub(super) async fn close_boot(host: &Host, boot: &BootRef) -> Result<(), Cause> {
    host.network.ensure_detached(&boot.attachment, boot.boot_dir()).await?;
    Ok(sys::fs::remove_tree(boot.boot_dir())?)
}

/// Cleans up after a boot that has ended and marks its VM stopped, if it still is on that boot. Idempotent.
pub(super) async fn close_ended(host: &Host, boot: &BootRef, how: &str) -> Result<(), Cause> {
    close_boot(host, boot).await?;
    host.store.end_boot(&boot.boot, how, (host.now_ms)()).await?;
    match host.store.happen(&boot.vm, VmEvent::BootEnded { boot: boot.boot.clone() }).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Marks the VM stopped.
pub(super) struct MarkStopped;

#[async_trait]
impl<P: Stopping + Sync> Step<P, Host> for MarkStopped {
    fn name(&self) -> &'static str {
        "mark_stopped"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the VM is off" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, store) = (cx.plan.stopping(), &cx.world.store);
        store.end_boot(&plan.boot, cx.plan.how(), (cx.world.now_ms)()).await?;
        let state = store.happen(&plan.vm, VmEvent::BootEnded { boot: plan.boot.clone() }).await?;
        if state.boot().is_some() {
            return Err(refused(ErrorCode::Internal, "the VM is on another boot"));
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
