//! Taking the steps of a saga, forward or back, from wherever its journal stands.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::fault::Point;
use super::journal::{Cause, Durability, Edge, EdgeKind, IllegalEdge, Journal, JournalError, Ledger, Standing};
use super::{Cx, Faults, INTERNAL, Observer, Saga, Undo};

/// How a saga ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps taken.
    Succeeded,
    /// All steps taken back.
    Unwound {
        /// The step that failed first.
        at: String,
        /// Why.
        cause: Cause,
    },
    /// Something is left that a person must look at: an undo failed, or a step after the point of no return.
    Stuck {
        /// The step that failed first.
        at: String,
        /// Why.
        cause: Cause,
        /// What could not be taken back.
        failures: Vec<UndoFailure>,
    },
}

/// A step that could not be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoFailure {
    /// Which.
    pub step: String,
    /// Why.
    pub cause: Cause,
}

/// A saga that could not be driven to any end.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The journal cannot be read.
    #[error("cannot read how far the operation came")]
    Read(#[source] JournalError),
    /// The journal holds what no run of these steps writes: another version wrote it.
    #[error("cannot go on with the operation")]
    Illegal(#[from] IllegalEdge),
}

/// What [`drive()`] needs beside the saga, its plan and the world.
pub struct Driven<'a> {
    /// Where edges are kept.
    pub journal: &'a dyn Journal,
    /// Who follows.
    pub observer: &'a dyn Observer,
    /// Asks to stop at the next edge.
    pub cancel: &'a CancellationToken,
    /// Faults on purpose.
    pub faults: &'a Faults,
    /// The wall clock, milliseconds since 1970.
    pub now_ms: &'a (dyn Fn() -> u64 + Send + Sync),
}

/// Takes the steps of `saga` from wherever the journal stands to an end. What could not be taken back, or behind the
/// point of no return could not be taken, is tried once more.
///
/// When the journal cannot be written (a full disk) the step counts as failed and everything is taken back all the same:
/// undos are by name and need no journal, and a later recovery of what the journal last held finds steps that fail.
///
/// # Errors
/// When the journal cannot be read or was written by other steps.
pub async fn drive<P: Sync, W: Sync>(
    saga: &Saga<P, W>,
    plan: &P,
    world: &W,
    with: &Driven<'_>,
) -> Result<Outcome, DriveError> {
    let mut ledger = Ledger::new(&saga.step_names(), saga.commit);
    for edge in with.journal.edges().await.map_err(DriveError::Read)? {
        ledger.apply(&edge)?;
    }
    let mut run = Run { saga, plan, world, with, ledger };
    if run.ledger.failure().is_none() || run.ledger.is_committed() {
        run.forward().await?;
    }
    let Some((at, cause)) = run.ledger.failure().map(|(at, cause)| (at.to_owned(), cause.clone())) else {
        return Ok(Outcome::Succeeded);
    };
    if run.ledger.is_committed() {
        return Ok(Outcome::Stuck { at, cause, failures: Vec::new() });
    }
    run.back(&cause).await?;
    let failures: Vec<_> = run
        .ledger
        .undo_failures()
        .into_iter()
        .map(|(step, cause)| UndoFailure { step: step.to_owned(), cause: cause.clone() })
        .collect();
    if failures.is_empty() { Ok(Outcome::Unwound { at, cause }) } else { Ok(Outcome::Stuck { at, cause, failures }) }
}

struct Run<'a, P, W> {
    saga: &'a Saga<P, W>,
    plan: &'a P,
    world: &'a W,
    with: &'a Driven<'a>,
    ledger: Ledger,
}

impl<P: Sync, W: Sync> Run<'_, P, W> {
    /// Takes steps until all are taken or one has failed; that is in the ledger.
    async fn forward(&mut self) -> Result<(), IllegalEdge> {
        for index in 0..self.saga.steps.len() {
            if self.ledger.standing(index) == Standing::Succeeded {
                continue;
            }
            if self.with.cancel.is_cancelled() && !self.ledger.is_committed() {
                return self.fail(index, Cause::cancelled()).await;
            }
            if let Err(cause) = self.write(index, EdgeKind::Started).await? {
                return self.fail(index, cause).await;
            }
            let result = self.run_step(index).await;
            let result = match result {
                Ok(()) => self.write(index, EdgeKind::Succeeded).await?,
                Err(cause) => Err(cause),
            };
            if let Err(cause) = result {
                return self.fail(index, cause).await;
            }
        }
        Ok(())
    }

    /// Takes back whatever was taken, last first, past every failure.
    async fn back(&mut self, cause: &Cause) -> Result<(), IllegalEdge> {
        let once_more_before = self.ledger.once_more_before();
        for index in (0..self.saga.steps.len()).rev() {
            match self.ledger.standing(index) {
                Standing::Pending | Standing::Refused => continue,
                Standing::Undone if once_more_before.is_none_or(|failed| index >= failed) => continue,
                Standing::Started
                | Standing::Succeeded
                | Standing::Failed
                | Standing::Undoing
                | Standing::Undone
                | Standing::UndoFailed => {}
            }
            if matches!(self.saga.steps[index].undo_policy(), Undo::Nothing { .. }) {
                continue;
            }
            self.note(index, EdgeKind::UndoStarted).await?;
            let end = match self.undo_step(index, cause).await {
                Ok(()) => EdgeKind::Undone,
                Err(cause) => EdgeKind::UndoFailed { cause },
            };
            self.note(index, end).await?;
        }
        Ok(())
    }

    async fn run_step(&self, index: usize) -> Result<(), Cause> {
        let step = &self.saga.steps[index];
        let (saga, name) = (self.saga.name, step.name());
        self.with.faults.hit(saga, name, Point::Before)?;
        let cx = self.cx(name, None);
        unpanicked(step.run(&cx), name).await?;
        self.with.faults.hit(saga, name, Point::After)
    }

    async fn undo_step(&self, index: usize, cause: &Cause) -> Result<(), Cause> {
        let step = &self.saga.steps[index];
        self.with.faults.hit(self.saga.name, step.name(), Point::Undo)?;
        let cx = self.cx(step.name(), Some(cause));
        unpanicked(step.undo(&cx), step.name()).await
    }

    fn cx<'b>(&'b self, step: &'static str, cause: Option<&'b Cause>) -> Cx<'b, P, W> {
        Cx { plan: self.plan, world: self.world, cause, step, cancel: self.with.cancel, observer: self.with.observer }
    }

    /// Records the failure of a step; a journal that cannot be written does not stop the way back.
    async fn fail(&mut self, index: usize, cause: Cause) -> Result<(), IllegalEdge> {
        self.note(index, EdgeKind::Failed { cause }).await
    }

    /// Writes an edge before it is taken.
    async fn write(&mut self, index: usize, kind: EdgeKind) -> Result<Result<(), Cause>, IllegalEdge> {
        let edge = self.edge(index, kind);
        let mut next = self.ledger.clone();
        next.apply(&edge)?;
        let is_commit = self.saga.commit == Some(index) && edge.kind == EdgeKind::Succeeded;
        let durability = if is_commit { Durability::Machine } else { Durability::Process };
        if let Err(error) = self.with.journal.append(&edge, durability).await {
            return Ok(Err(Cause::new("exhausted", chain(&error))));
        }
        self.ledger = next;
        self.with.observer.edge(&edge);
        Ok(Ok(()))
    }

    /// Writes an edge of the way back, which is taken whether or not it can be written.
    async fn note(&mut self, index: usize, kind: EdgeKind) -> Result<(), IllegalEdge> {
        let edge = self.edge(index, kind);
        self.ledger.apply(&edge)?;
        if let Err(error) = self.with.journal.append(&edge, Durability::Process).await {
            tracing::error!(
                step = edge.step,
                edge = edge.kind.name(),
                error = chain(&error),
                "an edge is not journalled"
            );
        }
        self.with.observer.edge(&edge);
        Ok(())
    }

    fn edge(&self, index: usize, kind: EdgeKind) -> Edge {
        Edge { step: self.saga.steps[index].name().to_owned(), kind, at_ms: (self.with.now_ms)() }
    }
}

/// A panic inside a step is a failure of that step.
async fn unpanicked(act: impl Future<Output = Result<(), Cause>>, step: &str) -> Result<(), Cause> {
    match AssertUnwindSafe(act).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(Cause::new(INTERNAL, format!("a defect in step {step}: it panicked; see the daemon's log"))),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
