//! Many lives of many VMs, mixed and at once: in the end the database has the rows it had before.

use std::collections::BTreeMap;

use wire::api::{Begun, KillSignal, OperationState, SetVm};

use crate::fake::{Daemon, World};
use crate::ops::request;
use crate::slate::assert_clean_slate;
use crate::store_rows;

/// Lives one after the other: more operations than are kept once they have ended, so that what is on record of them
/// afterwards is the same whatever came before.
const FILL: usize = 100;
/// Lives at once.
const AT_ONCE: usize = 8;

/// Lives between the two looks: many in a soak.
fn lives() -> usize {
    let soak = std::env::var("BANGER_SOAK").ok().and_then(|text| text.parse::<usize>().ok());
    soak.filter(|lives| *lives > 0).map_or(40, |lives| lives.max(200) * 5)
}

async fn done(daemon: &Daemon, begun: Result<Begun, daemon::saga::Cause>) {
    let ended = daemon.engine.wait(&begun.unwrap().operation).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
}

/// Created, ended in one of several ways, started, changed, deleted.
async fn live(daemon: &Daemon, name: &str, kind: usize) {
    let engine = &daemon.engine;
    done(daemon, engine.create(request(name, true)).await).await;
    match kind % 4 {
        0 => done(daemon, engine.stop(name, None).await).await,
        1 => done(daemon, engine.kill(name, KillSignal::Kill).await).await,
        2 => {
            done(daemon, engine.pause(name).await).await;
            done(daemon, engine.stop(name, None).await).await;
        }
        _ => {
            done(daemon, engine.restart(name, None).await).await;
            done(daemon, engine.stop(name, None).await).await;
        }
    }
    done(daemon, engine.set(name, SetVm { vcpus: Some(2), ..SetVm::default() }).await).await;
    done(daemon, engine.start(name).await).await;
    done(daemon, engine.delete(name).await).await;
}

async fn rows_after_filling(daemon: &Daemon) -> BTreeMap<String, i64> {
    for number in 0..FILL {
        live(daemon, &format!("fill-{number}"), number).await;
    }
    assert_clean_slate(daemon).await;
    store_rows::rows(&daemon.host.dirs.state.join("state.db"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_ends_with_the_rows_it_began_with() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let before = rows_after_filling(&daemon).await;
    assert!(before["operations"] > 100 && before["edges"] > before["operations"] && before["boots"] == 0, "{before:?}");
    let all: Vec<usize> = (0..lives()).collect();
    for some in all.chunks(AT_ONCE) {
        let lives = some.iter().map(async |number| live(&daemon, &format!("life-{number}"), *number).await);
        futures_util::future::join_all(lives).await;
    }
    assert_eq!(rows_after_filling(&daemon).await, before);
}
