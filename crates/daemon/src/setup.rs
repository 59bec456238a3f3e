//! What a daemon is made of: the environment read once, drivers chosen, everything wired.

mod images;
mod machines;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::config::{self, Config, ConfigError, HostSize, LogLevel, Overrides, VmmChoice};
use daemon::courier::Carrier;
use daemon::doctor;
use daemon::doctor::autostart::{self, Places};
use daemon::network::user::UserNetwork;
use daemon::ops::ssh_key::KeyPair;
use daemon::ops::world::{GuestSettings, Settings};
use daemon::ops::{Engine, Host};
use daemon::saga::Faults;
use daemon::saga::fault::FaultError;
use daemon::storage::sparse::SparseFiles;
use daemon::store::{Store, StoreError};
use daemon::supervise::activity::Activity;
use daemon::supervise::{Reboot, Supervisors};
use daemon::template::Templates;
use daemon::vmm::qemu::Qemu;
use daemon::workshop::{Registries, Shelf, Workshop};
use machines::{Machines, machines};
use sys::kvm::Kvm;
use tokio::sync::mpsc::UnboundedReceiver;
use wire::agent::message::GitIdentity;
use wire::api::{Configuration, VersionInfo};
use wire::layout::{Environment, HomeError, Install, UserDirs};

/// How long a guest may take to power off before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// No home directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// `BANGER_VMM` makes no sense.
    #[error("cannot use BANGER_VMM={0}: it is auto, firecracker, qemu or, in a debug build, sim")]
    Vmm(String),
    /// `BANGER_HOST_ROOT` is for tests.
    #[error("cannot use BANGER_HOST_ROOT: only a debug build looks at another host than this one")]
    HostRoot,
    /// `BANGER_FAULT` makes no sense.
    #[error("cannot understand BANGER_FAULT")]
    Fault(#[from] FaultError),
    /// The place of this program is unknown.
    #[error("cannot tell where this program is")]
    Place(#[source] std::io::Error),
    /// A directory cannot be used.
    #[error("cannot use its directories")]
    Directory(#[from] sys::fs::FsError),
    /// The runtime directory is another user's: a directory of ours in it would lock its owner out.
    #[error("cannot use XDG_RUNTIME_DIR {}: it belongs to another user (unset it, or set it to your own)", .0.display())]
    ForeignRuntime(PathBuf),
    /// The lock.
    #[error("cannot claim {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration.
    #[error("cannot use the configuration")]
    Config(#[from] ConfigError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database is gone and what it was about is not: a new one would know of no VM, and the sweep would remove the
    /// disks.
    #[error("the database {} is missing or empty, but {} is there", database.display(), left.display())]
    Lost {
        /// The file.
        database: PathBuf,
        /// What it was about.
        left: PathBuf,
    },
    /// The API's socket.
    #[error("cannot listen at {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The async runtime.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

impl StartError {
    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let is_full = match self {
            StartError::Directory(error) => error.is_full(),
            StartError::Lock { source, .. } | StartError::Listen { source, .. } => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            StartError::Store(error) => error.is_full(),
            _ => false,
        };
        match self {
            _ if is_full => Some("make some room on that disk, then try again".to_owned()),
            StartError::Store(error) => error.hint(),
            StartError::Config(error) => error.hint().map(str::to_owned),
            StartError::Directory(error) if error.source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("banger must be able to write there; BANGER_HOME names another place".to_owned())
            }
            StartError::Lost { database, .. } => {
                let dir = database.parent().unwrap_or(database).display();
                Some(format!(
                    "put back a copy of it, or move {dir} away whole and begin anew; the disks of VMs that an older copy does \
                     not know are removed, so save {dir}/vms first"
                ))
            }
            _ => None,
        }
    }
}

/// Refuses to begin anew over what an earlier database was about: the disks of VMs, or its log.
fn refuse_lost(dirs: &UserDirs) -> Result<(), StartError> {
    let database = dirs.database();
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    if length(&database) > 0 {
        return Ok(());
    }
    let vms = dirs.state.join("vms");
    let has_vms = std::fs::read_dir(&vms).is_ok_and(|mut entries| entries.next().is_some());
    let log = dirs.state.join("state.db-wal");
    match (has_vms, length(&log) > 0) {
        (true, _) => Err(StartError::Lost { database, left: vms }),
        (false, true) => Err(StartError::Lost { database, left: log }),
        (false, false) => Ok(()),
    }
}

/// Which build this is.
pub(crate) fn version() -> VersionInfo {
    VersionInfo { version: env!("CARGO_PKG_VERSION").to_owned(), commit: env!("BANGER_COMMIT").to_owned() }
}

/// What the environment says, read once.
pub(crate) struct Surroundings {
    pub(crate) dirs: UserDirs,
    pub(crate) path: OsString,
    home: PathBuf,
    xdg_runtime_dir: Option<PathBuf>,
    install: Install,
    images: images::Surroundings,
    faults: Faults,
    log_level: Option<String>,
    /// What runs VMs, if it is said here.
    vmm: Option<Asked>,
    /// Where the host's boot and its service manager are looked at.
    places: Places,
}

impl Surroundings {
    #[expect(clippy::disallowed_methods, reason = "the one place of the daemon that reads the environment")]
    pub(crate) fn read() -> Result<Surroundings, StartError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let environment = Environment {
            banger_home: path("BANGER_HOME"),
            home: path("HOME"),
            xdg_state_home: path("XDG_STATE_HOME"),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            xdg_config_home: path("XDG_CONFIG_HOME"),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
            uid: rustix::process::getuid().as_raw(),
        };
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        let home = environment.home.clone().unwrap_or_else(|| PathBuf::from("/"));
        let config_home = environment.xdg_config_home.clone().unwrap_or_else(|| home.join(".config"));
        let places = Places { root: host_root(path("BANGER_HOST_ROOT"))?, config_home, uid: environment.uid };
        let programs = variable("PATH").unwrap_or_default();
        Ok(Surroundings {
            dirs: UserDirs::from_environment(&environment)?,
            images: images::Surroundings::read(&variable, programs.clone()),
            path: programs,
            xdg_runtime_dir: environment.xdg_runtime_dir,
            home,
            install: install()?,
            faults: text("BANGER_FAULT").unwrap_or_default().parse()?,
            log_level: text("BANGER_LOG_LEVEL"),
            vmm: asked_vmm(text("BANGER_VMM").as_deref())?,
            places,
        })
    }

    /// Which boot of the host this is, by random(4); of a host that does not say, always the same.
    fn host_boot(&self) -> String {
        let id = std::fs::read_to_string(self.places.root.join("proc/sys/kernel/random/boot_id"));
        id.map(|id| id.trim().to_owned()).unwrap_or_default()
    }

    /// Makes the directory of sockets, private to this user.
    pub(crate) fn claim_run_dir(&self) -> Result<(), StartError> {
        if let Some(runtime) = self.xdg_runtime_dir.as_ref().filter(|dir| self.dirs.run.parent() == Some(dir))
            && let Ok(meta) = std::fs::metadata(runtime)
            && std::os::unix::fs::MetadataExt::uid(&meta) != rustix::process::getuid().as_raw()
        {
            return Err(StartError::ForeignRuntime(runtime.clone()));
        }
        Ok(sys::fs::claim_private_dir(&self.dirs.run)?)
    }

    /// What runs VMs here.
    pub(crate) fn qemu(&self) -> Qemu {
        Qemu::probe(Some(&self.path))
    }

    /// What holds on this host.
    pub(crate) fn resolve(&self, config: &Config, kvm: &Kvm) -> Result<config::resolve::Settings, ConfigError> {
        let host = HostSize {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: daemon::doctor::memory_total_mib(),
            is_emulated: *kvm != Kvm::Usable || sys::kvm::is_translated(),
        };
        let log_level = self.log_level.as_deref().and_then(|level| LogLevel::of(&level.to_ascii_lowercase()));
        let vmm = match self.vmm {
            Some(Asked::Choice(choice)) => Some(choice),
            Some(Asked::Sim) | None => None,
        };
        config.resolve(host, Overrides { log_level, vmm })
    }
}

/// What `BANGER_VMM` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// As the configuration could.
    Choice(VmmChoice),
    /// Guests without a machine: each is a process of the agent on this host, with the real protocol and none of a VM's
    /// walls. For tests.
    Sim,
}

/// A release build refuses `sim`, for a forgotten variable would let what is run out onto the host.
fn asked_vmm(asked: Option<&str>) -> Result<Option<Asked>, StartError> {
    let Some(name) = asked else {
        return Ok(None);
    };
    let choices = [VmmChoice::Auto, VmmChoice::Firecracker, VmmChoice::Qemu];
    match choices.into_iter().find(|choice| choice.name() == name) {
        Some(choice) => Ok(Some(Asked::Choice(choice))),
        None if name == "sim" && cfg!(debug_assertions) => Ok(Some(Asked::Sim)),
        None => Err(StartError::Vmm(name.to_owned())),
    }
}

/// What stands for `/` where the host itself is looked at. For tests, which cannot boot a host: see [`simulates`].
fn host_root(asked: Option<PathBuf>) -> Result<PathBuf, StartError> {
    match asked {
        None => Ok(PathBuf::from("/")),
        Some(root) if cfg!(debug_assertions) => Ok(root),
        Some(_) => Err(StartError::HostRoot),
    }
}

/// The tree this program is part of; beside a program that was just built, everything is in one directory.
fn install() -> Result<Install, StartError> {
    let exe = std::env::current_exe().and_then(std::fs::canonicalize).map_err(StartError::Place)?;
    let beside = exe.parent().unwrap_or(Path::new("/")).to_path_buf();
    Ok(Install::around(&exe).unwrap_or_else(|| Install { libexec: beside.clone(), share: beside }))
}

/// A daemon, wired and not yet running.
pub(crate) struct Daemon {
    pub(crate) host: Arc<Host>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) activity: Activity,
    pub(crate) reboots: UnboundedReceiver<Reboot>,
    pub(crate) kvm: Kvm,
    /// Firecracker, and why it is used or not.
    pub(crate) vmm: doctor::Firecracker,
    /// Who makes its jails, and why.
    pub(crate) mode: doctor::Mode,
    pub(crate) configuration: Configuration,
}

/// How much is logged.
pub(crate) fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    }
}

/// Chooses drivers and wires everything.
pub(crate) fn wire(
    surroundings: &Surroundings,
    config: Config,
    qemu: Qemu,
    resolved: &config::resolve::Settings,
) -> Result<Daemon, StartError> {
    let dirs = surroundings.dirs.clone();
    refuse_lost(&dirs)?;
    let store = Store::open(&dirs.database())?;
    let kvm = qemu.kvm().clone();
    let Machines { vmm, nics, words, mode } = machines(surroundings, qemu, resolved.vmm.value, resolved.mode.value);
    let storage = Arc::new(SparseFiles::new(dirs.state.clone(), &dirs.cache, Some(surroundings.path.clone())));
    let network = UserNetwork::probe(Some(&surroundings.path), surroundings.install.daemon());
    let network = Arc::new(network.with_resolver(config.default_dns).for_nics(nics));
    let activity = Activity::default();
    let now_ms = sys::clock::unix_ms;
    let (supervisors, reboots) = Supervisors::new(
        store.clone(),
        vmm.clone(),
        network.clone(),
        now_ms,
        surroundings.host_boot(),
        activity.clone(),
    );
    let places = surroundings.places.clone();
    let settings = Settings {
        defaults: resolved.defaults(),
        boot_timeout: resolved.boot_timeout(),
        stop_timeout: STOP_TIMEOUT,
        templates: resolved.templates(),
    };
    let maker = Arc::new(Workshop::new(surroundings.install.clone(), dirs.cache.clone(), dirs.state.clone()));
    let images = images::options(&config, &surroundings.images);
    let home = surroundings.home.clone();
    let site = config.catalog.as_ref().map(|section| section.site(&home)).transpose()?;
    let catalogs = Arc::new(Shelf::new(site, images.clone(), dirs.state.join("catalogs"), dirs.cache.join("oci")));
    let puller = Arc::new(Registries::new(images, dirs.cache.join("oci")));
    let own_key = dirs.state.join("ssh").join("id_ed25519");
    let configuration = resolved.describe(&config, &dirs.config_file(), &own_key);
    let ssh_key = match &config.ssh_key_path {
        Some(path) => Some(public_half(&config::expanded(path, &home))),
        None => own_ssh_key(&own_key),
    };
    let guest_settings = Arc::new(move || guest_settings(&config, &home, ssh_key.as_deref()));
    let host = Arc::new(Host {
        store,
        vmm,
        storage,
        network,
        maker,
        puller,
        catalogs,
        courier: Arc::new(Carrier::default()),
        templates: Templates::in_dir(dirs.state.join("templates")),
        supervisors,
        dirs,
        settings,
        guest_settings,
        autostart: Arc::new(move || autostart::probe(&places)),
        now_ms,
        faults: surroundings.faults.clone(),
    });
    let engine = Engine::new(Arc::clone(&host), activity.clone());
    Ok(Daemon { host, engine, activity, reboots, kvm, vmm: words, mode, configuration })
}

/// The public key that opens every guest's root account to this user, made on first use. Without one, guests are entered
/// through their agent only.
fn own_ssh_key(key: &Path) -> Option<PathBuf> {
    let public = public_half(key);
    // A disk that was full may have left an empty file.
    if std::fs::metadata(&public).is_ok_and(|meta| meta.len() > 0) {
        return Some(public);
    }
    let make = || -> Result<(), Box<dyn std::error::Error>> {
        let pair = KeyPair::new("banger")?;
        sys::fs::create_private_dir(key.parent().unwrap_or(Path::new("/")))?;
        // The public half is last: a private one without it was never given to a guest, and is replaced.
        sys::fs::write_atomic(key, pair.private.as_bytes(), 0o600)?;
        Ok(sys::fs::write_atomic(&public, pair.public.as_bytes(), 0o644)?)
    };
    match make() {
        Ok(()) => Some(public),
        Err(error) => {
            tracing::warn!(%error, "no SSH key of this user is put into guests");
            None
        }
    }
}

/// The public half of a private key, as ssh-keygen(1) would name it.
fn public_half(key: &Path) -> PathBuf {
    key.with_added_extension("pub")
}

/// What every boot's guest gets from this host now.
fn guest_settings(config: &Config, home: &Path, ssh_key: Option<&Path>) -> GuestSettings {
    let (files, mut warnings) = config.synced_files(home);
    let key = match ssh_key.map(|path| (path, std::fs::read_to_string(path))) {
        Some((_, Ok(text))) => text,
        Some((path, Err(error))) => {
            warnings.push(format!("no SSH key opens this guest: cannot read {}: {}", path.display(), error.kind()));
            String::new()
        }
        None => String::new(),
    };
    GuestSettings {
        authorized_keys: key.lines().map(str::to_owned).collect(),
        git_identity: git_identity(),
        files,
        warnings,
    }
}

/// Who this user's commits are by, when git knows.
fn git_identity() -> Option<GitIdentity> {
    let ask = |key: &str| {
        let said = sys::process::run(sys::process::command("git").args(["config", "--global", "--get", key])).ok()?;
        let text = String::from_utf8(said).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    Some(GitIdentity { name: ask("user.name")?, email: ask("user.email")? })
}

/// The KVM probe's answer in words, for doctor.
pub(crate) fn kvm_in_words(kvm: &Kvm) -> Result<(), String> {
    match kvm {
        Kvm::Usable => Ok(()),
        Kvm::Unusable(why) => Err(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Asked, asked_vmm, host_root};
    use daemon::config::VmmChoice;

    #[test]
    fn guests_without_walls_are_for_debug_builds() {
        assert_eq!(asked_vmm(None).unwrap(), None);
        for (name, choice) in
            [("qemu", VmmChoice::Qemu), ("firecracker", VmmChoice::Firecracker), ("auto", VmmChoice::Auto)]
        {
            assert_eq!(asked_vmm(Some(name)).unwrap(), Some(Asked::Choice(choice)));
        }
        assert_eq!(asked_vmm(Some("sim")).is_ok_and(|asked| asked == Some(Asked::Sim)), cfg!(debug_assertions));
        assert!(asked_vmm(Some("Sim")).is_err());
    }

    #[test]
    fn another_host_is_for_debug_builds() {
        assert_eq!(host_root(None).unwrap(), Path::new("/"));
        assert_eq!(host_root(Some("/fake".into())).is_ok(), cfg!(debug_assertions));
    }
}
