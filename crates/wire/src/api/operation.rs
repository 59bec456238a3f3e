//! Operations: every multi-step act, as it can be watched.

use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::id::{OpId, VmId};

/// The answer to a request that begins an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Begun {
    /// What was begun; watch it at `/v1/operations/{op}/events`.
    pub operation: OpId,
    /// The VM it is about.
    pub vm: Option<VmId>,
    /// The name of what it is about, a generated one included.
    pub subject: String,
}

/// One run of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Its id.
    pub id: OpId,
    /// What it does: `vm.start`.
    pub kind: String,
    /// The name of what it is about.
    pub subject: String,
    /// How it stands.
    pub state: OperationState,
    /// Why the daemon began it; absent when somebody asked for it.
    pub reason: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<StepReport>,
    /// Why it did not succeed; the first cause, kept over restarts of the daemon.
    pub error: Option<ApiError>,
    /// When it began.
    pub started_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Taking its steps.
    Running,
    /// Taking them back.
    Unwinding,
    /// All steps taken.
    Succeeded,
    /// All steps taken back.
    Unwound,
    /// An undo failed; a person must look.
    Stuck,
}

/// One step as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StepReport {
    /// Its name: `spawn_vmm`.
    pub name: String,
    /// How it stands.
    pub state: StepState,
    /// When it began.
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Being taken.
    Running,
    /// Taken.
    Succeeded,
    /// Failed.
    Failed,
    /// Being taken back.
    Undoing,
    /// Taken back.
    Undone,
    /// Could not be taken back.
    UndoFailed,
}

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Hundredths of the whole.
    Percent,
    /// Files, packages, modules.
    Items,
}

/// One line of `GET /v1/operations/{op}/events`. A watcher gets the present state first, so none is missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OperationEvent {
    /// A step changed.
    Step {
        /// As it stands now.
        step: StepReport,
    },
    /// A step moves on.
    Progress {
        /// Which.
        step: String,
        /// What it is doing right now, when that has a name of its own.
        stage: Option<String>,
        /// Which of several things that go on at once it is about; absent: all of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<String>,
        /// How far.
        done: u64,
        /// Of how much, when known.
        total: Option<u64>,
        /// Of what.
        unit: Unit,
    },
    /// Something a person should know.
    Warning {
        /// One line; may quote a guest.
        message: String,
    },
    /// It ended; the last line.
    Finished {
        /// As it ended.
        operation: Operation,
    },
}

/// `GET /v1/operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationList {
    /// Newest first.
    pub operations: Vec<Operation>,
}
