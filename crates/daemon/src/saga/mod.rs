//! The step engine: a saga is a list of steps that is taken whole or taken back.
//!
//! ```text
//! Saga::named("vm.start").then(A).then(B).commit(C).then(D)
//!
//!   A ──► B ──► C ──► D          every edge is journalled before it is taken
//!   ▲     │fails                 the failing step is undone too, then all before it
//!   └undo─┘                      once C has succeeded nothing is taken back any more
//! ```
//!
//! - [`Step`] is one reversible act; its name is journal key, progress label, error stage and fault point.
//! - [`journal`] holds the edges and the one function that says which order is legal.
//! - [`drive()`] takes the steps. It is the first run and the recovery alike: it reads the journal and goes on.
//! - [`fault`] makes a step fail, or the process die, on purpose and by name.
//!
//! Nothing here knows a noun of ours: a plan `P` and a world `W` are the caller's.

#![warn(clippy::wildcard_enum_match_arm)]

mod drive;
pub mod fault;
pub mod journal;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use drive::{DriveError, Driven, Outcome, UndoFailure, drive};
pub use fault::Faults;
pub use journal::{Cause, Durability, Edge, EdgeKind, IllegalEdge, Journal, JournalError, Ledger, Standing};

/// The code of a [`Cause`] that is a cancellation.
pub const CANCELLED: &str = "cancelled";
/// The code of a [`Cause`] that is a defect of ours.
pub const INTERNAL: &str = "internal";

/// Whether and how a step is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// By its own [`Step::undo`].
    Here,
    /// Not at all.
    Nothing {
        /// Why nothing is left to take back.
        because: &'static str,
    },
}

/// One reversible act on a world `W`, as the plan `P` says.
#[async_trait]
pub trait Step<P, W>: Send + Sync {
    /// Journal key, progress label, error stage and fault point; stable like a column's name.
    fn name(&self) -> &'static str;

    /// How it is taken back.
    fn undo_policy(&self) -> Undo {
        Undo::Here
    }

    /// Makes it so. Idempotent: runs again when the process died inside it.
    ///
    /// # Errors
    /// With what was being done to what; the saga is then taken back, this step included.
    async fn run(&self, cx: &Cx<'_, P, W>) -> Result<(), Cause>;

    /// Takes it back. Idempotent, and tolerates a `run` that only half happened or did not happen.
    ///
    /// # Errors
    /// With what is left; the saga is then stuck, after all other steps were taken back.
    async fn undo(&self, cx: &Cx<'_, P, W>) -> Result<(), Cause>;
}

/// What a step works with.
pub struct Cx<'a, P, W> {
    /// Frozen before the first step.
    pub plan: &'a P,
    /// Everything effects go through.
    pub world: &'a W,
    /// Why the saga is taken back; none on the way forward.
    pub cause: Option<&'a Cause>,
    step: &'static str,
    cancel: &'a CancellationToken,
    observer: &'a dyn Observer,
}

impl<P, W> Cx<'_, P, W> {
    /// Reports how far this step is.
    pub fn progress(&self, progress: Progress) {
        self.observer.progress(self.step, progress);
    }

    /// Reports something a person should know.
    pub fn warning(&self, message: &str) {
        self.observer.warning(self.step, message);
    }

    /// Whether somebody asked to stop; a long step looks now and then and fails with [`Cause::cancelled`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Becomes ready when somebody asks to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// The token itself, for work on another thread.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        self.cancel
    }
}

impl<'a, P, W> Cx<'a, P, W> {
    /// The same for a saga that is a part of this step's.
    #[must_use]
    pub fn of<Q>(&self, plan: &'a Q) -> Cx<'a, Q, W> {
        let Cx { world, cause, step, cancel, observer, .. } = *self;
        Cx { plan, world, cause, step, cancel, observer }
    }
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing right now, when that has a name of its own.
    pub stage: Option<String>,
    /// Which of several things that go on at once, when it is about one of them.
    pub part: Option<String>,
    /// How much is done.
    pub done: u64,
    /// Of how much, when known.
    pub total: Option<u64>,
    /// Of what.
    pub unit: Unit,
}

/// What [`Progress`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Hundredths of the whole.
    Percent,
    /// Things.
    Items,
}

/// Who follows a saga. Called from the driving task; must not block.
pub trait Observer: Send + Sync {
    /// An edge was written.
    fn edge(&self, edge: &Edge);
    /// A step moves on.
    fn progress(&self, step: &'static str, progress: Progress);
    /// Something a person should know.
    fn warning(&self, step: &'static str, message: &str);
}

/// The list of steps of one operation.
pub struct Saga<P, W> {
    name: &'static str,
    steps: Vec<Box<dyn Step<P, W>>>,
    /// Index of the step whose success is the point of no return.
    commit: Option<usize>,
}

impl<P, W> Saga<P, W> {
    /// An empty list.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Saga { name, steps: Vec::new(), commit: None }
    }

    /// Adds a step.
    ///
    /// # Panics
    /// When the name is taken: the journal could not tell the two apart.
    #[must_use]
    pub fn then(mut self, step: impl Step<P, W> + 'static) -> Self {
        let name = step.name();
        assert!(self.steps.iter().all(|known| known.name() != name), "two steps of {} are called {name}", self.name);
        self.steps.push(Box::new(step));
        self
    }

    /// Adds the step whose success is the point of no return: later steps only go forward.
    ///
    /// # Panics
    /// When there is one already, or the name is taken.
    #[must_use]
    pub fn commit(mut self, step: impl Step<P, W> + 'static) -> Self {
        assert!(self.commit.is_none(), "{} has two commit points", self.name);
        self.commit = Some(self.steps.len());
        self.then(step)
    }

    /// Takes all its steps as a part of another saga's step, without a journal of their own: after a crash they are all taken
    /// again.
    ///
    /// # Errors
    /// What the first step gives that fails, or that somebody asked to stop; nothing is taken back then.
    pub async fn run_all(&self, cx: &Cx<'_, P, W>) -> Result<(), Cause> {
        for step in &self.steps {
            if cx.is_cancelled() {
                return Err(Cause::cancelled());
            }
            step.run(cx).await?;
        }
        Ok(())
    }

    /// Takes them all back, the last first, whichever were taken and whatever fails.
    ///
    /// # Errors
    /// What the first gives that cannot be taken back.
    pub async fn undo_all(&self, cx: &Cx<'_, P, W>) -> Result<(), Cause> {
        let mut result = Ok(());
        for step in self.steps.iter().rev() {
            if step.undo_policy() == Undo::Here {
                result = result.and(step.undo(cx).await);
            }
        }
        result
    }

    /// What the saga does: `vm.start`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The names of its steps, in order.
    #[must_use]
    pub fn step_names(&self) -> Vec<&'static str> {
        self.steps.iter().map(|step| step.name()).collect()
    }

    /// Each step's name and how it is taken back.
    #[must_use]
    pub fn undo_policies(&self) -> Vec<(&'static str, Undo)> {
        self.steps.iter().map(|step| (step.name(), step.undo_policy())).collect()
    }
}

#[cfg(test)]
mod tests;
