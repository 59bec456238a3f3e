//! Creates a VM, and boots it when asked: all of it or nothing.
//! If the boot fails nothing is left of the VM but its console, below `failed/`.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::agent::message::SshHostKey;
use wire::api::{CreateVm, ErrorCode};
use wire::id::VmId;
use wire::naming::{self, VmName};

use super::console;
use super::failure::{caused, refused};
use super::policies;
use super::ssh_key::KeyPair;
use super::start::{self, Booting, StartPlan};
use super::world::Host;
use crate::config::{DEFAULT_IMAGE, DEFAULT_KERNEL};
use crate::model::vm::{VmEvent, VmState};
use crate::model::{limits, nickname};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::{GuestIdentity, VmRecord, VmSpec};

/// The list, for a plan that only creates.
#[must_use]
pub fn create() -> Saga<CreatePlan, Host> {
    begin("vm.create") //
        .commit(MarkCreated) // the commit point
}

/// The list, for a plan that creates and boots.
#[must_use]
pub fn create_started() -> Saga<CreatePlan, Host> {
    start::with_steps(begin("vm.create"))
}

fn begin(name: &'static str) -> Saga<CreatePlan, Host> {
    Saga::named(name)
        .then(ReserveVm) // undo: remove the row
        .then(MakeDisk) // undo: keep the console, remove the VM's files
}

/// One creation, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePlan {
    /// The row, its ids and identity included.
    pub vm: VmRecord,
    /// The boot, when asked for.
    pub start: Option<StartPlan>,
}

impl Booting for CreatePlan {
    fn booting(&self) -> &StartPlan {
        self.start.as_ref().expect("the boot's steps are only in the list of plans with a boot")
    }
}

/// Decides a creation. All refusals are here, before anything changed.
///
/// # Errors
/// A name that is taken, a size out of bounds, a missing image or kernel, or what a driver refuses.
pub async fn plan(host: &Host, request: CreateVm) -> Result<CreatePlan, Cause> {
    let defaults = &host.settings.defaults;
    let spec = VmSpec {
        image: request.image.unwrap_or_else(|| defaults.image.clone()),
        kernel: request.kernel.unwrap_or_else(|| defaults.kernel.clone()),
        vcpus: request.vcpus.unwrap_or(defaults.vcpus),
        memory_mib: request.memory_mib.unwrap_or(defaults.memory_mib),
        disk_bytes: request.disk_bytes.unwrap_or(defaults.disk_bytes),
        nat: request.nat,
        publish: request.publish,
        stop_after_ms: policies::stop_after(request.stop_after_ms, defaults.stop_after_ms)?,
        restart: request.restart,
    };
    let bad = |error: limits::LimitError| refused(ErrorCode::BadRequest, error.to_string());
    limits::check(spec.vcpus, spec.memory_mib, spec.disk_bytes).map_err(bad)?;
    limits::check_publish(&spec.publish).map_err(bad)?;
    policies::check_restart(host, spec.restart).await?;
    let name = choose_name(host, request.name).await?;
    let image = host.store.find_image(&spec.image).await.map_err(|error| missing(error, DEFAULT_IMAGE))?;
    let kernel = host.store.find_kernel(&spec.kernel).await.map_err(|error| missing(error, DEFAULT_KERNEL))?;
    let vm = VmRecord {
        id: VmId::from_random(sys::rand::bytes()),
        name,
        state: VmState::Creating,
        spec: VmSpec { image: image.name.clone(), kernel: kernel.name.clone(), ..spec },
        image_id: image.id.clone(),
        kernel_id: kernel.id.clone(),
        identity: mint_identity()?,
        workspace: None,
        reset_pending: false,
        last_error: None,
        restarting: None,
        created_at_ms: (host.now_ms)(),
    };
    let mut start = start::plan_with(host, &vm, &image, &kernel).await?;
    start.console_after_failure = host.kept_console(&start.boot);
    Ok(CreatePlan { vm, start: request.start.then_some(start) })
}

async fn choose_name(host: &Host, asked: Option<VmName>) -> Result<VmName, Cause> {
    let vms = host.store.vms().await?;
    let is_taken = |name: &VmName| vms.iter().any(|vm| vm.name == *name);
    match asked {
        None => Ok(nickname::generate(u64::from_ne_bytes(sys::rand::bytes()), is_taken)),
        Some(name) if is_taken(&name) => Err(StoreError::NameTaken { what: "VM", name: name.to_string() }.into()),
        Some(name) => Ok(name),
    }
}

fn missing(error: StoreError, default: &str) -> Cause {
    let hint = match &error {
        StoreError::NotFound { what: "image", key } if key == default => format!("banger image build {default}"),
        StoreError::NotFound { what: "image", .. } => "see `banger image list`".to_owned(),
        StoreError::NotFound { what: "kernel", key } if key == default => {
            format!("banger kernel import --debian {default}")
        }
        StoreError::NotFound { .. } => "see `banger kernel list`".to_owned(),
        _ => return error.into(),
    };
    Cause::from(error).with_hint(hint)
}

/// A new guest's identity. The SSH host key is made here so that it is the same over all boots and known to the host.
pub(super) fn mint_identity() -> Result<GuestIdentity, Cause> {
    let machine_id = sys::rand::bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    let KeyPair { private, public } = KeyPair::new("").map_err(|error| caused(ErrorCode::Internal, &error))?;
    let host_key = SshHostKey { algorithm: "ed25519".to_owned(), private, public };
    Ok(GuestIdentity { machine_id, ssh_host_keys: vec![host_key] })
}

/// Claims the name and the id.
struct ReserveVm;

#[async_trait]
impl Step<CreatePlan, Host> for ReserveVm {
    fn name(&self) -> &'static str {
        "reserve_vm"
    }

    async fn run(&self, cx: &Cx<'_, CreatePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.insert_vm(cx.plan.vm.clone()).await?)
    }

    async fn undo(&self, cx: &Cx<'_, CreatePlan, Host>) -> Result<(), Cause> {
        Ok(cx.world.store.delete_vm(&cx.plan.vm.id).await?)
    }
}

/// Makes the VM's directory and disk.
struct MakeDisk;

#[async_trait]
impl Step<CreatePlan, Host> for MakeDisk {
    fn name(&self) -> &'static str {
        "make_disk"
    }

    async fn run(&self, cx: &Cx<'_, CreatePlan, Host>) -> Result<(), Cause> {
        let vm = &cx.plan.vm;
        sys::fs::create_private_dir(&naming::vm_dir(&cx.world.dirs.state, &vm.id))?;
        cx.world.storage.ensure_disk(&vm.id, vm.spec.disk_bytes).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, CreatePlan, Host>) -> Result<(), Cause> {
        let (id, host) = (&cx.plan.vm.id, cx.world);
        // Whoever stops it knows why; a console is for failures.
        let is_failure = cx.cause.is_none_or(|cause| !cause.is_cancellation());
        if let Some(start) = cx.plan.start.as_ref().filter(|_| is_failure) {
            // A console that cannot be kept (a full disk) must not keep the rest from going.
            if let Err(error) = console::keep(&start.machine.console_log, &start.console_after_failure) {
                cx.warning(&caused(ErrorCode::OperationFailed, &error).message);
            }
        }
        host.storage.ensure_deleted(id).await?;
        Ok(sys::fs::remove_tree(&naming::vm_dir(&host.dirs.state, id))?)
    }
}

/// Hands the VM to its user: the commit point of a creation without a boot.
struct MarkCreated;

#[async_trait]
impl Step<CreatePlan, Host> for MarkCreated {
    fn name(&self) -> &'static str {
        "mark_created"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "taking back `reserve_vm` removes the row" }
    }

    async fn run(&self, cx: &Cx<'_, CreatePlan, Host>) -> Result<(), Cause> {
        cx.world.store.happen(&cx.plan.vm.id, VmEvent::CreateFinished).await?;
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, CreatePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
