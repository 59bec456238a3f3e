//! Makes a template: a fresh machine boots, is saved as soon as its system is up, and ends.
//!
//! The machine is nobody's VM. It has names of its own and none of anybody's keys and files; who goes on from it gets theirs. Its
//! files are where a VM's are, for a driver that looks nowhere else, and its disk becomes the template's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wire::agent::message::{BootConfig, Level};
use wire::api::{Begun, ErrorCode};
use wire::id::{BootId, OpId, VmId};
use wire::naming;

use super::engine::Engine;
use super::failure::{caused, refused};
use super::go_on::snapshots;
use super::plan::Plan;
use super::start::{StartPlan, entropy_hex};
use super::world::{Host, blocking, staging_name, told_of};
use crate::model::image::ExecSettings;
use crate::model::machine::{DriveRole, DriveSpec, MachineSpec, NicAttachment, NicSpec, SavedMachine};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::supervise;
use crate::template::{self, DISK, Manifest};
use crate::vmm::Launch;

/// The list.
#[must_use]
pub fn template_make() -> Saga<TemplatePlan, Host> {
    Saga::named("template.make")
        .then(MakeStaging) // undo: remove it, free the machine's number
        .then(BootAndSave) // undo: kill the machine, detach, remove its directory
        .commit(Publish) // undo: nothing, a template is a cache
}

/// How many times as long as a boot that somebody waits for it may take.
const PATIENCE: u64 = 10;

/// One template, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplatePlan {
    /// What it is, but for its init.
    pub manifest: Manifest,
    /// The machine.
    pub machine: MachineSpec,
    /// What the driver decided to run.
    pub launch: Launch,
    /// How its NIC is attached.
    pub attachment: NicAttachment,
    /// What the image says of commands.
    pub exec: ExecSettings,
    /// Where it is made.
    pub staging: PathBuf,
    /// How long the guest may take to be up.
    pub boot_timeout_ms: u64,
}

impl TemplatePlan {
    /// For sentences: the template's name.
    #[must_use]
    pub fn key(&self) -> String {
        self.manifest.ingredients.key()
    }

    /// The machine's disk, as long as it runs.
    fn disk(&self, host: &Host) -> PathBuf {
        naming::vm_disk(&host.dirs.state, &self.machine.vm)
    }
}

/// Decides the template that `start` wanted.
///
/// # Errors
/// When a driver refuses.
pub async fn plan(host: &Host, start: &StartPlan, operation: &OpId) -> Result<TemplatePlan, Cause> {
    let ingredients =
        start.wants.clone().ok_or_else(|| refused(ErrorCode::Internal, "a start that wants no template"))?;
    let staging = host.templates.dir().join(staging_name(operation));
    let (vm, boot) = (VmId::from_random(sys::rand::bytes()), BootId::from_random(sys::rand::bytes()));
    let boot_dir = naming::boot_dir(&host.dirs.run, &boot);
    let drive = |drive: &DriveSpec| match drive.serial {
        DriveRole::Disk => DriveSpec { path: naming::vm_disk(&host.dirs.state, &vm), ..drive.clone() },
        DriveRole::Rootfs | DriveRole::Modules => drive.clone(),
    };
    let nic = NicSpec { mac: NicSpec::mac_of(&vm), nat: start.machine.nic.nat, publish: Vec::new() };
    let attachment = host.network.plan(&nic, &boot_dir)?;
    let slot = if host.vmm.takes_slot() { host.store.ensure_slot(&vm).await? } else { None };
    let machine = MachineSpec {
        drives: start.machine.drives.iter().map(drive).collect(),
        console_log: naming::console_log(&host.dirs.state, &vm, &boot),
        vmm_log: naming::vmm_log(&host.dirs.state, &vm, &boot),
        vm: vm.clone(),
        boot: boot.clone(),
        nic,
        boot_dir,
        saved: None,
        slot,
        ..start.machine.clone()
    };
    let launch = host.vmm.plan(&machine, &attachment)?;
    let manifest = Manifest {
        ingredients,
        vm,
        boot,
        init: None,
        vcpus: machine.vcpus,
        memory_mib: machine.memory_mib,
        nat: machine.nic.nat,
        created_at_ms: (host.now_ms)(),
    };
    // Everybody else comes first.
    let (exec, boot_timeout_ms) = (start.exec.clone(), start.boot_timeout_ms.saturating_mul(PATIENCE));
    Ok(TemplatePlan { manifest, machine, launch, attachment, exec, staging, boot_timeout_ms })
}

impl Engine {
    /// Makes the template that `start` wanted.
    ///
    /// # Errors
    /// Every refusal, as when it is being made already; nothing has begun then.
    pub async fn make_template(self: &Arc<Self>, start: &StartPlan) -> Result<Begun, Cause> {
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = plan(self.host(), start, &operation).await?;
        let vm = plan.machine.vm.clone();
        let begun = self.begin_as(operation, Plan::TemplateMake(Box::new(plan))).await;
        if begun.is_err() {
            // Nobody else gives it back, as when the template is being made already.
            self.host().store.free_slot(&vm).await?;
        }
        begun
    }
}

/// Makes the directory that becomes the template.
struct MakeStaging;

#[async_trait]
impl Step<TemplatePlan, Host> for MakeStaging {
    fn name(&self) -> &'static str {
        "make_staging"
    }

    async fn run(&self, cx: &Cx<'_, TemplatePlan, Host>) -> Result<(), Cause> {
        Ok(sys::fs::create_private_dir(&cx.plan.staging)?)
    }

    async fn undo(&self, cx: &Cx<'_, TemplatePlan, Host>) -> Result<(), Cause> {
        sys::fs::remove_tree(&cx.plan.staging)?;
        Ok(cx.world.store.free_slot(&cx.plan.machine.vm).await?)
    }
}

/// Boots the machine, saves it when its system is up, and ends it. One step: a machine that a daemon leaves behind half way is
/// worth nothing.
struct BootAndSave;

#[async_trait]
impl Step<TemplatePlan, Host> for BootAndSave {
    fn name(&self) -> &'static str {
        "boot_and_save"
    }

    async fn run(&self, cx: &Cx<'_, TemplatePlan, Host>) -> Result<(), Cause> {
        end(cx.plan, cx.world).await?;
        let timeout = Duration::from_millis(cx.plan.boot_timeout_ms);
        tokio::select! {
            saved = boot_and_save(cx.plan, cx.world) => saved?,
            () = cx.cancelled() => return Err(Cause::cancelled()),
            () = tokio::time::sleep(timeout) => {
                let late = format!("the machine was not up and saved within {} s", timeout.as_secs());
                return Err(refused(ErrorCode::Timeout, late));
            }
        }
        end(cx.plan, cx.world).await
    }

    async fn undo(&self, cx: &Cx<'_, TemplatePlan, Host>) -> Result<(), Cause> {
        end(cx.plan, cx.world).await
    }
}

async fn boot_and_save(plan: &TemplatePlan, host: &Host) -> Result<(), Cause> {
    let failed = |error| caused(ErrorCode::OperationFailed, &error);
    let (machine, timeout) = (&plan.machine, Duration::from_millis(plan.boot_timeout_ms));
    // What an earlier daemon got to may be there.
    sys::fs::remove_tree(&plan.staging)?;
    sys::fs::create_private_dir(&plan.staging)?;
    if let Some(logs) = machine.vmm_log.parent() {
        sys::fs::create_private_dir(logs)?;
    }
    host.storage.blank(&plan.disk(host), plan.manifest.ingredients.disk_bytes).await?;
    sys::fs::create_private_dir(&machine.boot_dir)?;
    host.network.ensure_attached(&machine.nic, &plan.attachment, &machine.boot_dir).await?;
    host.network.ensure_plugged(&plan.attachment, &machine.boot_dir).await?;
    let vmm = host.vmm.spawn(&plan.launch).await?;
    // People's own machines come first.
    match vmm.identity().yield_to_others() {
        // Another user's process, in a jail of the helper's.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            tracing::debug!(%error, "a template's machine does not yield to others");
        }
        done => done.map_err(|error| caused(ErrorCode::OperationFailed, &error))?,
    }
    let guest = supervise::meet(&plan.launch, Instant::now() + timeout).await.map_err(failed)?;
    let config = BootConfig {
        hostname: "banger".to_owned(),
        machine_id: sys::rand::bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect(),
        network: Some(host.network.guest(&machine.nic)),
        unix_ns: sys::clock::unix_ns(),
        entropy_hex: entropy_hex(),
        ..told_of(&plan.exec)
    };
    let configured = guest.configure(config).await.map_err(failed)?;
    guest.wait_ready(Level::System).await.map_err(failed)?;
    guest.freeze(true).await.map_err(failed)?;
    let saved = SavedMachine::in_dir(&plan.staging);
    super::pause::controls(host)?.pause(&plan.launch).await?;
    snapshots(host)?.save(&plan.launch, machine.memory_mib, &saved).await?;
    let written = sys::fs::allocated_bytes(&saved.memory);
    if written > template::WRITTEN_BYTES_MAX {
        let written = wire::size::human(written);
        return Err(refused(ErrorCode::Unsupported, format!("the machine has written {written} of its memory")));
    }
    // From here on it is nobody's who had a part in the machine.
    let disk = plan.staging.join(DISK);
    sys::fs::rename(&plan.disk(host), &disk)?;
    sys::fs::set_mode(&disk, 0o600)?;
    let manifest = Manifest { init: configured.init, ..plan.manifest.clone() };
    let json = serde_json::to_vec(&manifest).map_err(|error| caused(ErrorCode::Internal, &error))?;
    Ok(sys::fs::write_atomic(&plan.staging.join(PENDING), &json, 0o600)?)
}

/// The manifest of what is not a template yet.
const PENDING: &str = "pending.json";

/// Kills the machine, and removes all that is left of it but what was saved, and its number.
async fn end(plan: &TemplatePlan, host: &Host) -> Result<(), Cause> {
    let boot_dir = &plan.machine.boot_dir;
    host.vmm.ensure_gone(&plan.launch).await?;
    host.network.ensure_detached(&plan.attachment, boot_dir).await?;
    sys::fs::remove_tree(boot_dir)?;
    Ok(sys::fs::remove_tree(&naming::vm_dir(&host.dirs.state, &plan.machine.vm))?)
}

/// Makes what was saved a template, and lets older ones go that are too many then.
struct Publish;

#[async_trait]
impl Step<TemplatePlan, Host> for Publish {
    fn name(&self) -> &'static str {
        "publish"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "a template is a cache" }
    }

    async fn run(&self, cx: &Cx<'_, TemplatePlan, Host>) -> Result<(), Cause> {
        cx.world.store.free_slot(&cx.plan.machine.vm).await?;
        let (templates, staging) = (cx.world.templates.clone(), cx.plan.staging.clone());
        let (store, of) = (&cx.world.store, &cx.plan.manifest.ingredients);
        // Deleted meanwhile, they took their templates with them.
        store.find_image(of.image.as_str()).await?;
        store.find_kernel(of.kernel.as_str()).await?;
        blocking(move || {
            if !staging.exists() {
                // An earlier daemon got this far.
                return Ok(());
            }
            let json =
                std::fs::read(staging.join(PENDING)).map_err(|error| caused(ErrorCode::OperationFailed, &error))?;
            let manifest: Manifest =
                serde_json::from_slice(&json).map_err(|error| caused(ErrorCode::Internal, &error))?;
            let saved = SavedMachine::in_dir(&staging);
            sys::fs::remove_file(&staging.join(PENDING))?;
            // A power cut must not leave a template with half of its memory.
            for file in [&saved.memory, &saved.devices, &staging.join(DISK)] {
                sys::fs::sync(file)?;
            }
            templates.publish(&staging, &manifest)?;
            templates.keep_within(template::COUNT_MAX, template::BYTES_MAX)?;
            Ok(())
        })
        .await
    }

    async fn undo(&self, _: &Cx<'_, TemplatePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
