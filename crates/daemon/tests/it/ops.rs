//! Every verb, from its request to what it leaves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use daemon::store::StoreError;
use wire::agent::message::Ending;
use wire::api::{ApiError, BuildImage, CreateVm, ErrorCode, ImportKernel, KernelSource, Operation, OperationEvent};
use wire::api::{OperationState, Publish, PullImage, RestartPolicy, StepState, VmState};

use crate::fake::guest::Behaviour;
use crate::fake::{Daemon, SOON, World, soon};
use crate::slate::assert_clean_slate;

pub(crate) fn request(name: &str, start: bool) -> CreateVm {
    CreateVm {
        name: Some(name.parse().unwrap()),
        image: None,
        kernel: None,
        vcpus: None,
        memory_mib: None,
        disk_bytes: None,
        nat: false,
        publish: Vec::new(),
        stop_after_ms: None,
        restart: RestartPolicy::No,
        start,
    }
}

impl Daemon {
    pub(crate) async fn ended(&self, begun: wire::api::Begun) -> Operation {
        soon("the operation to end", self.engine.wait(&begun.operation)).await.unwrap()
    }

    pub(crate) async fn state(&self, name: &str) -> VmState {
        self.host.store.find_vm(name).await.unwrap().state.to_wire()
    }

    pub(crate) async fn create(&self, name: &str, start: bool) -> Operation {
        self.ended(self.engine.create(request(name, start)).await.unwrap()).await
    }
}

#[tokio::test]
async fn a_life() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let created = daemon.create("web", false).await;
    assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
    assert_eq!(daemon.state("web").await, VmState::Created);

    let started = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(started.state, OperationState::Succeeded, "{started:?}");
    assert!(started.steps.iter().all(|step| step.state == StepState::Succeeded));
    assert_eq!(daemon.state("web").await, VmState::Running);
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let boot = daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap();
    assert!(boot.ready_at_ms.is_some());
    assert_eq!(boot.init.as_deref(), Some("/sbin/init"));
    assert_eq!(boot.warnings, ["no /etc/ssh in the image"]);
    let config = world.only().config.lock().unwrap().clone().unwrap();
    assert_eq!((config.hostname.as_str(), config.machine_id.len(), config.entropy_hex.len()), ("web", 32, 128));
    assert!(daemon.host.supervisors.guest(&vm.id).is_some());

    let machine = world.only();
    let stopped = daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await;
    assert_eq!(stopped.state, OperationState::Succeeded, "{stopped:?}");
    assert!(machine.is_synced.load(Ordering::SeqCst), "what was written before the stop is on the disk");
    assert_eq!(daemon.state("web").await, VmState::Stopped);
    let ended = daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap();
    assert_eq!(ended.ended.as_deref(), Some("stop"));

    let again = daemon.ended(daemon.engine.restart("web", None).await.unwrap()).await;
    assert_eq!((again.kind.as_str(), again.state), ("vm.start", OperationState::Succeeded));
    let restarted = daemon.ended(daemon.engine.restart("web", None).await.unwrap()).await;
    assert_eq!((restarted.kind.as_str(), restarted.state), ("vm.restart", OperationState::Succeeded));
    assert_ne!(daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap().id, boot.id);
    let after = daemon.host.store.find_vm("web").await.unwrap();
    assert_eq!(after.identity, vm.identity, "identity is the VM's, not the boot's");

    let deleted = daemon.ended(daemon.engine.delete("web").await.unwrap()).await;
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
    assert!(matches!(daemon.host.store.find_vm("web").await, Err(StoreError::NotFound { .. })));
    assert_clean_slate(&daemon).await;
    soon("idleness", daemon.host.supervisors.ended(&vm.id, &boot.id)).await;
    assert_eq!(daemon.host.supervisors.running(), 0);
}

#[tokio::test]
async fn what_is_refused_begins_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await;
    let refuse = async |request: CreateVm| ApiError::from(daemon.engine.create(request).await.unwrap_err());
    let missing = refuse(request("web", true)).await;
    assert_eq!(missing.code, ErrorCode::NotFound);
    assert_eq!(missing.hint.as_deref(), Some("banger image build debian-bookworm"));
    let daemon = daemon.with_artifacts().await;
    let refuse = async |request: CreateVm| ApiError::from(daemon.engine.create(request).await.unwrap_err());
    let port = Publish { host_port: 80, guest_port: 80 };
    for (request, code, text) in [
        (CreateVm { vcpus: Some(0), ..request("a", true) }, ErrorCode::BadRequest, "vCPUs must be between"),
        (CreateVm { memory_mib: Some(u64::MAX), ..request("a", true) }, ErrorCode::BadRequest, "memory must be"),
        (CreateVm { disk_bytes: Some(1), ..request("a", true) }, ErrorCode::BadRequest, "disk must be"),
        (CreateVm { publish: vec![port, port], ..request("a", true) }, ErrorCode::BadRequest, "once only"),
        (CreateVm { nat: true, ..request("a", true) }, ErrorCode::Unsupported, "passt"),
        (CreateVm { image: Some("x".into()), ..request("a", true) }, ErrorCode::NotFound, "no image \"x\""),
        (CreateVm { kernel: Some("x".into()), ..request("a", true) }, ErrorCode::NotFound, "no kernel \"x\""),
    ] {
        let error = refuse(request).await;
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.message.contains(text), "{error:?}");
    }
    daemon.create("web", false).await;
    assert_eq!(refuse(request("web", false)).await.code, ErrorCode::AlreadyExists);
    let error = ApiError::from(daemon.engine.stop("web", None).await.unwrap_err());
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::WrongState, "VM web is not running"));
    daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    let error = ApiError::from(daemon.engine.start("web").await.unwrap_err());
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::WrongState, "VM web is already running"));
    let error = ApiError::from(daemon.engine.delete_image("debian-bookworm").await.unwrap_err());
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::InUse, "image debian-bookworm is used by web"));
    let error = ApiError::from(daemon.engine.delete_kernel("linux-image-cloud-amd64").await.unwrap_err());
    assert_eq!(error.code, ErrorCode::InUse);
    let none = BuildImage { recipe: "none".into(), variant: None, name: None };
    assert_eq!(ApiError::from(daemon.engine.build_image(none).await.unwrap_err()).code, ErrorCode::NotFound);
    let path = KernelSource::Path { path: "relative".into(), more: Vec::new(), config: None, modules: None };
    let relative = ImportKernel { source: path, name: None };
    assert_eq!(ApiError::from(daemon.engine.import_kernel(relative).await.unwrap_err()).code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_cut_image_is_found_before_a_guest_boots_it() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let image = daemon.host.store.find_image("debian-bookworm").await.unwrap();
    std::fs::write(daemon.host.image_dir(&image.id).join("rootfs.ext4"), b"cut").unwrap();
    let error = ApiError::from(daemon.engine.create(request("web", true)).await.unwrap_err());
    assert!(error.message.contains("image debian-bookworm is damaged"), "{error:?}");
    assert!(error.message.contains("has 3 bytes instead of 6"), "{error:?}");
}

#[tokio::test]
async fn a_guest_that_never_answers_leaves_nothing_but_its_console() {
    // One that is silent is waited for to the end; of one that dies nobody waits for more than its death.
    let cases = [(Behaviour::Silent, Duration::from_millis(200)), (Behaviour::Dies, SOON)];
    for (behaviour, boot_timeout) in cases {
        let world = World::new();
        let daemon = Daemon::start_with(&world, "", boot_timeout).await.with_artifacts().await;
        world.behave(behaviour);
        let operation = daemon.create("web", true).await;
        assert_eq!(operation.state, OperationState::Unwound, "{operation:?}");
        let error = operation.error.unwrap();
        let code = if behaviour == Behaviour::Silent { ErrorCode::Timeout } else { ErrorCode::OperationFailed };
        assert_eq!(error.code, code);
        assert!(error.message.starts_with("cannot create web: the "), "{}", error.message);
        assert!(error.message.contains("no root device"), "{}", error.message);
        assert!(!error.message.contains('\u{1b}'), "{:?}", error.message);
        let kept: Vec<_> = std::fs::read_dir(daemon.host.failed_dir()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(kept.len(), 1);
        assert!(error.message.contains(kept[0].to_str().unwrap()), "{}", error.message);
        assert!(daemon.host.store.vms().await.unwrap().is_empty());
        assert_clean_slate(&daemon).await;
    }
}

#[tokio::test]
async fn a_failed_start_leaves_the_vm_and_says_why() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    daemon.create("web", false).await;
    world.behave(Behaviour::Dies);
    let operation = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(operation.state, OperationState::Unwound);
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    assert_eq!(vm.state.to_wire(), VmState::Stopped);
    assert!(vm.last_error.unwrap().contains("no root device"));
    assert_clean_slate(&daemon).await;
    world.behave(Behaviour::Answers);
    let operation = daemon.ended(daemon.engine.start("web").await.unwrap()).await;
    assert_eq!(operation.state, OperationState::Succeeded);
    assert_eq!(daemon.host.store.find_vm("web").await.unwrap().last_error, None);
}

#[tokio::test]
async fn a_stubborn_guest_is_killed_at_the_deadline() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.behave(Behaviour::Stubborn);
    daemon.create("web", true).await;
    let begun = daemon.engine.stop("web", Some(Duration::from_millis(50))).await.unwrap();
    let mut watch = daemon.engine.watch(&begun.operation).await.unwrap();
    let mut warnings = Vec::new();
    while let Some(event) = soon("an event", watch.next()).await {
        if let OperationEvent::Warning { message } = event {
            warnings.push(message);
        }
    }
    assert_eq!(warnings, ["the guest did not power off within 50ms: it is killed"]);
    assert_eq!(daemon.state("web").await, VmState::Stopped);
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn one_operation_at_a_time() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.behave(Behaviour::Silent);
    let begun = daemon.engine.create(request("web", true)).await.unwrap();
    let vm = begun.vm.clone().unwrap();
    soon("the VMM", async {
        while world.running().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(daemon.engine.holder(&vm), Some(begun.operation.clone()));
    for refused in
        [daemon.engine.start("web").await, daemon.engine.stop("web", None).await, daemon.engine.delete("web").await]
    {
        let error = ApiError::from(refused.unwrap_err());
        assert_eq!(error.code, ErrorCode::Busy);
        assert!(error.retryable);
        assert!(error.message.starts_with("web is busy: create, 0."), "{}", error.message);
    }
    daemon.engine.cancel(&begun.operation).await.unwrap();
    let ended = daemon.ended(begun).await;
    assert_eq!(ended.state, OperationState::Unwound);
    let error = ended.error.unwrap();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Cancelled, "cancelled: create web"));
    assert!(!daemon.host.failed_dir().exists(), "whoever stops it needs no console");
    assert!(daemon.host.store.vms().await.unwrap().is_empty());
    assert_clean_slate(&daemon).await;
    soon("idleness", async {
        while !daemon.engine.is_idle() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_race_for_a_name_has_one_winner() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let racers = (0..8).map(|_| async {
        match daemon.engine.create(request("web", false)).await {
            Ok(begun) => daemon.ended(begun).await.state == OperationState::Succeeded,
            Err(cause) => {
                assert_eq!(ApiError::from(cause).code, ErrorCode::AlreadyExists);
                false
            }
        }
    });
    let won = futures_util::future::join_all(racers).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    assert_eq!(daemon.host.store.vms().await.unwrap().len(), 1);
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn the_guest_decides_how_it_ends() {
    let world = World::new();
    let mut daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let reboots = daemon.reboots.take().unwrap();
    let serving = tokio::spawn(daemon.engine.clone().serve_reboots(reboots));
    daemon.create("web", true).await;
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let first = vm.state.boot().unwrap().clone();

    world.only().finish(Ending::Reboot).await;
    let second = soon("a new boot", async {
        loop {
            let vm = daemon.host.store.find_vm("web").await.unwrap();
            match vm.state.boot() {
                Some(boot) if *boot != first && vm.state.to_wire() == VmState::Running => break boot.clone(),
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(daemon.host.store.boot(&first).await.unwrap().ended.as_deref(), Some("reboot"));
    soon("its start to end", daemon.engine.settled()).await;

    soon("the guest", async {
        while daemon.host.supervisors.guest(&vm.id).is_none() {
            tokio::task::yield_now().await
        }
    })
    .await;
    world.only().finish(Ending::PowerOff).await;
    soon("the end", async {
        while daemon.state("web").await != VmState::Stopped || daemon.host.supervisors.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(daemon.host.store.boot(&second).await.unwrap().ended.as_deref(), Some("poweroff"));
    assert_clean_slate(&daemon).await;
    serving.abort();
}

/// Images that were pulled, and what they are called.
async fn images_of_others(daemon: &Daemon) {
    let pull = |source: &str, name: Option<&str>| {
        let request = PullImage { source: source.into(), name: name.map(str::to_owned) };
        async move { daemon.engine.pull_image(request).await }
    };
    let store = &daemon.host.store;
    daemon.ended(pull("docker.io/library/alpine", None).await.unwrap()).await;
    let image = store.find_image("alpine").await.unwrap();
    assert_eq!((image.name.as_str(), image.manifest.command.as_slice()), ("alpine:latest", &["sh".to_owned()][..]));
    // The same once more, under one name more: nothing is made, and it goes by both.
    daemon.ended(pull("docker.io/library/alpine", Some("mine-too")).await.unwrap()).await;
    let again = store.find_image("mine-too").await.unwrap();
    assert_eq!((again.id.clone(), again.also), (image.id.clone(), vec!["mine-too".to_owned()]));
    daemon.ended(daemon.engine.delete_image("mine-too").await.unwrap()).await;
    assert_eq!(store.find_image("docker.io/library/alpine:latest").await.unwrap().also, Vec::<String>::new());
    let error = ApiError::from(pull("no source", None).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::BadRequest);
    let error = ApiError::from(pull("alpine", Some("-x")).await.unwrap_err());
    assert!(error.message.contains("the name of an image is letters"), "{error:?}");
    // What does not end is cancelled.
    let begun = pull("endless", None).await.unwrap();
    daemon.engine.cancel(&begun.operation).await.unwrap();
    assert_eq!(daemon.ended(begun).await.state, OperationState::Unwound);
    daemon.ended(daemon.engine.delete_image(image.id.as_str()).await.unwrap()).await;
}

#[tokio::test]
async fn images_and_kernels() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let build = BuildImage { recipe: "tiny".into(), variant: None, name: Some("mine".into()) };
    daemon.ended(daemon.engine.build_image(build.clone()).await.unwrap()).await;
    let image = daemon.host.store.find_image("mine").await.unwrap();
    assert_eq!((image.manifest.name.as_str(), image.created_at_ms > 1), ("mine", true));
    assert!(daemon.host.image_dir(&image.id).join("rootfs.ext4").exists());
    // The same content again: the image stays, nothing is left beside it.
    daemon.ended(daemon.engine.build_image(build).await.unwrap()).await;
    assert_eq!(daemon.host.store.images().await.unwrap().len(), 2);
    // Other content of the same name: the name moves.
    let other = BuildImage { recipe: "other".into(), variant: None, name: Some("mine".into()) };
    daemon.ended(daemon.engine.build_image(other).await.unwrap()).await;
    assert_ne!(daemon.host.store.find_image("mine").await.unwrap().id, image.id);
    let kept = daemon.host.store.find_image(image.id.as_str()).await.unwrap();
    assert_eq!(kept.name, format!("mine-{}", &image.id.as_str()[..8]));
    images_of_others(&daemon).await;
    daemon.ended(daemon.engine.delete_image("mine").await.unwrap()).await;

    let source = KernelSource::Debian { package: "linux-image-cloud-amd64".into() };
    let begun = daemon.engine.import_kernel(ImportKernel { source, name: None }).await.unwrap();
    assert_eq!(begun.subject, "linux-image-cloud-amd64");
    assert_eq!(daemon.ended(begun).await.state, OperationState::Succeeded);
    let kernel = daemon.host.store.find_kernel("linux-image-cloud-amd64").await.unwrap();
    assert_eq!(kernel.manifest.source, "test (linux-image-cloud-amd64)");
    daemon.ended(daemon.engine.delete_kernel("linux-image-cloud-amd64").await.unwrap()).await;
    assert!(!daemon.host.kernel_dir(&kernel.id).exists());
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_long_step_is_cancelled_inside() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await;
    let endless = BuildImage { recipe: "endless".into(), variant: None, name: None };
    let begun = daemon.engine.build_image(endless).await.unwrap();
    let mut watch = daemon.engine.watch(&begun.operation).await.unwrap();
    // What is being done is told while it is.
    let stage = loop {
        if let OperationEvent::Progress { stage: Some(stage), .. } = soon("progress", watch.next()).await.unwrap() {
            break stage;
        }
    };
    assert_eq!(stage, "fetch packages");
    daemon.engine.cancel(&begun.operation).await.unwrap();
    let ended = daemon.ended(begun).await;
    assert_eq!(ended.state, OperationState::Unwound);
    assert_eq!(ended.error.unwrap().code, ErrorCode::Cancelled);
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_stuck_and_listed() {
    let world = World::new();
    let faults = "vm.create/await_agent:after,vm.create/attach_network:undo";
    let daemon = Daemon::start(&world, faults).await.with_artifacts().await;
    let operation = daemon.create("web", true).await;
    assert_eq!(operation.state, OperationState::Stuck);
    let error = operation.error.clone().unwrap();
    assert!(error.message.contains("attach_network could not be taken back"), "{}", error.message);
    assert_eq!(daemon.engine.operation(&operation.id).await.unwrap(), operation);
    assert!(world.running().is_empty(), "the other undos were done");
    assert_eq!(world.attached().len(), 1, "what is stuck is what is left");
}
