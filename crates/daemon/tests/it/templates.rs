//! Fresh VMs that go on from a template, and those that cannot.

use std::sync::atomic::Ordering;
use std::time::Duration;

use daemon::model::machine::{DriveRole, MachineShape};
use daemon::ops::start::StartPlan;
use daemon::ops::{Host, Plan, create, start, template_make};
use daemon::reconcile;
use daemon::store;
use daemon::store::records::OperationRecord;
use daemon::template::{DISK, Ingredients, Manifest};
use wire::api::{OperationState, VmState};
use wire::id::{BootId, ImageId, KernelId, OpId, VmId};

use crate::fake::guest::{BOOTED, Behaviour, RENEWED};
use crate::fake::{Daemon, World, soon};
use crate::ops::request;
use crate::slate::assert_clean_slate;

impl Daemon {
    /// What there is for a VM that was not started yet.
    async fn planned(&self) -> StartPlan {
        let created = self.create("web", false).await;
        assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
        start::plan(&self.host, &self.host.store.find_vm("web").await.unwrap()).await.unwrap()
    }

    /// Makes the template that `start` has looked for in vain.
    async fn make(&self, start: &StartPlan) {
        assert!(start.wants.is_some() && start.origin.is_none(), "there is none yet");
        let made = self.ended(self.engine.make_template(start).await.unwrap()).await;
        assert_eq!(made.state, OperationState::Succeeded, "{made:?}");
        assert_eq!(self.host.templates.all().len(), 1);
    }

    /// The marks on the disk of `name`.
    async fn marks(&self, name: &str) -> String {
        self.world.disk(&self.host.store.find_vm(name).await.unwrap().id)
    }

    /// Waits until the daemon has made a template by itself, and is done with it.
    async fn template_appears(&self) {
        let appears = async {
            while self.host.templates.all().is_empty() {
                tokio::task::yield_now().await;
            }
            self.engine.settled().await;
        };
        soon("a template", appears).await;
    }
}

/// Makes the host ready for `verb` and plans it.
pub(crate) async fn prepare(daemon: &Daemon, verb: &str, id: &OpId) -> Plan {
    let (host, world) = (&daemon.host, &daemon.world);
    world.saves_machines.store(true, Ordering::SeqCst);
    let plan = match verb {
        "make template" => {
            world.takes_slots.store(true, Ordering::SeqCst);
            let start = daemon.planned().await;
            Plan::TemplateMake(Box::new(template_make::plan(host, &start, id).await.unwrap()))
        }
        "start from template" | "start from a bad template" => {
            daemon.make(&daemon.planned().await).await;
            let vm = host.store.find_vm("web").await.unwrap();
            Plan::Start(Box::new(start::plan(host, &vm).await.unwrap()))
        }
        "create from template" | "create from a bad template" => {
            let plan = create::plan(host, request("web", true)).await.unwrap();
            daemon.make(plan.start.as_ref().unwrap()).await;
            Plan::Create(Box::new(create::plan(host, request("web", true)).await.unwrap()))
        }
        other => panic!("no verb {other}"),
    };
    assert!(plan.starting().is_none_or(|start| start.origin.is_some()), "{verb}: it is planned to go on");
    if verb.contains("bad") {
        world.behave(Behaviour::CannotGoOn);
    }
    plan
}

/// Puts a template of the default image and kernel there.
pub(crate) async fn publish(host: &Host) {
    let image = host.store.find_image("debian-bookworm").await.unwrap().id;
    let kernel = host.store.find_kernel("linux-image-cloud-amd64").await.unwrap().id;
    publish_of(host, image, kernel, ".staging-0");
}

fn publish_of(host: &Host, image: ImageId, kernel: KernelId, staging: &str) {
    let shape = MachineShape { driver: "fake".into(), vmm: "1".into(), cpu: "any".into(), machine: staging.into() };
    let initramfs = "initramfs.cpio".to_owned();
    let manifest = Manifest {
        ingredients: Ingredients { image, kernel, initramfs, disk_bytes: 1 << 30, shape },
        vm: VmId::from_random([3; 8]),
        boot: BootId::from_random([4; 8]),
        init: None,
        vcpus: 1,
        memory_mib: 512,
        nat: false,
        created_at_ms: 1,
    };
    let staging = host.templates.dir().join(staging);
    std::fs::create_dir_all(&staging).unwrap();
    for file in ["memory", "devices", DISK] {
        std::fs::write(staging.join(file), b"saved").unwrap();
    }
    host.templates.publish(&staging, &manifest).unwrap();
}

/// What the VM may be afterwards.
pub(crate) fn allowed(verb: &str, has_happened: bool) -> &'static [Option<VmState>] {
    match (verb, has_happened) {
        ("make template", _) => &[Some(VmState::Created)],
        (_, true) => &[Some(VmState::Running)],
        ("create from template" | "create from a bad template", false) => &[None],
        (_, false) => &[Some(VmState::Created), Some(VmState::Stopped)],
    }
}

/// A template is there or not as it should be, and the VM's disk is what its guests left, and nothing of a guest that was taken
/// back.
pub(crate) async fn check_whole(daemon: &Daemon, verb: &str, has_happened: bool, case: &str) {
    let templates = &daemon.host.templates;
    let (count, fell_back) = (templates.all().len(), templates.fell_back());
    let allowed: &[usize] = match (verb, has_happened) {
        ("make template", true) | ("start from template" | "create from template", _) => &[1],
        // Taken back behind the point where it was made: a template is a cache.
        ("make template", false) | ("start from a bad template" | "create from a bad template", false) => &[0, 1],
        // While a deletion is stuck its template is one of nothing.
        ("delete image" | "delete kernel", false) => &[0, 1],
        _ => &[0],
    };
    assert!(allowed.contains(&count), "{case}: {count} templates");
    if verb == "make template" {
        let next = daemon.host.store.ensure_slot(&VmId::from_random([5; 8])).await.unwrap().map(u16::from);
        assert_eq!(next, Some(1), "{case}: only the VM has a number");
    }
    let is_bad = verb.contains("bad template");
    assert!(is_bad || fell_back == 0, "{case}: {fell_back}");
    if !verb.contains("template") || verb == "make template" {
        return;
    }
    let Ok(vm) = daemon.host.store.find_vm("web").await else { return };
    let left = if is_bad { format!("disk{BOOTED}") } else { format!("disk{BOOTED}{RENEWED}") };
    let was_up = daemon.host.store.last_boot(&vm.id).await.unwrap().is_some_and(|boot| boot.ready_at_ms.is_some());
    assert!(was_up || !has_happened, "{case}");
    if was_up {
        assert_eq!(daemon.world.disk(&vm.id), left, "{case}");
        let uses: u64 = templates.all().iter().map(|template| template.uses).sum();
        // A full disk takes no counts.
        let counts = (uses > 0, fell_back > 0);
        assert!(counts == (!is_bad, is_bad) || daemon.host.check_room().is_err(), "{case}: {counts:?}");
    } else if daemon.host.check_room().is_ok() {
        assert_eq!(daemon.world.disk(&vm.id), "disk", "{case}: a disk that nobody used is a new one");
    }
}

#[tokio::test]
async fn later_vms_go_on_from_what_the_first_one_booted() {
    let world = World::new();
    world.saves_machines.store(true, Ordering::SeqCst);
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let first = daemon.create("first", true).await;
    assert_eq!(first.state, OperationState::Succeeded, "{first:?}");
    daemon.template_appears().await;
    assert_eq!(daemon.marks("first").await, format!("disk{BOOTED}"));
    let second = daemon.create("second", true).await;
    assert_eq!(second.state, OperationState::Succeeded, "{second:?}");
    assert_eq!(daemon.marks("second").await, format!("disk{BOOTED}{RENEWED}"));
    let vm = daemon.host.store.find_vm("second").await.unwrap();
    let boot = daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap();
    assert_eq!((boot.init.as_deref(), boot.ready_at_ms.is_some()), (Some("/sbin/init"), true));
    let machine = world.machine(&wire::naming::boot_dir(&world.dirs.run, &boot.id)).unwrap();
    let config = machine.config.lock().unwrap().clone().unwrap();
    assert_eq!((config.hostname.as_str(), &config.machine_id), ("second", &vm.identity.machine_id));
    assert_clean_slate(&daemon).await;

    // What it has is its own from here on: every later boot is one.
    daemon.ended(daemon.engine.stop("second", None).await.unwrap()).await;
    let again = daemon.ended(daemon.engine.start("second").await.unwrap()).await;
    assert_eq!(again.state, OperationState::Succeeded, "{again:?}");
    assert_eq!(daemon.marks("second").await, format!("disk{BOOTED}{RENEWED}{BOOTED}"));
    let template = daemon.host.templates.all().remove(0);
    assert_eq!((template.uses, daemon.host.templates.fell_back()), (1, 0));
    assert_eq!(std::fs::read_to_string(template.disk()).unwrap(), format!("disk{BOOTED}"));
    // Nobody wants another of the same.
    let third = daemon.create("third", true).await;
    assert_eq!(third.state, OperationState::Succeeded, "{third:?}");
    daemon.engine.settled().await;
    let kinds: Vec<String> = daemon.engine.operations().await.unwrap().into_iter().map(|op| op.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "template.make").count(), 1, "{kinds:?}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_daemon_that_ends_leaves_no_machine_that_nobody_asked_for() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.saves_machines.store(true, Ordering::SeqCst);
    let start = daemon.planned().await;
    // Its machine never answers.
    world.behave(Behaviour::Silent);
    let begun = daemon.engine.make_template(&start).await.unwrap();
    soon("its machine", async {
        while world.running().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    daemon.engine.end_unasked().await;
    let ended = daemon.engine.operation(&begun.operation).await.unwrap();
    assert_eq!(ended.state, OperationState::Unwound, "{ended:?}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn one_that_cannot_be_gone_on_from_is_dropped_and_the_vm_boots() {
    for behaviour in [Behaviour::CannotGoOn, Behaviour::SilentWhenSaved, Behaviour::CannotRenew] {
        let world = World::new();
        world.saves_machines.store(true, Ordering::SeqCst);
        // What a template may take is never more than what a boot may.
        let daemon = Daemon::start_with(&world, "", Duration::from_secs(3)).await.with_artifacts().await;
        daemon.make(&daemon.planned().await).await;
        world.behave(behaviour);
        let started = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
        assert_eq!(started.state, OperationState::Succeeded, "{behaviour:?}: {started:?}");
        assert_eq!(daemon.state("web").await, VmState::Running);
        assert_eq!(daemon.marks("web").await, format!("disk{BOOTED}"), "{behaviour:?}: from a new disk");
        assert_eq!((daemon.host.templates.all().len(), daemon.host.templates.fell_back()), (0, 1), "{behaviour:?}");
        let vm = daemon.host.store.find_vm("web").await.unwrap();
        assert_eq!(vm.last_error, None, "nobody but the count notices");
        assert_clean_slate(&daemon).await;
    }
}

#[tokio::test]
async fn one_that_is_pruned_while_a_start_wants_it_is_no_reason_to_fail() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let plan = prepare(&daemon, "start from template", &OpId::from_random([1; 8])).await;
    let key = daemon.host.templates.all().remove(0).key;
    daemon.host.templates.remove(&key).unwrap();
    let started = daemon.ended(daemon.engine.begin(plan).await.unwrap()).await;
    assert_eq!(started.state, OperationState::Succeeded, "{started:?}");
    assert_eq!(daemon.marks("web").await, format!("disk{BOOTED}"));
    // One that goes while a machine goes on from it is not there again because that was counted.
    daemon.host.templates.note_use(&key).unwrap();
    assert_clean_slate(&daemon).await;
}

/// Going on from a template replaces the disk. Whatever is on record, that is never one that a guest has used.
#[tokio::test]
async fn a_disk_that_was_used_is_never_replaced() {
    let world = World::new();
    world.saves_machines.store(true, Ordering::SeqCst);
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.make(&daemon.planned().await).await;
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let disk = daemon.host.storage.path(&vm.id);
    // The record is of before its first start, as in a database that was put back from a copy.
    std::fs::write(&disk, "disk with a year of work").unwrap();
    let plan = start::plan(&daemon.host, &vm).await.unwrap();
    assert_eq!((plan.origin, plan.wants), (None, None), "it boots, and is no example for others");
    let started = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(started.state, OperationState::Succeeded, "{started:?}");
    assert_eq!(daemon.marks("web").await, format!("disk with a year of work{BOOTED}"));
    // And one that was started never goes on from one again.
    daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    let stopped = daemon.host.store.find_vm("web").await.unwrap();
    std::fs::write(&disk, "disk").unwrap();
    let plan = start::plan(&daemon.host, &stopped).await.unwrap();
    assert_eq!((plan.origin, plan.wants), (None, None));
}

#[tokio::test]
async fn a_vm_that_was_up_keeps_its_disk_when_its_start_is_taken_back() {
    let world = World::new();
    let daemon = Daemon::start(&world, "vm.start/mark_running:after").await.with_artifacts().await;
    let plan = prepare(&daemon, "start from template", &OpId::from_random([1; 8])).await;
    let started = daemon.ended(daemon.engine.begin(plan).await.unwrap()).await;
    assert_eq!(started.state, OperationState::Unwound, "{started:?}");
    // It was its user's for a moment.
    assert_eq!(daemon.marks("web").await, format!("disk{BOOTED}{RENEWED}"));
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn what_a_template_is_made_of_is_nobodys_and_is_left_alone() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.saves_machines.store(true, Ordering::SeqCst);
    world.takes_slots.store(true, Ordering::SeqCst);
    let (start, id) = (daemon.planned().await, OpId::from_random([1; 8]));
    let plan = template_make::plan(&daemon.host, &start, &id).await.unwrap();
    let (machine, state) = (&plan.machine, &daemon.host.dirs.state);
    let disk = machine.drives.iter().find(|drive| drive.serial == DriveRole::Disk).unwrap();
    assert_eq!(disk.path, wire::naming::vm_disk(state, &machine.vm), "where a helper looks");
    assert_eq!(machine.vmm_log, wire::naming::vmm_log(state, &machine.vm, &machine.boot));
    assert!(machine.slot.is_some() && machine.slot != start.machine.slot);

    // As if it were being made: a sweep knows whose it is.
    let dir = wire::naming::vm_dir(state, &machine.vm);
    std::fs::create_dir_all(&dir).unwrap();
    let plan = Plan::TemplateMake(Box::new(plan));
    let operation = OperationRecord {
        id: id.clone(),
        kind: plan.kind().to_owned(),
        subject: plan.subject(),
        holds: None,
        plan: serde_json::to_value(&plan).unwrap(),
        state: store::OperationState::Open,
        error: None,
        started_at_ms: 1,
        ended_at_ms: None,
    };
    daemon.host.store.begin_operation(operation).await.unwrap();
    reconcile::sweep(&daemon.host).await.unwrap();
    assert!(dir.exists());
    daemon.host.store.end_operation(&id, store::OperationState::Unwound, None, 2).await.unwrap();
    reconcile::sweep(&daemon.host).await.unwrap();
    assert!(!dir.exists(), "nobody goes on with it");
}

#[tokio::test]
async fn the_sweep_keeps_what_is_whole_and_has_its_parts() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let host = &daemon.host;
    publish(host).await;
    let kept = host.templates.all().remove(0);
    let (image, kernel) = (kept.manifest.ingredients.image.clone(), kept.manifest.ingredients.kernel.clone());
    publish_of(host, ImageId::from_random([9; 8]), kernel, ".staging-1");
    publish_of(host, image, KernelId::from_random([9; 8]), ".staging-2");
    assert_eq!(host.templates.all().len(), 3);
    let dir = host.templates.dir();
    for (left, file) in [(".staging-0000000000000001", "memory"), ("0123456789abcdef", "used")] {
        std::fs::create_dir(dir.join(left)).unwrap();
        std::fs::write(dir.join(left).join(file), b"half").unwrap();
    }
    host.templates.give_up("0123456789abcde0").unwrap();
    let swept = reconcile::sweep(host).await.unwrap();
    assert_eq!((swept.removed.len(), swept.failed.len()), (4, 0), "{swept:?}");
    let left: Vec<String> = host.templates.all().into_iter().map(|template| template.key).collect();
    assert_eq!((left, host.templates.fell_back()), (vec![kept.key], 1));
    assert_clean_slate(&daemon).await;
}
