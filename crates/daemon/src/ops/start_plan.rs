//! What a start is, decided: every id, path and number of it, before its first step.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wire::agent::message::BootConfig;
use wire::id::{BootId, KernelId, VmId};
use wire::naming::{self, VmName};

use super::origin::{self, Origin};
use super::parts::{check_disk, check_file, check_image};
use super::world::{GuestSettings, Host, blocking, told_of};
use crate::guest::secret::Secret;
use crate::model::machine::{DriveRole, DriveSpec, MachineSpec, NicAttachment, NicSpec};
use crate::model::vm::VmState;
use crate::saga::Cause;
use crate::store::records::{GuestIdentity, ImageRecord, KernelRecord, VmRecord};
use crate::supervise::BootRef;
use crate::template::Ingredients;
use crate::vmm::Launch;

/// One start, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartPlan {
    /// The VM.
    pub vm: VmId,
    /// Its name, and its guest's host name.
    pub name: VmName,
    /// This run of it.
    pub boot: BootId,
    /// The machine.
    pub machine: MachineSpec,
    /// The kernel, for its initramfs.
    pub kernel: KernelId,
    /// What the driver decided to run.
    pub launch: Launch,
    /// What the network driver decided.
    pub attachment: NicAttachment,
    /// The disk's size.
    pub disk_bytes: u64,
    /// What makes the guest this guest.
    pub identity: GuestIdentity,
    /// What the guest's commands begin with.
    #[serde(default)]
    pub exec: crate::model::image::ExecSettings,
    /// The guest drops its system layer before it mounts it.
    #[serde(default)]
    pub reset_system: bool,
    /// How long until the agent must have answered and be configured.
    pub boot_timeout_ms: u64,
    /// Where the console is to be found if this start fails.
    pub console_after_failure: PathBuf,
    /// Why the daemon does it; none when somebody asked.
    #[serde(default)]
    pub reason: Option<String>,
    /// What the guest goes on from; none when it boots.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// The template that later machines like this one could go on from, and that there was not.
    #[serde(default)]
    pub wants: Option<Ingredients>,
}

impl StartPlan {
    /// What runs, as the VMM is spawned first.
    pub(super) fn boot_ref(&self) -> BootRef {
        let launch = self.origin.as_ref().map_or(&self.launch, |origin| &origin.launch);
        BootRef { launch: launch.clone(), ..self.cold_ref() }
    }

    /// What runs when the guest boots.
    pub(super) fn cold_ref(&self) -> BootRef {
        BootRef {
            vm: self.vm.clone(),
            boot: self.boot.clone(),
            launch: self.launch.clone(),
            attachment: self.attachment.clone(),
        }
    }
}

/// A plan that holds a start.
pub(super) trait Booting {
    /// The start.
    fn booting(&self) -> &StartPlan;
}

impl Booting for StartPlan {
    fn booting(&self) -> &StartPlan {
        self
    }
}

/// Decides a start of `vm`. All refusals are here, before anything changed.
///
/// # Errors
/// When a part is missing or a driver refuses.
pub async fn plan(host: &Host, vm: &VmRecord) -> Result<StartPlan, Cause> {
    check_disk(host, vm)?;
    let (image, kernel) = parts_of(host, vm).await?;
    plan_with(host, vm, &image, &kernel).await
}

/// The image and the kernel of a VM.
pub(super) async fn parts_of(host: &Host, vm: &VmRecord) -> Result<(ImageRecord, KernelRecord), Cause> {
    let image = host.store.find_image(vm.image_id.as_str()).await?;
    Ok((image, host.store.find_kernel(vm.kernel_id.as_str()).await?))
}

/// As [`plan`], with the parts at hand.
pub(super) async fn plan_with(
    host: &Host,
    vm: &VmRecord,
    image: &ImageRecord,
    kernel: &KernelRecord,
) -> Result<StartPlan, Cause> {
    let cold = plan_cold(host, vm, image, kernel).await?;
    if vm.state == VmState::Suspended {
        let origin = origin::of_suspended(host, vm, &cold)?;
        return Ok(StartPlan { origin: Some(origin), ..cold });
    }
    let (origin, wants) = origin::of_template(host, vm, &cold, (&image.id, &kernel.id))?;
    Ok(StartPlan { origin, wants, ..cold })
}

/// The machine of a new boot of `vm`, and how its NIC is attached.
///
/// # Errors
/// When a part is missing or damaged, or the network driver refuses.
pub(super) async fn machine_of(
    host: &Host,
    vm: &VmRecord,
    image: &ImageRecord,
    kernel: &KernelRecord,
) -> Result<(MachineSpec, NicAttachment), Cause> {
    let boot = BootId::from_random(sys::rand::bytes());
    let (rootfs, kernel_dir) = (check_image(host, image)?, host.kernel_dir(&kernel.id));
    let vmlinux = kernel_dir.join("vmlinux");
    check_file("kernel", &kernel.name, &vmlinux, kernel.manifest.vmlinux_bytes)?;
    let mut drives = vec![
        DriveSpec { serial: DriveRole::Rootfs, path: rootfs },
        DriveSpec { serial: DriveRole::Disk, path: host.storage.path(&vm.id) },
    ];
    if let Some(modules) = &kernel.manifest.modules {
        let path = kernel_dir.join("modules.ext4");
        check_file("kernel", &kernel.name, &path, modules.bytes)?;
        drives.push(DriveSpec { serial: DriveRole::Modules, path });
    }
    let (maker, manifest) = (host.maker.clone(), kernel.manifest.clone());
    let initramfs = blocking(move || maker.ensure_initramfs(&kernel_dir, &manifest)).await?;
    let boot_dir = naming::boot_dir(&host.dirs.run, &boot);
    let nic = NicSpec { mac: NicSpec::mac_of(&vm.id), nat: vm.spec.nat, publish: vm.spec.publish.clone() };
    let attachment = host.network.plan(&nic, &boot_dir)?;
    let slot = if host.vmm.takes_slot() { host.store.ensure_slot(&vm.id).await? } else { None };
    let machine = MachineSpec {
        vm: vm.id.clone(),
        boot: boot.clone(),
        vcpus: vm.spec.vcpus,
        memory_mib: vm.spec.memory_mib,
        vmlinux,
        initramfs,
        drives,
        nic,
        boot_dir,
        console_log: naming::console_log(&host.dirs.state, &vm.id, &boot),
        vmm_log: naming::vmm_log(&host.dirs.state, &vm.id, &boot),
        saved: None,
        slot,
    };
    Ok((machine, attachment))
}

/// As [`plan_with`], of a guest that boots.
pub(super) async fn plan_cold(
    host: &Host,
    vm: &VmRecord,
    image: &ImageRecord,
    kernel: &KernelRecord,
) -> Result<StartPlan, Cause> {
    crate::storage::check_room(&host.dirs.state)?;
    let (machine, attachment) = machine_of(host, vm, image, kernel).await?;
    let launch = host.vmm.plan(&machine, &attachment)?;
    Ok(StartPlan {
        vm: vm.id.clone(),
        name: vm.name.clone(),
        kernel: kernel.id.clone(),
        launch,
        attachment,
        disk_bytes: vm.spec.disk_bytes,
        identity: vm.identity.clone(),
        exec: image.manifest.exec.clone(),
        reset_system: vm.reset_pending,
        boot_timeout_ms: u64::try_from(host.settings.boot_timeout.as_millis()).unwrap_or(u64::MAX),
        console_after_failure: machine.console_log.clone(),
        reason: None,
        origin: None,
        wants: None,
        boot: machine.boot.clone(),
        machine,
    })
}

/// What every boot's guest gets from this host, as it is now.
pub(super) async fn guest_settings(host: &Host) -> Result<GuestSettings, Cause> {
    let settings = host.guest_settings.clone();
    blocking(move || Ok(settings())).await
}

/// What every boot's guest gets, and what this one does.
pub(super) fn boot_config(
    host: &Host,
    plan: &StartPlan,
    secret: &Secret,
    settings: GuestSettings,
) -> (BootConfig, Vec<String>) {
    let config = BootConfig {
        hostname: plan.name.to_string(),
        machine_id: plan.identity.machine_id.clone(),
        network: Some(host.network.guest(&plan.machine.nic)),
        ssh_host_keys: plan.identity.ssh_host_keys.clone(),
        authorized_keys: settings.authorized_keys,
        git_identity: settings.git_identity,
        files: settings.files,
        reset_system: plan.reset_system,
        unix_ns: sys::clock::unix_ns(),
        entropy_hex: entropy_hex(),
        channel_secret: Some(secret.text().to_owned()),
        ..told_of(&plan.exec)
    };
    (config, settings.warnings)
}

/// Fresh random bytes for a guest.
pub(super) fn entropy_hex() -> String {
    sys::rand::bytes::<64>().iter().map(|byte| format!("{byte:02x}")).collect()
}
