//! `vm.reset`: asked for once, done once.

use wire::api::{ApiError, ErrorCode, OperationState, VmState};

use crate::fake::guest::Behaviour;
use crate::fake::{Daemon, World, soon};
use crate::ops::request;
use crate::slate::assert_clean_slate;

async fn done(daemon: &Daemon, begun: wire::api::Begun) -> OperationState {
    soon("the operation to end", daemon.engine.wait(&begun.operation)).await.unwrap().state
}

async fn start(daemon: &Daemon) -> OperationState {
    done(daemon, daemon.engine.start("web").await.unwrap()).await
}

async fn is_pending(daemon: &Daemon) -> bool {
    daemon.host.store.find_vm("web").await.unwrap().reset_pending
}

/// Whether the guest that runs was told to drop its system layer.
fn was_told(world: &World) -> bool {
    world.only().config.lock().unwrap().as_ref().unwrap().reset_system
}

#[tokio::test]
async fn the_next_boot_that_comes_up_resets_and_no_other() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    assert_eq!(
        done(&daemon, daemon.engine.create(request("web", true)).await.unwrap()).await,
        OperationState::Succeeded
    );
    assert!(!was_told(&world), "an ordinary boot resets nothing");
    let refused = ApiError::from(daemon.engine.reset("web", false).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::WrongState);
    assert!(refused.hint.unwrap().contains("--restart"));
    done(&daemon, daemon.engine.stop("web", None).await.unwrap()).await;

    assert_eq!(done(&daemon, daemon.engine.reset("web", false).await.unwrap()).await, OperationState::Succeeded);
    assert!(is_pending(&daemon).await);
    assert_eq!(daemon.host.store.find_vm("web").await.unwrap().state.to_wire(), VmState::Stopped, "it stays off");
    // A boot that does not come up leaves it to the next.
    world.behave(Behaviour::Dies);
    assert_eq!(start(&daemon).await, OperationState::Unwound);
    assert!(is_pending(&daemon).await);
    world.behave(Behaviour::Answers);
    assert_eq!(start(&daemon).await, OperationState::Succeeded);
    assert!(was_told(&world) && !is_pending(&daemon).await);

    done(&daemon, daemon.engine.restart("web", None).await.unwrap()).await;
    assert!(!was_told(&world), "once is once");
    assert_eq!(done(&daemon, daemon.engine.reset("web", true).await.unwrap()).await, OperationState::Succeeded);
    assert!(was_told(&world) && !is_pending(&daemon).await, "one that runs is restarted when that was asked for");
    done(&daemon, daemon.engine.delete("web").await.unwrap()).await;
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_reset_that_is_taken_back_is_forgotten() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    done(&daemon, daemon.engine.create(request("web", true)).await.unwrap()).await;
    world.behave(Behaviour::Dies);
    let begun = daemon.engine.reset("web", true).await.unwrap();
    assert_eq!(done(&daemon, begun).await, OperationState::Unwound);
    assert!(!is_pending(&daemon).await);
    world.behave(Behaviour::Answers);
    assert_eq!(start(&daemon).await, OperationState::Succeeded);
    assert!(!was_told(&world));
    done(&daemon, daemon.engine.delete("web").await.unwrap()).await;
    assert_clean_slate(&daemon).await;
}
