//! Work in a guest that was never exported is not deleted unasked.
//!
//! A guest that runs is asked. One that is off was asked when it was stopped; how it was left when it ended otherwise,
//! nobody knows, and then it counts as work.

use std::time::Duration;

use wire::api::{ErrorCode, GuestSide, LastLook};
use wire::id::BootId;
use wire::naming;

use super::courier::Delivered;
use super::engine::Engine;
use super::failure::refused;
use super::world::Host;
use crate::guest::Guest;
use crate::model::vm::VmState;
use crate::saga::Cause;
use crate::store::records::VmRecord;

/// How long a guest may take to tell, for a person who waits.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take when it is being stopped.
const LAST_LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a patch, beside what the disk and the image hold: names and lines around what changed.
const OVERHEAD: u64 = 3;

/// The workspace in a guest of `vm`, for a courier; none when it has none that was ever whole.
#[must_use]
pub fn delivered(host: &Host, vm: &VmRecord, guest: Guest) -> Option<Delivered> {
    let workspace = vm.workspace.clone().filter(|workspace| workspace.prepared_at_ms.is_some())?;
    let dir = naming::vm_dir(&host.dirs.state, &vm.id);
    Some(Delivered {
        guest,
        workspace,
        name: vm.name.clone(),
        dir,
        bytes_max: vm.spec.disk_bytes.saturating_mul(OVERHEAD),
    })
}

impl Engine {
    /// Refuses when the VM that `key` stands for holds work that was never exported.
    ///
    /// # Errors
    /// When it does, or nobody can tell.
    pub async fn check_exported(&self, key: &str) -> Result<(), Cause> {
        let host = self.host();
        let vm = host.store.find_vm(key).await?;
        let Some(workspace) = vm.workspace.as_ref().filter(|workspace| workspace.prepared_at_ms.is_some()) else {
            return Ok(());
        };
        match &vm.state {
            VmState::Running { .. } => check_running(host, &vm).await,
            VmState::Paused { .. } => Err(unknown(&vm, "it is paused")),
            VmState::Suspended => Err(unknown(&vm, "it is suspended")),
            VmState::Created | VmState::Stopped => {
                let last = host.store.last_boot(&vm.id).await?.map(|boot| boot.id);
                match &workspace.last_look {
                    Some(look) if Some(&look.boot) == last.as_ref() => check(&vm, look.commits, look.files),
                    Some(_) | None => Err(unknown(&vm, "it was not stopped in order")),
                }
            }
            // Busy, or never the user's; whoever begins the deletion says so.
            VmState::Creating | VmState::Starting { .. } | VmState::Stopping { .. } | VmState::Deleting => Ok(()),
        }
    }
}

async fn check_running(host: &Host, vm: &VmRecord) -> Result<(), Cause> {
    let guest = host.supervisors.guest(&vm.id).ok_or_else(|| unknown(vm, "its agent does not answer"))?;
    let Some(delivered) = delivered(host, vm, guest) else { return Ok(()) };
    match tokio::time::timeout(LOOK_TIMEOUT, host.courier.look(&delivered)).await {
        Ok(Ok(looked)) => {
            let (commits, files) = unexported(&looked.side, looked.is_unchanged);
            check(vm, commits, files)
        }
        Ok(Err(cause)) if cause.is(ErrorCode::NotFound) => Ok(()),
        Ok(Err(cause)) => Err(unknown(vm, &cause.message)),
        Err(_) => Err(unknown(vm, &format!("the guest did not tell within {} s", LOOK_TIMEOUT.as_secs()))),
    }
}

/// Commits and files that would be lost.
fn unexported(side: &GuestSide, is_unchanged: bool) -> (u64, u64) {
    if is_unchanged || side.exported { (0, 0) } else { (side.commits, side.changes.max(1)) }
}

fn check(vm: &VmRecord, commits: u64, files: u64) -> Result<(), Cause> {
    if (commits, files) == (0, 0) {
        return Ok(());
    }
    let name = &vm.name;
    let of = |count: u64, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let mut what = format!("changes in {}", of(files, "file"));
    if commits > 0 {
        what = format!("{} and {what}", of(commits, "commit"));
    }
    let message = format!("{name} holds work that was never exported: {what}");
    Err(refused(ErrorCode::WrongState, message).with_hint(hint(vm)))
}

fn unknown(vm: &VmRecord, why: &str) -> Cause {
    let message = format!("{} may hold work that was never exported: {why}", vm.name);
    refused(ErrorCode::WrongState, message).with_hint(hint(vm))
}

fn hint(vm: &VmRecord) -> String {
    let name = &vm.name;
    let first = if matches!(vm.state, VmState::Created | VmState::Stopped) {
        format!("banger start {name}, then ")
    } else {
        String::new()
    };
    let base = vm.workspace.as_ref().and_then(|workspace| workspace.base_commit.as_deref());
    let base = base.map(|commit| format!(" --base-commit {}", &commit[..commit.len().min(12)])).unwrap_or_default();
    format!(
        "{first}banger workspace export {name}{base} -o {name}.patch; or delete it with what it holds: banger rm --discard {name}"
    )
}

/// Takes down how the workspace of a VM is left, before its guest is asked to end. Nothing here keeps it from ending.
pub(super) async fn note_last_look(
    host: &Host,
    vm: &wire::id::VmId,
    boot: &BootId,
    guest: &Guest,
) -> Result<(), Cause> {
    let record = host.store.vm(vm).await?;
    let Some(delivered) = delivered(host, &record, guest.clone()) else { return Ok(()) };
    let look = match tokio::time::timeout(LAST_LOOK_TIMEOUT, host.courier.look(&delivered)).await {
        Ok(Ok(looked)) => {
            let (commits, files) = unexported(&looked.side, looked.is_unchanged);
            LastLook { boot: boot.clone(), commits, files }
        }
        Ok(Err(cause)) if cause.is(ErrorCode::NotFound) => LastLook { boot: boot.clone(), commits: 0, files: 0 },
        Ok(Err(_)) | Err(_) => return Ok(()),
    };
    Ok(host.store.note_last_look(vm, look).await?)
}
