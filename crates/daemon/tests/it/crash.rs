//! Every operation, failing in every step and dying at every edge: after the next daemon's recovery all of it happened or
//! nothing did, and nothing is half there.
//!
//! The cases follow from an operation's own list of steps. A new operation needs one line in `matrices!` and one arm in
//! [`prepare`], which makes the host ready for it; without them [`no_operation_is_forgotten`] fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use daemon::model::machine::ExitReason;
use daemon::model::vm::VmState;
use daemon::ops::start::StartPlan;
use daemon::ops::{Host, Plan};
use daemon::saga::journal::{Durability, Edge, Journal, JournalError};
use daemon::saga::{Driven, Observer, Outcome, Progress, Undo};
use daemon::store::OperationState as Stored;
use daemon::store::records::{OperationRecord, VmRecord};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire::api::{
    CommitVm, CreateVm, KillSignal, OperationState, PrepareWorkspace, RestartPolicy, SetVm, WorkspaceSource,
};
use wire::id::OpId;

use crate::fake::{Daemon, SOON, World, soon};
use crate::ops::request;
use crate::slate::assert_clean_slate;
use crate::{artifacts, saved, templates};

/// Makes the host ready for `verb` and plans it.
pub(crate) async fn prepare(daemon: &Daemon, verb: &str, id: &OpId) -> Plan {
    let (host, engine) = (&daemon.host, &daemon.engine);
    let ready = async |start| {
        let begun = engine.create(request("web", start)).await.unwrap();
        assert_eq!(engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
        host.store.find_vm("web").await.unwrap()
    };
    let paused = async || {
        ready(true).await;
        let begun = engine.pause("web").await.unwrap();
        assert_eq!(engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
        host.store.find_vm("web").await.unwrap()
    };
    match verb {
        "create" => Plan::Create(Box::new(daemon::ops::create::plan(host, request("web", false)).await.unwrap())),
        "create and start" => {
            Plan::Create(Box::new(daemon::ops::create::plan(host, request("web", true)).await.unwrap()))
        }
        "start" => Plan::Start(Box::new(daemon::ops::start::plan(host, &ready(false).await).await.unwrap())),
        "start again" => {
            let request = CreateVm { restart: RestartPolicy::OnFailure, ..request("web", true) };
            engine.wait(&engine.create(request).await.unwrap().operation).await.unwrap();
            daemon.world.only().end(ExitReason::Crashed { signal: Some(11) });
            let vm = soon("the end", off(daemon)).await;
            let plan = daemon::ops::start::plan(host, &vm).await.unwrap();
            Plan::Start(Box::new(StartPlan { reason: Some("it fell".into()), ..plan }))
        }
        "stop" => Plan::Stop(Box::new(daemon::ops::stop::plan(host, &ready(true).await, None).await.unwrap())),
        "restart" => Plan::Restart(Box::new(daemon::ops::restart::plan(host, &ready(true).await, None).await.unwrap())),
        "kill" => {
            let vm = ready(true).await;
            Plan::Kill(Box::new(daemon::ops::kill::plan(host, &vm, KillSignal::Term).await.unwrap()))
        }
        "pause" => Plan::Pause(Box::new(daemon::ops::pause::plan(host, &ready(true).await).await.unwrap())),
        "resume" => Plan::Resume(Box::new(daemon::ops::resume::plan(host, &paused().await).await.unwrap())),
        "stop paused" => Plan::Stop(Box::new(daemon::ops::stop::plan(host, &paused().await, None).await.unwrap())),
        "delete paused" => Plan::Delete(Box::new(daemon::ops::delete::plan(host, &paused().await).await.unwrap())),
        "set" => {
            let (stop_after_ms, restart) = (Some(60_000), Some(RestartPolicy::Always));
            let request = SetVm { vcpus: Some(2), stop_after_ms, restart, ..larger() };
            Plan::Set(Box::new(daemon::ops::set::plan(host, &ready(false).await, request).await.unwrap()))
        }
        "set running" => Plan::Set(Box::new(daemon::ops::set::plan(host, &ready(true).await, larger()).await.unwrap())),
        "reset" => Plan::Reset(Box::new(daemon::ops::reset::plan(host, &ready(false).await, false).await.unwrap())),
        "reset running" => {
            Plan::Reset(Box::new(daemon::ops::reset::plan(host, &ready(true).await, true).await.unwrap()))
        }
        "prepare" => {
            let request = PrepareWorkspace { source: Some(source()), guest_path: None, force: false };
            let plan = daemon::ops::prepare::plan(host, &ready(true).await, request).await;
            Plan::Prepare(Box::new(plan.unwrap()))
        }
        "commit" => {
            let request = CommitVm { name: "web-done".into() };
            let plan = daemon::ops::image_commit::plan(host, &ready(true).await, request, id.clone()).await;
            Plan::ImageCommit(Box::new(plan.unwrap()))
        }
        "delete" => Plan::Delete(Box::new(daemon::ops::delete::plan(host, &ready(true).await).await.unwrap())),
        other if other.contains("template") => templates::prepare(daemon, other, id).await,
        "suspend" | "wake" | "give up" | "snapshot" | "restore" | "restore running" | "fork" => {
            saved::prepare(daemon, verb, id).await
        }
        other => artifacts::prepare(daemon, other, id).await,
    }
}

/// The VM once it is off and its owner is done with it.
async fn off(daemon: &Daemon) -> VmRecord {
    loop {
        let vm = daemon.host.store.find_vm("web").await.unwrap();
        if vm.state == VmState::Stopped && daemon.host.supervisors.running() == 0 {
            return vm;
        }
        tokio::task::yield_now().await;
    }
}

fn source() -> WorkspaceSource {
    WorkspaceSource { host_path: "/src/app".into(), ..WorkspaceSource::default() }
}

/// A disk of 2 GiB instead of one.
fn larger() -> SetVm {
    SetVm { disk_bytes: Some(2 << 30), ..SetVm::default() }
}

/// When the process dies at an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Before it is written: what it says has happened is not on record.
    BeforeWrite,
    /// After it is written: what it announces has not happened.
    AfterWrite,
}

/// A journal that never returns from its `at`th edge.
struct Dying {
    inner: Box<dyn Journal>,
    at: usize,
    death: Death,
    seen: AtomicUsize,
    died: Arc<Notify>,
}

#[async_trait]
impl Journal for Dying {
    async fn edges(&self) -> Result<Vec<Edge>, JournalError> {
        self.inner.edges().await
    }

    async fn append(&self, edge: &Edge, durability: Durability) -> Result<(), JournalError> {
        let dies = self.seen.fetch_add(1, Ordering::SeqCst) == self.at;
        if !dies || self.death == Death::AfterWrite {
            self.inner.append(edge, durability).await?;
        }
        if dies {
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

/// Drives `plan` as the engine would, until it ends (true) or dies at an edge.
async fn drive_until(host: &Host, id: &OpId, plan: &Plan, faults: &str, at: usize, death: Death) -> bool {
    let died = Arc::new(Notify::new());
    let inner = Box::new(host.store.journal(id.clone()));
    let journal = Dying { inner, at, death, seen: AtomicUsize::new(0), died: Arc::clone(&died) };
    tokio::select! {
        _ = drive_with(host, id, plan, faults, &journal) => true,
        () = died.notified() => false,
    }
}

/// Records the operation and drives `plan` as the engine would.
pub(crate) async fn drive_with(host: &Host, id: &OpId, plan: &Plan, faults: &str, journal: &dyn Journal) -> Outcome {
    let record = OperationRecord {
        id: id.clone(),
        kind: plan.kind().into(),
        subject: plan.subject(),
        holds: Some(plan.holds()),
        plan: serde_json::to_value(plan).unwrap(),
        state: Stored::Open,
        error: None,
        started_at_ms: 1,
        ended_at_ms: None,
    };
    host.store.begin_operation(record).await.unwrap();
    let with = Driven {
        journal,
        observer: &Nobody,
        cancel: &CancellationToken::new(),
        faults: &faults.parse().unwrap(),
        now_ms: &sys::clock::unix_ms,
    };
    plan.drive(host, &with).await.unwrap()
}

/// One life that ends at an edge (or after the last), and the next one. Says whether the operation came to its end
/// before the edge was reached.
async fn die_and_recover(verb: &'static str, faults: String, at: usize, death: Death) -> bool {
    let world = World::new();
    let id = OpId::from_random(sys::rand::bytes());
    let (in_first, first_id, injected) = (Arc::clone(&world), id.clone(), faults.clone());
    let is_over = life(async move {
        let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
        let plan = prepare(&daemon, verb, &first_id).await;
        drive_until(&daemon.host, &first_id, &plan, &injected, at, death).await
    })
    .await;

    let case = format!("{verb}, faults {faults:?}, edge {at}, {death:?}");
    let daemon = Daemon::start(&world, "").await;
    daemon.recover().await;
    let operation = daemon.engine.operation(&id).await.unwrap();
    match operation.state {
        OperationState::Succeeded => assert_eq!(operation.error, None, "{case}"),
        OperationState::Unwound => {
            let error = operation.error.as_ref().unwrap();
            assert!(error.message.contains("injected fault"), "{case}: {}", error.message);
        }
        OperationState::Running | OperationState::Unwinding | OperationState::Stuck => {
            panic!("{case}: {operation:?}")
        }
    }
    check_whole(&daemon, verb, operation.state == OperationState::Succeeded, &case).await;
    assert_clean_slate(&daemon).await;
    // A recovery with nothing to recover changes nothing.
    daemon.recover().await;
    assert_eq!(daemon.engine.operation(&id).await.unwrap(), operation, "{case}");
    is_over
}

/// All of it or nothing.
pub(crate) async fn check_whole(daemon: &Daemon, verb: &str, has_happened: bool, case: &str) {
    let store = &daemon.host.store;
    let state = store.find_vm("web").await.ok().map(|vm| vm.state.to_wire());
    use wire::api::VmState::{Created, Paused, Running, Stopped, Suspended};
    let allowed: &[Option<wire::api::VmState>] = match (verb, has_happened) {
        ("create", true) => &[Some(Created)],
        (verb, has_happened) if verb.contains("template") => templates::allowed(verb, has_happened),
        ("create and start" | "start" | "start again" | "restart" | "reset running", true) => &[Some(Running)],
        ("reset", _) => &[Some(Created)],
        ("suspend", true) | ("give up", false) => &[Some(Suspended)],
        ("suspend", false) | ("snapshot" | "fork", _) | ("wake" | "restore" | "restore running", true) => {
            &[Some(Running)]
        }
        // Once its guest has gone on nobody else may.
        ("wake", false) => &[Some(Suspended), Some(Stopped)],
        ("give up", true) | ("restore", false) => &[Some(Stopped)],
        ("restore running", false) => &[Some(Running), Some(Stopped)],
        ("start again", false) => &[Some(Stopped)],
        ("create" | "create and start", false) | ("delete" | "delete paused", true) => &[None],
        ("set", _) => &[Some(Created)],
        ("set running" | "prepare" | "commit", _) => &[Some(Running)],
        ("pause", true) | ("resume", false) => &[Some(Paused)],
        ("pause", false) | ("resume", true) => &[Some(Running)],
        // A deletion that never began leaves it paused.
        ("delete paused", false) => &[Some(Running), Some(Paused), Some(Stopped)],
        ("start", false) => &[Some(Created), Some(Stopped)],
        ("stop" | "stop paused" | "kill", true) => &[Some(Stopped)],
        // A guest that was asked, or a VMM that was killed, does not come back.
        ("stop" | "stop paused" | "restart" | "reset running" | "kill" | "delete", _) => {
            &[Some(Running), Some(Stopped)]
        }
        _ => &[None],
    };
    assert!(allowed.contains(&state), "{case}: {state:?}");
    if verb == "start again" {
        let owed = store.find_vm("web").await.unwrap().restarting.expect("what it was owed is on record");
        assert_eq!(owed.due_at_ms.is_none(), has_happened, "{case}: {owed:?}");
    }
    if let Ok(vm) = store.find_vm("web").await {
        check_vm(daemon, &vm, verb, has_happened, case);
    }
    let images = store.images().await.unwrap().len();
    let kernels = store.kernels().await.unwrap().len();
    let expected = match (verb, has_happened) {
        ("build image" | "pull image" | "pull from catalog" | "commit" | "register image" | "link image", true)
        | ("pull image again" | "promote image", _) => (2, 1),
        ("delete image", true) => (0, 1),
        ("import kernel" | "pull kernel", true) => (1, 2),
        ("delete kernel", true) => (1, 0),
        _ => (1, 1),
    };
    assert_eq!((images, kernels), expected, "{case}");
    artifacts::check_names(daemon, verb, has_happened, case).await;
    templates::check_whole(daemon, verb, has_happened, case).await;
    saved::check_whole(daemon, verb, has_happened, case).await;
}

/// The VM's own record.
fn check_vm(daemon: &Daemon, vm: &VmRecord, verb: &str, has_happened: bool, case: &str) {
    if verb.starts_with("set") {
        // What has grown stays so, on record too; everything else is as before.
        let has_grown = daemon.host.storage.length_bytes(&vm.id) == 2 << 30;
        let vcpus = if verb == "set" && has_happened { 2 } else { 1 };
        let disk_bytes: u64 = if has_grown { 2 << 30 } else { 1 << 30 };
        assert_eq!((vm.spec.vcpus, vm.spec.disk_bytes), (vcpus, disk_bytes), "{case}");
        assert_eq!(vm.spec.stop_after_ms.is_some(), vcpus == 2, "{case}");
        assert_eq!(vm.spec.restart == RestartPolicy::Always, vcpus == 2, "{case}");
        assert!(has_grown || !has_happened, "{case}");
    }
    let has_workspace = verb == "prepare" && has_happened;
    assert_eq!(vm.workspace.is_some(), has_workspace, "{case}");
    let is_pending = verb == "reset" && has_happened;
    assert_eq!(vm.reset_pending, is_pending, "{case}: a reset that was not taken back is done or on record");
}

/// The steps of a verb, as `operation/step`, and whether it may still be taken back when it fails.
async fn steps(verb: &'static str) -> (Vec<(String, Undo)>, usize) {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let plan = prepare(&daemon, verb, &OpId::from_random([1; 8])).await;
    for (step, policy) in plan.undo_policies() {
        if let Undo::Nothing { because } = policy {
            assert!(because.len() > 8, "{step} says why it is not taken back");
        }
    }
    let named = |(step, undo)| (format!("{}/{step}", plan.kind()), undo);
    let names: Vec<(String, Undo)> = plan.undo_policies().into_iter().map(named).collect();
    // A deletion has a point of no return before its last steps; a later failure is no way back.
    let failing = match verb {
        "delete" | "delete paused" => 2,
        "delete image" | "delete name" | "delete kernel" | "give up" => 1,
        "suspend" | "promote image" => names.len() - 1,
        _ => names.len(),
    };
    (names, failing)
}

/// Dies at every edge of `verb`, run with `faults`.
async fn at_every_edge(verb: &'static str, faults: &str) {
    for death in [Death::BeforeWrite, Death::AfterWrite] {
        let mut at = 0;
        while !die_and_recover(verb, faults.to_owned(), at, death).await {
            at += 1;
        }
        assert!(at > 1, "{verb} has edges");
    }
}

async fn matrix(verb: &'static str) {
    at_every_edge(verb, "").await;
    let (steps, failing) = steps(verb).await;
    for (index, (step, _)) in steps[..failing].iter().enumerate() {
        for point in ["before", "after"] {
            let faults = format!("{step}:{point}");
            assert!(die_and_recover(verb, faults, usize::MAX, Death::BeforeWrite).await);
        }
        if index + 1 == failing {
            at_every_edge(verb, &format!("{step}:after")).await;
        }
    }
    // Whatever cannot be taken back, or behind the point of no return cannot be taken, is stuck until the next daemon.
    for (step, _) in steps[..failing].iter().filter(|(_, undo)| *undo == Undo::Here) {
        let last = &steps[failing - 1].0;
        stuck_and_retried(verb, &format!("{last}:after,{step}:undo"), OperationState::Unwound).await;
    }
    for (step, _) in &steps[failing..] {
        for point in ["before", "after"] {
            stuck_and_retried(verb, &format!("{step}:{point}"), OperationState::Succeeded).await;
        }
    }
}

/// One life that ends with a stuck operation, a second in which the cause is still there, and a third without.
async fn stuck_and_retried(verb: &'static str, faults: &str, end: OperationState) {
    let world = World::new();
    let id = OpId::from_random(sys::rand::bytes());
    let (in_first, first_id, injected) = (Arc::clone(&world), id.clone(), faults.to_owned());
    let stuck = life(async move {
        let daemon = Daemon::start(&in_first, &injected).await.with_artifacts().await;
        let plan = prepare(&daemon, verb, &first_id).await;
        daemon.engine.begin_as(first_id.clone(), plan).await.unwrap();
        daemon.engine.wait(&first_id).await.unwrap()
    })
    .await;
    assert_eq!(stuck.state, OperationState::Stuck, "{verb}, {faults}: {stuck:?}");
    let hint = stuck.error.as_ref().and_then(|error| error.hint.clone()).unwrap_or_default();
    assert!(hint.contains("banger daemon stop"), "{verb}, {faults}: {hint}");
    let (in_second, second_id, injected) = (Arc::clone(&world), id.clone(), faults.to_owned());
    let again = life(async move {
        let daemon = Daemon::start(&in_second, &injected).await;
        daemon.recover().await;
        daemon.engine.operation(&second_id).await.unwrap()
    })
    .await;
    assert_eq!((again.state, &again.error), (OperationState::Stuck, &stuck.error), "{verb}, {faults}");
    let daemon = Daemon::start(&world, "").await;
    daemon.recover().await;
    let freed = daemon.engine.operation(&id).await.unwrap();
    assert_eq!(freed.state, end, "{verb}, {faults}: {freed:?}");
    check_whole(&daemon, verb, end == OperationState::Succeeded, faults).await;
    assert_clean_slate(&daemon).await;
}

/// One life of a daemon: all its tasks end with it, as with a process, and have ended when the next one begins.
pub(crate) async fn life<T: Send + 'static>(act: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let lived = soon("a life of the daemon", runtime.spawn(act)).await.unwrap();
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SOON)).await.unwrap();
    lived
}

/// The operations there are, in the words of the type itself: a new variant of [`Plan`] is among them at once.
fn registered() -> BTreeSet<String> {
    let refused = serde_json::from_value::<Plan>(serde_json::json!({ "kind": "?" })).unwrap_err().to_string();
    // unknown variant `?`, expected one of `vm.create`, `vm.start`, …
    refused.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn no_operation_is_forgotten() {
    let registered = registered();
    assert!(registered.contains("vm.start") && registered.len() > 10, "{registered:?}");
    let mut covered = BTreeSet::new();
    for verb in VERBS {
        let world = World::new();
        let daemon = Daemon::start(&world, "").await.with_artifacts().await;
        covered.insert(prepare(&daemon, verb, &OpId::from_random([1; 8])).await.kind().to_owned());
    }
    assert_eq!(covered, registered);
}

macro_rules! matrices {
    ($($name:ident: $verb:literal),+ $(,)?) => {
        /// Every verb, as a plan over a host that was made ready for it.
        pub(crate) const VERBS: &[&str] = &[$($verb),+];

        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                matrix($verb).await;
            }
        )+
    };
}

matrices! {
    create: "create",
    create_and_start: "create and start",
    start: "start",
    start_again: "start again",
    stop: "stop",
    restart: "restart",
    kill: "kill",
    pause: "pause",
    resume: "resume",
    stop_paused: "stop paused",
    set: "set",
    set_running: "set running",
    reset: "reset",
    reset_running: "reset running",
    prepare_workspace: "prepare",
    commit: "commit",
    delete: "delete",
    delete_paused: "delete paused",
    build_image: "build image",
    pull_image: "pull image",
    pull_image_again: "pull image again",
    pull_from_catalog: "pull from catalog",
    register_image: "register image",
    link_image: "link image",
    promote_image: "promote image",
    delete_image: "delete image",
    delete_name: "delete name",
    import_kernel: "import kernel",
    pull_kernel: "pull kernel",
    delete_kernel: "delete kernel",
    make_template: "make template",
    start_from_template: "start from template",
    create_from_template: "create from template",
    start_falling_back: "start from a bad template",
    create_falling_back: "create from a bad template",
    suspend: "suspend",
    wake: "wake",
    give_up: "give up",
    snapshot: "snapshot",
    restore: "restore",
    restore_running: "restore running",
    fork: "fork",
}
