//! The power goes at every edge of every operation: what ran is gone, what was in memory is gone, and of the database's newest
//! entries only those that were made to last are there for certain. The next daemon makes a whole of what is left.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use daemon::saga::journal::{Durability, Edge, Journal, JournalError};
use tokio::sync::Notify;
use wire::api::{OperationState, VmState};
use wire::id::OpId;

use crate::crash::{VERBS, drive_with, life, prepare};
use crate::fake::{Daemon, World, soon};
use crate::slate::assert_clean_slate;

/// How much of the database the disk had taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// All that was written.
    All,
    /// What was synced, and nothing behind it.
    Synced,
}

/// The files of the database at one moment.
struct Database {
    path: PathBuf,
    file: Vec<u8>,
    log: Vec<u8>,
}

impl Database {
    fn log_of(path: &Path) -> PathBuf {
        path.with_file_name("state.db-wal")
    }

    /// As it stands between two commits: every commit changes the log.
    fn read(state: &Path) -> Database {
        let path = state.join("state.db");
        let log = || std::fs::read(Database::log_of(&path)).unwrap();
        loop {
            let before = log();
            let file = std::fs::read(&path).unwrap();
            if log() == before {
                return Database { file, log: before, path };
            }
        }
    }

    /// As new files: the threads of the first life may have the old ones open a moment longer.
    fn put_back(&self) {
        for (path, bytes) in [(&self.path, &self.file), (&Database::log_of(&self.path), &self.log)] {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// A journal that remembers what the disk has for certain, and whose machine loses its power before the `at`th edge.
struct Powered {
    inner: Box<dyn Journal>,
    state: PathBuf,
    at: usize,
    seen: AtomicUsize,
    synced: Arc<Mutex<Database>>,
    gone: Arc<Notify>,
}

#[async_trait]
impl Journal for Powered {
    async fn edges(&self) -> Result<Vec<Edge>, JournalError> {
        self.inner.edges().await
    }

    async fn append(&self, edge: &Edge, durability: Durability) -> Result<(), JournalError> {
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.at {
            self.gone.notify_one();
            std::future::pending::<()>().await;
        }
        self.inner.append(edge, durability).await?;
        if durability == Durability::Machine {
            *self.synced.lock().unwrap() = Database::read(&self.state);
        }
        Ok(())
    }
}

/// One life that ends with the power, before an edge or after the last one, and the next. Says whether the operation came
/// to its end before the edge was reached.
async fn lose_power_and_recover(verb: &'static str, faults: &str, at: usize, kept: Kept) -> bool {
    let world = World::new();
    let id = OpId::from_random(sys::rand::bytes());
    let (in_first, first_id, injected) = (Arc::clone(&world), id.clone(), faults.to_owned());
    let (is_over, synced) = life(async move {
        let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
        let plan = prepare(&daemon, verb, &first_id).await;
        let state = in_first.dirs.state.clone();
        let (synced, gone) = (Arc::new(Mutex::new(Database::read(&state))), Arc::new(Notify::new()));
        let inner = Box::new(daemon.host.store.journal(first_id.clone()));
        let (last, told) = (Arc::clone(&synced), Arc::clone(&gone));
        let journal = Powered { inner, state, at, seen: AtomicUsize::new(0), synced: last, gone: told };
        let is_over = tokio::select! {
            _ = drive_with(&daemon.host, &first_id, &plan, &injected, &journal) => true,
            () = gone.notified() => false,
        };
        (is_over, synced)
    })
    .await;
    world.lose_power();
    if kept == Kept::Synced {
        synced.lock().unwrap().put_back();
    }

    let case = format!("{verb}, faults {faults:?}, edge {at}, {kept:?}");
    let daemon = Daemon::start(&world, "").await;
    daemon.engine.recover().await.unwrap();
    soon("open operations to end", daemon.engine.settled()).await;
    daemon::reconcile::sweep(&daemon.host).await.unwrap();
    // The operation may be on no record any more; then nothing of it is.
    if let Ok(operation) = daemon.engine.operation(&id).await {
        let ends = [OperationState::Succeeded, OperationState::Unwound];
        assert!(ends.contains(&operation.state), "{case}: {operation:?}");
    }
    assert_clean_slate(&daemon).await;
    is_usable(&daemon, &case).await;
    is_over
}

/// Whatever is left of the VM can be started and deleted.
async fn is_usable(daemon: &Daemon, case: &str) {
    let Ok(vm) = daemon.host.store.find_vm("web").await else { return };
    // A start that finds no template has one made, after it.
    let is_suspended = vm.state.to_wire() == VmState::Suspended;
    daemon.world.saves_machines.store(is_suspended, Ordering::SeqCst);
    let engine = &daemon.engine;
    match vm.state.to_wire() {
        VmState::Created | VmState::Stopped | VmState::Suspended => {
            let begun = engine.start("web").await.unwrap();
            let started = engine.wait(&begun.operation).await.unwrap();
            assert_eq!(started.state, OperationState::Succeeded, "{case}: {started:?}");
        }
        // An operation that the next daemon went on with has started it.
        VmState::Running => {}
        state => panic!("{case}: {state:?}"),
    }
    let begun = engine.delete("web").await.unwrap();
    let deleted = engine.wait(&begun.operation).await.unwrap();
    assert_eq!(deleted.state, OperationState::Succeeded, "{case}: {deleted:?}");
    assert_clean_slate(daemon).await;
}

async fn at_every_edge(verb: &'static str, faults: &str) {
    for kept in [Kept::All, Kept::Synced] {
        let mut at = 0;
        while !lose_power_and_recover(verb, faults, at, kept).await {
            at += 1;
        }
        assert!(at > 1, "{verb} has edges");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_whole_after_a_power_cut() {
    for verb in VERBS {
        at_every_edge(verb, "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_on_their_way_back_are_whole_after_a_power_cut() {
    for verb in VERBS {
        let world = World::new();
        let daemon = Daemon::start(&world, "").await.with_artifacts().await;
        let plan = prepare(&daemon, verb, &OpId::from_random([1; 8])).await;
        // The first step that is taken back: behind others it is among those that follow.
        let names = plan.step_names();
        let last = if verb.starts_with("delete") { names[0] } else { names[names.len() - 1] };
        at_every_edge(verb, &format!("{}/{last}:after", plan.kind())).await;
    }
}
