//! What a row is, as Rust. Documents inside rows are JSON; unknown fields of an older banger's rows are kept out by
//! defaults, never by failing.

use serde::{Deserialize, Serialize};
use wire::agent::message::SshHostKey;
use wire::api::{Publish, RestartPolicy, Workspace};
use wire::id::{BootId, ImageId, KernelId, OpId, VmId};
use wire::naming::VmName;

use crate::model::image::ImageManifest;
use crate::model::kernel::KernelManifest;
use crate::model::machine::NicAttachment;
use crate::model::restart::Restarting;
use crate::model::vm::VmState;

use super::operations::OperationState;

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// What was asked.
    pub spec: VmSpec,
    /// The image.
    pub image_id: ImageId,
    /// The kernel.
    pub kernel_id: KernelId,
    /// What makes its guest this guest.
    pub identity: GuestIdentity,
    /// The workspace put into it.
    pub workspace: Option<Workspace>,
    /// The next boot drops its system layer.
    #[serde(default)]
    pub reset_pending: bool,
    /// Why the last boot ended badly, or the last operation failed.
    pub last_error: Option<String>,
    /// What its restart policy owes it, or did for it.
    #[serde(default)]
    pub restarting: Option<Restarting>,
    /// When it was created.
    pub created_at_ms: u64,
}

/// A VM as a list tells of it: without what is the guest's own, its keys among that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSummary {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// What was asked.
    pub spec: VmSpec,
    /// The image.
    pub image_id: ImageId,
    /// The kernel.
    pub kernel_id: KernelId,
    /// The workspace put into it.
    pub workspace: Option<Workspace>,
    /// Whether the next boot drops the system layer.
    pub reset_pending: bool,
    /// Why the last boot ended badly, or the last operation failed.
    pub last_error: Option<String>,
    /// What its restart policy owes it, or did for it.
    pub restarting: Option<Restarting>,
    /// When it was created.
    pub created_at_ms: u64,
}

impl From<VmRecord> for VmSummary {
    fn from(vm: VmRecord) -> VmSummary {
        VmSummary {
            id: vm.id,
            name: vm.name,
            state: vm.state,
            spec: vm.spec,
            image_id: vm.image_id,
            kernel_id: vm.kernel_id,
            workspace: vm.workspace,
            reset_pending: vm.reset_pending,
            last_error: vm.last_error,
            restarting: vm.restarting,
            created_at_ms: vm.created_at_ms,
        }
    }
}

/// What was asked of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The image's name then.
    pub image: String,
    /// The kernel's name then.
    pub kernel: String,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// Disk size as the guest sees it.
    pub disk_bytes: u64,
    /// Reach the outside.
    #[serde(default)]
    pub nat: bool,
    /// Published ports.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// It is stopped once nobody has used it for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_ms: Option<u64>,
    /// When it is started without being asked.
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// What makes a guest this guest, over all its boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestIdentity {
    /// 32 hexadecimal digits: machine-id(5).
    pub machine_id: String,
    /// SSH host keys.
    #[serde(default)]
    pub ssh_host_keys: Vec<SshHostKey>,
}

/// One run of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootRecord {
    /// Its id.
    pub id: BootId,
    /// The VM.
    pub vm: VmId,
    /// What was started: a driver's `Launch`, opaque here.
    pub launch: serde_json::Value,
    /// How its NIC was attached.
    pub attachment: NicAttachment,
    /// In which boot of the host; none of what an older banger began.
    pub host_boot: Option<String>,
    /// When it was started.
    pub started_at_ms: u64,
    /// When the guest answered.
    pub ready_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// How it ended.
    pub ended: Option<String>,
    /// The init that runs in the guest.
    pub init: Option<String>,
    /// Things a person should know about it; the guest's words.
    pub warnings: Vec<String>,
}

/// A boot as a list tells of it: without what it takes to run it or to find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSummary {
    /// Its id.
    pub id: BootId,
    /// The driver that ran it.
    pub vmm: String,
    /// When it was started.
    pub started_at_ms: u64,
    /// When the guest answered.
    pub ready_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// How it ended.
    pub ended: Option<String>,
    /// The init that runs in the guest.
    pub init: Option<String>,
    /// Things a person should know about it; the guest's words.
    pub warnings: Vec<String>,
}

impl BootSummary {
    /// The driver of a boot whose launch names none.
    pub(super) const NO_DRIVER: &'static str = "unknown";
}

impl From<BootRecord> for BootSummary {
    fn from(boot: BootRecord) -> BootSummary {
        let driver = boot.launch.get("driver").and_then(serde_json::Value::as_str);
        BootSummary {
            id: boot.id,
            vmm: driver.unwrap_or(BootSummary::NO_DRIVER).to_owned(),
            started_at_ms: boot.started_at_ms,
            ready_at_ms: boot.ready_at_ms,
            ended_at_ms: boot.ended_at_ms,
            ended: boot.ended,
            init: boot.init,
            warnings: boot.warnings,
        }
    }
}

/// A root filesystem VMs can be made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// What names it: [`ImageManifest::id`].
    pub id: ImageId,
    /// What people call it now.
    pub name: String,
    /// What else they call it.
    #[serde(default)]
    pub also: Vec<String>,
    /// What is known about it.
    pub manifest: ImageManifest,
    /// When it was made.
    pub created_at_ms: u64,
}

/// A kernel VMs can boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// The beginning of its digest.
    pub id: KernelId,
    /// What people call it now.
    pub name: String,
    /// What is known about it.
    pub manifest: KernelManifest,
    /// When it was imported.
    pub created_at_ms: u64,
}

/// One run of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// Its id.
    pub id: OpId,
    /// What it does: `vm.start`.
    pub kind: String,
    /// The name of what it is about.
    pub subject: String,
    /// What it holds while it is open.
    pub holds: Option<String>,
    /// Its plan, opaque here.
    pub plan: serde_json::Value,
    /// How it stands.
    pub state: OperationState,
    /// Why it failed.
    pub error: Option<wire::api::ApiError>,
    /// When it began.
    pub started_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
}
