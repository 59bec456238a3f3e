//! The database: its schema's history, its refusals, its races.

use std::io::{BufRead, Read, Write};
use std::process::Stdio;

use daemon::model::machine::NicAttachment;
use daemon::model::restart::End;
use daemon::model::vm::{VmEvent, VmState};
use daemon::ops::Plan;
use daemon::saga::journal::{Cause, Durability, Edge, EdgeKind, Journal};
use daemon::store::policies::Ended;
use daemon::store::records::{BootRecord, BootSummary, GuestIdentity, OperationRecord, VmRecord, VmSpec, VmSummary};
use daemon::store::schema::{self, Standing};
use daemon::store::{OperationState, Store, StoreError};
use wire::api::RestartPolicy;
use wire::id::{BootId, OpId, VmId};

use crate::again;
use crate::fake::{Daemon, World, image, kernel};

fn vm(n: u8, name: &str) -> VmRecord {
    VmRecord {
        id: VmId::from_random([n; 8]),
        name: name.parse().unwrap(),
        state: VmState::Creating,
        spec: VmSpec {
            image: "debian-bookworm".into(),
            kernel: "linux-image-cloud-amd64".into(),
            vcpus: 1,
            memory_mib: 512,
            disk_bytes: 1 << 30,
            nat: false,
            publish: Vec::new(),
            stop_after_ms: None,
            restart: RestartPolicy::No,
        },
        image_id: image("debian-bookworm").id,
        kernel_id: kernel("6.1").id,
        identity: GuestIdentity { machine_id: "0".repeat(32), ssh_host_keys: Vec::new() },
        workspace: None,
        reset_pending: false,
        last_error: None,
        restarting: None,
        created_at_ms: u64::from(n),
    }
}

fn operation(n: u8, holds: &str, at_ms: u64) -> OperationRecord {
    OperationRecord {
        id: OpId::from_random([n; 8]),
        kind: "vm.start".into(),
        subject: "web".into(),
        holds: Some(holds.into()),
        plan: serde_json::json!({}),
        state: OperationState::Open,
        error: None,
        started_at_ms: at_ms,
        ended_at_ms: None,
    }
}

async fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    store.publish_image(image("debian-bookworm")).await.unwrap();
    store.publish_kernel(kernel("6.1")).await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn it_is_opened_again_and_what_is_no_database_is_refused() {
    let (dir, store) = open().await;
    store.insert_vm(vm(1, "web")).await.unwrap();
    drop(store);
    let path = dir.path().join("state.db");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.vms().await.unwrap(), [vm(1, "web")]);
    drop(store);
    let other = dir.path().join("other.db");
    std::fs::write(&other, b"this is no database, however long it may be").unwrap();
    assert!(matches!(Store::open(&other).err().unwrap(), StoreError::Corrupt { .. }));
}

/// Holds the database of its argument until its standard input ends.
fn hold(path: &std::path::Path) {
    let store = Store::open(path).unwrap();
    std::io::stdout().write_all(b"held\n").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(store);
}

#[tokio::test]
async fn a_file_that_another_process_has_is_waited_for_and_then_refused() {
    if let Some(path) = again::is_second() {
        return hold(&path);
    }
    let (dir, store) = open().await;
    let path = dir.path().join("state.db");
    store.insert_vm(vm(1, "web")).await.unwrap();
    let copy = dir.path().join("copy.db");
    for end in ["", "-wal"] {
        std::fs::copy(format!("{}{end}", path.display()), format!("{}{end}", copy.display())).unwrap();
    }
    let test = "store::a_file_that_another_process_has_is_waited_for_and_then_refused";
    let mut second = again::second(test, &copy).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(second.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("held")));
    let before = std::fs::read(&copy).unwrap();
    let error = Store::open(&copy).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("the database {} is in use by another program", copy.display()));
    assert!(error.hint().unwrap().contains("fuser"));
    assert_eq!(schema::standing(&copy).unwrap(), Standing::Compatible, "a look is allowed");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    // One that lets go in time is no hindrance.
    let waiting = {
        let copy = copy.clone();
        std::thread::spawn(move || Store::open(&copy))
    };
    drop(second.stdin.take());
    let store = waiting.join().unwrap().unwrap();
    assert_eq!(store.vms().await.unwrap(), [vm(1, "web")]);
    assert!(second.wait().unwrap().success());
}

/// The database as the banger of schema 1 left it: VMs off and running, operations of every state, one still open.
const SCHEMA_1: &[u8] = include_bytes!("schemas/schema-1.sqlite");
/// The same of schema 2, after a reset of the VM that is off.
const SCHEMA_2: &[u8] = include_bytes!("schemas/schema-2.sqlite");
/// The same of schema 3, where the VM that runs was started again twice.
const SCHEMA_3: &[u8] = include_bytes!("schemas/schema-3.sqlite");
/// The same of schema 4, where the VM that runs has a number of the host.
const SCHEMA_4: &[u8] = include_bytes!("schemas/schema-4.sqlite");
/// Every older schema there is, with the operations on record there and the VMs whose next boot resets them.
const OLD: &[(i64, &[u8], usize, &[&str])] =
    &[(1, SCHEMA_1, 8, &[]), (2, SCHEMA_2, 9, &["db"]), (3, SCHEMA_3, 9, &["db"]), (4, SCHEMA_4, 9, &["db"])];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_older_bangers_are_brought_up_to_date() {
    for known in 1..schema::known() {
        assert!(OLD.iter().any(|(version, ..)| *version == known), "there is no file of schema {known}");
    }
    for (version, bytes, operations_count, reset) in OLD {
        let world = World::new();
        let path = world.dirs.state.join("state.db");
        std::fs::write(&path, bytes).unwrap();
        let before = schema::standing(&path).unwrap();
        let pending = Standing::Pending { found: *version };
        assert_eq!(before, if *version < schema::known() { pending } else { Standing::Compatible });
        assert_eq!(std::fs::read(&path).unwrap(), *bytes, "a look changes nothing");
        let store = Store::open(&path).unwrap();
        let vms = store.vms().await.unwrap();
        let names: Vec<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["db", "web", "stuck"], "schema {version}");
        let pending: Vec<&str> = vms.iter().filter(|vm| vm.reset_pending).map(|vm| vm.name.as_str()).collect();
        assert_eq!(pending, *reset, "schema {version}");
        let images = store.images().await.unwrap();
        let names: Vec<(&str, usize)> = images.iter().map(|image| (image.name.as_str(), image.also.len())).collect();
        assert_eq!(names, [("debian-bookworm", 0)], "schema {version}");
        let operations = store.operations().await.unwrap();
        assert_eq!(operations.len(), *operations_count, "schema {version}");
        for operation in &operations {
            assert!(serde_json::from_value::<Plan>(operation.plan.clone()).is_ok(), "{operation:?}");
            assert!(!store.edges(&operation.id).await.unwrap().is_empty() || operation.state == OperationState::Open);
        }
        drop(store);
        assert_eq!(schema::standing(&path).unwrap(), Standing::Compatible);
        // A daemon goes on with it: what was open is driven, what was stuck is freed, what ran is found to be off.
        let daemon = Daemon::start(&world, "").await.with_artifacts().await;
        for vm in daemon.host.store.vms().await.unwrap() {
            if vm.state == VmState::Creating {
                // Its disk was taken back already.
                continue;
            }
            let disk = wire::naming::vm_disk(&world.dirs.state, &vm.id);
            std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
            std::fs::write(disk, b"disk").unwrap();
        }
        daemon.recover().await;
        let open = daemon.host.store.open_operations().await.unwrap();
        assert!(open.is_empty(), "{open:?}");
        let names: Vec<String> =
            daemon.host.store.vms().await.unwrap().into_iter().map(|vm| vm.name.to_string()).collect();
        assert_eq!(names, ["db", "web"], "the one that was stuck is taken back");
    }
}

#[test]
fn a_damaged_file_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = SCHEMA_1.to_vec();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let garbage = [0xa5; 4096];
    let cases = [
        ("a header of garbage", with(0, &garbage)),
        ("a page of garbage", with(8 * 4096, &garbage)),
        ("a part missing at the end", SCHEMA_1[..SCHEMA_1.len() / 2].to_vec()),
        ("a few bytes", SCHEMA_1[..100].to_vec()),
        ("another file", b"this is no database, however long it may be".to_vec()),
    ];
    for (case, bytes) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(&path).err().unwrap_or_else(|| panic!("{case} is opened"));
        assert!(matches!(error, StoreError::Corrupt { .. }), "{case}: {error:?}");
        let cause = daemon::saga::Cause::from(error);
        assert!(cause.message.contains("is damaged"), "{case}: {}", cause.message);
        assert!(cause.hint.unwrap().contains("put back a copy"), "{case}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{case}");
    }
}

#[tokio::test]
async fn names_ids_and_beginnings_of_ids() {
    let (_dir, store) = open().await;
    store.insert_vm(vm(1, "web")).await.unwrap();
    store.insert_vm(vm(1, "web")).await.unwrap();
    let error = store.insert_vm(vm(2, "web")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is already a VM called web");
    store.insert_vm(VmRecord { id: "0101999999999999".parse().unwrap(), ..vm(3, "cafe") }).await.unwrap();
    for (key, name) in
        [("web", "web"), ("0101010101010101", "web"), ("01010", "web"), ("010199", "cafe"), ("cafe", "cafe")]
    {
        assert_eq!(store.find_vm(key).await.unwrap().name.as_str(), name, "{key}");
    }
    assert!(matches!(store.find_vm("0101").await.unwrap_err(), StoreError::Ambiguous { .. }));
    for missing in ["010", "nothing", "%", "0101_", ""] {
        assert!(matches!(store.find_vm(missing).await.unwrap_err(), StoreError::NotFound { .. }), "{missing}");
    }
}

#[tokio::test]
async fn one_open_operation_holds_a_vm() {
    let (_dir, store) = open().await;
    let racers = (0..8).map(|n| store.begin_operation(operation(n, "vm", 1000)));
    let results = futures_util::future::join_all(racers).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let error = store.begin_operation(operation(9, "vm", 2250)).await.unwrap_err();
    assert_eq!(error.to_string(), "web is busy: start, 1.2 s");
    store.begin_operation(operation(10, "other", 1)).await.unwrap();
    let holder = store.open_operations().await.unwrap().remove(0).id;
    store.end_operation(&holder, OperationState::Succeeded, None, 3000).await.unwrap();
    store.begin_operation(operation(11, "vm", 1)).await.unwrap();
}

#[tokio::test]
async fn ended_operations_are_bounded_and_stuck_ones_stay() {
    let (_dir, store) = open().await;
    for n in 0..=255_u8 {
        for half in [0_u8, 1] {
            let record =
                OperationRecord { id: OpId::from_random([half, n, 1, 1, 1, 1, 1, 1]), ..operation(n, "vm", 1) };
            store.begin_operation(record.clone()).await.unwrap();
            let state = if n == 0 { OperationState::Stuck } else { OperationState::Unwound };
            store.end_operation(&record.id, state, None, 2).await.unwrap();
        }
    }
    let kept = store.operations().await.unwrap();
    assert_eq!(kept.iter().filter(|operation| operation.state == OperationState::Stuck).count(), 2);
    assert!((500..=502).contains(&kept.len()), "{}", kept.len());
}

#[tokio::test]
async fn edges_come_back_as_they_were_written() {
    let (_dir, store) = open().await;
    store.begin_operation(operation(1, "vm", 1)).await.unwrap();
    let journal = store.journal(operation(1, "vm", 1).id);
    let cause = Cause { hint: Some("hint".into()), ..Cause::new("timeout", "it took too long") };
    let kinds = [
        EdgeKind::Started,
        EdgeKind::Failed { cause: cause.clone() },
        EdgeKind::UndoStarted,
        EdgeKind::UndoFailed { cause },
    ];
    let edges: Vec<Edge> = kinds.into_iter().map(|kind| Edge { step: "a".into(), kind, at_ms: 7 }).collect();
    for edge in &edges {
        journal.append(edge, Durability::Machine).await.unwrap();
    }
    assert_eq!(journal.edges().await.unwrap(), edges);
    let nobodys = store.journal(OpId::from_random([9; 8]));
    assert!(nobodys.append(&edges[0], Durability::Process).await.is_err());
}

/// How often the log was begun anew: a field of its header (SQLite, "WAL File Format").
fn beginnings(log: &std::path::Path) -> u32 {
    let bytes = std::fs::read(log).unwrap();
    u32::from_be_bytes(bytes[12..16].try_into().unwrap())
}

#[tokio::test]
async fn the_log_is_written_back_between_operations_not_in_the_middle_of_one() {
    let (dir, store) = open().await;
    let log = dir.path().join("state.db-wal");
    let mut seen = std::collections::HashSet::new();
    for n in 0..60 {
        let operation = OperationRecord { plan: serde_json::json!("x".repeat(8 << 10)), ..operation(n, "vm", 1) };
        let journal = store.journal(operation.id.clone());
        store.begin_operation(operation.clone()).await.unwrap();
        let before = beginnings(&log);
        for step in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
            for kind in [EdgeKind::Started, EdgeKind::Succeeded] {
                let edge = Edge { step: step.into(), kind, at_ms: 7 };
                journal.append(&edge, Durability::Process).await.unwrap();
            }
        }
        store.end_operation(&operation.id, OperationState::Succeeded, None, 2).await.unwrap();
        assert_eq!(beginnings(&log), before, "operation {n}");
        seen.insert(before);
    }
    assert!(seen.len() > 5, "{seen:?}");
}

fn boot_of(vm: &VmId, n: u8) -> BootRecord {
    BootRecord {
        id: BootId::from_random([n; 8]),
        vm: vm.clone(),
        launch: serde_json::json!({"driver": "qemu", "argv": ["qemu-system-x86_64"]}),
        attachment: NicAttachment::QemuUser { publish: Vec::new() },
        host_boot: Some("first".into()),
        started_at_ms: u64::from(n),
        ready_at_ms: None,
        ended_at_ms: None,
        ended: None,
        init: None,
        warnings: Vec::new(),
    }
}

fn ended(how: &str, at_ms: u64) -> Ended {
    Ended { how: how.into(), end: End::Wanted, at_ms }
}

#[tokio::test]
async fn a_list_has_every_vm_with_its_newest_boot() {
    let (_dir, store) = open().await;
    let vms = [vm(1, "new"), vm(2, "web"), vm(3, "db")];
    for vm in &vms {
        store.insert_vm(vm.clone()).await.unwrap();
        store.happen(&vm.id, VmEvent::CreateFinished).await.unwrap();
    }
    for (vm, n) in [(&vms[1], 1), (&vms[1], 2), (&vms[2], 3)] {
        let boot = boot_of(&vm.id, n);
        store.begin_boot(boot.clone(), true).await.unwrap();
        store.set_boot_init(&boot.id, Some("systemd".into())).await.unwrap();
        store.warn_boot(&boot.id, "careful").await.unwrap();
        store.boot_ready(&vm.id, &boot.id, 5).await.unwrap();
        store.mark_off(&vm.id, &boot.id, &ended("poweroff", 6), None).await.unwrap();
    }
    // A launch that names no driver is one of another banger.
    let unknown = BootRecord { launch: serde_json::json!({}), ..boot_of(&vms[2].id, 4) };
    store.begin_boot(unknown, true).await.unwrap();
    let mut listed = store.listing().await.unwrap();
    listed.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
    let mut expected = Vec::new();
    for vm in store.vms().await.unwrap() {
        let boot = store.last_boot(&vm.id).await.unwrap().map(BootSummary::from);
        expected.push((VmSummary::from(vm), boot));
    }
    assert_eq!(listed, expected);
    let drivers: Vec<Option<&str>> =
        listed.iter().map(|(_, boot)| boot.as_ref().map(|boot| boot.vmm.as_str())).collect();
    assert_eq!(drivers, [None, Some("qemu"), Some("unknown")]);
    assert_eq!(listed[1].1.as_ref().unwrap().id, boot_of(&vms[1].id, 2).id);
}

#[tokio::test]
async fn a_late_end_of_a_boot_touches_no_other() {
    let (_dir, store) = open().await;
    store.insert_vm(vm(1, "web")).await.unwrap();
    let id = vm(1, "web").id;
    let boot = |n: u8| boot_of(&id, n);
    store.happen(&id, VmEvent::CreateFinished).await.unwrap();
    store.begin_boot(boot(1), true).await.unwrap();
    store.begin_boot(boot(1), true).await.unwrap();
    store.boot_ready(&id, &boot(1).id, 5).await.unwrap();
    assert!(store.mark_off(&id, &boot(1).id, &ended("poweroff", 6), None).await.unwrap());
    assert!(store.open_boots().await.unwrap().is_empty(), "the boot has ended with the VM");
    store.end_boot(&boot(1).id, "killed", 7).await.unwrap();
    store.begin_boot(boot(2), true).await.unwrap();
    store.boot_ready(&id, &boot(2).id, 8).await.unwrap();
    assert!(!store.mark_off(&id, &boot(1).id, &ended("late", 9), Some("late".into())).await.unwrap());
    let record = store.vm(&id).await.unwrap();
    assert_eq!((record.state, record.last_error), (VmState::Running { boot: boot(2).id }, None));
    assert_eq!(store.boot(&boot(1).id).await.unwrap().ended.as_deref(), Some("poweroff"));
    assert!(store.begin_boot(boot(3), true).await.is_err(), "it runs");
    assert_eq!(store.open_boots().await.unwrap().len(), 1);
    // An operation that holds the VM sees to it; the boot has ended all the same.
    store.happen(&id, VmEvent::StopBegun { boot: boot(2).id }).await.unwrap();
    assert!(!store.mark_off(&id, &boot(2).id, &ended("stop", 10), None).await.unwrap());
    assert!(store.open_boots().await.unwrap().is_empty());
    assert_eq!(store.vm(&id).await.unwrap().state, VmState::Stopping { boot: boot(2).id });
    for n in 0..100 {
        store.warn_boot(&boot(2).id, &format!("warning {n}")).await.unwrap();
    }
    assert_eq!(store.boot(&boot(2).id).await.unwrap().warnings.len(), 32);
}

#[tokio::test]
async fn a_slot_is_one_vms_as_long_as_it_exists() {
    let (_dir, store) = open().await;
    let id = |n: u8| VmId::from_random([n; 8]);
    let slot = async |n: u8| u16::from(store.ensure_slot(&id(n)).await.unwrap().unwrap());
    assert_eq!((slot(1).await, slot(2).await, slot(1).await, slot(3).await), (0, 1, 0, 2));
    store.delete_vm(&id(2)).await.unwrap();
    assert_eq!(slot(4).await, 1, "the lowest that is free");
    // VMs that never came to be keep theirs only while an operation may still make them.
    store.insert_vm(vm(3, "web")).await.unwrap();
    store.begin_operation(operation(1, "0404040404040404", 1)).await.unwrap();
    store.free_slots().await.unwrap();
    assert_eq!(slot(5).await, 3, "all others are taken");
    store.end_operation(&operation(1, "", 1).id, OperationState::Succeeded, None, 2).await.unwrap();
    store.free_slots().await.unwrap();
    assert_eq!((slot(6).await, slot(3).await), (0, 2), "the VM's own is its own");
}

#[tokio::test]
async fn two_that_ask_at_once_get_two_slots() {
    let (_dir, store) = open().await;
    let (one, other) = (VmId::from_random([1; 8]), VmId::from_random([2; 8]));
    let (one, other) = tokio::join!(store.ensure_slot(&one), store.ensure_slot(&other));
    assert_ne!(one.unwrap().unwrap(), other.unwrap().unwrap());
}
