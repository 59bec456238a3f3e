//! A full disk: what makes room works without a free byte, everything else is refused or taken back, and nothing is left.
//!
//! Each test runs a second time inside a small filesystem in memory, made in a mount namespace of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use daemon::saga::Outcome;
use daemon::saga::journal::{Durability, Edge, Journal, JournalError};
use wire::api::{BuildImage, ErrorCode, ImportKernel, KernelSource, OperationState};
use wire::id::OpId;

use crate::again;
use crate::crash::{VERBS, check_whole, drive_with, life, prepare};
use crate::fake::{Daemon, SOON, World};
use crate::ops::request;
use crate::slate::assert_clean_slate;

/// A small filesystem in memory.
struct Disk(PathBuf);

impl Disk {
    fn resize(&self, bytes: u64) {
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount_remount(&self.0, rustix::mount::MountFlags::empty(), size.as_c_str()).unwrap();
    }

    /// Leaves no byte free. A daemon that has just ended may still be closing its database: what it writes or deletes
    /// between the look and the squeeze is squeezed the next time.
    fn fill(&self) {
        let deadline = std::time::Instant::now() + SOON;
        while sys::fs::available_bytes(&self.0).unwrap() > 0 {
            assert!(std::time::Instant::now() < deadline, "the disk is never full");
            let stat = rustix::fs::statvfs(&self.0).unwrap();
            let size = std::ffi::CString::new(format!("size={}", (stat.f_blocks - stat.f_bfree) * stat.f_frsize));
            let flags = rustix::mount::MountFlags::empty();
            let squeezed = rustix::mount::mount_remount(&self.0, flags, size.unwrap().as_c_str());
            assert!(matches!(squeezed, Ok(()) | Err(rustix::io::Errno::INVAL)), "{squeezed:?}");
        }
    }

    fn make_room(&self) {
        self.resize(ROOMY_BYTES);
    }
}

/// Enough for everything that looks for room before it begins.
const ROOMY_BYTES: u64 = 1 << 30;

/// Runs `body` over a small filesystem, in a process of its own.
fn on_a_small_disk(test: &str, body: impl AsyncFnOnce(Arc<Disk>)) {
    let Some(dir) = again::small_disk(test) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let disk = Arc::new(Disk(dir));
    disk.make_room();
    runtime.block_on(body(disk));
}

#[test]
fn what_makes_room_works_on_a_full_disk() {
    on_a_small_disk("full::what_makes_room_works_on_a_full_disk", async |disk| {
        let world = World::on(disk.0.clone());
        let names: Vec<String> = (0..20).map(|n| format!("vm{n}")).collect();
        let (in_first, made) = (Arc::clone(&world), names.clone());
        life(async move {
            let daemon = Daemon::start(&in_first, "").await.with_artifacts().await;
            for name in &made {
                let begun = daemon.engine.create(request(name, name == "vm0")).await.unwrap();
                assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
            }
        })
        .await;
        disk.fill();
        // The next daemon opens the database on the full disk.
        let daemon = Daemon::start(&world, "").await;
        daemon.recover().await;
        let engine = &daemon.engine;
        for _ in 0..30 {
            let build = BuildImage { recipe: "tiny".into(), variant: None, name: None };
            let import = ImportKernel { source: KernelSource::Debian { package: "linux".into() }, name: None };
            for refused in [
                engine.create(request("more", true)).await,
                engine.start("vm1").await,
                engine.restart("vm0", None).await,
                engine.build_image(build).await,
                engine.import_kernel(import).await,
            ] {
                let cause = refused.unwrap_err();
                assert_eq!(cause.code, "exhausted", "{cause:?}");
                let state = world.dirs.state.display();
                let said = [format!("the disk that holds {state} is full"), format!("only 0 B are free at {state}")];
                assert!(said.iter().any(|part| cause.message.contains(part)), "{}", cause.message);
                assert!(cause.hint.unwrap().contains("banger rm"));
            }
        }
        let stopped = engine.stop("vm0", None).await.unwrap();
        assert_eq!(engine.wait(&stopped.operation).await.unwrap().state, OperationState::Succeeded);
        for name in &names {
            // A guest that takes whatever is given back.
            disk.fill();
            let deleted = engine.delete(name).await.unwrap();
            let end = engine.wait(&deleted.operation).await.unwrap();
            assert_eq!(end.state, OperationState::Succeeded, "{name}: {end:?}");
        }
        disk.fill();
        for begun in [
            engine.delete_image("debian-bookworm").await.unwrap(),
            engine.delete_kernel("linux-image-cloud-amd64").await.unwrap(),
        ] {
            let end = engine.wait(&begun.operation).await.unwrap();
            assert_eq!(end.state, OperationState::Succeeded, "{end:?}");
        }
        assert_clean_slate(&daemon).await;
        disk.make_room();
        drop(daemon);
        let daemon = Daemon::start(&world, "").await.with_artifacts().await;
        let begun = daemon.engine.create(request("web", true)).await.unwrap();
        assert_eq!(daemon.engine.wait(&begun.operation).await.unwrap().state, OperationState::Succeeded);
    });
}

/// A journal that fills the disk before its `at`th edge.
struct Filling {
    inner: Box<dyn Journal>,
    at: usize,
    seen: AtomicUsize,
    disk: Arc<Disk>,
}

#[async_trait]
impl Journal for Filling {
    async fn edges(&self) -> Result<Vec<Edge>, JournalError> {
        self.inner.edges().await
    }

    async fn append(&self, edge: &Edge, durability: Durability) -> Result<(), JournalError> {
        if self.seen.fetch_add(1, Ordering::SeqCst) >= self.at {
            self.disk.fill();
        }
        self.inner.append(edge, durability).await
    }
}

#[test]
fn a_disk_that_fills_up_during_an_operation_costs_that_operation() {
    let test = "full::a_disk_that_fills_up_during_an_operation_costs_that_operation";
    on_a_small_disk(test, async |disk| {
        for &verb in VERBS {
            for at in 0.. {
                disk.make_room();
                let world = World::on(disk.0.clone());
                let daemon = Daemon::start(&world, "").await.with_artifacts().await;
                let id = OpId::from_random(sys::rand::bytes());
                let plan = prepare(&daemon, verb, &id).await;
                let inner = Box::new(daemon.host.store.journal(id.clone()));
                let journal = Filling { inner, at, seen: AtomicUsize::new(0), disk: Arc::clone(&disk) };
                let outcome = drive_with(&daemon.host, &id, &plan, "", &journal).await;
                let is_over = journal.seen.into_inner() <= at;
                let case = format!("{verb}, full from edge {at}");
                let has_happened = match &outcome {
                    Outcome::Succeeded => true,
                    Outcome::Unwound { cause, .. } => {
                        assert_eq!(cause.code, "exhausted", "{case}: {cause:?}");
                        false
                    }
                    Outcome::Stuck { .. } => panic!("{case}: {outcome:?}"),
                };
                assert!(has_happened || !plan.makes_room(), "{case}: {outcome:?}");
                // Its end is written by the next life, on the full disk.
                drop(daemon);
                let daemon = Daemon::start(&world, "").await;
                daemon.recover().await;
                check_whole(&daemon, verb, has_happened, &case).await;
                assert_clean_slate(&daemon).await;
                // Whoever owns a machine that runs keeps its world, whose files take room.
                world.lose_power();
                if is_over {
                    break;
                }
            }
        }
    });
}

#[test]
fn a_first_start_on_a_full_disk_is_refused() {
    on_a_small_disk("full::a_first_start_on_a_full_disk_is_refused", async |disk| {
        let world = World::on(disk.0.clone());
        std::fs::write(world.dirs.cache.join("something"), b"which makes the disk's size more than none").unwrap();
        disk.fill();
        let path = world.dirs.state.join("state.db");
        let error = daemon::store::Store::open(&path).err().unwrap();
        assert!(error.is_full(), "{error:?}");
        let cause = daemon::saga::Cause::from(error);
        assert_eq!(cause.code, daemon::ops::failure::code_name(ErrorCode::Exhausted));
        assert!(cause.message.contains("is full"), "{}", cause.message);
        disk.make_room();
        let daemon = Daemon::start(&world, "").await.with_artifacts().await;
        assert_clean_slate(&daemon).await;
    });
}
