//! Takes a snapshot of a running VM: memory, devices and disk of one moment. The VM goes on.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode};
use wire::id::OpId;
use wire::naming::VmName;

use super::engine::Engine;
use super::failure::refused;
use super::plan::Plan;
use super::saving::{self, Freeze, MakeReady, RunOn, SaveMachine, SavePlan, Saving, StandStill};
use super::world::{Host, staging_name};
use crate::saga::{Cause, Cx, Saga, Step};
use crate::snapshot::{self, Snapshot, snapshots_dir};
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn snapshot_create() -> Saga<SnapshotPlan, Host> {
    Saga::named("vm.snapshot")
        .then(MakeReady) // undo: nothing, it goes with the VMM
        .then(Freeze) // undo: nothing, what is written is written
        .then(StandStill) // undo: let the processors run
        .then(SaveMachine) // undo: remove what was saved
        .then(RunOn) // undo: nothing, the machine ran before
        .commit(Publish) // undo: remove it
}

/// One snapshot, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPlan {
    /// The VM's name.
    pub name: VmName,
    /// Its machine.
    pub save: SavePlan,
}

impl Saving for SnapshotPlan {
    fn saving(&self) -> &SavePlan {
        &self.save
    }
}

/// Decides a snapshot of `vm`, called `name`, or by the time.
///
/// # Errors
/// When the VM does not run, has one of that name, or its driver has no such power.
pub async fn plan(host: &Host, vm: &VmRecord, name: Option<String>, operation: &OpId) -> Result<SnapshotPlan, Cause> {
    let name = name.unwrap_or_else(|| format!("at-{}", (host.now_ms)() / 1000));
    saving::check_name(&name)?;
    if snapshot::find(&host.dirs.state, &vm.id, &name).is_some() {
        let message = format!("{} has a snapshot {name} already", vm.name);
        let hint = format!("banger snapshot delete {} {name}", vm.name);
        return Err(refused(ErrorCode::AlreadyExists, message).with_hint(hint));
    }
    let staging = snapshots_dir(&host.dirs.state, &vm.id).join(staging_name(operation));
    Ok(SnapshotPlan { name: vm.name.clone(), save: saving::plan(host, vm, name, staging).await? })
}

impl Engine {
    /// Takes a snapshot of the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn snapshot(self: &Arc<Self>, key: &str, name: Option<String>) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = plan(self.host(), &vm, name, &operation).await?;
        self.begin_as(operation, Plan::Snapshot(Box::new(plan))).await
    }
}

/// Makes what was saved durable, and a snapshot.
struct Publish;

#[async_trait]
impl Step<SnapshotPlan, Host> for Publish {
    fn name(&self) -> &'static str {
        "publish"
    }

    async fn run(&self, cx: &Cx<'_, SnapshotPlan, Host>) -> Result<(), Cause> {
        let save = &cx.plan.save;
        let place = save.dir.with_file_name(&save.manifest.name);
        if !save.dir.exists() && place.exists() {
            // An earlier daemon got this far.
            return Ok(());
        }
        saving::complete(save).await?;
        Ok(sys::fs::rename(&save.dir, &place)?)
    }

    async fn undo(&self, cx: &Cx<'_, SnapshotPlan, Host>) -> Result<(), Cause> {
        let save = &cx.plan.save;
        // There was none of that name, and nobody else makes one meanwhile.
        match Snapshot::at(&save.dir.with_file_name(&save.manifest.name)) {
            Some(placed) => Ok(snapshot::remove(&placed)?),
            None => Ok(()),
        }
    }
}
