//! What a VM uses, and where it can be reached.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::vm::{Publish, VmState};
use crate::agent::message::Protocol;
use crate::id::VmId;
use crate::naming::VmName;

/// `GET /v1/vms/{vm}/stats`: one look. What only a running VM has is absent of others; what a guest says of itself is
/// absent where its agent does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmStats {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// When this was seen.
    pub at_ms: u64,
    /// Virtual processors.
    pub vcpus: u16,
    /// Processor time that the VMM used since its start; the difference of two looks over their distance is the load.
    pub cpu_ms: Option<u64>,
    /// Memory of the host that the VMM holds.
    pub memory_bytes: Option<u64>,
    /// The guest's memory.
    pub memory_limit_bytes: u64,
    /// Memory that the guest could still use, as it says.
    pub guest_available_bytes: Option<u64>,
    /// What the disk takes on the host.
    pub disk_allocated_bytes: u64,
    /// The disk's size.
    pub disk_bytes: u64,
    /// What the NIC carried in this boot, as the guest says.
    pub network: Option<Traffic>,
}

/// Bytes of a NIC, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Traffic {
    /// Into the guest.
    pub received_bytes: u64,
    /// Out of it.
    pub sent_bytes: u64,
}

/// `GET /v1/vms/{vm}/ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmPorts {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// Ports of the host's 127.0.0.1 that lead into it while it runs.
    pub published: Vec<Publish>,
    /// What listens in the guest, as it says; absent when that is not known.
    pub listening: Option<Vec<Listener>>,
    /// Why it is not known, or not all of it.
    pub note: Option<String>,
}

/// A socket that waits for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Listener {
    /// Of what kind.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// Its address in the guest; `0.0.0.0` and `::` are all of them.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
}
