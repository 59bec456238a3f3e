//! VMs and what can be asked of them.

use serde::{Deserialize, Serialize};

use super::boot::BootChoice;
use super::policy::{Idle, RestartPolicy, Restarts};
use super::workspace::Workspace;
use crate::id::{BootId, ImageId, KernelId, OpId, VmId};
use crate::naming::VmName;

/// A VM as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// The image's name when it was created.
    pub image: String,
    /// The image.
    pub image_id: ImageId,
    /// The kernel's name when it was created.
    pub kernel: String,
    /// The kernel.
    pub kernel_id: KernelId,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// The disk's size as the guest sees it.
    pub disk_bytes: u64,
    /// What the disk takes on the host now.
    pub disk_allocated_bytes: u64,
    /// Whether the guest reaches the outside.
    pub nat: bool,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// It is stopped once nobody has used it for so long; absent: never.
    pub stop_after_ms: Option<u64>,
    /// Since when nobody uses it; absent while somebody does, while it does not run, and where it would not be stopped.
    pub idle: Option<Idle>,
    /// When it is started without being asked.
    pub restart: RestartPolicy,
    /// What came of that.
    pub restarts: Option<Restarts>,
    /// The boot that runs, or the last one.
    pub boot: Option<BootStatus>,
    /// Why the last boot ended badly, or the last operation failed.
    pub last_error: Option<String>,
    /// The operation that holds it now.
    pub operation: Option<OpId>,
    /// The workspace put into it.
    pub workspace: Option<Workspace>,
    /// Its next boot drops its system layer.
    #[serde(default)]
    pub reset_pending: bool,
    /// When it was created.
    pub created_at_ms: u64,
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being made; not yet the user's.
    Creating,
    /// Made, never started.
    Created,
    /// On its way up.
    Starting,
    /// Its guest answers.
    Running,
    /// Its processors stand still.
    Paused,
    /// On its way down.
    Stopping,
    /// Off.
    Stopped,
    /// Off, its memory and devices on the disk: it goes on from there.
    Suspended,
    /// Being removed.
    Deleting,
}

/// One run of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BootStatus {
    /// Its id.
    pub id: BootId,
    /// The driver: `qemu` or `sim`.
    pub vmm: String,
    /// The VMM's process id, while it runs.
    pub pid: Option<u32>,
    /// When it was started.
    pub started_at_ms: u64,
    /// When the guest answered.
    pub ready_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// How it ended: `poweroff`, `reboot`, `killed`, `stop`, or a reason: `idle for 30 min`.
    pub ended: Option<String>,
    /// The init that runs in the guest; none when the agent is process 1.
    pub init: Option<String>,
    /// Things a person should know about it.
    pub warnings: Vec<String>,
}

/// A host port that leads into the guest: TCP, bound to 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// On the host's 127.0.0.1.
    pub host_port: u16,
    /// In the guest.
    pub guest_port: u16,
}

/// `GET /v1/vms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmList {
    /// As asked; by creation time when nothing is.
    pub vms: Vec<Vm>,
}

/// `POST /v1/vms`. Absent fields take the host's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Its name; absent: a generated one.
    #[serde(default)]
    pub name: Option<VmName>,
    /// Image name or id.
    #[serde(default)]
    pub image: Option<String>,
    /// Kernel name or id.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Virtual processors.
    #[serde(default)]
    pub vcpus: Option<u16>,
    /// Guest memory.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Disk size as the guest sees it.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Reach the outside.
    #[serde(default)]
    pub nat: bool,
    /// Published ports.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Stop it once nobody has used it for so long; 0: never.
    #[serde(default)]
    pub stop_after_ms: Option<u64>,
    /// When it is to be started without being asked.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Boot it too; if that fails, nothing is left of it but its console log.
    #[serde(default)]
    pub start: bool,
}

/// How ready is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Root, identity and network are there: the earliest moment a command can run.
    Agent,
    /// The image's init says that it finished booting.
    #[default]
    System,
    /// SSH answers.
    Ssh,
}

/// `POST /v1/vms/{vm}/start` and `…/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartVm {}

/// `POST /v1/vms/{vm}/reset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResetVm {
    /// Restart it when it runs.
    #[serde(default)]
    pub restart: bool,
}

/// `POST /v1/vms/{vm}/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StopVm {
    /// How long the guest may take before it is killed; absent: the default.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// The query of `DELETE /v1/vms/{vm}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeleteVm {
    /// Refuses a VM that runs, is on its way up or down, or is just rebooting.
    #[serde(default)]
    pub only_off: bool,
    /// Changes in its workspace that were never exported may go with it.
    #[serde(default)]
    pub discard: bool,
}

/// `POST /v1/vms/{vm}/rename`. A guest that runs takes its new host name at its next boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RenameVm {
    /// What it is called from now on.
    pub name: VmName,
}

/// `POST /v1/vms/{vm}/set`. What is absent stays. Everything can be changed while the VM is off; while it runs too
/// its disk, which only grows, and what the daemon does to it unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// Virtual processors.
    #[serde(default)]
    pub vcpus: Option<u16>,
    /// Guest memory.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Disk size as the guest sees it; never less than now.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Reach the outside.
    #[serde(default)]
    pub nat: Option<bool>,
    /// All the published ports it is to have.
    #[serde(default)]
    pub publish: Option<Vec<Publish>>,
    /// Stop it once nobody has used it for so long; 0: never.
    #[serde(default)]
    pub stop_after_ms: Option<u64>,
    /// When it is to be started without being asked.
    #[serde(default)]
    pub restart: Option<RestartPolicy>,
}

/// `POST /v1/vms/{vm}/kill`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KillVm {
    /// What the VMM gets; it is killed if it does not end of that.
    #[serde(default)]
    pub signal: KillSignal,
}

/// The signals a VMM may be sent: those that end a process, and none that stops it or means something else to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum KillSignal {
    /// The VMM closes its files and ends.
    #[default]
    Term,
    /// At once.
    Kill,
    /// As from a terminal.
    Int,
    /// As from a terminal that hangs up.
    Hup,
    /// With a core dump, where the host takes them.
    Quit,
    /// Its own meaning to the VMM.
    Usr1,
    /// Its own meaning to the VMM.
    Usr2,
    /// With a core dump, where the host takes them.
    Abrt,
}

impl KillSignal {
    /// All of them, by their names.
    pub const ALL: [(&'static str, KillSignal); 8] = [
        ("TERM", KillSignal::Term),
        ("KILL", KillSignal::Kill),
        ("INT", KillSignal::Int),
        ("HUP", KillSignal::Hup),
        ("QUIT", KillSignal::Quit),
        ("USR1", KillSignal::Usr1),
        ("USR2", KillSignal::Usr2),
        ("ABRT", KillSignal::Abrt),
    ];

    /// As in `ALL`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, signal)| *signal == self).map_or("TERM", |(name, _)| name)
    }
}

/// Text that names no signal of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}", KillSignal::ALL.map(|(name, _)| name).join(", "))]
pub struct KillSignalError;

impl std::str::FromStr for KillSignal {
    type Err = KillSignalError;

    /// In any case, with and without `SIG`; no numbers.
    fn from_str(text: &str) -> Result<KillSignal, KillSignalError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal).ok_or(KillSignalError)
    }
}

/// `POST /v1/vms/{vm}/wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WaitVm {
    /// How ready.
    pub level: Wait,
    /// How long; absent: the default.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// What was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ready {
    /// The level.
    pub level: Wait,
    /// Units that failed on the way; the guest's words.
    pub failed_units: Vec<String>,
    /// Why the level could only be taken for reached.
    pub note: Option<String>,
    /// From the start of the VMM.
    pub elapsed_ms: u64,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The guest's console.
    #[default]
    Console,
    /// What the VMM printed.
    Vmm,
}

/// The query of `GET /v1/vms/{vm}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Which log.
    #[serde(default)]
    pub source: LogSource,
    /// Which boot; absent: the running or last one.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub boot: Option<BootChoice>,
    /// Go on until the boot ends.
    #[serde(default)]
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_a_closed_list() {
        for (name, signal) in KillSignal::ALL {
            for text in
                [name.to_owned(), format!("SIG{name}"), name.to_lowercase(), format!("sig{}", name.to_lowercase())]
            {
                assert_eq!(text.parse(), Ok(signal), "{text}");
            }
            assert_eq!(signal.name(), name);
            assert_eq!(serde_json::to_value(signal).unwrap(), name);
        }
        for bad in ["", "SIG", "STOP", "CONT", "9", "15", "RTMIN", "SIGSIGKILL", "KILL ", "USR3"] {
            assert_eq!(bad.parse::<KillSignal>(), Err(KillSignalError), "{bad:?}");
        }
    }
}
