//! Machines that are saved: snapshots and forks.

use serde::{Deserialize, Serialize};

use crate::id::OpId;
use crate::naming::VmName;

/// `POST /v1/vms/{vm}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// What it is called; none: by the time.
    #[serde(default)]
    pub name: Option<String>,
}

/// `POST /v1/vms/{vm}/snapshots/{snapshot}/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoreSnapshot {
    /// A VM that runs, or is suspended, is ended for it; what it is now is lost.
    #[serde(default)]
    pub force: bool,
}

/// `GET /v1/vms/{vm}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotList {
    /// The oldest first.
    pub snapshots: Vec<Snapshot>,
}

/// A VM's machine at an earlier time: memory, devices and disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// Its name, of its VM's snapshots.
    pub name: String,
    /// The VM's name.
    pub vm: String,
    /// Guest memory.
    pub memory_mib: u64,
    /// What it takes on the host's disk.
    pub bytes: u64,
    /// When it was taken.
    pub created_at_ms: u64,
}

/// `POST /v1/vms/{vm}/fork`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ForkVm {
    /// What the new VM is called; with several, what their names begin with. None: as the VM.
    #[serde(default)]
    pub name: Option<VmName>,
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}

/// A fork has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Forked {
    /// Watch it below `/v1/operations`.
    pub operation: OpId,
    /// What the new VMs will be called.
    pub vms: Vec<VmName>,
}
