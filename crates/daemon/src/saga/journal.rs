//! The edges of a saga and their legal order.
//!
//! ```text
//! of one step     Started ─► Succeeded ─► UndoStarted ─► Undone
//!                    │ └──────► Failed ───────▲   └─────► UndoFailed
//!                    └──(died inside: Started again)
//! of the whole    steps start in order; after a Failed edge they are only taken back, last first;
//!                 after the commit point none is taken back, and a failed one may start again
//! one more try    UndoFailed ─► UndoStarted, and then Undone ─► UndoStarted of every step before it;
//!                 behind the commit point Failed ─► Started
//! ```
//!
//! A step that is refused before it began (a cancellation) has a `Failed` edge without `Started`. A step without undo has
//! no edges on the way back. [`Ledger`] is the only judge of all this; the engine and every reader of a journal ask it.

use async_trait::async_trait;

/// Why a step failed: data, because it outlives the process that met it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Cause {
    /// What kind, for programs; the caller's vocabulary.
    pub code: String,
    /// What was being done to what, and why it failed.
    pub message: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same may succeed later.
    #[serde(default)]
    pub is_retryable: bool,
}

impl Cause {
    /// A cause without a hint.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Cause {
        Cause { code: code.into(), message: message.into(), hint: None, is_retryable: false }
    }

    /// Somebody asked to stop.
    #[must_use]
    pub fn cancelled() -> Cause {
        Cause::new(super::CANCELLED, "cancelled")
    }

    /// Whether this is [`Cause::cancelled`].
    #[must_use]
    pub fn is_cancellation(&self) -> bool {
        self.code == super::CANCELLED
    }
}

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Which step.
    pub step: String,
    /// What happens to it.
    pub kind: EdgeKind,
    /// When, milliseconds since 1970, UTC.
    pub at_ms: u64,
}

/// What happens to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgeKind {
    /// It is about to run.
    Started,
    /// It ran.
    Succeeded,
    /// It did not; everything is taken back.
    Failed {
        /// Why.
        cause: Cause,
    },
    /// It is about to be taken back.
    UndoStarted,
    /// It is taken back.
    Undone,
    /// It could not be taken back.
    UndoFailed {
        /// Why.
        cause: Cause,
    },
}

/// How an edge must reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives the death of this process.
    Process,
    /// It survives the death of the machine.
    Machine,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal")]
pub struct JournalError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Where the edges of one operation are kept.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Everything written so far, in order.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn edges(&self) -> Result<Vec<Edge>, JournalError>;

    /// Adds an edge; when this returns it is as durable as asked.
    ///
    /// # Errors
    /// When it could not be written; nothing was added then.
    async fn append(&self, edge: &Edge, durability: Durability) -> Result<(), JournalError>;
}

/// How one step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not begun.
    Pending,
    /// Running, or the process died inside it.
    Started,
    /// Ran.
    Succeeded,
    /// Failed; possibly half done.
    Failed,
    /// Refused before it began: nothing to take back.
    Refused,
    /// Being taken back, or the process died inside that.
    Undoing,
    /// Taken back.
    Undone,
    /// Could not be taken back.
    UndoFailed,
}

/// An edge that cannot follow what the journal holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal cannot go on with {kind} of step {step}: {why}")]
pub struct IllegalEdge {
    step: String,
    kind: &'static str,
    why: &'static str,
}

/// A journal read back: how every step stands, and why the saga fails if it does.
#[derive(Debug, Clone)]
pub struct Ledger {
    steps: Vec<(&'static str, Standing)>,
    commit: Option<usize>,
    failure: Option<(usize, Cause)>,
    undo_failures: Vec<(usize, Cause)>,
    /// The last step whose undo was tried again.
    retried: Option<usize>,
}

impl Ledger {
    /// An empty journal of these steps; `commit` is the index of the point of no return.
    #[must_use]
    pub fn new(steps: &[&'static str], commit: Option<usize>) -> Ledger {
        Ledger {
            steps: steps.iter().map(|name| (*name, Standing::Pending)).collect(),
            commit,
            failure: None,
            undo_failures: Vec::new(),
            retried: None,
        }
    }

    /// How the step at `index` stands.
    #[must_use]
    pub fn standing(&self, index: usize) -> Standing {
        self.steps[index].1
    }

    /// The first failure: which step and why.
    #[must_use]
    pub fn failure(&self) -> Option<(&'static str, &Cause)> {
        self.failure.as_ref().map(|(index, cause)| (self.steps[*index].0, cause))
    }

    /// The steps that could not be taken back.
    #[must_use]
    pub fn undo_failures(&self) -> Vec<(&'static str, &Cause)> {
        self.undo_failures.iter().map(|(index, cause)| (self.steps[*index].0, cause)).collect()
    }

    /// The last step whose undo has failed once. What comes before it is taken back once more with it: an undo relies on
    /// those behind it.
    #[must_use]
    pub fn once_more_before(&self) -> Option<usize> {
        self.undo_failures.iter().map(|(index, _)| *index).chain(self.retried).max()
    }

    /// Whether the point of no return is behind.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.commit.is_some_and(|index| self.steps[index].1 == Standing::Succeeded)
    }

    /// Takes `edge` into account. The one place that knows the legal order.
    ///
    /// # Errors
    /// When the edge cannot come now; the ledger is unchanged.
    pub fn apply(&mut self, edge: &Edge) -> Result<(), IllegalEdge> {
        let refused = |why| Err(IllegalEdge { step: edge.step.clone(), kind: edge.kind.name(), why });
        let Some(index) = self.steps.iter().position(|(name, _)| *name == edge.step) else {
            return refused("there is no such step");
        };
        let standing = self.steps[index].1;
        let next = match (&edge.kind, standing) {
            (EdgeKind::Started, Standing::Pending | Standing::Started | Standing::Failed) => {
                let is_another_try = standing == Standing::Failed && self.is_committed();
                if self.failure.is_some() && !is_another_try {
                    return refused("the saga is being taken back");
                }
                if self.steps[..index].iter().any(|(_, before)| *before != Standing::Succeeded) {
                    return refused("a step before it has not succeeded");
                }
                self.failure = None;
                Standing::Started
            }
            (EdgeKind::Succeeded, Standing::Started) if self.failure.is_none() => Standing::Succeeded,
            (EdgeKind::Failed { cause }, Standing::Started | Standing::Pending) if self.failure.is_none() => {
                self.failure = Some((index, cause.clone()));
                if standing == Standing::Started { Standing::Failed } else { Standing::Refused }
            }
            (
                EdgeKind::UndoStarted,
                Standing::Succeeded | Standing::Failed | Standing::Undoing | Standing::Undone | Standing::UndoFailed,
            ) => {
                if standing == Standing::Undone && self.retried.is_none_or(|retried| retried <= index) {
                    return refused("it is taken back, and so is all behind it");
                }
                if self.failure.is_none() {
                    return refused("nothing has failed");
                }
                if self.is_committed() {
                    return refused("the point of no return is behind");
                }
                if standing == Standing::UndoFailed {
                    self.undo_failures.retain(|(failed, _)| *failed != index);
                    self.retried = self.retried.max(Some(index));
                }
                Standing::Undoing
            }
            (EdgeKind::Undone, Standing::Undoing) => Standing::Undone,
            (EdgeKind::UndoFailed { cause }, Standing::Undoing) => {
                self.undo_failures.push((index, cause.clone()));
                Standing::UndoFailed
            }
            (
                EdgeKind::Started
                | EdgeKind::Succeeded
                | EdgeKind::Failed { .. }
                | EdgeKind::UndoStarted
                | EdgeKind::Undone
                | EdgeKind::UndoFailed { .. },
                Standing::Pending
                | Standing::Started
                | Standing::Succeeded
                | Standing::Failed
                | Standing::Refused
                | Standing::Undoing
                | Standing::Undone
                | Standing::UndoFailed,
            ) => return refused("the step does not stand so"),
        };
        self.steps[index].1 = next;
        Ok(())
    }
}

impl EdgeKind {
    /// As stored and logged; stable.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            EdgeKind::Started => "started",
            EdgeKind::Succeeded => "succeeded",
            EdgeKind::Failed { .. } => "failed",
            EdgeKind::UndoStarted => "undo_started",
            EdgeKind::Undone => "undone",
            EdgeKind::UndoFailed { .. } => "undo_failed",
        }
    }

    /// The cause it carries.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            EdgeKind::Failed { cause } | EdgeKind::UndoFailed { cause } => Some(cause),
            EdgeKind::Started | EdgeKind::Succeeded | EdgeKind::UndoStarted | EdgeKind::Undone => None,
        }
    }

    /// The kind of that name; a missing cause stands for a defect.
    #[must_use]
    pub fn from_parts(name: &str, cause: Option<Cause>) -> Option<EdgeKind> {
        let lost = || Cause::new(super::INTERNAL, "the cause was not recorded");
        match name {
            "started" => Some(EdgeKind::Started),
            "succeeded" => Some(EdgeKind::Succeeded),
            "failed" => Some(EdgeKind::Failed { cause: cause.unwrap_or_else(lost) }),
            "undo_started" => Some(EdgeKind::UndoStarted),
            "undone" => Some(EdgeKind::Undone),
            "undo_failed" => Some(EdgeKind::UndoFailed { cause: cause.unwrap_or_else(lost) }),
            _ => None,
        }
    }
}
