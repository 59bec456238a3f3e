//! The daemon, this host, this build.

use serde::{Deserialize, Serialize};

/// Which build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VersionInfo {
    /// Semantic version.
    pub version: String,
    /// The commit it was built from; `unknown` outside a checkout.
    pub commit: String,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DaemonStatus {
    /// Which build.
    pub version: VersionInfo,
    /// Its process.
    pub pid: u32,
    /// `session`.
    pub mode: String,
    /// Its API socket.
    pub socket: String,
    /// Where state is kept.
    pub state_dir: String,
    /// Since it began.
    pub uptime_ms: u64,
    /// VMs whose guest runs.
    pub running_vms: u32,
    /// The sizes a VM gets when none is asked.
    pub defaults: Defaults,
}

/// What a VM gets when nothing is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Defaults {
    /// Image name.
    pub image: String,
    /// Kernel name.
    pub kernel: String,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// Disk size.
    pub disk_bytes: u64,
    /// It is stopped once nobody has used it for so long; absent: never.
    pub stop_after_ms: Option<u64>,
}

/// `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DoctorReport {
    /// In the order of their printing.
    pub checks: Vec<Check>,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Check {
    /// What: `kvm`.
    pub name: String,
    /// How it is.
    pub status: CheckStatus,
    /// What was found, one line.
    pub message: String,
    /// The one command or act that improves it.
    pub fix: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Good.
    Pass,
    /// Works, could be better.
    Warn,
    /// Something will not work.
    Fail,
}
