//! A small host in memory that obeys the drivers' traits and can be told to fail. It outlives the daemons that use it, as
//! the real one does.

mod catalogs;
mod courier;
pub(crate) mod guest;
mod maker;
mod puller;
mod snapshots;
mod storage;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use daemon::model::autostart::Autostart;
use daemon::model::digest::Digest;
use daemon::model::image::ImageManifest;
use daemon::model::kernel::{ConfigSource, KernelManifest, ModuleCompression};
use daemon::model::machine::{DriveRole, ExitReason, MachineSpec, NicAttachment, NicSpec};
use daemon::network::{NetworkDriver, NetworkError};
use daemon::ops::catalogs::Catalogs;
use daemon::ops::world::{GuestSettings, Settings};
use daemon::ops::{Engine, Host};
use daemon::saga::Faults;
use daemon::storage::StorageDriver;
use daemon::store::Store;
use daemon::store::records::{ImageRecord, KernelRecord};
use daemon::supervise::activity::Activity;
use daemon::supervise::{Reboot, Supervisors};
use daemon::template::Templates;
use daemon::vmm::{AgentChannel, Controls, Launch, Snapshots, Vmm, VmmDriver, VmmError};
use sys::process::Identity;
use tokio::sync::mpsc;
use wire::agent::message::GuestNetwork;
use wire::api::{Defaults, KillSignal};
use wire::id::VmId;
use wire::layout::UserDirs;

use guest::{Behaviour, Machine};

/// Longest a test waits for anything: it ends what hangs, also where many other programs want the processor.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// What a guest that is well is given: less than [`SOON`], so that the daemon's own words are seen.
const GIVEN: Duration = Duration::from_secs(30);

/// The host: its directories, its machines, its NICs.
pub(crate) struct World {
    /// Removes everything when the world is dropped.
    _dir: tempfile::TempDir,
    pub(crate) dirs: UserDirs,
    /// Machines run here, so that they outlive the daemon that started them.
    runtime: tokio::runtime::Handle,
    machines: Mutex<HashMap<PathBuf, Arc<Machine>>>,
    attached: Mutex<BTreeSet<PathBuf>>,
    pub(crate) behaviour: Mutex<Behaviour>,
    /// Whether its driver can save machines.
    pub(crate) saves_machines: AtomicBool,
    /// Whether another driver than the one of what runs would have to let saved machines go on.
    pub(crate) has_other_driver: AtomicBool,
    /// Whether each machine needs a number of its own.
    pub(crate) takes_slots: AtomicBool,
    /// In how many files its guests hold work, or why they cannot tell.
    pub(crate) work: Mutex<Result<u64, wire::api::ErrorCode>>,
    /// Which boot of the host this is.
    boots: AtomicU32,
    /// What starts the daemon with it.
    pub(crate) autostart: Mutex<Autostart>,
    /// What has a short name; none: what is in `catalogs.rs`.
    pub(crate) catalogs: Mutex<Option<Arc<dyn Catalogs>>>,
}

impl World {
    pub(crate) fn new() -> Arc<World> {
        // In memory where the host can: hundreds of databases are made here, and what a machine's crash loses is not tested.
        let shared = Path::new("/dev/shm");
        World::on(if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() })
    }

    /// A host whose files are on the filesystem of `base`.
    pub(crate) fn on(base: PathBuf) -> Arc<World> {
        let dir = tempfile::Builder::new().prefix("b").tempdir_in(base).unwrap();
        let at = |name: &str| dir.path().join(name);
        let dirs = UserDirs { state: at("state"), cache: at("cache"), config: at("config"), run: at("run") };
        for path in [&dirs.state, &dirs.cache, &dirs.run] {
            std::fs::create_dir(path).unwrap();
        }
        Arc::new(World {
            _dir: dir,
            dirs,
            runtime: tokio::runtime::Handle::current(),
            machines: Mutex::default(),
            attached: Mutex::default(),
            behaviour: Mutex::new(Behaviour::Answers),
            saves_machines: AtomicBool::new(false),
            has_other_driver: AtomicBool::new(false),
            takes_slots: AtomicBool::new(false),
            work: Mutex::new(Ok(0)),
            boots: AtomicU32::new(1),
            autostart: Mutex::new(Autostart { has_systemd: true, has_system_unit: true, ..Autostart::default() }),
            catalogs: Mutex::default(),
        })
    }

    /// The host loses its power and boots anew: no machine runs, and what was in memory is gone.
    pub(crate) fn reboot(&self) {
        for machine in self.machines.lock().unwrap().values() {
            machine.end(ExitReason::Killed);
        }
        self.attached.lock().unwrap().clear();
        std::fs::remove_dir_all(&self.dirs.run).unwrap();
        std::fs::create_dir(&self.dirs.run).unwrap();
        self.boots.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// The machine that runs below `boot_dir`.
    pub(crate) fn machine(&self, boot_dir: &Path) -> Option<Arc<Machine>> {
        self.machines.lock().unwrap().get(boot_dir).filter(|machine| machine.is_alive()).cloned()
    }

    /// The boot directories of all machines that run.
    pub(crate) fn running(&self) -> BTreeSet<PathBuf> {
        let machines = self.machines.lock().unwrap();
        machines.iter().filter(|(_, machine)| machine.is_alive()).map(|(dir, _)| dir.clone()).collect()
    }

    /// The boot directories of all machines that are paused.
    pub(crate) fn paused(&self) -> BTreeSet<PathBuf> {
        let machines = self.machines.lock().unwrap();
        let paused = machines.iter().filter(|(_, machine)| machine.is_alive() && machine.is_paused());
        paused.map(|(dir, _)| dir.clone()).collect()
    }

    fn hold(&self, launch: &Launch, is_paused: bool) -> Result<(), VmmError> {
        let gone = || VmmError::Control { act: "hold", why: "it is gone".into() };
        self.machine(&launch.boot_dir).ok_or_else(gone)?.hold(is_paused);
        Ok(())
    }

    /// What is on a VM's disk: its guests leave marks.
    pub(crate) fn disk(&self, vm: &VmId) -> String {
        let file = std::fs::File::open(wire::naming::vm_disk(&self.dirs.state, vm)).unwrap();
        let mut begin = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, 256), &mut begin).unwrap();
        String::from_utf8(begin).unwrap().trim_end_matches('\0').to_owned()
    }

    /// The boot directories of all NICs.
    pub(crate) fn attached(&self) -> BTreeSet<PathBuf> {
        self.attached.lock().unwrap().clone()
    }

    /// The host's power goes, and with it what ran and what was in memory: the directory of sockets.
    pub(crate) fn lose_power(&self) {
        for (_, machine) in self.machines.lock().unwrap().drain() {
            machine.end(ExitReason::Killed);
        }
        self.attached.lock().unwrap().clear();
        std::fs::remove_dir_all(&self.dirs.run).unwrap();
        std::fs::create_dir(&self.dirs.run).unwrap();
    }

    /// The only machine.
    pub(crate) fn only(&self) -> Arc<Machine> {
        let running = self.running();
        assert_eq!(running.len(), 1, "{running:?}");
        self.machine(running.first().unwrap()).unwrap()
    }
}

/// One life of the daemon over a world.
pub(crate) struct Daemon {
    pub(crate) world: Arc<World>,
    pub(crate) host: Arc<Host>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) reboots: Option<mpsc::UnboundedReceiver<Reboot>>,
}

impl Daemon {
    /// Opens the store and takes over what is there, as `main` does, up to the recovery of operations.
    pub(crate) async fn start(world: &Arc<World>, faults: &str) -> Daemon {
        Daemon::start_with(world, faults, GIVEN).await
    }

    pub(crate) async fn start_with(world: &Arc<World>, faults: &str, boot_timeout: Duration) -> Daemon {
        let store = Store::open(&world.dirs.state.join("state.db")).unwrap();
        let activity = Activity::default();
        let drivers = Arc::new(Drivers(Arc::clone(world)));
        let (now_ms, host_boot) = (sys::clock::unix_ms, world.boots.load(Ordering::SeqCst).to_string());
        let (supervisors, reboots) =
            Supervisors::new(store.clone(), drivers.clone(), drivers.clone(), now_ms, host_boot, activity.clone());
        let defaults = Defaults {
            image: "debian-bookworm".into(),
            kernel: "linux-image-cloud-amd64".into(),
            vcpus: 1,
            memory_mib: 512,
            disk_bytes: 1 << 30,
            stop_after_ms: None,
        };
        let settings = Settings { defaults, boot_timeout, stop_timeout: GIVEN, templates: true };
        let asked = Arc::clone(world);
        let host = Arc::new(Host {
            store,
            vmm: drivers.clone(),
            storage: drivers.clone(),
            network: drivers.clone(),
            maker: drivers.clone(),
            puller: drivers.clone(),
            catalogs: world.catalogs.lock().unwrap().clone().unwrap_or_else(|| drivers.clone()),
            courier: drivers,
            templates: Templates::in_dir(world.dirs.state.join("templates")),
            supervisors,
            dirs: world.dirs.clone(),
            settings,
            guest_settings: Arc::new(GuestSettings::default),
            autostart: Arc::new(move || asked.autostart.lock().unwrap().clone()),
            now_ms,
            faults: faults.parse::<Faults>().unwrap(),
        });
        host.supervisors.adopt_all().await.unwrap();
        let swept = daemon::reconcile::sweep_boots(&host).await.unwrap();
        assert!(swept.failed.is_empty(), "{swept:?}");
        let engine = Engine::new(Arc::clone(&host), activity);
        Daemon { world: Arc::clone(world), host, engine, reboots: Some(reboots) }
    }

    /// Goes on with open operations and waits for their ends, then sweeps, as `main` does. Operations leave nothing for
    /// the sweep, unless they are stuck; an owner that died with its daemon may leave its boot's directory.
    pub(crate) async fn recover(&self) {
        self.engine.recover().await.unwrap();
        soon("open operations to end", self.engine.settled()).await;
        let swept = daemon::reconcile::sweep(&self.host).await.unwrap();
        let boots = self.host.dirs.run.join("boots");
        let is_stuck = !self.host.store.stuck_operations().await.unwrap().is_empty();
        let is_due = swept.removed.iter().all(|path| is_stuck || path.starts_with(&boots));
        assert!(swept.failed.is_empty() && is_due, "{swept:?}");
    }

    /// Puts the default image and kernel on record.
    pub(crate) async fn with_artifacts(self) -> Daemon {
        let (image, kernel) = (image("debian-bookworm"), kernel("6.1"));
        let dir = self.host.image_dir(&image.id);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("rootfs.ext4"), b"rootfs").unwrap();
        let dir = self.host.kernel_dir(&kernel.id);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("vmlinux"), b"vmlinux").unwrap();
        self.host.store.publish_image(image).await.unwrap();
        self.host.store.publish_kernel(kernel).await.unwrap();
        self
    }
}

/// Waits for `what`, with a deadline.
pub(crate) async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, act).await {
        Ok(value) => value,
        Err(_) => panic!("waited {SOON:?} for {what}"),
    }
}

pub(crate) fn image_manifest(name: &str) -> ImageManifest {
    ImageManifest {
        name: name.into(),
        variant: Some("full".into()),
        digest: Digest::of(name.as_bytes()),
        bytes: 6,
        content_bytes: 6,
        entries: 1,
        packages: None,
        recipe_sha256: None,
        source: "test".into(),
        init: None,
        arch: "x86_64".into(),
        exec: Default::default(),
        command: Vec::new(),
        origin: None,
        linked: None,
    }
}

pub(crate) fn image(name: &str) -> ImageRecord {
    let manifest = image_manifest(name);
    ImageRecord { id: manifest.id(), name: name.into(), also: Vec::new(), manifest, created_at_ms: 1 }
}

pub(crate) fn kernel_manifest(release: &str) -> KernelManifest {
    KernelManifest {
        digest: Digest::of(release.as_bytes()),
        release: release.into(),
        arch: "x86_64".into(),
        source: "test".into(),
        vmlinux_sha256: Digest::of(b"vmlinux"),
        vmlinux_bytes: 7,
        pvh: true,
        config_source: ConfigSource::File,
        options: Default::default(),
        module_compression: ModuleCompression::None,
        modules: None,
        load_order: Vec::new(),
    }
}

pub(crate) fn kernel(release: &str) -> KernelRecord {
    let manifest = kernel_manifest(release);
    let id = daemon::ops::kernel_import::kernel_id(&manifest.digest);
    KernelRecord { id, name: "linux-image-cloud-amd64".into(), manifest, created_at_ms: 1 }
}

/// All drivers of a world.
pub(crate) struct Drivers(Arc<World>);

#[async_trait]
impl VmmDriver for Drivers {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn takes_slot(&self) -> bool {
        self.0.takes_slots.load(Ordering::SeqCst)
    }

    fn plan(&self, spec: &MachineSpec, _: &NicAttachment) -> Result<Launch, VmmError> {
        let disk = spec.drives.iter().find(|drive| drive.serial == DriveRole::Disk).expect("every machine has a disk");
        Ok(Launch {
            driver: "fake".into(),
            argv: vec![spec.vm.to_string(), spec.boot.to_string(), disk.path.display().to_string()],
            boot_dir: spec.boot_dir.clone(),
            vmm_log: spec.vmm_log.clone(),
            console_log: spec.console_log.clone(),
            saved: spec.saved.clone(),
            agent: AgentChannel::Dial,
        })
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError> {
        let behaviour = *self.0.behaviour.lock().unwrap();
        let machine = Machine::boot(&self.0.runtime, launch, behaviour);
        let before = self.0.machines.lock().unwrap().insert(launch.boot_dir.clone(), Arc::clone(&machine));
        assert!(before.is_none_or(|before| !before.is_alive()), "a second VMM for one boot");
        Ok(Box::new(FakeVmm(machine)))
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError> {
        Ok(self.0.machine(&launch.boot_dir).map(|machine| Box::new(FakeVmm(machine)) as Box<dyn Vmm>))
    }

    fn controls(&self) -> Option<&dyn Controls> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.0.saves_machines.load(Ordering::SeqCst).then_some(self)
    }

    fn signal(&self, launch: &Launch, signal: KillSignal) -> Result<(), VmmError> {
        let machine = self.0.machine(&launch.boot_dir);
        if let Some(machine) = machine.filter(|machine| machine.ends_of(signal)) {
            machine.end(ExitReason::Ended { code: Some(0) });
        }
        Ok(())
    }

    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError> {
        if let Some(machine) = self.0.machine(&launch.boot_dir) {
            machine.end(ExitReason::Killed);
        }
        Ok(())
    }
}

#[async_trait]
impl Controls for Drivers {
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError> {
        self.0.hold(launch, true)
    }

    async fn resume(&self, launch: &Launch) -> Result<(), VmmError> {
        self.0.hold(launch, false)
    }

    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError> {
        let gone = || VmmError::Control { act: "grow the disk", why: "it is gone".into() };
        let machine = self.0.machine(&launch.boot_dir).ok_or_else(gone)?;
        let vm: VmId = machine.vm.parse().unwrap();
        StorageDriver::ensure_size(self, &vm, bytes).await.unwrap();
        Ok(())
    }
}

struct FakeVmm(Arc<Machine>);

#[async_trait]
impl Vmm for FakeVmm {
    fn identity(&self) -> Identity {
        Identity { pid: 4_000_000, start_ticks: 1 }
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        self.0.end(ExitReason::Killed);
        Ok(())
    }

    async fn wait(&mut self) -> ExitReason {
        self.0.ended().await
    }
}

#[async_trait]
impl NetworkDriver for Drivers {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn plan(&self, nic: &NicSpec, _: &Path) -> Result<NicAttachment, NetworkError> {
        if nic.nat {
            return Err(NetworkError::Missing { program: "passt", package: "passt" });
        }
        Ok(NicAttachment::QemuUser { publish: nic.publish.clone() })
    }

    fn guest(&self, nic: &NicSpec) -> GuestNetwork {
        GuestNetwork { mac: nic.mac.clone(), addresses: Vec::new(), gateways: Vec::new(), dns: Vec::new() }
    }

    async fn ensure_attached(&self, _: &NicSpec, _: &NicAttachment, boot_dir: &Path) -> Result<(), NetworkError> {
        assert!(boot_dir.is_dir(), "the boot directory is made first");
        self.0.attached.lock().unwrap().insert(boot_dir.to_path_buf());
        Ok(())
    }

    async fn ensure_plugged(&self, _: &NicAttachment, _: &Path) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn ensure_detached(&self, _: &NicAttachment, boot_dir: &Path) -> Result<(), NetworkError> {
        self.0.attached.lock().unwrap().remove(boot_dir);
        Ok(())
    }

    fn possible_attachments(&self, _: &Path) -> Vec<NicAttachment> {
        vec![NicAttachment::QemuUser { publish: Vec::new() }]
    }
}
