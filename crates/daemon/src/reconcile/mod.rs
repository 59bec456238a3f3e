//! Loops that take no input. Here is the sweep: it compares what is on the disk with what is on record, and removes what
//! belongs to nothing. [`idle`] stops VMs that nobody uses, [`restart`] starts those that are owed it.
//!
//! | found | belongs to | else |
//! |---|---|---|
//! | `run/boots/<boot>` | a boot whose end is not recorded, or an open operation | its VMM is killed, its NIC detached, it is removed |
//! | `state/vms/<vm>` | a VM | it is removed |
//! | `state/{images,kernels,templates}/.staging-<op>` | an open operation | it is removed |
//! | `state/vms/<vm>/suspended` | a VM that is suspended, or that an operation is at | it is removed |
//! | a VM on record as suspended | its memory, or an operation at it | it is stopped |
//! | `state/vms/<vm>/suspended-spent`, `…/snapshots/.staging-<op>` | an operation at the VM | it is removed |
//! | `state/forks/.staging-<op>` | an open operation | it is removed |
//! | `state/templates/<key>`, whole | an image and a kernel on record | it is removed |
//! | `state/{images,kernels}/<id>` | a row, the open operation that placed it, or one that deletes it and has not ended well | it is removed |
//!
//! It also gives the database's log its room on the disk again, where that was lost.
//!
//! Boots come first, before anything else may begin: a VMM that a database of an hour ago does not know has its VM's disk
//! open, and the VM may be about to start.
//!
//! It takes no input, is safe at any moment and does nothing the second time. What is on the disk is read before what is on
//! record, and every operation writes its row before its files and removes its files before its row, so nothing that
//! is just coming into being is taken for a leftover.

pub mod idle;
pub mod restart;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wire::id::{BootId, OpId, VmId};
use wire::naming;

use crate::model::machine::NicAttachment;
use crate::model::vm::{VmEvent, VmState};
use crate::ops::Plan;
use crate::ops::failure::caused;
use crate::ops::world::{Host, STAGING_PREFIX};
use crate::saga::Cause;
use crate::snapshot::{self, Snapshot};
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::BootRef;
use crate::vmm::{AgentChannel, Launch};

/// How often it looks without a reason: nothing that operations do leaves anything behind, so rarely.
pub const EVERY: Duration = Duration::from_secs(15 * 60);

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Paths of leftovers.
    pub removed: Vec<PathBuf>,
    /// What could not be removed, and why.
    pub failed: Vec<(PathBuf, String)>,
}

/// Looks once.
///
/// # Errors
/// When the database cannot be read; a leftover that cannot be removed is in the report.
pub async fn sweep(host: &Host) -> Result<Swept, StoreError> {
    let mut swept = find_boots(host).await?;
    sweep_vms(host, &mut swept).await?;
    sweep_artifacts(host, &mut swept).await?;
    sweep_templates(host, &mut swept).await?;
    sweep_forks(host, &mut swept).await?;
    Ok(swept.told())
}

/// Looks for boots only: what runs, or has run, for none on record is ended and removed. To be called after
/// `Supervisors::adopt_all` and before operations go on.
///
/// # Errors
/// As [`sweep`].
pub async fn sweep_boots(host: &Host) -> Result<Swept, StoreError> {
    let mut swept = find_boots(host).await?;
    let open = host.store.open_boots().await?;
    let live: Vec<Launch> = open.iter().filter_map(|boot| Some(BootRef::of(boot).ok()?.launch)).collect();
    if let Err(error) = host.vmm.sweep(&live).await {
        swept.failed.push((PathBuf::from(naming::PREFIX), Cause::from(error).message));
    }
    host.store.free_slots().await?;
    Ok(swept.told())
}

/// Looks at once, for what a daemon that died had no time to remove, and now and then for as long as the daemon runs.
pub async fn keep_sweeping(host: &Host) {
    loop {
        if let Err(error) = sweep(host).await {
            tracing::error!(error = %error, "the sweep for leftovers failed");
        }
        if let Err(error) = host.store.keep_room().await {
            tracing::warn!(error = %error, "no room is kept for a full disk");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The entries of a directory; one that is not there has none.
fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.file_name().into_string().ok()?, entry.path()))
    };
    std::fs::read_dir(dir).map_or_else(|_| Vec::new(), |found| found.filter_map(entry).collect())
}

impl Swept {
    /// The same, with a line in the log for each.
    fn told(self) -> Swept {
        for path in &self.removed {
            tracing::info!(path = %path.display(), "removed a leftover");
        }
        for (path, why) in &self.failed {
            tracing::error!(path = %path.display(), why, "a leftover cannot be removed");
        }
        self
    }

    fn note(&mut self, path: PathBuf, result: Result<(), Cause>) {
        match result {
            Ok(()) => self.removed.push(path),
            Err(cause) => self.failed.push((path, cause.message)),
        }
    }

    fn remove(&mut self, path: PathBuf) {
        let result = sys::fs::remove_tree(&path).map_err(Cause::from);
        self.note(path, result);
    }
}

async fn find_boots(host: &Host) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let found = entries(&host.dirs.run.join("boots"));
    let mut open: HashSet<BootId> = host.store.open_boots().await?.into_iter().map(|boot| boot.id).collect();
    for operation in host.store.open_operations().await? {
        // One that another version began is not understood, and is not gone on with.
        let plan = serde_json::from_value::<Plan>(operation.plan).ok();
        open.extend(plan.and_then(|plan| plan.private_boot().cloned()));
    }
    for (name, path) in found {
        let Ok(boot) = name.parse::<BootId>() else { continue };
        if open.contains(&boot) {
            continue;
        }
        let known = host.store.boot(&boot).await.ok().and_then(|record| BootRef::of(&record).ok());
        let result = match known {
            Some(known) => close(host, &known.launch, &known.attachment).await,
            None => close_unknown(host, &path).await,
        };
        swept.note(path, result);
    }
    Ok(swept)
}

async fn close(host: &Host, launch: &Launch, attachment: &NicAttachment) -> Result<(), Cause> {
    host.vmm.ensure_gone(launch).await?;
    host.network.ensure_detached(attachment, &launch.boot_dir).await?;
    Ok(sys::fs::remove_tree(&launch.boot_dir)?)
}

/// A boot that is on no record any more: the files in its directory name what runs for it.
async fn close_unknown(host: &Host, boot_dir: &Path) -> Result<(), Cause> {
    let launch = Launch {
        driver: host.vmm.name().to_owned(),
        argv: Vec::new(),
        boot_dir: boot_dir.to_path_buf(),
        vmm_log: boot_dir.join("vmm.log"),
        console_log: boot_dir.join("console.log"),
        saved: None,
        agent: AgentChannel::Dial,
    };
    host.vmm.ensure_gone(&launch).await?;
    for attachment in host.network.possible_attachments(boot_dir) {
        host.network.ensure_detached(&attachment, boot_dir).await?;
    }
    Ok(sys::fs::remove_tree(boot_dir)?)
}

async fn sweep_vms(host: &Host, swept: &mut Swept) -> Result<(), StoreError> {
    let found = entries(&host.dirs.state.join("vms"));
    let known = host.store.vms().await?;
    let mut ids: HashSet<VmId> = known.iter().map(|vm| vm.id.clone()).collect();
    let (open, stuck) = (host.store.open_operations().await?, host.store.stuck_operations().await?);
    for operation in open.into_iter().chain(stuck) {
        // One that another version began is not understood, and is not gone on with.
        let plan = serde_json::from_value::<Plan>(operation.plan).ok();
        ids.extend(plan.and_then(|plan| plan.private_vm().cloned()));
    }
    for (name, path) in found {
        if name.parse::<VmId>().is_ok_and(|id| !ids.contains(&id)) {
            swept.remove(path);
        }
    }
    for vm in known {
        sweep_saved(host, &vm, swept).await?;
    }
    Ok(())
}

/// What was saved of a VM that nobody goes on from any more, unless an operation is at it. One on record as suspended whose
/// memory is gone is off: the power went when its guest had just gone on, and took the record of that along.
async fn sweep_saved(host: &Host, vm: &VmRecord, swept: &mut Swept) -> Result<(), StoreError> {
    let state = &host.dirs.state;
    let suspended = snapshot::suspended_dir(state, &vm.id);
    let mut left = vec![snapshot::spent_dir(state, &vm.id), suspended.clone()];
    let snapshots = entries(&snapshot::snapshots_dir(state, &vm.id));
    left.extend(snapshots.into_iter().filter(|(name, _)| name.starts_with(STAGING_PREFIX)).map(|(_, path)| path));
    left.retain(|path| path.exists());
    if left.is_empty() && vm.state != VmState::Suspended {
        return Ok(());
    }
    let has_memory = Snapshot::at(&suspended).is_some();
    // After the look at the disk: whoever made it since holds the VM.
    let (open, stuck) = (host.store.open_operations().await?, host.store.stuck_operations().await?);
    if open.iter().chain(&stuck).any(|at_it| at_it.holds.as_deref() == Some(vm.id.as_str())) {
        return Ok(());
    }
    let is_suspended = host.store.vm(&vm.id).await.is_ok_and(|vm| vm.state == VmState::Suspended);
    if is_suspended && !has_memory {
        tracing::warn!(vm = %vm.id, "a VM is on record as suspended and has no memory to go on from: it is off");
        host.store.happen(&vm.id, VmEvent::MemoryGivenUp).await?;
        host.store.set_last_error(&vm.id, Some("its memory was lost with the power; its disk is whole".into())).await?;
    }
    for path in left.into_iter().filter(|path| !(has_memory && is_suspended && *path == suspended)) {
        swept.remove(path);
    }
    Ok(())
}

/// What forks were made of, of operations that are over.
async fn sweep_forks(host: &Host, swept: &mut Swept) -> Result<(), StoreError> {
    let found = entries(&snapshot::forks_dir(&host.dirs.state));
    let open: HashSet<OpId> = host.store.open_operations().await?.into_iter().map(|operation| operation.id).collect();
    for (name, path) in found {
        let operation = name.strip_prefix(STAGING_PREFIX).and_then(|id| id.parse().ok());
        if operation.is_none_or(|id: OpId| !open.contains(&id)) {
            swept.remove(path);
        }
    }
    Ok(())
}

/// The ids of all images and kernels on record.
async fn artifacts(host: &Host) -> Result<HashSet<String>, StoreError> {
    let images = host.store.images().await?.into_iter().map(|image| image.id.to_string());
    let kernels = host.store.kernels().await?.into_iter().map(|kernel| kernel.id.to_string());
    Ok(images.chain(kernels).collect())
}

/// Templates that are being made by nobody, that are not whole, or whose image or kernel is gone.
async fn sweep_templates(host: &Host, swept: &mut Swept) -> Result<(), StoreError> {
    let (found, templates) = (entries(host.templates.dir()), host.templates.all());
    let open: HashSet<OpId> = host.store.open_operations().await?.into_iter().map(|operation| operation.id).collect();
    for (name, path) in found {
        let staging = name.strip_prefix(STAGING_PREFIX);
        let is_left = match staging {
            Some(operation) => !operation.parse().is_ok_and(|id: OpId| open.contains(&id)),
            // One that is only half there, or damaged.
            None => path.is_dir() && templates.iter().all(|template| template.dir != path),
        };
        if is_left {
            swept.remove(path);
        }
    }
    let known = artifacts(host).await?;
    for template in templates {
        let of = &template.manifest.ingredients;
        if !known.contains(of.image.as_str()) || !known.contains(of.kernel.as_str()) {
            let removed = host.templates.remove(&template.key);
            swept.note(template.dir, removed.map_err(Cause::from));
        }
    }
    Ok(())
}

async fn sweep_artifacts(host: &Host, swept: &mut Swept) -> Result<(), StoreError> {
    let found: Vec<_> = [host.images_dir(), host.kernels_dir()].iter().flat_map(|dir| entries(dir)).collect();
    // On record on either side of a look at the operations: a deletion that is taken back puts its row there again.
    let mut known = artifacts(host).await?;
    let open = host.store.open_operations().await?;
    for operation in open.iter().chain(&host.store.stuck_operations().await?) {
        // One that another version began is not understood, and holds nothing that this one would.
        let plan = serde_json::from_value::<Plan>(operation.plan.clone()).ok();
        known.extend(plan.and_then(|plan| plan.deletes()));
    }
    known.extend(artifacts(host).await?);
    let open: HashSet<OpId> = open.into_iter().map(|operation| operation.id).collect();
    for (name, path) in found {
        let belongs = match name.strip_prefix(STAGING_PREFIX) {
            Some(operation) => operation.parse().is_ok_and(|id: OpId| open.contains(&id)),
            None => {
                known.contains(&name)
                    || name.parse::<VmId>().is_err()
                    || crate::ops::maker_of(&path).is_some_and(|id| open.contains(&id))
            }
        };
        if !belongs {
            let result = crate::ops::image_make::discard(host, path.clone()).await;
            swept.note(path, result.map_err(|cause| caused(wire::api::ErrorCode::OperationFailed, &cause)));
        }
    }
    Ok(())
}
