//! Brings a VM back to a snapshot of it: what it is now is given up. Its steps are those of a start, or of a restart where it runs.

use std::sync::Arc;
use std::time::Duration;

use wire::api::{Begun, ErrorCode};

use super::engine::Engine;
use super::failure::refused;
use super::origin::{self, OriginKind};
use super::plan::Plan;
use super::restart::RestartPlan;
use super::start::{self, StartPlan};
use super::stop;
use super::world::{Host, blocking};
use crate::model::vm::VmState;
use crate::saga::Cause;
use crate::snapshot::{self, Snapshot};
use crate::store::records::VmRecord;

/// The VM's snapshot called `name`.
///
/// # Errors
/// When there is none.
pub fn find(host: &Host, vm: &VmRecord, name: &str) -> Result<Snapshot, Cause> {
    let none = || {
        let hint = format!("banger snapshot list {}", vm.name);
        refused(ErrorCode::NotFound, format!("{} has no snapshot {name}", vm.name)).with_hint(hint)
    };
    snapshot::find(&host.dirs.state, &vm.id, name).ok_or_else(none)
}

/// Decides a start of `vm` from its snapshot `name`; a restart where it runs. One that would lose what it is now only if
/// `force`d.
///
/// # Errors
/// When there is no such snapshot, this host cannot let it go on, or the VM is not to be ended.
pub async fn plan(host: &Host, vm: &VmRecord, name: &str, force: bool) -> Result<Plan, Cause> {
    let saved = find(host, vm, name)?;
    let (image, kernel) = start::parts_of(host, vm).await?;
    let cold = start::plan_cold(host, vm, &image, &kernel).await?;
    let origin = origin::of_saved(host, &cold, &saved, OriginKind::Snapshot)?;
    let start = StartPlan { origin: Some(origin), ..cold };
    if vm.state.boot().is_none() {
        if vm.state == VmState::Suspended && !force {
            return Err(in_the_way(vm, "suspended", name));
        }
        return Ok(Plan::Start(Box::new(start)));
    }
    if !force {
        return Err(in_the_way(vm, "running", name));
    }
    // Whatever the guest would write out is given up.
    let stop = stop::plan(host, vm, Some(Duration::ZERO)).await?;
    Ok(Plan::Restart(Box::new(RestartPlan { stop, start })))
}

impl Engine {
    /// Brings the VM that `key` stands for back to its snapshot `name`. One that runs is ended at once if `force`d.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn restore(self: &Arc<Self>, key: &str, name: &str, force: bool) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let plan = plan(self.host(), &vm, name, force).await?;
        self.begin(plan).await
    }

    /// Deletes a snapshot of the VM that `key` stands for; gives the VM, what it took on the disk, and what it was.
    ///
    /// # Errors
    /// When there is none, an operation holds the VM, or it cannot be removed.
    pub async fn delete_snapshot(
        self: &Arc<Self>,
        key: &str,
        name: &str,
    ) -> Result<(VmRecord, (u64, Snapshot)), Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let saved = find(self.host(), &vm, name)?;
        let removed = blocking(move || {
            let bytes = saved.bytes();
            snapshot::remove(&saved)?;
            Ok((bytes, saved))
        });
        Ok((vm, removed.await?))
    }
}

fn in_the_way(vm: &VmRecord, is: &str, name: &str) -> Cause {
    let message = format!("{} is {is}, and what it is now would be given up", vm.name);
    let hint = format!("banger snapshot restore --force {} {name}", vm.name);
    refused(ErrorCode::WrongState, message).with_hint(hint)
}
