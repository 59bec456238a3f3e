//! What journalling costs a start: its operation's row, its edges and its end, written to a real database by the real
//! engine, while the steps do nothing.
//!
//! `cargo bench -p daemon --bench journal -- DIR STARTS` prints a line for each start: nanoseconds of the journal, and of
//! its floor in the same directory, one write and sync of 4 KiB. DIR is made, and removed afterwards.

#![allow(clippy::disallowed_methods, reason = "developer glue that measures")]
#![allow(clippy::print_stdout, reason = "it prints what it measured")]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends where it stands")]

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use daemon::saga::{Cause, Cx, Driven, Edge, Faults, Observer, Outcome, Progress, Saga, Step, drive};
use daemon::store::records::OperationRecord;
use daemon::store::{OperationState, Store};
use tokio_util::sync::CancellationToken;
use wire::id::OpId;

/// Operations on record before the first one counts: as many as a database keeps, so that each end forgets an old one.
const BEFORE: usize = 520;
/// Characters of a start's plan: QEMU's command line and an identity.
const PLAN_LEN: usize = 5 << 10;

/// A step of a start that does nothing.
struct Nothing(&'static str);

#[async_trait]
impl Step<(), ()> for Nothing {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn run(&self, _: &Cx<'_, (), ()>) -> Result<(), Cause> {
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_, (), ()>) -> Result<(), Cause> {
        Ok(())
    }
}

/// Nobody follows.
struct Nobody;

impl Observer for Nobody {
    fn edge(&self, _: &Edge) {}
    fn progress(&self, _: &'static str, _: Progress) {}
    fn warning(&self, _: &'static str, _: &str) {}
}

/// The steps of a start, by name.
fn steps() -> Saga<(), ()> {
    let names = daemon::ops::start::start().step_names();
    let (last, before) = names.split_last().unwrap();
    before.iter().fold(Saga::named("vm.start"), |saga, name| saga.then(Nothing(name))).commit(Nothing(last))
}

/// One start's journal, from its first row to its end.
async fn journal(store: &Store, saga: &Saga<(), ()>) -> Duration {
    let id = OpId::from_random(sys::rand::bytes());
    let operation = OperationRecord {
        id: id.clone(),
        kind: "vm.start".to_owned(),
        subject: "web".to_owned(),
        holds: Some("0123456789abcdef".to_owned()),
        plan: serde_json::json!({ "plan": "x".repeat(PLAN_LEN) }),
        state: OperationState::Open,
        error: None,
        started_at_ms: sys::clock::unix_ms(),
        ended_at_ms: None,
    };
    let begun = Instant::now();
    store.begin_operation(operation).await.unwrap();
    let with = Driven {
        journal: &store.journal(id.clone()),
        observer: &Nobody,
        cancel: &CancellationToken::new(),
        faults: &Faults::default(),
        now_ms: &sys::clock::unix_ms,
    };
    let outcome = drive(saga, &(), &(), &with).await.unwrap();
    store.end_operation(&id, OperationState::Succeeded, None, sys::clock::unix_ms()).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(outcome, Outcome::Succeeded);
    took
}

/// One write and sync of a page, in place.
fn floor(file: &mut std::fs::File) -> Duration {
    let begun = Instant::now();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[7; 4096]).unwrap();
    file.sync_data().unwrap();
    begun.elapsed()
}

async fn measure(dir: &Path, starts: usize) {
    let store = Store::open(&dir.join("state.db")).unwrap();
    let saga = steps();
    for _ in 0..BEFORE {
        journal(&store, &saga).await;
    }
    let mut file = std::fs::File::create(dir.join("floor")).unwrap();
    floor(&mut file);
    for _ in 0..starts {
        let took = journal(&store, &saga).await;
        println!("{} {}", took.as_nanos(), floor(&mut file).as_nanos());
    }
}

fn main() {
    // Cargo adds `--bench`.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (Some(dir), Some(Ok(starts))) = (words.next().map(PathBuf::from), words.next().map(|word| word.parse())) else {
        panic!("usage: cargo bench -p daemon --bench journal -- DIR STARTS");
    };
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).unwrap();
    // As the daemon's own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(async move {
            measure(&dir, starts).await;
            std::fs::remove_dir_all(&dir).unwrap()
        })
        .await
        .unwrap()
    });
}
