//! The daemon's HTTP API: JSON bodies of the resources below [`BASE`].
//!
//! | method and path | body → answer |
//! |---|---|
//! | `GET /v1/status` | → [`DaemonStatus`] |
//! | `GET /v1/config` | → [`Configuration`] |
//! | `GET /v1/doctor` | → [`DoctorReport`] |
//! | `POST /v1/shutdown` | ends the daemon; VMs go on |
//! | `GET /v1/vms`, `GET /v1/vms/{vm}` | [`ListVms`] → [`VmList`], [`Vm`] |
//! | `POST /v1/vms` | [`CreateVm`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/start`, `…/stop`, `…/restart` | [`StartVm`], [`StopVm`], [`StartVm`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/kill` | [`KillVm`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/pause`, `…/resume` | `{}` → [`Begun`] |
//! | `POST /v1/vms/{vm}/suspend` | `{}` → [`Begun`] |
//! | `POST /v1/vms/{vm}/fork` | [`ForkVm`] → [`Forked`] |
//! | `GET /v1/vms/{vm}/snapshots`, `POST …` | → [`SnapshotList`], [`TakeSnapshot`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/snapshots/{snapshot}/restore`, `DELETE …` | [`RestoreSnapshot`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/set` | [`SetVm`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/rename` | [`RenameVm`] → [`Vm`] |
//! | `POST /v1/vms/{vm}/reset` | [`ResetVm`] → [`Begun`] |
//! | `DELETE /v1/vms/{vm}` | [`DeleteVm`] → [`Begun`] |
//! | `POST /v1/vms/{vm}/wait` | [`WaitVm`] → [`Ready`] |
//! | `GET /v1/vms/{vm}/stats`, `…/ports` | → [`VmStats`], [`VmPorts`] |
//! | `GET /v1/vms/{vm}/boots` | → [`BootList`] |
//! | `GET /v1/vms/{vm}/logs` | [`LogsQuery`] → bytes, chunked |
//! | `POST /v1/vms/{vm}/exec` | [`crate::attach::ExecSpec`] → upgrade to [`crate::attach::PROTOCOL`] |
//! | `GET /v1/vms/{vm}/sessions`, `GET …/{session}` | → [`SessionList`], [`Session`] |
//! | `POST /v1/vms/{vm}/sessions` | [`StartSession`] → [`Session`] |
//! | `POST /v1/vms/{vm}/sessions/{session}/attach` | [`AttachSession`] → upgrade to [`crate::attach::PROTOCOL`] |
//! | `POST /v1/vms/{vm}/sessions/{session}/input?eof=` | bytes, chunked → [`Sent`] |
//! | `POST /v1/vms/{vm}/sessions/{session}/stop`, `…/signal` | [`StopSession`], [`SignalSession`] → [`Session`] |
//! | `DELETE /v1/vms/{vm}/sessions/{session}` | forgets one that has ended → [`Session`] |
//! | `PUT /v1/vms/{vm}/tree?path=` | tar, chunked → [`TreeDone`] |
//! | `GET /v1/vms/{vm}/tree?path=` | [`FileQuery`] → tar, chunked, with [`ERROR_TRAILER`] |
//! | `GET /v1/vms/{vm}/file?path=` | [`FileQuery`] → [`GuestFile`] |
//! | `GET /v1/vms/{vm}/changes` | → [`Change`] a line, with [`ERROR_TRAILER`] |
//! | `POST /v1/workspaces/inspect` | [`InspectWorkspace`] → [`Inspection`] |
//! | `POST /v1/vms/{vm}/workspace` | [`PrepareWorkspace`] → [`Begun`] |
//! | `GET /v1/vms/{vm}/workspace` | [`WorkspaceQuery`] → [`WorkspaceStatus`] |
//! | `GET /v1/vms/{vm}/workspace/export` | [`ExportQuery`] → bytes, chunked, with [`EXPORT_TRAILER`] or [`ERROR_TRAILER`] |
//! | `POST /v1/vms/{vm}/workspace/branch` | [`ExportBranch`] → [`Exported`] |
//! | `POST /v1/vms/{vm}/workspace/exported` | [`KeepExported`] → [`Workspace`] |
//! | `GET /v1/images`, `GET /v1/images/{image}`, `DELETE …` | → [`ImageList`], [`Image`], [`Begun`] |
//! | `GET /v1/images/available`, `GET /v1/kernels/available` | → [`Available`]: what the catalog has |
//! | `POST /v1/images/build` | [`BuildImage`] → [`Begun`] |
//! | `GET /v1/kernels`, `GET /v1/kernels/{kernel}`, `DELETE …` | → [`KernelList`], [`Kernel`], [`Begun`] |
//! | `POST /v1/kernels/import` | [`ImportKernel`] → [`Begun`] |
//! | `GET /v1/images/{image}/archive` | [`SaveQuery`] → a stream |
//! | `POST /v1/vms/{vm}/commit` | [`CommitVm`] → [`Begun`] |
//! | `GET /v1/operations`, `GET /v1/operations/{op}` | → [`OperationList`], [`Operation`] |
//! | `GET /v1/operations/{op}/events` | → [`OperationEvent`] a line, until `Finished` |
//! | `DELETE /v1/operations/{op}` | cancels at the next edge → [`Operation`] |
//!
//! `{vm}` is a name, an id or an unambiguous beginning of an id of at least four digits. An answer outside 2xx carries an
//! [`ApiError`] as `{"error": …}` ([`ErrorBody`]). Times are milliseconds since 1970, UTC.

mod boot;
mod catalog;
mod config;
mod error;
mod figures;
mod image;
mod listing;
mod operation;
mod policy;
mod session;
mod snapshot;
mod system;
mod template;
mod tooling;
mod tree;
mod vm;
mod workspace;

pub use boot::{BOOT_PREFIX_LEN_MIN, BootChoice, BootChoiceError, BootList};
pub use catalog::{Available, AvailableEntry};
pub use config::{Configuration, Origin, Setting};
pub use error::{ApiError, ErrorBody, ErrorCode, chain, plain};
pub use figures::{Listener, Traffic, VmPorts, VmStats};
pub use image::{
    BuildImage, CommitVm, Image, ImageExec, ImageList, ImageOrigin, ImportKernel, Kernel, KernelFacts, KernelList,
    KernelSource, LoadQuery, PromoteImage, PruneImages, PrunedImages, PullImage, RegisterImage, SaveFormat, SaveQuery,
};
pub use listing::{FilterError, FilterTerm, ListVms, STATES, VmFilter, VmLine, VmLines, VmSort, parse_state};
pub use operation::{Begun, Operation, OperationEvent, OperationList, OperationState, StepReport, StepState, Unit};
pub use policy::{Idle, RestartPolicy, Restarts};
pub use session::{
    AttachSession, SendQuery, Sent, Session, SessionList, SessionState, SignalSession, StartSession, StopSession,
};
pub use snapshot::{ForkVm, Forked, RestoreSnapshot, Snapshot, SnapshotList, TakeSnapshot};
pub use system::{Check, CheckStatus, DaemonStatus, Defaults, DoctorReport, VersionInfo};
pub use template::{PrunedTemplates, Template, TemplateList};
pub use tooling::{DevContainer, POST_CREATE_SESSION, TOOLING_SESSION, ToolPin};
pub use tree::{Change, ChangeKind, ERROR_TRAILER, FileKind, FileQuery, GuestFile, TreeDone, TreeQuery};
pub use vm::{
    BootStatus, CreateVm, DeleteVm, KillSignal, KillSignalError, KillVm, LogSource, LogsQuery, Publish, Ready,
    RenameVm, ResetVm, SetVm, StartVm, StopVm, Vm, VmList, VmState, Wait, WaitVm,
};
pub use workspace::{
    EXPORT_TRAILER, ExportBranch, ExportFormat, ExportQuery, Exported, GuestSide, HostSide, InspectWorkspace,
    Inspection, KeepExported, LastLook, PATHS_TOLD_MAX, PrepareWorkspace, WORKSPACE_DEPTH, WORKSPACE_PATH, Workspace,
    WorkspaceMode, WorkspaceModeError, WorkspaceQuery, WorkspaceSource, WorkspaceStatus,
};

/// What every path begins with.
pub const BASE: &str = "/v1";
