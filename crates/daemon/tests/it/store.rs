//! The database: its schema's history, its refusals, its races.

use daemon::model::machine::NicAttachment;
use daemon::model::vm::{VmEvent, VmState};
use daemon::saga::journal::{Cause, Durability, Edge, EdgeKind, Journal};
use daemon::store::records::{BootRecord, GuestIdentity, OperationRecord, VmRecord, VmSpec};
use daemon::store::{OperationState, Store, StoreError};
use wire::id::{BootId, OpId, VmId};

use crate::fake::{image, kernel};

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
        },
        image_id: image("debian-bookworm").id,
        kernel_id: kernel("6.1").id,
        identity: GuestIdentity { machine_id: "0".repeat(32), ssh_host_keys: Vec::new() },
        workspace: None,
        last_error: None,
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
    assert!(matches!(Store::open(&other).err().unwrap(), StoreError::Open { .. }));
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

#[tokio::test]
async fn a_late_end_of_a_boot_touches_no_other() {
    let (_dir, store) = open().await;
    store.insert_vm(vm(1, "web")).await.unwrap();
    let id = vm(1, "web").id;
    let boot = |n: u8| BootRecord {
        id: BootId::from_random([n; 8]),
        vm: id.clone(),
        launch: serde_json::json!({}),
        attachment: NicAttachment::QemuUser { publish: Vec::new() },
        started_at_ms: u64::from(n),
        ready_at_ms: None,
        ended_at_ms: None,
        ended: None,
        init: None,
        warnings: Vec::new(),
    };
    store.happen(&id, VmEvent::CreateFinished).await.unwrap();
    store.begin_boot(boot(1)).await.unwrap();
    store.begin_boot(boot(1)).await.unwrap();
    store.boot_ready(&id, &boot(1).id, 5).await.unwrap();
    assert!(store.mark_off(&id, &boot(1).id, None).await.unwrap());
    store.end_boot(&boot(1).id, "poweroff", 6).await.unwrap();
    store.end_boot(&boot(1).id, "killed", 7).await.unwrap();
    store.begin_boot(boot(2)).await.unwrap();
    store.boot_ready(&id, &boot(2).id, 8).await.unwrap();
    assert!(!store.mark_off(&id, &boot(1).id, Some("late".into())).await.unwrap());
    let record = store.vm(&id).await.unwrap();
    assert_eq!((record.state, record.last_error), (VmState::Running { boot: boot(2).id }, None));
    assert_eq!(store.boot(&boot(1).id).await.unwrap().ended.as_deref(), Some("poweroff"));
    assert!(store.begin_boot(boot(3)).await.is_err(), "it runs");
    assert_eq!(store.open_boots().await.unwrap().len(), 1);
    for n in 0..100 {
        store.warn_boot(&boot(2).id, &format!("warning {n}")).await.unwrap();
    }
    assert_eq!(store.boot(&boot(2).id).await.unwrap().warnings.len(), 32);
}
