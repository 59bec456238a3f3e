//! What the daemon does unasked: it stops the idle, and starts the fallen again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use daemon::model::autostart::Autostart;
use daemon::model::machine::ExitReason;
use daemon::model::restart::Restarting;
use daemon::reconcile::{idle, restart};
use daemon::store::records::VmRecord;
use wire::agent::message::Ending;
use wire::api::{ApiError, CreateVm, ErrorCode, Operation, OperationState, RestartPolicy, SetVm, VmState};
use wire::id::BootId;

use crate::crash::life;
use crate::fake::guest::Machine;
use crate::fake::{Daemon, World, soon};
use crate::ops::request;
use crate::slate::assert_clean_slate;

/// The shortest time a VM can be given.
const SECOND_MS: u64 = 1000;

fn idle_after(name: &str, after_ms: u64) -> CreateVm {
    CreateVm { stop_after_ms: Some(after_ms), ..request(name, true) }
}

fn restarting(name: &str, policy: RestartPolicy) -> CreateVm {
    CreateVm { restart: policy, ..request(name, true) }
}

impl Daemon {
    async fn made(&self, request: CreateVm) {
        let ended = self.ended(self.engine.create(request).await.unwrap()).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    }

    async fn vm(&self, name: &str) -> VmRecord {
        self.host.store.find_vm(name).await.unwrap()
    }

    async fn reaches(&self, name: &str, state: VmState) {
        soon(&format!("{name} to be {state:?}"), async {
            while self.state(name).await != state || self.engine.holder(&self.vm(name).await.id).is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Until it runs on another boot than `before`, whose end may not have been noticed yet.
    async fn runs_again(&self, name: &str, before: &BootId) {
        soon(&format!("{name} to run again"), async {
            loop {
                let vm = self.vm(name).await;
                let is_another = vm.state.boot().is_some_and(|boot| boot != before);
                if is_another && vm.state.to_wire() == VmState::Running && self.engine.holder(&vm.id).is_none() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// The boot that a VM is on.
    async fn boot(&self, name: &str) -> BootId {
        self.vm(name).await.state.boot().unwrap().clone()
    }

    async fn machine(&self, name: &str) -> Arc<Machine> {
        let vm = self.vm(name).await;
        let boot_dir = wire::naming::boot_dir(&self.host.dirs.run, vm.state.boot().unwrap());
        self.world.machine(&boot_dir).unwrap()
    }

    /// The newest operation of this kind.
    async fn last(&self, kind: &str) -> Operation {
        self.engine.operations().await.unwrap().into_iter().find(|operation| operation.kind == kind).unwrap()
    }

    fn looks_for_idle_vms(&self) {
        tokio::spawn(idle::keep_looking(self.engine.clone()));
    }

    fn keeps_restarting(&self) {
        let busy = self.host.supervisors.activity().begin();
        tokio::spawn(restart::keep_restarting(self.engine.clone(), busy));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_nobody_uses_is_stopped_and_the_record_says_why() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.looks_for_idle_vms();
    daemon.made(request("kept", true)).await;
    let began = Instant::now();
    daemon.made(idle_after("web", SECOND_MS)).await;
    let id = daemon.vm("web").await.id;
    let idle = soon("its idleness to be known", async {
        loop {
            match daemon.host.supervisors.idle(&id) {
                Some(idle) => return idle,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    // The two are a moment apart: each is cut to a millisecond.
    let after_ms = idle.stops_at_ms - idle.since_ms;
    assert!(idle.since_ms <= sys::clock::unix_ms() && after_ms.abs_diff(SECOND_MS) <= 1, "{idle:?}");
    daemon.reaches("web", VmState::Stopped).await;
    assert!(began.elapsed() >= Duration::from_millis(SECOND_MS));
    let boot = daemon.host.store.last_boot(&id).await.unwrap().unwrap();
    assert_eq!(boot.ended.as_deref(), Some("idle for 1 s"));
    let stop = daemon.last("vm.stop").await;
    assert_eq!((stop.subject.as_str(), stop.reason.as_deref()), ("web", Some("idle for 1 s")));
    assert_eq!((stop.state, daemon.host.supervisors.idle(&id)), (OperationState::Succeeded, None));
    assert_eq!(daemon.state("kept").await, VmState::Running, "a VM without a time");

    // Its time begins anew with each boot.
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    daemon.reaches("web", VmState::Stopped).await;
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_in_use_is_not_stopped_until_it_is_left() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    for name in ["command", "traffic", "paused"] {
        daemon.made(idle_after(name, SECOND_MS)).await;
    }
    let (command, traffic) = (daemon.machine("command").await, daemon.machine("traffic").await);
    command.execs.store(1, Ordering::SeqCst);
    let carried = Arc::clone(&traffic);
    let carrying = tokio::spawn(async move {
        loop {
            carried.nic_bytes.fetch_add(1000, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let paused = daemon.ended(daemon.engine.pause("paused").await.unwrap()).await;
    assert_eq!(paused.state, OperationState::Succeeded, "{paused:?}");
    daemon.looks_for_idle_vms();
    // One that nobody uses is stopped twice meanwhile.
    for start in [false, true] {
        if start {
            daemon.ended(daemon.engine.start("idle").await.unwrap()).await;
        } else {
            daemon.made(idle_after("idle", SECOND_MS)).await;
        }
        daemon.reaches("idle", VmState::Stopped).await;
    }
    for (name, state) in [("command", VmState::Running), ("traffic", VmState::Running), ("paused", VmState::Paused)] {
        assert_eq!(daemon.state(name).await, state, "{name}");
    }
    // Two looks may come between two frames.
    let traffic = daemon.vm("traffic").await.id;
    soon("its traffic to count as use", async {
        while daemon.host.supervisors.idle(&traffic).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    command.execs.store(0, Ordering::SeqCst);
    carrying.abort();
    daemon.ended(daemon.engine.resume("paused").await.unwrap()).await;
    for name in ["command", "traffic", "paused"] {
        daemon.reaches(name, VmState::Stopped).await;
    }
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_is_changed_while_a_vm_runs() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.looks_for_idle_vms();
    let set = async |stop_after_ms| {
        let request = SetVm { stop_after_ms: Some(stop_after_ms), ..SetVm::default() };
        daemon.ended(daemon.engine.set("web", request).await.unwrap()).await
    };
    daemon.made(idle_after("web", 3_600_000)).await;
    assert_eq!(set(0).await.state, OperationState::Succeeded);
    assert_eq!(daemon.vm("web").await.spec.stop_after_ms, None);
    let refused = SetVm { stop_after_ms: Some(1), ..SetVm::default() };
    assert_eq!(ApiError::from(daemon.engine.set("web", refused).await.unwrap_err()).code, ErrorCode::BadRequest);
    assert_eq!(daemon.state("web").await, VmState::Running);
    assert_eq!(set(SECOND_MS).await.state, OperationState::Succeeded);
    daemon.reaches("web", VmState::Stopped).await;
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_failed_is_started_again_and_one_that_was_switched_off_is_not() {
    let world = World::new();
    let mut daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.keeps_restarting();
    let reboots = daemon.reboots.take().unwrap();
    tokio::spawn(daemon.engine.clone().serve_reboots(reboots));
    for (name, policy) in
        [("web", RestartPolicy::OnFailure), ("db", RestartPolicy::Always), ("left", RestartPolicy::No)]
    {
        daemon.made(restarting(name, policy)).await;
    }
    let crash = ExitReason::Crashed { signal: Some(11) };
    let (web, left) = (daemon.machine("web").await, daemon.machine("left").await);
    let first = daemon.boot("web").await;
    for machine in [&web, &left] {
        machine.end(crash.clone());
    }
    daemon.reaches("left", VmState::Stopped).await;
    daemon.runs_again("web", &first).await;
    let why = "the VMM was ended by signal 11".to_owned();
    let vm = daemon.vm("web").await;
    assert_eq!(vm.restarting, Some(Restarting { why, tries: 1, due_at_ms: None }));
    let start = daemon.last("vm.start").await;
    let reason = "restart on-failure: the VMM was ended by signal 11 (try 1 of 8)";
    assert_eq!((start.subject.as_str(), start.reason.as_deref()), ("web", Some(reason)));

    // Its guest's own poweroff is nobody's failure, nor is a stop.
    daemon.machine("db").await.finish(Ending::PowerOff).await;
    daemon.reaches("db", VmState::Stopped).await;
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    assert_eq!(daemon.vm("db").await.restarting, None);
    // A second failure waits longer than the first one's restart took, so what is owed to the others would be seen.
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(daemon.vm("web").await.restarting, None, "who starts it begins anew");
    let second = daemon.boot("web").await;
    daemon.machine("web").await.end(crash);
    daemon.runs_again("web", &second).await;
    for name in ["db", "left"] {
        assert_eq!(daemon.state(name).await, VmState::Stopped, "{name}");
    }
    // A guest that reboots is no failure either, and its start says what it is.
    let third = daemon.boot("web").await;
    daemon.machine("web").await.finish(Ending::Reboot).await;
    daemon.runs_again("web", &third).await;
    assert_eq!(daemon.last("vm.start").await.reason.as_deref(), Some("its guest rebooted"));
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_owed_outlives_the_daemon_and_is_let_go_of() {
    let world = World::new();
    let in_first = Arc::clone(&world);
    // Nobody restarts anything in this life.
    life(async move {
        let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
        for name in ["web", "db"] {
            daemon.made(restarting(name, RestartPolicy::OnFailure)).await;
            daemon.machine(name).await.end(ExitReason::Ended { code: Some(1) });
            daemon.reaches(name, VmState::Stopped).await;
        }
    })
    .await;
    let daemon = Daemon::start(&world, "").await;
    daemon.recover().await;
    let none = SetVm { restart: Some(RestartPolicy::No), ..SetVm::default() };
    assert!(daemon.vm("db").await.restarting.is_some());
    daemon.ended(daemon.engine.set("db", none).await.unwrap()).await;
    assert_eq!(daemon.vm("db").await.restarting, None);
    assert!(daemon.vm("web").await.restarting.is_some());
    daemon.keeps_restarting();
    daemon.reaches("web", VmState::Running).await;
    assert_eq!(daemon.state("db").await, VmState::Stopped);
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reboot_of_the_host_what_ran_and_is_to_run_always_runs_again() {
    let world = World::new();
    let in_first = Arc::clone(&world);
    life(async move {
        let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
        for (name, policy) in [
            ("web", RestartPolicy::Always),
            ("frozen", RestartPolicy::Always),
            ("off", RestartPolicy::Always),
            ("db", RestartPolicy::OnFailure),
            ("left", RestartPolicy::No),
        ] {
            daemon.made(restarting(name, policy)).await;
        }
        daemon.ended(daemon.engine.pause("frozen").await.unwrap()).await;
        daemon.ended(daemon.engine.stop("off", None).await.unwrap()).await;
    })
    .await;
    world.reboot();

    let daemon = Daemon::start(&world, "").await;
    daemon.recover().await;
    daemon.keeps_restarting();
    for name in ["web", "frozen"] {
        daemon.reaches(name, VmState::Running).await;
    }
    for name in ["off", "db", "left"] {
        assert_eq!(daemon.state(name).await, VmState::Stopped, "{name}");
    }
    let boots = daemon.host.store.boots(&daemon.vm("web").await.id).await.unwrap();
    assert_eq!(boots[1].ended.as_deref(), Some("the host went down"));
    let reason = daemon.last("vm.start").await.reason.unwrap();
    assert_eq!(reason, "restart always: the host went down (try 1 of 8)");
    assert_clean_slate(&daemon).await;
    // A daemon that comes again with the same boot of the host finds nothing to do.
    assert!(daemon.vm("web").await.restarting.unwrap().due_at_ms.is_none());
}

#[tokio::test]
async fn a_start_that_the_host_went_down_under_is_owed() {
    let world = World::new();
    let in_first = Arc::clone(&world);
    life(async move {
        let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
        daemon.made(restarting("web", RestartPolicy::Always)).await;
        daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
        in_first.behave(crate::fake::guest::Behaviour::Silent);
        let begun = daemon.engine.start("web").await.unwrap();
        let mut watch = daemon.engine.watch(&begun.operation).await.unwrap();
        soon("the guest to be waited for", async {
            while let Some(event) = watch.next().await {
                if let wire::api::OperationEvent::Step { step } = event
                    && step.name == "await_agent"
                {
                    return;
                }
            }
            panic!("the start is over");
        })
        .await;
    })
    .await;
    world.reboot();
    world.behave(crate::fake::guest::Behaviour::Answers);
    let daemon = Daemon::start(&world, "").await;
    daemon.recover().await;
    daemon.keeps_restarting();
    daemon.reaches("web", VmState::Running).await;
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_policy_that_nobody_would_keep_is_refused_with_what_sets_it_up() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    *world.autostart.lock().unwrap() = Autostart { has_systemd: true, ..Autostart::default() };
    let error = ApiError::from(daemon.engine.create(restarting("web", RestartPolicy::Always)).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::Unsupported);
    assert!(
        error.message.starts_with("--restart always needs the daemon to be there from the host's boot on"),
        "{error}"
    );
    assert!(error.hint.unwrap().contains("loginctl enable-linger"));
    assert!(daemon.host.store.vms().await.unwrap().is_empty());

    daemon.made(request("web", true)).await;
    let set = async |restart| {
        let request = SetVm { restart: Some(restart), ..SetVm::default() };
        daemon.engine.set("web", request).await
    };
    let error = ApiError::from(set(RestartPolicy::OnFailure).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::Unsupported);
    daemon.ended(set(RestartPolicy::No).await.unwrap()).await;
    world.autostart.lock().unwrap().has_system_unit = true;
    daemon.ended(set(RestartPolicy::OnFailure).await.unwrap()).await;
    // What was agreed to stays so, and everything else can be changed.
    *world.autostart.lock().unwrap() = Autostart::default();
    let larger = SetVm { disk_bytes: Some(2 << 30), ..SetVm::default() };
    daemon.ended(daemon.engine.set("web", larger).await.unwrap()).await;
    assert_eq!(daemon.vm("web").await.spec.restart, RestartPolicy::OnFailure);
    assert_clean_slate(&daemon).await;
}
