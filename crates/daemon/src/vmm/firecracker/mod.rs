//! The driver `firecracker`: the product's VMM, for hosts whose processors virtualise.
//!
//! | file | what |
//! |---|---|
//! | [`features`] | what a Firecracker can do, by its version: pure |
//! | `config` | what it is asked to run: pure, checked against its OpenAPI |
//! | `api` | requests to one that runs |
//! | [`jail`] | what it runs in |
//! | [`jailer`] | the driver for jails that a helper makes |
//! | `landlock` | the jail's second wall |
//! | `controls` | pause, resume, a larger disk |
//! | `halt` | a guest that has switched itself off, which Firecracker does not notice |
//! | `snapshot` | machines saved, and going on from what was saved |
//! | `tracking` | what the memory that a machine has written is told from |
//! | `tray` | where it is left, and how it is taken |
//!
//! The guest's console is what Firecracker prints; its own words are among it, and its last ones in the VMM's log.

mod api;
mod config;
mod controls;
pub mod features;
mod halt;
pub mod jail;
pub mod jailer;
mod landlock;
#[cfg(test)]
mod schema;
mod snapshot;
mod tracking;
mod tray;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sys::kvm::Kvm;

use super::{AgentChannel, Controls, Launch, Snapshots, Vmm, VmmDriver, VmmError, metrics_file, process, shared_dir};
use crate::model::machine::{DriveRole, MachineSpec, NicAttachment};
use features::Version;
use halt::EndsHalted;
use jail::{Jail, Shown};
use tracking::Saves;

/// The program.
pub const PROGRAM: &str = "firecracker";
/// The most virtual processors it gives a guest.
const VCPUS_MAX: u16 = 32;
/// How long it may take until the guest runs; 0.1 s on an idle host.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Runs Firecracker, each in a jail.
#[derive(Debug)]
pub struct Firecracker {
    /// Where the program is; none when it is not installed.
    program: Option<PathBuf>,
    /// Its version; what it said instead when that is none.
    version: Result<Version, String>,
    kvm: Kvm,
    /// Why there can be no jail.
    jail: Result<(), String>,
    /// `bangerd`, which makes the jails.
    daemon: PathBuf,
}

impl Firecracker {
    /// The name of this driver.
    pub const NAME: &'static str = "firecracker";

    /// Looks for the program in `path` (the value of `PATH`) and asks it for its version; tries whether there can be a jail.
    /// `daemon` is the `bangerd` that makes it. Runs nothing where no Firecracker could run.
    #[must_use]
    pub fn probe(path: Option<&OsStr>, daemon: PathBuf) -> Firecracker {
        let program = path.and_then(|path| sys::process::find_program(PROGRAM, path));
        let kvm = sys::kvm::probe();
        let (mut version, mut jail) = (Err("it was not asked".to_owned()), Ok(()));
        if let Some(program) = program.as_ref().filter(|_| kvm == Kvm::Usable) {
            version = version_of(program);
            let tried = sys::process::run(sys::process::command(&daemon).args([jail::VERB, jail::PROBE]));
            jail = tried.map(drop).map_err(|error| match error {
                sys::process::RunError::Failed { stderr, .. } => stderr,
                other => wire::api::chain(&other),
            });
        }
        Firecracker { program, version, kvm, jail, daemon }
    }

    /// Where the program is; none when it is not installed.
    #[must_use]
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// Its version; none where it was not asked or said something else.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version.as_ref().ok().copied()
    }

    /// Whether it can run guests here; else why not, in words.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn usable(&self) -> Result<(&Path, Version), String> {
        let Some(program) = &self.program else {
            return Err("firecracker is not installed".to_owned());
        };
        if let Kvm::Unusable(why) = &self.kvm {
            return Err(why.to_string());
        }
        let version = self.version.clone()?;
        version.check(program)?;
        if let Err(why) = &self.jail {
            return Err(format!("there is no jail for it: {why}"));
        }
        Ok((program, version))
    }

    fn jail(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Jail, VmmError> {
        let (program, version) = self.usable().map_err(refused)?;
        let (has_tap, uplink) = match nic {
            NicAttachment::Tap { uplink } => (true, uplink.clone()),
            NicAttachment::QemuUser { .. } | NicAttachment::StreamSocket { .. } => {
                return Err(refused("its NIC is a tap, and this network makes none".to_owned()));
            }
        };
        let read = |path: &Path, at: &str| Shown { path: path.to_path_buf(), at: at.to_owned(), is_writable: false };
        let mut files = vec![read(&spec.vmlinux, jail::KERNEL), read(&spec.initramfs, jail::INITRAMFS)];
        files.extend(spec.drives.iter().map(|drive| {
            let is_writable = !drive.serial.is_read_only();
            Shown { is_writable, ..read(&drive.path, &jail::drive(drive.serial)) }
        }));
        files.push(Shown { is_writable: true, ..read(&metrics_file(&spec.vmm_log), jail::METRICS) });
        let config = match &spec.saved {
            Some(saved) => {
                files.extend([read(&saved.memory, jail::MEMORY), read(&saved.devices, jail::STATE)]);
                None
            }
            None => Some(config::config(spec, nic, version)),
        };
        let mut arguments =
            vec!["--id", spec.vm.as_str(), "--api-sock", API_SOCKET, "--level", "Warning", "--show-level"];
        if config.is_some() {
            arguments.extend(["--config-file", jail::CONFIG]);
        }
        Ok(Jail {
            program: program.to_path_buf(),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            config,
            files,
            boot_dir: spec.boot_dir.clone(),
            saves: Saves::of(spec).map(|saves| saves.shared()),
            console: spec.console_log.clone(),
            has_tap,
            uplink,
        })
    }
}

fn refused(why: String) -> VmmError {
    VmmError::Refused { driver: Firecracker::NAME, why }
}

fn version_of(program: &Path) -> Result<Version, String> {
    let said = sys::process::run(sys::process::command(program).arg("--version"));
    let said = said.map_err(|error| wire::api::chain(&error))?;
    let said = String::from_utf8_lossy(&said);
    Version::parse(&said).ok_or_else(|| {
        let line: String =
            said.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(80).collect();
        format!("{} says it is {line:?}, which is no version of Firecracker", program.display())
    })
}

/// The name of the API's socket, in the directory Firecracker runs in.
const API_SOCKET: &str = "api.sock";

/// The API's socket, for the daemon.
fn api_socket(boot_dir: &Path) -> PathBuf {
    shared_dir(boot_dir).join(API_SOCKET)
}

/// Holds the identity of the process that is, or becomes, the VMM; as [`Launch::pid_file`].
fn pid_file(boot_dir: &Path) -> PathBuf {
    boot_dir.join("vmm.pid")
}

/// The jail of a launch of ours.
fn jail_of(launch: &Launch) -> Option<Jail> {
    serde_json::from_str(launch.argv.get(2)?).ok()
}

#[async_trait]
impl VmmDriver for Firecracker {
    fn name(&self) -> &'static str {
        Firecracker::NAME
    }

    fn plan(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Launch, VmmError> {
        if self.program.is_none() {
            return Err(VmmError::Missing {
                program: PROGRAM,
                package: "none; github.com/firecracker-microvm/firecracker",
            });
        }
        super::check_size(Firecracker::NAME, spec)?;
        if spec.vcpus > VCPUS_MAX {
            return Err(refused(format!("a VM has 1 to {VCPUS_MAX} processors, not {}", spec.vcpus)));
        }
        super::check_memory(spec.memory_mib)?;
        super::check_files(Firecracker::NAME, spec)?;
        let jail = self.jail(spec, nic)?;
        let json = serde_json::to_string(&jail).map_err(|error| refused(error.to_string()))?;
        let launch = Launch {
            driver: Firecracker::NAME.to_owned(),
            argv: vec![self.daemon.to_string_lossy().into_owned(), jail::VERB.to_owned(), json],
            boot_dir: spec.boot_dir.clone(),
            vmm_log: spec.vmm_log.clone(),
            console_log: spec.console_log.clone(),
            // Its jail names the files: nothing of them is inherited.
            saved: None,
            agent: AgentChannel::Await,
        };
        for socket in [launch.agent_socket(), api_socket(&launch.boot_dir)] {
            super::check_socket(Firecracker::NAME, &socket)?;
        }
        Ok(launch)
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError> {
        let shared = shared_dir(&launch.boot_dir);
        // Sockets of an earlier one that was not up in time would be in its way.
        sys::fs::remove_tree(&shared)?;
        for dir in [&shared, &jail::root_dir(&launch.boot_dir)] {
            sys::fs::create_private_dir(dir)?;
        }
        sys::fs::append(&metrics_file(&launch.vmm_log), 0o600)?;
        let jail = jail_of(launch).ok_or_else(|| refused("it did not plan this".to_owned()))?;
        let from = jail.saved();
        if let Some(saves) = Saves::in_jail(&jail) {
            saves.begin(from.as_ref())?;
        }
        let mut held = process::spawn(launch)?;
        let socket = api_socket(&launch.boot_dir);
        let awaited = if from.is_some() { "Not started" } else { "Running" };
        let is_up = || async { matches!(api::describe(&socket).await, Ok(info) if info.state == awaited) };
        process::wait_until_up(&mut held, launch, UP_WITHIN, is_up).await?;
        // From here on the launcher only waits.
        held.aim(launch)?;
        if from.is_some()
            && let Err(error) = snapshot::load(&socket, self.version()).await
        {
            held.kill().await?;
            self.ensure_gone(launch).await?;
            return Err(error);
        }
        Ok(Box::new(EndsHalted::new(held, launch)))
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError> {
        // One that has not come as far as its API, or to what was saved, has not begun either: it is started again.
        let socket = api_socket(&launch.boot_dir);
        let has_begun = match tokio::net::UnixStream::connect(&socket).await {
            Ok(_) => !matches!(api::describe(&socket).await, Ok(info) if info.state == "Not started"),
            Err(_) => false,
        };
        if !has_begun {
            self.ensure_gone(launch).await?;
            return Ok(None);
        }
        Ok(process::adopt(launch)?.map(|held| Box::new(EndsHalted::new(held, launch)) as Box<dyn Vmm>))
    }

    fn lost_disk(&self, launch: &Launch) -> Option<PathBuf> {
        let disk = jail_of(launch)?.shown(&jail::drive(DriveRole::Disk))?.to_path_buf();
        Some(disk).filter(|disk| process::has_open(launch, disk) == Some(false))
    }

    fn controls(&self) -> Option<&dyn Controls> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError> {
        process::ensure_gone(launch).await?;
        // A root that was being made is the launcher's alone, and went with it.
        for dir in [shared_dir(&launch.boot_dir), jail::root_dir(&launch.boot_dir)] {
            sys::fs::remove_tree(&dir)?;
        }
        if let Some(saves) = jail_of(launch).as_ref().and_then(Saves::in_jail) {
            saves.end()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
