//! The steps that save a running machine: shared by suspend, snapshot and fork.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::ErrorCode;
use wire::id::{BootId, VmId};

use super::failure::{caused, refused};
use super::go_on::snapshots;
use super::pause::{controls, ensure_resumed, why_not};
use super::start;
use super::world::{Host, blocking};
use crate::guest::Guest;
use crate::model::machine::SavedMachine;
use crate::model::vm::VmState;
use crate::saga::{Cause, Cx, Step, Undo};
use crate::snapshot::{self, DISK, Manifest};
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::BootRef;
use crate::vmm::Launch;

/// How long the guest may take to write everything out before it is saved as it is: what it has not written is in its memory,
/// which is saved too.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the guest may take to fall silent.
const HOLD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long its agent may take to come back once it runs again.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// One machine to be saved, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavePlan {
    /// The VM.
    pub vm: VmId,
    /// The run that is saved.
    pub boot: BootId,
    /// What runs.
    pub launch: Launch,
    /// Where to.
    pub dir: PathBuf,
    /// Whether its disk is saved too.
    pub with_disk: bool,
    /// It stands still already, and does so afterwards.
    pub is_paused: bool,
    /// What is put on record.
    pub manifest: Manifest,
}

/// A plan that holds a machine to be saved.
pub(super) trait Saving {
    /// What is saved.
    fn saving(&self) -> &SavePlan;
}

/// Decides how the machine of `vm`, which runs or is paused, is saved as `name` in `dir`.
///
/// # Errors
/// When it does not run, or its driver has no such power.
pub(super) async fn plan(host: &Host, vm: &VmRecord, name: String, dir: PathBuf) -> Result<SavePlan, Cause> {
    let (VmState::Running { boot } | VmState::Paused { boot }) = &vm.state else {
        return Err(StoreError::Refused { name: vm.name.to_string(), refused: why_not(&vm.state) }.into());
    };
    controls(host)?;
    let power = snapshots(host)?;
    let record = host.store.boot(boot).await?;
    let running = BootRef::of(&record).map_err(|error| caused(ErrorCode::Internal, &error))?;
    let (image, kernel) = start::parts_of(host, vm).await?;
    let (machine, _) = start::machine_of(host, vm, &image, &kernel).await?;
    let shape = power.shape(&machine, &running.attachment)?;
    let by = &running.launch.driver;
    if shape.driver != *by {
        let why = format!(
            "{} runs on {by}, and {}, which runs new boots, cannot read what that saves",
            vm.name, shape.driver
        );
        let hint = format!("banger restart {} puts it there", vm.name);
        return Err(refused(ErrorCode::Unsupported, why).with_hint(hint));
    }
    let manifest = Manifest {
        name,
        vm: vm.id.clone(),
        boot: boot.clone(),
        init: record.init,
        shape,
        vcpus: vm.spec.vcpus,
        memory_mib: vm.spec.memory_mib,
        created_at_ms: (host.now_ms)(),
    };
    Ok(SavePlan {
        vm: vm.id.clone(),
        boot: boot.clone(),
        launch: running.launch,
        dir,
        with_disk: true,
        is_paused: matches!(vm.state, VmState::Paused { .. }),
        manifest,
    })
}

/// Does what can be done before the machine stands still.
pub(super) struct MakeReady;

#[async_trait]
impl<P: Saving + Sync> Step<P, Host> for MakeReady {
    fn name(&self) -> &'static str {
        "make_ready"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "it is the VMM's, and goes with it or the next save" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(snapshots(cx.world)?.make_ready(&cx.plan.saving().launch).await?)
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Has the guest write everything out. One that cannot be asked is saved all the same.
pub(super) struct Freeze;

#[async_trait]
impl<P: Saving + Sync> Step<P, Host> for Freeze {
    fn name(&self) -> &'static str {
        "freeze"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "what is written is written" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.saving();
        let Some(guest) = cx.world.supervisors.guest(&plan.vm).filter(|_| !plan.is_paused) else {
            return Ok(());
        };
        let frozen = tokio::select! {
            frozen = tokio::time::timeout(FREEZE_TIMEOUT, guest.freeze(false)) => frozen,
            () = cx.cancelled() => return Err(Cause::cancelled()),
        };
        match frozen {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let why = caused(ErrorCode::GuestUnreachable, &error).message;
                cx.warning(&format!("the guest has not written its disk out before: {why}"));
            }
            Err(_) => cx.warning("the guest has not written its disk out before: it does not answer"),
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Stops the processors.
pub(super) struct StandStill;

#[async_trait]
impl<P: Saving + Sync> Step<P, Host> for StandStill {
    fn name(&self) -> &'static str {
        "stand_still"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.saving();
        hold(cx.world, plan).await;
        Ok(controls(cx.world)?.pause(&plan.launch).await?)
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let plan = cx.plan.saving();
        if plan.is_paused {
            return Ok(());
        }
        run_on(cx.world, plan).await
    }
}

/// Readies the guest's channel for breaking, where saving breaks it. A guest that does not answer loses what is under way.
async fn hold(host: &Host, plan: &SavePlan) {
    let is_asked = !plan.is_paused && breaks_channel(host, plan);
    let Some(guest) = host.supervisors.guest(&plan.vm).filter(|_| is_asked) else {
        return;
    };
    let why = match tokio::time::timeout(HOLD_TIMEOUT, guest.hold()).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    tracing::warn!(vm = %plan.vm, why, "what is under way in a guest may end when it is saved");
}

fn breaks_channel(host: &Host, plan: &SavePlan) -> bool {
    host.vmm.snapshots().is_some_and(|snapshots| snapshots.breaks_channel(&plan.launch))
}

/// Lets the processors run, and whatever waits for the guest.
async fn run_on(host: &Host, plan: &SavePlan) -> Result<(), Cause> {
    let resumed = ensure_resumed(host, &plan.vm, &plan.boot, &plan.launch).await;
    if let Some(guest) = host.supervisors.guest(&plan.vm).filter(Guest::is_held) {
        guest.release(BACK_WITHIN);
    }
    resumed
}

/// Writes memory and devices, and beside it the disk: the machine stands still for as long as the slower of the two takes.
pub(super) struct SaveMachine;

#[async_trait]
impl<P: Saving + Sync> Step<P, Host> for SaveMachine {
    fn name(&self) -> &'static str {
        "save_machine"
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan.saving(), cx.world);
        // What an earlier daemon left unfinished.
        sys::fs::remove_tree(&plan.dir)?;
        sys::fs::create_private_dir(&plan.dir)?;
        let saved = SavedMachine::in_dir(&plan.dir);
        let disk = async {
            if plan.with_disk {
                host.storage.copy_out(&plan.vm, &plan.dir.join(DISK)).await?;
            }
            Ok::<(), Cause>(())
        };
        let memory = async { Ok(snapshots(host)?.save(&plan.launch, plan.manifest.memory_mib, &saved).await?) };
        let done = tokio::try_join!(memory, disk).map(|_| ());
        // Nobody could be asked to be silent before; whoever is met next is the agent.
        if plan.is_paused
            && breaks_channel(host, plan)
            && let Some(guest) = host.supervisors.guest(&plan.vm)
        {
            guest.end();
        }
        done
    }

    async fn undo(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(sys::fs::remove_tree(&cx.plan.saving().dir)?)
    }
}

/// Lets the processors run again.
pub(super) struct RunOn;

#[async_trait]
impl<P: Saving + Sync> Step<P, Host> for RunOn {
    fn name(&self) -> &'static str {
        "run_on"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the machine ran before" }
    }

    async fn run(&self, cx: &Cx<'_, P, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan.saving(), cx.world);
        if plan.is_paused {
            return Ok(());
        }
        run_on(host, plan).await?;
        // Its own clock stood still. A guest that is slow to answer is set by the first command in it.
        if let Some(guest) = host.supervisors.guest(&plan.vm)
            && let Ok(Err(error)) = tokio::time::timeout(CLOCK_TIMEOUT, guest.set_clock(sys::clock::unix_ns())).await
        {
            tracing::debug!(vm = %plan.vm, %error, "the clock of a guest that was saved is not set yet");
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, P, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// How long the agent may take to set the clock.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes what was saved whole, on a thread that may block.
pub(super) async fn complete(plan: &SavePlan) -> Result<(), Cause> {
    let (dir, manifest) = (plan.dir.clone(), plan.manifest.clone());
    blocking(move || Ok(snapshot::complete(&dir, &manifest)?)).await
}

/// Refuses a name that no snapshot can have.
pub(super) fn check_name(name: &str) -> Result<(), Cause> {
    if wire::naming::is_artifact_name(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let rule = "letters, digits, '.', '_' and '-', at most 128, and does not begin with '.' or '-'";
    Err(refused(ErrorCode::BadRequest, format!("the name of a snapshot must consist of {rule}, not {shown:?}")))
}
