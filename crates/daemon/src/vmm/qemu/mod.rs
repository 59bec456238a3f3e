//! The driver `qemu`: machine type `microvm`, with KVM where the hardware has it and by translation (TCG) elsewhere.
//!
//! | file | what |
//! |---|---|
//! | `argv` | the command line: pure, golden-tested |
//! | `qmp` | whether a started QEMU has come up, and commands to it |
//! | `controls` | pause, resume, a larger disk |
//! | `snapshot` | machines saved, and going on from what was saved |
//!
//! Facts about QEMU, the kernel's options and their prices are from QEMU 7.2 with Debian's 6.1 cloud kernel.

mod argv;
mod controls;
mod qmp;
mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use sys::kvm::Kvm;
use sys::tsc::Measurement;

use super::{AgentChannel, Controls, Launch, Snapshots, Vmm, VmmDriver, VmmError, process};
use crate::model::machine::{MachineSpec, NicAttachment};
use crate::model::translation;

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The Debian package that brings it.
pub const PACKAGE: &str = "qemu-system-x86";

/// How long QEMU may take to reach its main loop; 0.2 s on an idle host.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By translation.
    Tcg,
}

/// What QEMU's command line depends on besides the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host {
    accel: Accel,
    /// Whether translated processors may run at the same time, or take turns.
    is_parallel: bool,
    /// The time stamp counter's frequency, which the guest sees too.
    tsc_khz: Option<u64>,
}

/// Runs QEMU.
#[derive(Debug)]
pub struct Qemu {
    /// Where the program is; none when it is not installed.
    program: Option<PathBuf>,
    kvm: Kvm,
    tsc: Measurement,
    tsc_khz: OnceLock<Option<u64>>,
    is_parallel: Arc<OnceLock<bool>>,
}

impl Qemu {
    /// The name of this driver.
    pub const NAME: &'static str = "qemu";

    /// Looks for the program in `path` (the value of `PATH`), for KVM, and begins to measure the TSC and to ask the program
    /// for its version.
    #[must_use]
    pub fn probe(path: Option<&std::ffi::OsStr>) -> Qemu {
        let program = path.and_then(|path| sys::process::find_program(PROGRAM, path));
        let (tsc_khz, is_parallel) = (OnceLock::new(), Arc::default());
        let qemu = Qemu { program, kvm: sys::kvm::probe(), tsc: Measurement::begin(), tsc_khz, is_parallel };
        if let (Accel::Tcg, Some(program)) = (qemu.accel(), qemu.program.clone()) {
            let is_parallel = qemu.is_parallel.clone();
            // Whoever needs it first waits for this thread, or does the same.
            std::thread::spawn(move || *is_parallel.get_or_init(|| may_be_parallel(&program)));
        }
        qemu
    }

    /// Where the program is; none when it is not installed.
    #[must_use]
    pub fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// Whether KVM is used, and why not.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// How guests are run.
    #[must_use]
    pub fn accel(&self) -> Accel {
        match self.kvm {
            Kvm::Usable => Accel::Kvm,
            Kvm::Unusable(_) => Accel::Tcg,
        }
    }

    fn host(&self) -> Host {
        Host {
            accel: self.accel(),
            is_parallel: self.accel() == Accel::Kvm || self.is_parallel(),
            tsc_khz: *self.tsc_khz.get_or_init(|| self.tsc.khz()),
        }
    }

    fn is_parallel(&self) -> bool {
        let ask = || self.program.as_ref().is_some_and(|program| may_be_parallel(program));
        *self.is_parallel.get_or_init(ask)
    }
}

/// Whether this program may have a thread for each translated processor of a guest. Runs it: some tens of milliseconds.
fn may_be_parallel(program: &Path) -> bool {
    let said = sys::process::run(sys::process::command(program).arg("--version"));
    said.is_ok_and(|said| translation::locks_pages(&String::from_utf8_lossy(&said)))
}

#[async_trait]
impl VmmDriver for Qemu {
    fn name(&self) -> &'static str {
        Qemu::NAME
    }

    fn plan(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Launch, VmmError> {
        let program = self.program.as_ref().ok_or(VmmError::Missing { program: PROGRAM, package: PACKAGE })?;
        super::check_size(Qemu::NAME, spec)?;
        if let NicAttachment::Tap { .. } = nic {
            let why = "its NIC is a stream of frames, and this network makes taps".to_owned();
            return Err(VmmError::Refused { driver: Qemu::NAME, why });
        }
        super::check_memory(spec.memory_mib)?;
        super::check_files(Qemu::NAME, spec)?;
        let mut argv = vec![program.to_string_lossy().into_owned()];
        argv.extend(argv::arguments(spec, nic, &self.host()));
        let launch = Launch {
            driver: Qemu::NAME.to_owned(),
            argv,
            boot_dir: spec.boot_dir.clone(),
            vmm_log: spec.vmm_log.clone(),
            console_log: spec.console_log.clone(),
            saved: spec.saved.clone(),
            agent: AgentChannel::Dial,
        };
        super::check_socket(Qemu::NAME, &launch.agent_socket())?;
        Ok(launch)
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError> {
        let mut held = process::spawn(launch)?;
        let socket = super::qmp_socket(&launch.boot_dir);
        if launch.saved.is_some() {
            // What cannot be read ends it here, before anybody goes on from it.
            process::wait_until_up(&mut held, launch, UP_WITHIN, || snapshot::is_loaded(&socket)).await?;
        } else {
            process::wait_until_up(&mut held, launch, UP_WITHIN, || qmp::answers(&socket)).await?;
        }
        Ok(Box::new(held))
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError> {
        Ok(process::adopt(launch)?.map(|held| Box::new(held) as Box<dyn Vmm>))
    }

    fn lost_disk(&self, launch: &Launch) -> Option<PathBuf> {
        argv::disk(&launch.argv).filter(|disk| process::has_open(launch, disk) == Some(false))
    }

    fn controls(&self) -> Option<&dyn Controls> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError> {
        process::ensure_gone(launch).await
    }
}
