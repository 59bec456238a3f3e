//! Changes what a VM has: anything while it is off; while it runs too the size of its disk, and what the daemon does to it
//! unasked. A disk only grows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode, SetVm};
use wire::id::{BootId, VmId};
use wire::naming::VmName;
use wire::size::human;

use super::engine::Engine;
use super::failure::{caused, refused};
use super::plan::Plan;
use super::policies;
use super::start;
use super::world::Host;
use crate::model::limits;
use crate::model::vm::{Refused, VmState};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::{VmRecord, VmSpec};
use crate::supervise::BootRef;
use crate::vmm::Launch;

/// The list.
#[must_use]
pub fn set() -> Saga<SetPlan, Host> {
    Saga::named("vm.set")
        .then(RecordSpec) // undo: as it was, but for a disk that has grown
        .then(GrowDisk) // undo: nothing, a disk is not made smaller
        .commit(GrowFilesystem)
}

/// How long a guest may take to grow its filesystem; one that takes longer does so at its next start.
const GROW_TIMEOUT: Duration = Duration::from_secs(120);

/// One change, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPlan {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// What it has.
    pub before: VmSpec,
    /// What it is to have.
    pub after: VmSpec,
    /// What runs; none when it is off.
    pub running: Option<Running>,
}

/// The run of a VM whose disk grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id.
    pub boot: BootId,
    /// What runs.
    pub launch: Launch,
}

impl SetPlan {
    /// The boot, if it is still there.
    fn live(&self, host: &Host) -> Option<&Running> {
        self.running.as_ref().filter(|running| host.supervisors.is_live(&self.vm, &running.boot))
    }

    fn grows(&self) -> bool {
        self.after.disk_bytes > self.before.disk_bytes
    }
}

/// Decides a change of `vm`. All refusals are here, before anything changed.
///
/// # Errors
/// A size out of bounds, a smaller disk, a change that a VM that runs cannot take, or what a driver refuses.
pub async fn plan(host: &Host, vm: &VmRecord, request: SetVm) -> Result<SetPlan, Cause> {
    let before = vm.spec.clone();
    let after = VmSpec {
        vcpus: request.vcpus.unwrap_or(before.vcpus),
        memory_mib: request.memory_mib.unwrap_or(before.memory_mib),
        disk_bytes: request.disk_bytes.unwrap_or(before.disk_bytes),
        nat: request.nat.unwrap_or(before.nat),
        publish: request.publish.unwrap_or_else(|| before.publish.clone()),
        stop_after_ms: policies::stop_after(request.stop_after_ms, before.stop_after_ms)?,
        restart: request.restart.unwrap_or(before.restart),
        ..before.clone()
    };
    let bad = |error: limits::LimitError| refused(ErrorCode::BadRequest, error.to_string());
    limits::check(after.vcpus, after.memory_mib, after.disk_bytes).map_err(bad)?;
    limits::check_publish(&after.publish).map_err(bad)?;
    policies::check_restart(host, request.restart.unwrap_or_default()).await?;
    if after.disk_bytes < before.disk_bytes {
        let (has, asked) = (human(before.disk_bytes), human(after.disk_bytes));
        let message = format!("a disk only grows: {} has {has}, {asked} is less", vm.name);
        return Err(refused(ErrorCode::BadRequest, message));
    }
    let running = match &vm.state {
        VmState::Running { boot } => Some(check_running(host, vm, boot, &after).await?),
        VmState::Created | VmState::Stopped => {
            let changed = VmRecord { spec: after.clone(), ..vm.clone() };
            // What could not start is refused now, as at its creation.
            start::plan(host, &changed).await?;
            None
        }
        state => {
            let refused = match state {
                VmState::Paused { .. } => Refused::Paused,
                VmState::Suspended => Refused::Suspended,
                VmState::Stopping { .. } => Refused::AlreadyStopping,
                VmState::Deleting => Refused::BeingDeleted,
                VmState::Creating => Refused::BeingCreated,
                VmState::Starting { .. } | VmState::Running { .. } | VmState::Created | VmState::Stopped => {
                    Refused::AlreadyRunning
                }
            };
            return Err(StoreError::Refused { name: vm.name.to_string(), refused }.into());
        }
    };
    Ok(SetPlan { vm: vm.id.clone(), name: vm.name.clone(), before, after, running })
}

async fn check_running(host: &Host, vm: &VmRecord, boot: &BootId, after: &VmSpec) -> Result<Running, Cause> {
    let (disk_bytes, stop_after_ms, restart) = (after.disk_bytes, after.stop_after_ms, after.restart);
    if *after != (VmSpec { disk_bytes, stop_after_ms, restart, ..vm.spec.clone() }) {
        let name = &vm.name;
        let message = format!("{name} is running, and only its disk and its policies can change meanwhile");
        return Err(refused(ErrorCode::WrongState, message).with_hint(format!("banger stop {name}, then again")));
    }
    let record = host.store.boot(boot).await?;
    let boot = BootRef::of(&record).map_err(|error| caused(ErrorCode::Internal, &error))?;
    Ok(Running { boot: boot.boot, launch: boot.launch })
}

impl Engine {
    /// Changes the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn set(self: &Arc<Self>, key: &str, request: SetVm) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm, request).await?;
        self.begin(Plan::Set(Box::new(plan))).await
    }
}

/// Records what the VM is to have.
struct RecordSpec;

#[async_trait]
impl Step<SetPlan, Host> for RecordSpec {
    fn name(&self) -> &'static str {
        "record_spec"
    }

    async fn run(&self, cx: &Cx<'_, SetPlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.set_spec(&cx.plan.vm, &cx.plan.after).await?)
    }

    async fn undo(&self, cx: &Cx<'_, SetPlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        let grown = host.storage.length_bytes(&plan.vm).min(plan.after.disk_bytes);
        let disk_bytes = plan.before.disk_bytes.max(grown);
        Ok(host.store.set_spec(&plan.vm, &VmSpec { disk_bytes, ..plan.before.clone() }).await?)
    }
}

/// Makes the disk larger: through its VMM while one uses it.
struct GrowDisk;

#[async_trait]
impl Step<SetPlan, Host> for GrowDisk {
    fn name(&self) -> &'static str {
        "grow_disk"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "a disk is not made smaller" }
    }

    async fn run(&self, cx: &Cx<'_, SetPlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        if !plan.grows() {
            return Ok(());
        }
        let bytes = plan.after.disk_bytes;
        if let (Some(running), Some(controls)) = (plan.live(host), host.vmm.controls()) {
            let grown = controls.grow_disk(&running.launch, bytes).await;
            // A VMM that has ended meanwhile uses no disk.
            if plan.live(host).is_some() {
                return Ok(grown?);
            }
        }
        Ok(host.storage.ensure_size(&plan.vm, bytes).await?)
    }

    async fn undo(&self, _: &Cx<'_, SetPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Has the guest that runs grow its filesystem. One that cannot does so when it starts the next time.
struct GrowFilesystem;

#[async_trait]
impl Step<SetPlan, Host> for GrowFilesystem {
    fn name(&self) -> &'static str {
        "grow_filesystem"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "a filesystem is not made smaller" }
    }

    async fn run(&self, cx: &Cx<'_, SetPlan, Host>) -> Result<(), Cause> {
        let (plan, host) = (cx.plan, cx.world);
        if !plan.grows() || plan.live(host).is_none() {
            return Ok(());
        }
        let why = match (host.vmm.controls(), host.supervisors.guest(&plan.vm)) {
            (None, _) => format!("the {} driver cannot grow the disk of a machine that runs", host.vmm.name()),
            (_, None) => "the agent does not answer".to_owned(),
            (Some(_), Some(guest)) => {
                match tokio::time::timeout(GROW_TIMEOUT, guest.grow_disk(plan.after.disk_bytes)).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error)) => caused(ErrorCode::GuestUnreachable, &error).message,
                    Err(_) => format!("the guest did not do it within {GROW_TIMEOUT:?}"),
                }
            }
        };
        cx.warning(&format!("the guest sees the larger disk after its next start: {why}"));
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, SetPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
