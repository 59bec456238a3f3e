//! Many at once: operations on different VMs do not disturb each other, operations on one are refused by name.

use daemon::saga::Cause;
use wire::api::{Begun, Operation, OperationState};

use crate::fake::{Daemon, World};
use crate::ops::request;
use crate::slate::assert_clean_slate;

/// VMs made at once.
const VMS: usize = 50;

async fn ended(daemon: &Daemon, begun: Result<Begun, Cause>) -> Operation {
    daemon.engine.wait(&begun.unwrap().operation).await.unwrap()
}

async fn create_and_delete(daemon: &Daemon, name: &str) {
    let created = ended(daemon, daemon.engine.create(request(name, true)).await).await;
    assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
    let deleted = ended(daemon, daemon.engine.delete(name).await).await;
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_all_succeed() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let names: Vec<String> = (0..VMS).map(|n| format!("vm{n}")).collect();
    futures_util::future::join_all(names.iter().map(|name| create_and_delete(&daemon, name))).await;
    assert!(daemon.host.store.vms().await.unwrap().is_empty());
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_verbs_on_one_vm_are_refused_by_name_or_happen_in_turn() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let engine = &daemon.engine;
    for round in 0..20 {
        let name = format!("vm{round}");
        ended(&daemon, engine.create(request(&name, round % 2 == 0)).await).await;
        let (start, stop, restart, delete) = tokio::join!(
            engine.start(&name),
            engine.stop(&name, None),
            engine.restart(&name, None),
            engine.delete(&name),
        );
        let mut succeeded = 0;
        for (verb, begun) in [("start", start), ("stop", stop), ("restart", restart), ("delete", delete)] {
            match begun {
                Ok(begun) => {
                    let operation = engine.wait(&begun.operation).await.unwrap();
                    assert_eq!(operation.state, OperationState::Succeeded, "{verb}: {operation:?}");
                    succeeded += 1;
                }
                Err(cause) if cause.code == "busy" => {
                    assert!(cause.message.starts_with(&format!("{name} is busy: ")), "{verb}: {}", cause.message);
                    assert!(cause.hint.as_ref().unwrap().contains("banger op watch "), "{cause:?}");
                    assert!(cause.is_retryable);
                }
                Err(cause) => {
                    assert!(["wrong_state", "not_found"].contains(&cause.code.as_str()), "{verb}: {cause:?}");
                }
            }
        }
        assert!(succeeded > 0);
        if daemon.host.store.find_vm(&name).await.is_ok() {
            ended(&daemon, engine.delete(&name).await).await;
        }
        assert_clean_slate(&daemon).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_told_of_an_operations_end_finds_nothing_held() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let engine = &daemon.engine;
    let vm = engine.create(request("web", true)).await.unwrap();
    engine.wait(&vm.operation).await.unwrap();
    // Many times: between the word and the deed was a moment only.
    for round in 0..300 {
        let begun = if round % 2 == 0 { engine.pause("web").await } else { engine.resume("web").await };
        assert_eq!(ended(&daemon, begun).await.state, OperationState::Succeeded);
        assert_eq!(engine.holder(vm.vm.as_ref().unwrap()), None, "round {round}");
    }
    assert_clean_slate(&daemon).await;
}
