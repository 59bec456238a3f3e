//! The driver `firecracker-jailer`: Firecracker under its own jailer, each VM with a user id of its own, where a helper makes
//! the jails ([`crate::privileged`], docs/helper.md).
//!
//! | in the jail | what |
//! |---|---|
//! | `/kernel /initramfs /image /modules` | read-only, VMs share them |
//! | `/disk /metrics` | the VM's own |
//! | `/memory /devices /save-memory /save-devices` | machines that were saved: [`saved`] |
//! | `/sock` | its API's socket, its vsock's; the boot's directory has a link to it |
//!
//! The helper starts a Firecracker that knows nothing; what it is to run is said over its API. A VMM belongs to another user than
//! the daemon, which finds it again by its record and its socket, and has the helper end it.

mod saved;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sys::kvm::Kvm;
use sys::process::Identity;
use wire::api::KillSignal;
use wire::helper::{
    CreateJail, DestroyJail, InitramfsKey, JailFile, KillVmm, Limits, Live, Nic, Root, Sweep, Welcome, build_id,
};
use wire::id::{BootId, VmId};
use wire::naming::{self, Slot};

use super::api::{self, ApiError};
use super::config::{self, Config};
use super::controls::{self, failed};
use super::features::Version;
use super::halt::EndsHalted;
use super::{PROGRAM, UP_WITHIN, VCPUS_MAX, api_socket, version_of};
use crate::model::machine::{DriveRole, ExitReason, MachineSpec, NicAttachment, SavedMachine};
use crate::privileged::{Helper, PrivilegedError, Spawn, open_file};
use crate::vmm::{
    AgentChannel, Controls, Launch, Snapshots, VSOCK_SOCKET, Vmm, VmmDriver, VmmError, check_files, check_memory,
    check_size, check_socket, metrics_file, process, shared_dir,
};

/// What stands in a launch's arguments behind the program: nobody calls it so.
const WORD: &str = "jailed";
/// The disk, in the jail.
const DISK: &str = "/disk";

/// Runs Firecracker under its jailer, by the helper.
#[derive(Debug)]
pub struct Jailer {
    helper: Helper,
    ground: Result<Ground, String>,
}

/// What the helper said about itself.
#[derive(Debug, Clone)]
struct Ground {
    program: PathBuf,
    version: Version,
    state: PathBuf,
    cache: PathBuf,
    run: PathBuf,
}

/// What is run in a jail: the form of a launch's last argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Jailed {
    vm: VmId,
    boot: BootId,
    slot: Slot,
    files: Vec<JailFile>,
    has_tap: bool,
    config: Config,
    /// Its disk on the host.
    disk: PathBuf,
    /// What it goes on from; none when it boots.
    #[serde(default)]
    saved: Option<SavedMachine>,
    /// The directories that its files are below, and where its jail is.
    state: PathBuf,
    cache: PathBuf,
    run: PathBuf,
}

impl Jailer {
    /// The name of this driver.
    pub const NAME: &'static str = "firecracker-jailer";

    /// Asks the helper at `socket` whether it makes jails for a daemon with these directories. Waits for it as long as it may take.
    #[must_use]
    pub fn probe(socket: &Path, state: &Path, cache: &Path) -> Jailer {
        let helper = Helper::at(socket);
        let ground = look(&helper, state, cache);
        Jailer { helper, ground }
    }

    /// One that runs nothing new, for what it says.
    #[must_use]
    pub fn unused(socket: &Path, why: String) -> Jailer {
        Jailer { helper: Helper::at(socket), ground: Err(why) }
    }

    /// Whether it can run guests here; else why not, in words.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn usable(&self) -> Result<(&Path, Version), String> {
        self.ground.as_ref().map(|ground| (&*ground.program, ground.version)).map_err(Clone::clone)
    }

    fn jailed(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Jailed, VmmError> {
        let ground = self.ground.as_ref().map_err(|why| refused(why.clone()))?;
        let has_tap = match nic {
            NicAttachment::Tap { uplink: None } => true,
            NicAttachment::Tap { uplink: Some(_) } => {
                let why = "--nat and published ports need a bridge, which system mode does not have yet; mode = \"session\" \
                           in config.toml has them, without the helper";
                return Err(refused(why.to_owned()));
            }
            NicAttachment::QemuUser { .. } | NicAttachment::StreamSocket { .. } => {
                return Err(refused("its NIC is a tap, and this network makes none".to_owned()));
            }
        };
        let slot = spec.slot.ok_or_else(|| refused("every number for a VM of its own user is taken".to_owned()))?;
        let mut files = vec![
            ground.placed(spec, &spec.vmlinux, |path| Some(JailFile::Kernel { kernel: id_over(path)? }))?,
            ground.placed(spec, &spec.initramfs, |path| Some(JailFile::Initramfs { key: key_of(path)? }))?,
            ground.placed(spec, &metrics_file(&spec.vmm_log), |_| Some(JailFile::Metrics {}))?,
        ];
        let mut disk = None;
        for drive in &spec.drives {
            files.push(match drive.serial {
                DriveRole::Rootfs => {
                    ground.placed(spec, &drive.path, |path| Some(JailFile::Image { image: id_over(path)? }))?
                }
                DriveRole::Modules => {
                    ground.placed(spec, &drive.path, |path| Some(JailFile::Modules { kernel: id_over(path)? }))?
                }
                DriveRole::Disk => {
                    disk = Some(drive.path.clone());
                    ground.placed(spec, &drive.path, |_| Some(JailFile::Disk {}))?
                }
            });
        }
        files.extend(saved::files(spec.saved.as_ref()));
        Ok(Jailed {
            vm: spec.vm.clone(),
            boot: spec.boot.clone(),
            slot,
            files,
            has_tap,
            config: in_jail(config::config(spec, nic, ground.version)),
            disk: disk.ok_or_else(|| refused("it has no disk".to_owned()))?,
            saved: spec.saved.clone(),
            state: ground.state.clone(),
            cache: ground.cache.clone(),
            run: ground.run.clone(),
        })
    }

    /// Has the jail made and Firecracker started in it.
    async fn begin(&self, launch: &Launch, jailed: &Jailed) -> Result<Running, VmmError> {
        // What is at the other end of the link is the jail's.
        let shared = shared_dir(&launch.boot_dir);
        sys::fs::remove_tree(&shared)?;
        sys::fs::symlink(&naming::jail_sockets_dir(&jailed.run, &jailed.boot), &shared)?;
        let jail = CreateJail { vm: jailed.vm.clone(), boot: jailed.boot.clone(), slot: jailed.slot };
        self.helper.call(None, jail).await.map_err(during("make the VM's jail"))?;
        sys::fs::append(&metrics_file(&launch.vmm_log), 0o600)?;
        saved::begin(jailed).await?;
        let roots = (&*jailed.state, &*jailed.cache);
        let open = |file: &JailFile| Ok((file.clone(), open_file(roots, &jailed.vm, &jailed.boot, file)?));
        let opened: Result<_, PrivilegedError> = jailed.files.iter().map(open).collect();
        let outputs = [sys::fs::append(&launch.console_log, 0o600)?, sys::fs::append(&launch.vmm_log, 0o600)?];
        let spawn = Spawn {
            boot: jailed.boot.clone(),
            files: opened.map_err(during("give the VM its files"))?,
            outputs: outputs.map(Into::into),
            nic: if jailed.has_tap { Nic::Closed } else { Nic::None },
            limits: Limits::default(),
        };
        let runs = self.helper.spawn(None, spawn).await.map_err(during("start the VMM in its jail"))?;
        let failed = |source| VmmError::Spawn { program: PROGRAM.to_owned(), source };
        runs.identity.record(&launch.pid_file()).map_err(failed)?;
        Ok(self.running(process::Held::watch(runs.identity, None, launch)?, &jailed.boot))
    }

    fn running(&self, held: process::Held, boot: &BootId) -> Running {
        Running { held, helper: self.helper.clone(), boot: boot.clone(), is_tidy: false }
    }
}

impl Ground {
    /// The file of a jail that `of` takes the one at `path` for, if it is where the helper looks for that.
    fn placed(
        &self,
        spec: &MachineSpec,
        path: &Path,
        of: impl FnOnce(&Path) -> Option<JailFile>,
    ) -> Result<JailFile, VmmError> {
        let is_there = |file: &JailFile| {
            let (root, place) = file.place(&spec.vm, &spec.boot);
            let root = match root {
                Root::State => &self.state,
                Root::Cache => &self.cache,
            };
            root.join(place) == path
        };
        let misplaced = || refused(format!("the helper does not look for files of VMs at {}", path.display()));
        of(path).filter(is_there).ok_or_else(misplaced)
    }
}

/// The id that the directory of `path` is called by.
fn id_over<T: FromStr>(path: &Path) -> Option<T> {
    path.parent()?.file_name()?.to_str()?.parse().ok()
}

/// The hash in an initramfs's name.
fn key_of(path: &Path) -> Option<InitramfsKey> {
    path.file_stem()?.to_str()?.rsplit_once('-')?.1.parse().ok()
}

fn refused(why: String) -> VmmError {
    VmmError::Refused { driver: Jailer::NAME, why }
}

fn during(act: &'static str) -> impl FnOnce(PrivilegedError) -> VmmError {
    move |source| VmmError::Privileged { act, source }
}

fn look(helper: &Helper, state: &Path, cache: &Path) -> Result<Ground, String> {
    let build = build_id(env!("CARGO_PKG_VERSION"), env!("BANGER_COMMIT"));
    let said = helper.ask(None, wire::helper::Hello { build });
    let Welcome { unfit, state: its_state, cache: its_cache, firecracker: program, run, .. } = match said {
        Err(PrivilegedError::Connect { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err("no helper is installed".to_owned());
        }
        said => said.map_err(|error| wire::api::chain(&error))?,
    };
    for (what, ours, its) in [("state", state, &its_state), ("cache", cache, &its_cache)] {
        if !is_same(ours, its) {
            let (ours, its) = (ours.display(), its.display());
            return Err(format!("the helper serves the {what} directory {its}, and this daemon's is {ours}"));
        }
    }
    if let Some(failure) = unfit {
        return Err(failure.to_string());
    }
    if let Kvm::Unusable(why) = sys::kvm::probe() {
        return Err(why.to_string());
    }
    let version = version_of(&program)?;
    version.check(&program)?;
    Ok(Ground { program, version, state: state.to_path_buf(), cache: cache.to_path_buf(), run })
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// The configuration with the helper's names of things.
fn in_jail(mut config: Config) -> Config {
    for drive in &mut config.drives {
        if drive.drive_id == DriveRole::Rootfs.serial() {
            "/image".clone_into(&mut drive.path_on_host);
        }
    }
    for nic in &mut config.network_interfaces {
        naming::TAP_IN_JAIL.clone_into(&mut nic.host_dev_name);
    }
    config.vsock.uds_path = format!("{}/{VSOCK_SOCKET}", naming::SOCKETS_IN_JAIL);
    config
}

/// As on the command line without a jailer.
fn logger() -> (String, Value) {
    ("/logger".to_owned(), json!({"level": "Warning", "show_level": true}))
}

/// What Firecracker is asked, one after the other, to run a machine.
fn requests(config: &Config) -> Result<Vec<(String, Value)>, serde_json::Error> {
    let mut all = vec![
        logger(),
        ("/metrics".to_owned(), serde_json::to_value(&config.metrics)?),
        ("/machine-config".to_owned(), serde_json::to_value(&config.machine_config)?),
        ("/boot-source".to_owned(), serde_json::to_value(&config.boot_source)?),
    ];
    for drive in &config.drives {
        all.push((format!("/drives/{}", drive.drive_id), serde_json::to_value(drive)?));
    }
    for nic in &config.network_interfaces {
        all.push((format!("/network-interfaces/{}", nic.iface_id), serde_json::to_value(nic)?));
    }
    all.push(("/vsock".to_owned(), serde_json::to_value(&config.vsock)?));
    all.push(("/entropy".to_owned(), serde_json::to_value(&config.entropy)?));
    if let Some(balloon) = &config.balloon {
        all.push(("/balloon".to_owned(), serde_json::to_value(balloon)?));
    }
    all.push(("/actions".to_owned(), json!({"action_type": "InstanceStart"})));
    Ok(all)
}

/// The jail of a launch of ours.
fn jailed_of(launch: &Launch) -> Option<Jailed> {
    serde_json::from_str(launch.argv.get(2)?).ok()
}

/// Which boot a directory is of: it is called by its id.
fn boot_of(launch: &Launch) -> Option<BootId> {
    launch.boot_dir.file_name()?.to_str()?.parse().ok()
}

#[async_trait]
impl VmmDriver for Jailer {
    fn name(&self) -> &'static str {
        Jailer::NAME
    }

    fn takes_slot(&self) -> bool {
        true
    }

    fn plan(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Launch, VmmError> {
        check_size(Jailer::NAME, spec)?;
        if spec.vcpus > VCPUS_MAX {
            return Err(refused(format!("a VM has 1 to {VCPUS_MAX} processors, not {}", spec.vcpus)));
        }
        check_memory(spec.memory_mib)?;
        check_files(Jailer::NAME, spec)?;
        let jailed = self.jailed(spec, nic)?;
        let json = serde_json::to_string(&jailed).map_err(|error| refused(error.to_string()))?;
        let launch = Launch {
            driver: Jailer::NAME.to_owned(),
            argv: vec![PROGRAM.to_owned(), WORD.to_owned(), json],
            boot_dir: spec.boot_dir.clone(),
            vmm_log: spec.vmm_log.clone(),
            console_log: spec.console_log.clone(),
            saved: None,
            agent: AgentChannel::Await,
        };
        for socket in [launch.agent_socket(), api_socket(&launch.boot_dir)] {
            check_socket(Jailer::NAME, &socket)?;
        }
        Ok(launch)
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError> {
        let jailed = jailed_of(launch).ok_or_else(|| refused("its plan is of another build".to_owned()))?;
        let mut running = self.begin(launch, &jailed).await?;
        let socket = api_socket(&launch.boot_dir);
        let started = async {
            let is_up = || async { api::describe(&socket).await.is_ok() };
            process::until_up(&mut running, launch, UP_WITHIN, is_up).await?;
            if jailed.saved.is_some() {
                return saved::load(&socket, &jailed, self.usable().ok().map(|(_, version)| version)).await;
            }
            for (path, body) in requests(&jailed.config).map_err(|error| refused(error.to_string()))? {
                api::put(&socket, &path, &body).await.map_err(failed("tell the VMM what to run"))?;
            }
            Ok(())
        };
        if let Err(error) = started.await {
            self.ensure_gone(launch).await?;
            return Err(error);
        }
        Ok(Box::new(EndsHalted::new(running, launch)))
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError> {
        // One that was not told everything has not begun: it is started again. One that says nothing sensible is still there.
        let is_begun = match api::describe(&api_socket(&launch.boot_dir)).await {
            Ok(info) => info.state != "Not started",
            Err(ApiError::Unreached(_)) => false,
            Err(_) => true,
        };
        let held = if is_begun { process::adopt(launch)? } else { None };
        let (Some(held), Some(boot)) = (held, boot_of(launch)) else {
            self.ensure_gone(launch).await?;
            return Ok(None);
        };
        Ok(Some(Box::new(EndsHalted::new(self.running(held, &boot), launch))))
    }

    fn controls(&self) -> Option<&dyn Controls> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    /// Each of them is to end it. It is another user's process, and the first of its namespace, which takes no other than KILL.
    fn signal(&self, launch: &Launch, _signal: KillSignal) -> Result<(), VmmError> {
        match boot_of(launch) {
            Some(boot) => self.helper.ask(None, KillVmm { boot }).map(drop).map_err(during("kill the VMM")),
            None => Ok(()),
        }
    }

    async fn sweep(&self, live: &[Launch]) -> Result<(), VmmError> {
        if self.ground.is_err() {
            return Ok(());
        }
        let live = live.iter().filter(|launch| launch.driver == Jailer::NAME).filter_map(jailed_of);
        let live = live.map(|jailed| Live { boot: jailed.boot, slot: jailed.slot }).collect();
        let swept = self.helper.call(None, Sweep { live }).await.map_err(during("remove what is left of VMs"))?;
        if swept.jails + swept.taps > 0 {
            tracing::info!(swept.jails, swept.taps, "the helper removed what was left of VMs");
        }
        Ok(())
    }

    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError> {
        if let Some(boot) = boot_of(launch) {
            self.helper.call(None, DestroyJail { boot }).await.map_err(during("remove the VM's jail"))?;
        }
        process::ensure_gone(launch).await?;
        sys::fs::remove_tree(&shared_dir(&launch.boot_dir))?;
        saved::end(launch)
    }
}

#[async_trait]
impl Controls for Jailer {
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError> {
        controls::pause(launch).await
    }

    async fn resume(&self, launch: &Launch) -> Result<(), VmmError> {
        controls::resume(launch).await
    }

    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError> {
        let jailed = jailed_of(launch);
        controls::grow_disk(launch, jailed.as_ref().map(|jailed| &*jailed.disk), DISK, bytes).await
    }
}

/// A VMM in a jail of the helper's.
struct Running {
    held: process::Held,
    helper: Helper,
    boot: BootId,
    /// Whether its jail is gone too.
    is_tidy: bool,
}

#[async_trait]
impl Vmm for Running {
    fn identity(&self) -> Identity {
        self.held.identity()
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        self.held.note_kill();
        let kill = KillVmm { boot: self.boot.clone() };
        self.helper.call(None, kill).await.map_err(during("kill the VMM"))?;
        self.wait().await;
        Ok(())
    }

    /// A guest may end by itself, and the VM start again at once: the slot must be free by then.
    async fn wait(&mut self) -> ExitReason {
        let reason = self.held.wait().await;
        if !self.is_tidy {
            let gone = self.helper.call(None, DestroyJail { boot: self.boot.clone() }).await;
            if let Err(error) = gone {
                tracing::warn!(boot = %self.boot, error = %wire::api::chain(&error), "a jail is left to the sweep");
            }
            self.is_tidy = true;
        }
        reason
    }
}

#[cfg(test)]
mod tests;
