//! The verbs beside create, start, stop and delete.

use daemon::store::StoreError;
use wire::api::{ApiError, ErrorCode, KillSignal, OperationEvent, OperationState, Publish, SetVm, VmState};

use crate::fake::guest::Behaviour;
use crate::fake::{Daemon, World, soon};
use crate::slate::assert_clean_slate;

#[tokio::test]
async fn a_kill_asks_nobody_and_ends_in_stopped() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.create("web", true).await;
    let machine = world.only();
    let killed = daemon.ended(daemon.engine.kill("web", KillSignal::Hup).await.unwrap()).await;
    assert_eq!((killed.kind.as_str(), killed.state), ("vm.kill", OperationState::Succeeded), "{killed:?}");
    assert!(!machine.is_synced.load(std::sync::atomic::Ordering::SeqCst), "the guest is not asked");
    assert_eq!(daemon.state("web").await, VmState::Stopped);
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let boot = daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap();
    assert_eq!((boot.ended.as_deref(), vm.last_error), (Some("killed"), None));
    assert_clean_slate(&daemon).await;
    let again = ApiError::from(daemon.engine.kill("web", KillSignal::Kill).await.unwrap_err());
    assert_eq!((again.code, again.message.as_str()), (ErrorCode::WrongState, "VM web is not running"));
}

#[tokio::test]
async fn a_vmm_that_ignores_the_signal_is_killed() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.behave(Behaviour::Stubborn);
    daemon.create("web", true).await;
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let mut plan = daemon::ops::kill::plan(&daemon.host, &vm, KillSignal::Usr1).await.unwrap();
    plan.stop.grace_ms = 50;
    let begun = daemon.engine.begin(daemon::ops::Plan::Kill(Box::new(plan))).await.unwrap();
    let mut watch = daemon.engine.watch(&begun.operation).await.unwrap();
    let mut warnings = Vec::new();
    while let Some(event) = soon("an event", watch.next()).await {
        if let OperationEvent::Warning { message } = event {
            warnings.push(message);
        }
    }
    assert_eq!(warnings, ["the VMM did not end of USR1 within 50ms: it is killed"]);
    assert_eq!(daemon.state("web").await, VmState::Stopped);
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_name_changes_unless_it_is_taken_or_the_vm_is_busy() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.create("web", true).await;
    daemon.create("db", false).await;
    let store = &daemon.host.store;
    let web = store.find_vm("web").await.unwrap();
    let rename = |name: &str| store.rename_vm(&web.id, name.parse().unwrap(), 5);
    assert!(matches!(rename("db").await, Err(StoreError::NameTaken { .. })));
    rename("web").await.unwrap();
    rename("front").await.unwrap();
    assert!(matches!(store.find_vm("web").await, Err(StoreError::NotFound { .. })));
    let renamed = store.find_vm("front").await.unwrap();
    assert_eq!((renamed.id.clone(), renamed.state), (web.id.clone(), web.state.clone()));
    let hostname = || world.only().config.lock().unwrap().clone().unwrap().hostname;
    assert_eq!(hostname(), "web", "the guest that runs keeps its host name");
    let restarted = daemon.ended(daemon.engine.restart("front", None).await.unwrap()).await;
    assert_eq!(restarted.state, OperationState::Succeeded, "{restarted:?}");
    assert_eq!(hostname(), "front", "the next boot takes the new one");

    daemon.ended(daemon.engine.stop("front", None).await.unwrap()).await;
    world.behave(Behaviour::Silent);
    let begun = daemon.engine.start("front").await.unwrap();
    assert!(matches!(rename("back").await, Err(StoreError::Busy { .. })));
    daemon.engine.cancel(&begun.operation).await.unwrap();
    daemon.ended(begun).await;
    rename("back").await.unwrap();
    daemon.ended(daemon.engine.delete("back").await.unwrap()).await;
    assert!(matches!(rename("gone").await, Err(StoreError::NotFound { .. })));
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_paused_vm_stands_still_until_it_is_resumed() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let code = |cause: daemon::saga::Cause| ApiError::from(cause).code;
    daemon.create("web", false).await;
    assert_eq!(code(daemon.engine.pause("web").await.unwrap_err()), ErrorCode::WrongState, "it is off");
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(code(daemon.engine.resume("web").await.unwrap_err()), ErrorCode::WrongState, "it is not paused");
    let paused = daemon.ended(daemon.engine.pause("web").await.unwrap()).await;
    assert_eq!(paused.state, OperationState::Succeeded, "{paused:?}");
    assert_eq!(daemon.state("web").await, VmState::Paused);
    assert!(world.only().is_paused());
    assert_clean_slate(&daemon).await;
    for refused in [daemon.engine.pause("web").await, daemon.engine.start("web").await] {
        let error = ApiError::from(refused.unwrap_err());
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::WrongState, "VM web is paused"));
        assert_eq!(error.hint.as_deref(), Some("banger resume web"));
    }
    let before = sys::clock::unix_ns();
    let resumed = daemon.ended(daemon.engine.resume("web").await.unwrap()).await;
    assert_eq!(resumed.state, OperationState::Succeeded, "{resumed:?}");
    assert_eq!(daemon.state("web").await, VmState::Running);
    let set = world.only().clock_ns.load(std::sync::atomic::Ordering::SeqCst);
    assert!((before..=sys::clock::unix_ns()).contains(&set), "the guest is told the time: {set}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn what_ends_a_paused_vm() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let pause = async || {
        let paused = daemon.ended(daemon.engine.pause("web").await.unwrap()).await;
        assert_eq!(paused.state, OperationState::Succeeded, "{paused:?}");
    };
    daemon.create("web", true).await;
    pause().await;
    let machine = world.only();
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    assert_eq!(daemon.state("web").await, VmState::Stopped);
    assert!(machine.is_synced.load(std::sync::atomic::Ordering::SeqCst), "the guest was asked as any other");
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    pause().await;
    daemon.ended(daemon.engine.restart("web", None).await.unwrap()).await;
    assert_eq!(daemon.state("web").await, VmState::Running);
    pause().await;
    // Its VMM dies: noticed as of one that runs.
    world.only().end(daemon::model::machine::ExitReason::Crashed { signal: Some(9) });
    soon("the end", async {
        while daemon.state("web").await != VmState::Stopped || daemon.host.supervisors.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_clean_slate(&daemon).await;
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    pause().await;
    daemon.ended(daemon.engine.delete("web").await.unwrap()).await;
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn what_a_vm_has_changes_while_it_is_off_and_its_disk_grows_any_time() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.create("web", false).await;
    let set = async |request: SetVm| match daemon.engine.set("web", request).await {
        Ok(begun) => {
            let ended = daemon.ended(begun).await;
            assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
            Ok(daemon.host.store.find_vm("web").await.unwrap().spec)
        }
        Err(cause) => Err(ApiError::from(cause)),
    };
    let port = Publish { host_port: 8080, guest_port: 80 };
    let wanted = SetVm { vcpus: Some(2), memory_mib: Some(1024), publish: Some(vec![port]), ..SetVm::default() };
    let spec = set(wanted).await.unwrap();
    assert_eq!((spec.vcpus, spec.memory_mib, spec.publish, spec.disk_bytes), (2, 1024, vec![port], 1 << 30));
    let spec = set(SetVm { disk_bytes: Some(2 << 30), publish: Some(Vec::new()), ..SetVm::default() }).await.unwrap();
    assert_eq!((spec.disk_bytes, spec.publish.len(), spec.vcpus), (2 << 30, 0, 2));
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    assert_eq!(daemon.host.storage.length_bytes(&vm.id), 2 << 30);
    for (request, code, text) in [
        (
            SetVm { disk_bytes: Some(1 << 30), ..SetVm::default() },
            ErrorCode::BadRequest,
            "a disk only grows: web has 2",
        ),
        (SetVm { vcpus: Some(0), ..SetVm::default() }, ErrorCode::BadRequest, "vCPUs must be between"),
        (SetVm { publish: Some(vec![port, port]), ..SetVm::default() }, ErrorCode::BadRequest, "once only"),
        (SetVm { nat: Some(true), ..SetVm::default() }, ErrorCode::Unsupported, "passt"),
    ] {
        let error = set(request).await.unwrap_err();
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.message.contains(text), "{error:?}");
    }

    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    let error = set(SetVm { vcpus: Some(4), ..SetVm::default() }).await.unwrap_err();
    assert_eq!((error.code, error.hint.as_deref()), (ErrorCode::WrongState, Some("banger stop web, then again")));
    let same = SetVm { vcpus: Some(2), disk_bytes: Some(3 << 30), ..SetVm::default() };
    assert_eq!(set(same).await.unwrap().disk_bytes, 3 << 30, "what is so already is no change");
    assert_eq!(world.only().disk_bytes.load(std::sync::atomic::Ordering::SeqCst), 3 << 30, "the guest follows");
    assert_eq!(daemon.host.storage.length_bytes(&vm.id), 3 << 30);
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_deletion_of_what_is_off_touches_nothing_that_runs() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.create("web", true).await;
    let refused = async || ApiError::from(daemon.engine.delete_if_off("web").await.unwrap_err());
    assert_eq!(refused().await.message, "VM web is already running");
    daemon.ended(daemon.engine.pause("web").await.unwrap()).await;
    assert_eq!(refused().await.message, "VM web is paused");
    daemon.ended(daemon.engine.resume("web").await.unwrap()).await;
    // Nobody serves reboots here, so it stays between its boots.
    world.only().finish(wire::agent::message::Ending::Reboot).await;
    soon("the end", async {
        while daemon.state("web").await != VmState::Stopped {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(refused().await.message, "VM web is rebooting");
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    // Started between the plan and the deletion.
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let plan = daemon::ops::delete::plan_if_off(&daemon.host, &vm).await.unwrap();
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    let begun = daemon.engine.begin(daemon::ops::Plan::Delete(Box::new(plan))).await.unwrap();
    let ended = daemon.ended(begun).await;
    assert_eq!(ended.state, OperationState::Unwound);
    assert_eq!(ended.error.unwrap().message, "cannot delete web: VM web is already running");
    assert_eq!(daemon.state("web").await, VmState::Running);
    assert_clean_slate(&daemon).await;
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    let deleted = daemon.ended(daemon.engine.delete_if_off("web").await.unwrap()).await;
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_guest_that_reboots_while_an_operation_holds_its_vm_boots_again_after_it() {
    let world = World::new();
    let mut daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let serving = tokio::spawn(daemon.engine.clone().serve_reboots(daemon.reboots.take().unwrap()));
    world.behave(Behaviour::RebootsToGrow);
    daemon.create("web", true).await;
    let first = daemon.host.store.find_vm("web").await.unwrap().state.boot().unwrap().clone();
    let larger = SetVm { disk_bytes: Some(2 << 30), ..SetVm::default() };
    daemon.ended(daemon.engine.set("web", larger).await.unwrap()).await;
    soon("a new boot", async {
        loop {
            let vm = daemon.host.store.find_vm("web").await.unwrap();
            if vm.state.to_wire() == VmState::Running && vm.state.boot() != Some(&first) {
                assert_eq!(vm.last_error, None);
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon("the end of the start", daemon.engine.settled()).await;
    assert_clean_slate(&daemon).await;
    serving.abort();
}
