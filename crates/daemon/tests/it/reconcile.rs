//! A host with leftovers: they go, what is in use stays, and the second look does nothing.

use daemon::model::vm::VmState;
use daemon::reconcile::{self, Swept};
use wire::api::{BuildImage, OperationEvent, OperationState};

use crate::fake::guest::Behaviour;
use crate::fake::{Daemon, World, soon};
use crate::ops::request;
use crate::slate::assert_clean_slate;

#[tokio::test]
async fn leftovers_go_and_the_rest_stays() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let begun = daemon.engine.create(request("web", true)).await.unwrap();
    assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
    let endless = BuildImage { recipe: "endless".into(), variant: None, name: None };
    let build = daemon.engine.build_image(endless).await.unwrap();
    let mut watch = daemon.engine.watch(&build.operation).await.unwrap();
    while !matches!(soon("progress", watch.next()).await, Some(OperationEvent::Progress { .. })) {}

    let (state, run) = (&world.dirs.state, &world.dirs.run);
    let mut leftovers = [
        run.join("boots/00000000000000aa"),
        state.join("vms/00000000000000bb"),
        state.join("images/.staging-op-00000000000000cc"),
        state.join("images/00000000000000dd"),
        state.join("kernels/00000000000000ee"),
    ];
    for path in &leftovers {
        std::fs::create_dir_all(path.join("sub")).unwrap();
        std::fs::write(path.join("sub/file"), b"x").unwrap();
    }
    std::fs::create_dir_all(state.join("images/somebody-elses")).unwrap();
    let mut swept = reconcile::sweep(&daemon.host).await.unwrap();
    swept.removed.sort();
    leftovers.sort();
    assert_eq!(swept, Swept { removed: leftovers.to_vec(), failed: Vec::new() });
    assert_eq!(reconcile::sweep(&daemon.host).await.unwrap(), Swept::default());
    assert!(state.join("images/somebody-elses").exists(), "what is not ours stays");

    daemon.engine.cancel(&build.operation).await.unwrap();
    daemon.engine.wait(&build.operation).await.unwrap();
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_new_daemon_takes_over_what_runs_and_records_what_does_not() {
    let world = World::new();
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let in_first = world.clone();
    let life = first.spawn(async move {
        let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
        for name in ["web", "db"] {
            let begun = daemon.engine.create(request(name, true)).await.unwrap();
            assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
        }
        daemon.host.store.find_vm("db").await.unwrap().state.boot().unwrap().clone()
    });
    let gone = soon("the first life", life).await.unwrap();
    first.shutdown_background();
    let gone_dir = wire::naming::boot_dir(&world.dirs.run, &gone);
    world.machine(&gone_dir).unwrap().end(daemon::model::machine::ExitReason::Crashed { signal: Some(9) });

    let daemon = Daemon::start(&world, "").await;
    daemon.recover().await;
    let web = daemon.host.store.find_vm("web").await.unwrap();
    assert!(matches!(web.state, VmState::Running { .. }));
    soon("the guest to answer again", async {
        while daemon.host.supervisors.guest(&web.id).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let db = daemon.host.store.find_vm("db").await.unwrap();
    assert_eq!(db.state, VmState::Stopped);
    let boot = daemon.host.store.boot(&gone).await.unwrap();
    assert_eq!(boot.ended.as_deref(), Some("gone while the daemon was away"));
    assert_clean_slate(&daemon).await;
    let begun = daemon.engine.stop("web", None).await.unwrap();
    assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_vmm_that_crashes_is_recorded_and_can_be_started_again() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let begun = daemon.engine.create(request("web", true)).await.unwrap();
    daemon.engine.wait(&begun.operation).await.unwrap();
    world.only().end(daemon::model::machine::ExitReason::Crashed { signal: Some(11) });
    let vm = soon("the end", async {
        loop {
            let vm = daemon.host.store.find_vm("web").await.unwrap();
            if vm.state == VmState::Stopped && daemon.host.supervisors.running() == 0 {
                break vm;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(vm.last_error.as_deref(), Some("the last boot ended badly: the VMM was ended by signal 11"));
    assert_clean_slate(&daemon).await;
    world.behave(Behaviour::Answers);
    let begun = daemon.engine.start("web").await.unwrap();
    assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
}

#[tokio::test]
async fn a_deletion_that_is_stuck_is_gone_on_with() {
    let world = World::new();
    let daemon = Daemon::start(&world, "vm.delete/remove_files:before").await.with_artifacts().await;
    let begun = daemon.engine.create(request("web", true)).await.unwrap();
    daemon.engine.wait(&begun.operation).await.unwrap();
    let begun = daemon.engine.delete("web").await.unwrap();
    let operation = daemon.engine.wait(&begun.operation).await.unwrap();
    assert_eq!(operation.state, OperationState::Stuck);
    assert_eq!(daemon.host.store.find_vm("web").await.unwrap().state, VmState::Deleting);
    soon("the end", daemon.engine.settled()).await;

    let daemon = Daemon::start(&world, "").await;
    let begun = daemon.engine.delete("web").await.unwrap();
    assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
    assert_clean_slate(&daemon).await;
}
