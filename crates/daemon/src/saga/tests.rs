//! The generic matrix on toy steps: a set of names is the world, a step adds its own and takes it away again.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;
use tokio::sync::Notify;

use super::journal::{Cause, Durability, Edge, EdgeKind, Journal, JournalError, Ledger};
use super::*;

/// Every undo counts, so that a test sees which ran.
#[derive(Default)]
struct World {
    there: Mutex<BTreeSet<&'static str>>,
    undone: Mutex<Vec<&'static str>>,
}

impl World {
    fn there(&self) -> Vec<&'static str> {
        self.there.lock().unwrap().iter().copied().collect()
    }
}

struct Toy(&'static str);

#[async_trait]
impl Step<(), World> for Toy {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &Cx<'_, (), World>) -> Result<(), Cause> {
        assert!(cx.cause.is_none());
        cx.world.there.lock().unwrap().insert(self.0);
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_, (), World>) -> Result<(), Cause> {
        assert!(cx.cause.is_some());
        cx.world.there.lock().unwrap().remove(self.0);
        cx.world.undone.lock().unwrap().push(self.0);
        Ok(())
    }
}

struct Panics;

#[async_trait]
impl Step<(), World> for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    async fn run(&self, _: &Cx<'_, (), World>) -> Result<(), Cause> {
        panic!("on purpose");
    }

    async fn undo(&self, _: &Cx<'_, (), World>) -> Result<(), Cause> {
        Ok(())
    }
}

const STEPS: [&str; 4] = ["a", "b", "c", "d"];

fn toy() -> Saga<(), World> {
    Saga::named("toy").then(Toy("a")).then(Toy("b")).then(Toy("c")).commit(Toy("d"))
}

/// A journal in memory that survives the driver; it can die at an edge or refuse to write.
#[derive(Default)]
struct Memory {
    edges: Mutex<Vec<Edge>>,
    seen: AtomicUsize,
    dies_at: Option<(usize, bool)>,
    refuses_from: Option<usize>,
    died: Notify,
}

#[async_trait]
impl Journal for Memory {
    async fn edges(&self) -> Result<Vec<Edge>, JournalError> {
        Ok(self.edges.lock().unwrap().clone())
    }

    async fn append(&self, edge: &Edge, durability: Durability) -> Result<(), JournalError> {
        let is_commit = edge.step == "d" && edge.kind == EdgeKind::Succeeded;
        assert_eq!(durability == Durability::Machine, is_commit, "{edge:?}");
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        if self.refuses_from.is_some_and(|from| number >= from) {
            return Err(JournalError("the disk is full".into()));
        }
        let death = self.dies_at.filter(|(at, _)| *at == number);
        if death.is_none_or(|(_, is_written)| is_written) {
            self.edges.lock().unwrap().push(edge.clone());
        }
        if death.is_some() {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

struct Nobody;

impl Observer for Nobody {
    fn edge(&self, _: &Edge) {}
    fn progress(&self, _: &'static str, _: Progress) {}
    fn warning(&self, _: &'static str, _: &str) {}
}

/// Drives to an end, or until the journal dies: then none.
async fn run(saga: &Saga<(), World>, world: &World, journal: &Memory, faults: &str) -> Option<Outcome> {
    let cancel = CancellationToken::new();
    run_with(saga, world, journal, faults, &cancel).await
}

async fn run_with(
    saga: &Saga<(), World>,
    world: &World,
    journal: &Memory,
    faults: &str,
    cancel: &CancellationToken,
) -> Option<Outcome> {
    let faults = faults.parse().unwrap();
    let with = Driven { journal, observer: &Nobody, cancel, faults: &faults, now_ms: &|| 7 };
    tokio::select! {
        outcome = drive(saga, &(), world, &with) => Some(outcome.unwrap()),
        () = journal.died.notified() => None,
    }
}

fn block_on<T>(act: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(act)
}

/// Dies at every edge of a run with `faults`, recovers each time without faults, and hands every end to `check`.
async fn at_every_edge(faults: &str, check: impl Fn(&World, &Outcome, &str)) -> usize {
    let mut cases = 0;
    for is_written in [false, true] {
        for at in 0.. {
            let world = World::default();
            let first = Memory { dies_at: Some((at, is_written)), ..Memory::default() };
            let ended = run(&toy(), &world, &first, faults).await;
            let second = Memory { edges: Mutex::new(first.edges.into_inner().unwrap()), ..Memory::default() };
            let outcome = run(&toy(), &world, &second, "").await.unwrap();
            check(&world, &outcome, &format!("faults {faults:?}, edge {at}, written {is_written}"));
            cases += 1;
            if ended.is_some() {
                break;
            }
        }
    }
    cases
}

#[test]
fn fails_anywhere_and_dies_everywhere() {
    block_on(async {
        let mut cases = at_every_edge("", |world, outcome, case| {
            assert_eq!(*outcome, Outcome::Succeeded, "{case}");
            assert_eq!(world.there(), STEPS, "{case}");
        })
        .await;
        for step in STEPS {
            for point in ["before", "after"] {
                let faults = format!("toy/{step}:{point}");
                cases += at_every_edge(&faults, |world, outcome, case| match outcome {
                    // Died before the failure was on record: the next run meets none.
                    Outcome::Succeeded => assert_eq!(world.there(), STEPS, "{case}"),
                    Outcome::Unwound { at, cause } => {
                        assert!(world.there().is_empty(), "{case}: {:?}", world.there());
                        assert_eq!(at, step, "{case}");
                        assert_eq!(cause.message, format!("injected fault in toy/{step}"), "{case}");
                    }
                    Outcome::Stuck { .. } => panic!("{case}: {outcome:?}"),
                })
                .await;
            }
        }
        assert!(cases > 100, "{cases}");
    });
}

#[test]
fn an_undo_that_fails_stops_no_other() {
    block_on(async {
        for step in ["a", "b", "c"] {
            let (world, journal) = (World::default(), Memory::default());
            let faults = format!("toy/c:after,toy/{step}:undo");
            let outcome = run(&toy(), &world, &journal, &faults).await.unwrap();
            let Outcome::Stuck { at, failures, .. } = &outcome else { panic!("{outcome:?}") };
            assert_eq!((at.as_str(), failures.len(), failures[0].step.as_str()), ("c", 1, step));
            assert_eq!(world.there(), [step], "all others are taken back");
            // While the cause is there a later run tries once and changes nothing.
            let again = run(&toy(), &world, &journal, &faults).await.unwrap();
            assert_eq!(again, outcome);
            assert_eq!(world.there(), [step]);
            let freed = run(&toy(), &world, &journal, "").await.unwrap();
            assert!(matches!(&freed, Outcome::Unwound { at, .. } if at == "c"), "{freed:?}");
            assert!(world.there().is_empty());
        }
    });
}

#[test]
fn the_failing_step_is_undone_first() {
    block_on(async {
        let (world, journal) = (World::default(), Memory::default());
        run(&toy(), &world, &journal, "toy/c:before").await.unwrap();
        assert_eq!(*world.undone.lock().unwrap(), ["c", "b", "a"]);
    });
}

#[test]
fn a_cancellation_fails_at_the_next_edge() {
    block_on(async {
        let (world, journal, cancel) = (World::default(), Memory::default(), CancellationToken::new());
        cancel.cancel();
        let outcome = run_with(&toy(), &world, &journal, "", &cancel).await.unwrap();
        let Outcome::Unwound { at, cause } = outcome else { panic!("{outcome:?}") };
        assert!(cause.is_cancellation());
        assert_eq!(at, "a");
        assert!(world.undone.lock().unwrap().is_empty(), "a step that was refused has nothing to take back");
    });
}

#[test]
fn a_panic_is_a_failure() {
    block_on(async {
        let (world, journal) = (World::default(), Memory::default());
        let saga = Saga::named("toy").then(Toy("a")).then(Panics);
        let outcome = run(&saga, &world, &journal, "").await.unwrap();
        let Outcome::Unwound { at, cause } = outcome else { panic!("{outcome:?}") };
        assert_eq!((at.as_str(), cause.code.as_str()), ("panics", INTERNAL));
        assert!(world.there().is_empty());
    });
}

#[test]
fn after_the_commit_point_nothing_is_taken_back() {
    block_on(async {
        let saga = || Saga::named("toy").then(Toy("a")).commit(Toy("d")).then(Toy("b"));
        let (world, journal) = (World::default(), Memory::default());
        let outcome = run(&saga(), &world, &journal, "toy/b:before").await.unwrap();
        assert!(matches!(outcome, Outcome::Stuck { .. }), "{outcome:?}");
        assert_eq!(world.there(), ["a", "d"]);
        let again = run(&saga(), &world, &journal, "toy/b:after").await.unwrap();
        assert!(matches!(again, Outcome::Stuck { .. }), "{again:?}");
        assert_eq!(
            run(&saga(), &world, &journal, "").await.unwrap(),
            Outcome::Succeeded,
            "what is left is taken later"
        );
        assert_eq!(world.there(), ["a", "b", "d"]);
        // A cancellation behind it is too late.
        struct Cancels(CancellationToken);
        #[async_trait]
        impl Step<(), World> for Cancels {
            fn name(&self) -> &'static str {
                "d"
            }
            async fn run(&self, _: &Cx<'_, (), World>) -> Result<(), Cause> {
                self.0.cancel();
                Ok(())
            }
            async fn undo(&self, _: &Cx<'_, (), World>) -> Result<(), Cause> {
                Ok(())
            }
        }
        let cancel = CancellationToken::new();
        let saga = Saga::named("toy").then(Toy("a")).commit(Cancels(cancel.clone())).then(Toy("b"));
        let (world, journal) = (World::default(), Memory::default());
        let outcome = run_with(&saga, &world, &journal, "", &cancel).await.unwrap();
        assert_eq!(outcome, Outcome::Succeeded);
        assert_eq!(world.there(), ["a", "b"]);
    });
}

#[test]
fn a_journal_that_cannot_be_written_takes_everything_back() {
    block_on(async {
        for from in 0..8 {
            let (world, journal) = (World::default(), Memory { refuses_from: Some(from), ..Memory::default() });
            let outcome = run(&toy(), &world, &journal, "").await.unwrap();
            let Outcome::Unwound { cause, .. } = outcome else { panic!("{outcome:?}") };
            assert_eq!(cause.message, "cannot use the journal: the disk is full");
            assert!(world.there().is_empty());
        }
    });
}

proptest! {
    /// Whatever is written after whatever: the ledger takes it or refuses it, and a journal it took is one it takes again.
    #[test]
    fn the_ledger_has_one_order(edges in proptest::collection::vec((0_usize..5, 0_usize..6), 0..60)) {
        let cause = Cause::new("x", "x");
        let kinds = [
            EdgeKind::Started,
            EdgeKind::Succeeded,
            EdgeKind::Failed { cause: cause.clone() },
            EdgeKind::UndoStarted,
            EdgeKind::Undone,
            EdgeKind::UndoFailed { cause },
        ];
        let mut ledger = Ledger::new(&STEPS, Some(3));
        let mut taken = Vec::new();
        for (step, kind) in edges {
            let step = STEPS.get(step).copied().unwrap_or("unknown").to_owned();
            let edge = Edge { step, kind: kinds[kind].clone(), at_ms: 0 };
            if ledger.apply(&edge).is_ok() {
                taken.push(edge);
            }
        }
        prop_assert!(!(ledger.is_committed() && taken.iter().any(|edge| edge.kind == EdgeKind::UndoStarted)));
        let failures = taken.iter().filter(|edge| edge.kind.name() == "failed").count();
        prop_assert!(failures <= 1 || ledger.is_committed());
        let mut again = Ledger::new(&STEPS, Some(3));
        for edge in &taken {
            prop_assert!(again.apply(edge).is_ok());
        }
    }
}
