//! Forks a running VM: so many new VMs go on from where it is now. All of them or none.
//!
//! The source stands still only while its memory and its disk are copied. What is copied is mapped by every new VM copy-on-write, so
//! that it is removed as soon as they all have it: their VMMs hold what nobody can open any more.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode};
use wire::id::{OpId, VmId};
use wire::naming::VmName;

use super::create::{self, CreatePlan};
use super::engine::Engine;
use super::failure::refused;
use super::origin::of_fork;
use super::plan::Plan;
use super::saving::{self, Freeze, MakeReady, RunOn, SaveMachine, SavePlan, Saving, StandStill};
use super::start::{self, StartPlan};
use super::world::{Host, staging_name};
use crate::model::nickname;
use crate::model::vm::VmState;
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::snapshot::forks_dir;
use crate::store::StoreError;
use crate::store::records::{VmRecord, VmSpec};

/// Most VMs that one fork makes.
pub const FORKS_MAX: usize = 64;

/// The list.
#[must_use]
pub fn fork() -> Saga<ForkPlan, Host> {
    Saga::named("vm.fork")
        .then(MakeReady) // undo: nothing, it goes with the VMM
        .then(Freeze) // undo: nothing, what is written is written
        .then(StandStill) // undo: let the processors run
        .then(SaveMachine) // undo: remove what was saved
        .then(RunOn) // undo: nothing, the machine ran before
        .then(MakeVms) // undo: remove them
        .commit(RemoveSaved) // the commit point
}

/// One fork, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkPlan {
    /// The source's name.
    pub name: VmName,
    /// The source's machine.
    pub save: SavePlan,
    /// The new VMs, each with its start.
    pub vms: Vec<CreatePlan>,
}

impl Saving for ForkPlan {
    fn saving(&self) -> &SavePlan {
        &self.save
    }
}

/// What is asked of a fork.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What the new VM is called; with several, what their names begin with. None: the source's name is.
    pub name: Option<VmName>,
    /// How many.
    pub count: usize,
}

/// Decides a fork of `vm`.
///
/// # Errors
/// When the VM does not run, a name is taken or none, or a driver refuses.
pub async fn plan(host: &Host, vm: &VmRecord, asked: &Asked, operation: &OpId) -> Result<ForkPlan, Cause> {
    if asked.count == 0 || asked.count > FORKS_MAX {
        let message = format!("a fork makes 1 to {FORKS_MAX} VMs, not {}", asked.count);
        return Err(refused(ErrorCode::BadRequest, message));
    }
    let dir = forks_dir(&host.dirs.state).join(staging_name(operation));
    let save = saving::plan(host, vm, vm.name.to_string(), dir).await?;
    let (image, kernel) = start::parts_of(host, vm).await?;
    let mut vms = Vec::new();
    for name in names(host, vm, asked).await? {
        let record = VmRecord {
            id: VmId::from_random(sys::rand::bytes()),
            name,
            state: VmState::Creating,
            // A host port leads to one VM only.
            spec: VmSpec { publish: Vec::new(), ..vm.spec.clone() },
            identity: create::mint_identity()?,
            reset_pending: false,
            last_error: None,
            restarting: None,
            created_at_ms: (host.now_ms)(),
            ..vm.clone()
        };
        let mut cold = start::plan_cold(host, &record, &image, &kernel).await?;
        cold.console_after_failure = host.kept_console(&cold.boot);
        let origin = of_fork(host, &cold, &save)?;
        vms.push(CreatePlan { vm: record, start: Some(StartPlan { origin: Some(origin), ..cold }) });
    }
    Ok(ForkPlan { name: vm.name.clone(), save, vms })
}

/// The names of the new VMs: as asked where there is one, else with a number each.
async fn names(host: &Host, vm: &VmRecord, asked: &Asked) -> Result<Vec<VmName>, Cause> {
    let taken: Vec<VmName> = host.store.vms().await?.into_iter().map(|vm| vm.name).collect();
    if let (Some(name), 1) = (&asked.name, asked.count) {
        if taken.contains(name) {
            return Err(StoreError::NameTaken { what: "VM", name: name.to_string() }.into());
        }
        return Ok(vec![name.clone()]);
    }
    let base = asked.name.as_ref().unwrap_or(&vm.name);
    let numbered = (1..).map(|number| nickname::numbered(base, number)).filter(|name| !taken.contains(name));
    Ok(numbered.take(asked.count).collect())
}

impl Engine {
    /// Forks the VM that `key` stands for; gives the names of the new ones too.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn fork(self: &Arc<Self>, key: &str, asked: &Asked) -> Result<(Begun, Vec<VmName>), Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = plan(self.host(), &vm, asked, &operation).await?;
        let names = plan.vms.iter().map(|new| new.vm.name.clone()).collect();
        Ok((self.begin_as(operation, Plan::Fork(Box::new(plan))).await?, names))
    }
}

/// Makes the VMs and lets their guests go on, side by side: each by the steps of a creation with a start.
struct MakeVms;

#[async_trait]
impl Step<ForkPlan, Host> for MakeVms {
    fn name(&self) -> &'static str {
        "make_vms"
    }

    async fn run(&self, cx: &Cx<'_, ForkPlan, Host>) -> Result<(), Cause> {
        let made = join_all(cx.plan.vms.iter().map(|vm| make(cx, vm))).await;
        made.into_iter().collect()
    }

    async fn undo(&self, cx: &Cx<'_, ForkPlan, Host>) -> Result<(), Cause> {
        let unmade = join_all(cx.plan.vms.iter().map(|vm| unmake(cx, vm))).await;
        unmade.into_iter().collect()
    }
}

/// Takes every step of one VM. After a crash they are all taken again, which changes nothing where they had been.
async fn make(cx: &Cx<'_, ForkPlan, Host>, plan: &CreatePlan) -> Result<(), Cause> {
    let present = cx.world.store.vm(&plan.vm.id).await.ok().map(|vm| vm.state);
    if matches!(present, Some(VmState::Running { .. } | VmState::Paused { .. })) {
        return Ok(());
    }
    let made = create::create_started().run_all(&cx.of(plan)).await;
    made.map_err(|cause| match cause.is_cancellation() {
        true => cause,
        false => Cause { message: format!("{}: {}", plan.vm.name, cause.message), ..cause },
    })
}

/// Takes back every step of one VM, the last first; all of them, whatever fails.
async fn unmake(cx: &Cx<'_, ForkPlan, Host>, plan: &CreatePlan) -> Result<(), Cause> {
    create::create_started().undo_all(&cx.of(plan)).await
}

/// Removes what was saved: every new VM has mapped it.
struct RemoveSaved;

#[async_trait]
impl Step<ForkPlan, Host> for RemoveSaved {
    fn name(&self) -> &'static str {
        "remove_saved"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "it is of no use but for this" }
    }

    async fn run(&self, cx: &Cx<'_, ForkPlan, Host>) -> Result<(), Cause> {
        Ok(sys::fs::remove_tree(&cx.plan.save.dir)?)
    }

    async fn undo(&self, _: &Cx<'_, ForkPlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
