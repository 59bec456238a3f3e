//! Machines that are saved and go on: suspended VMs, snapshots, forks.

use std::sync::atomic::Ordering;

use daemon::model::vm::VmState;
use daemon::ops::fork::{self, Asked};
use daemon::ops::{Plan, give_up, snapshot_create, snapshot_restore, start, suspend};
use daemon::snapshot;
use wire::api::{ErrorCode, OperationState};
use wire::id::OpId;

use crate::fake::guest::{BOOTED, Behaviour, RENEWED};
use crate::fake::{Daemon, World};
use crate::slate::assert_clean_slate;

/// The VMs that a fork of the matrix makes.
const FORKS: [&str; 2] = ["web-1", "web-2"];

impl Daemon {
    /// A VM called `web` that runs, on a host that can save it.
    async fn runs(&self) {
        let created = self.create("web", true).await;
        assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
        // Only now: no template is wanted.
        self.world.saves_machines.store(true, Ordering::SeqCst);
    }

    async fn suspended(&self) {
        self.runs().await;
        let suspended = self.ended(self.engine.suspend("web").await.unwrap()).await;
        assert_eq!(suspended.state, OperationState::Succeeded, "{suspended:?}");
    }

    async fn snapshot_taken(&self) {
        self.runs().await;
        let taken = self.ended(self.engine.snapshot("web", Some("one".into())).await.unwrap()).await;
        assert_eq!(taken.state, OperationState::Succeeded, "{taken:?}");
    }

    async fn disk_of(&self, name: &str) -> String {
        self.world.disk(&self.host.store.find_vm(name).await.unwrap().id)
    }
}

fn two() -> Asked {
    Asked { name: None, count: FORKS.len() }
}

/// Makes the host ready for `verb` and plans it.
pub(crate) async fn prepare(daemon: &Daemon, verb: &str, id: &OpId) -> Plan {
    let host = &daemon.host;
    match verb {
        "suspend" | "snapshot" | "fork" => daemon.runs().await,
        "wake" | "give up" => daemon.suspended().await,
        _ => daemon.snapshot_taken().await,
    }
    if verb == "restore" {
        daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    }
    let vm = host.store.find_vm("web").await.unwrap();
    match verb {
        "suspend" => Plan::Suspend(Box::new(suspend::plan(host, &vm).await.unwrap())),
        "wake" => Plan::Start(Box::new(start::plan(host, &vm).await.unwrap())),
        "give up" => Plan::GiveUp(Box::new(give_up::plan(&vm))),
        "snapshot" => {
            let plan = snapshot_create::plan(host, &vm, Some("one".into()), id).await;
            Plan::Snapshot(Box::new(plan.unwrap()))
        }
        "restore" | "restore running" => snapshot_restore::plan(host, &vm, "one", true).await.unwrap(),
        "fork" => Plan::Fork(Box::new(fork::plan(host, &vm, &two(), id).await.unwrap())),
        other => panic!("no verb {other}"),
    }
}

/// What was saved is there or not as it should be, and so are the VMs made of it.
pub(crate) async fn check_whole(daemon: &Daemon, verb: &str, has_happened: bool, case: &str) {
    let store = &daemon.host.store;
    let Ok(vm) = store.find_vm("web").await else { return };
    let snapshots = snapshot::all(&daemon.host.dirs.state, &vm.id).len();
    let has_snapshot = verb.starts_with("restore") || (verb == "snapshot" && has_happened);
    assert_eq!(snapshots, usize::from(has_snapshot), "{case}");
    let saved = snapshot::suspended_dir(&daemon.host.dirs.state, &vm.id).exists();
    assert_eq!(saved, vm.state == VmState::Suspended, "{case}");
    if verb == "wake" && has_happened {
        // The disk was never copied: it goes on with what it is.
        assert_eq!(daemon.disk_of("web").await, format!("disk{BOOTED}{RENEWED}"), "{case}");
    }
    if verb != "fork" {
        return;
    }
    assert_eq!(store.vms().await.unwrap().len(), if has_happened { 1 + FORKS.len() } else { 1 }, "{case}");
    assert_eq!(daemon.disk_of("web").await, format!("disk{BOOTED}"), "{case}: the source is as it was");
    if !has_happened {
        return;
    }
    for name in FORKS {
        let fork = store.find_vm(name).await.unwrap();
        assert!(matches!(fork.state, VmState::Running { .. }), "{case}: {fork:?}");
        assert!(fork.identity != vm.identity && fork.id != vm.id, "{case}");
        assert_eq!(daemon.disk_of(name).await, format!("disk{BOOTED}{RENEWED}"), "{case}");
    }
}

#[tokio::test]
async fn a_suspended_vm_goes_on_where_it_was() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.suspended().await;
    assert_clean_slate(&daemon).await;
    for refused in [
        daemon.engine.pause("web").await.unwrap_err(),
        daemon.engine.suspend("web").await.unwrap_err(),
        daemon.engine.snapshot("web", None).await.unwrap_err(),
        daemon.engine.fork("web", &two()).await.unwrap_err(),
    ] {
        assert!(refused.message.contains("suspended") && refused.is(ErrorCode::WrongState), "{refused:?}");
    }
    // Under the next daemon too.
    drop(daemon);
    let daemon = Daemon::start(&world, "").await;
    let woken = daemon.ended(daemon.engine.resume("web").await.unwrap()).await;
    assert_eq!(woken.state, OperationState::Succeeded, "{woken:?}");
    assert_eq!(daemon.disk_of("web").await, format!("disk{BOOTED}{RENEWED}"));
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_guest_that_went_on_and_failed_is_never_gone_on_from_again() {
    for (behaviour, left) in [
        (Behaviour::CannotGoOn, wire::api::VmState::Stopped),
        (Behaviour::SilentWhenSaved, wire::api::VmState::Stopped),
        (Behaviour::CannotRenew, wire::api::VmState::Stopped),
    ] {
        let world = World::new();
        let daemon = Daemon::start_with(&world, "", std::time::Duration::from_secs(3)).await.with_artifacts().await;
        daemon.suspended().await;
        world.behave(behaviour);
        let woken = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
        assert_eq!(woken.state, OperationState::Unwound, "{behaviour:?}: {woken:?}");
        assert_eq!(daemon.state("web").await, left, "{behaviour:?}");
        assert_clean_slate(&daemon).await;
        // Its disk is as after a power cut, and boots.
        world.behave(Behaviour::Answers);
        let booted = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
        assert_eq!(booted.state, OperationState::Succeeded, "{behaviour:?}: {booted:?}");
    }
}

#[tokio::test]
async fn what_was_saved_elsewhere_is_refused_and_kept() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.suspended().await;
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let dir = snapshot::suspended_dir(&daemon.host.dirs.state, &vm.id);
    let saved = snapshot::Snapshot::at(&dir).unwrap();
    type Spoil = fn(&mut daemon::model::machine::MachineShape);
    let spoilt: [(Spoil, &str); 4] = [
        (|shape| shape.driver.push('x'), "another kind of VMM"),
        (|shape| shape.vmm.push('x'), "another version of the VMM"),
        (|shape| shape.cpu.push('x'), "another processor"),
        (|shape| shape.machine.push('x'), "other processors, memory or devices"),
    ];
    for (spoil, why) in spoilt {
        let mut manifest = saved.manifest.clone();
        spoil(&mut manifest.shape);
        snapshot::complete(&dir, &manifest).unwrap();
        let refused = daemon.engine.start("web").await.unwrap_err();
        assert!(refused.message.contains(why), "{refused:?}");
        assert!(refused.hint.as_ref().unwrap().contains("banger stop web"), "{refused:?}");
    }
    assert_eq!(daemon.state("web").await, wire::api::VmState::Suspended);
    snapshot::complete(&dir, &saved.manifest).unwrap();
    let woken = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(woken.state, OperationState::Succeeded, "{woken:?}");
}

#[tokio::test]
async fn what_nobody_could_go_on_with_is_not_saved() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.runs().await;
    world.has_other_driver.store(true, Ordering::SeqCst);
    let refused = daemon.engine.suspend("web").await.unwrap_err();
    assert_eq!(refused.message, "web runs on fake, and other, which runs new boots, cannot read what that saves");
    assert_eq!(refused.hint.as_deref(), Some("banger restart web puts it there"));
    assert_eq!(daemon.state("web").await, wire::api::VmState::Running);
}

#[tokio::test]
async fn a_snapshot_brings_its_disk_back_as_often_as_asked() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.snapshot_taken().await;
    let refused = daemon.engine.snapshot("web", Some("one".into())).await.unwrap_err();
    assert!(refused.is(ErrorCode::AlreadyExists), "{refused:?}");
    let refused = daemon.engine.restore("web", "one", false).await.unwrap_err();
    assert!(refused.is(ErrorCode::WrongState) && refused.hint.unwrap().contains("--force"));
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    for _ in 0..2 {
        std::fs::write(daemon.host.storage.path(&vm.id), "written since").unwrap();
        let restored = daemon.ended(daemon.engine.restore("web", "one", true).await.unwrap()).await;
        assert_eq!(restored.state, OperationState::Succeeded, "{restored:?}");
        assert_eq!(daemon.disk_of("web").await, format!("disk{BOOTED}{RENEWED}"));
        assert_clean_slate(&daemon).await;
    }
    assert!(daemon.engine.restore("web", "two", true).await.unwrap_err().is(ErrorCode::NotFound));
    for bad in ["", ".", "..", "a/b", "-x"] {
        assert!(
            daemon.engine.snapshot("web", Some(bad.into())).await.unwrap_err().is(ErrorCode::BadRequest),
            "{bad:?}"
        );
    }
    daemon.engine.delete_snapshot("web", "one").await.unwrap();
    assert!(daemon.engine.delete_snapshot("web", "one").await.unwrap_err().is(ErrorCode::NotFound));
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_fork_of_a_fork_has_names_of_its_own() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.runs().await;
    for (source, expected) in
        [("web", ["web-1", "web-2"]), ("web", ["web-3", "web-4"]), ("web-2", ["web-2-1", "web-2-2"])]
    {
        let (begun, names) = daemon.engine.fork(source, &two()).await.unwrap();
        assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), expected);
        let forked = daemon.ended(begun).await;
        assert_eq!(forked.state, OperationState::Succeeded, "{forked:?}");
    }
    assert_eq!(world.running().len(), 7);
    for count in [0, fork::FORKS_MAX + 1] {
        let refused = daemon.engine.fork("web", &Asked { name: None, count }).await.unwrap_err();
        assert!(refused.is(ErrorCode::BadRequest), "{refused:?}");
    }
    let taken = Asked { name: Some("web-2".parse().unwrap()), count: 1 };
    assert!(daemon.engine.fork("web", &taken).await.unwrap_err().is(ErrorCode::AlreadyExists));
    assert_clean_slate(&daemon).await;
}
