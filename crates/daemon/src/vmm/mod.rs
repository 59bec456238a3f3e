//! Drivers for VMMs: what every one of them can do.
//!
//! `firecracker` is the product's, for hosts that virtualise; `qemu` is the portable one; `sim` boots nothing and speaks the real agent protocol. Refusals come first, in the pure
//! [`VmmDriver::plan`]; everything later works from the [`Launch`] it froze, so that after a crash `adopt` and
//! `ensure_gone` need nothing but that.

mod checks;
pub mod firecracker;
pub mod fleet;
mod logs;
mod process;
pub mod qemu;
pub mod sim;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sys::process::Identity;
use wire::api::KillSignal;

pub use checks::{MEMORY_MIB_MIN, VCPUS_MAX};
use checks::{check_files, check_memory, check_size, check_socket};

use crate::model::machine::{ExitReason, MachineShape, MachineSpec, NicAttachment, SavedMachine};

/// What a driver decided to run: frozen, and enough to find it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The driver's name.
    pub driver: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Holds the sockets and the pid file.
    pub boot_dir: PathBuf,
    /// Receives what the VMM prints.
    pub vmm_log: PathBuf,
    /// Receives the guest's console.
    pub console_log: PathBuf,
    /// What the machine goes on from; none when it boots.
    #[serde(default)]
    pub saved: Option<SavedMachine>,
    /// How the guest's agent is met.
    #[serde(default)]
    pub agent: AgentChannel,
}

/// How the guest's agent is met at [`Launch::agent_socket`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentChannel {
    /// The VMM listens there, and whoever owns the VM connects.
    #[default]
    Dial,
    /// Whoever owns the VM listens there, and the agent connects, through the VMM, until it is answered.
    Await,
}

/// The directory of a boot that a VMM in a jail sees too, and nothing else of it.
#[must_use]
pub fn shared_dir(boot_dir: &Path) -> PathBuf {
    boot_dir.join("vmm")
}

impl Launch {
    /// The Unix socket of the guest agent's channel.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        match self.agent {
            AgentChannel::Dial => self.boot_dir.join("agent.sock"),
            // What Firecracker connects to when a guest connects to this port of its host: docs/vsock.md.
            AgentChannel::Await => {
                shared_dir(&self.boot_dir).join(format!("{VSOCK_SOCKET}_{}", wire::agent::VSOCK_PORT))
            }
        }
    }

    /// Holds the VMM's process id and start time.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.boot_dir.join("vmm.pid")
    }
}

/// One kind of VMM.
#[async_trait]
pub trait VmmDriver: Send + Sync {
    /// As in `show`, in `Launch::driver` and in the logs.
    fn name(&self) -> &'static str;

    /// Whether each of its VMs needs a slot: [`MachineSpec::slot`].
    fn takes_slot(&self) -> bool {
        false
    }

    /// Decides what to run. Changes nothing; looks at nothing but its arguments, what the driver probed when it was made,
    /// whether the files that have to be there already are, and the memory the host has left.
    ///
    /// # Errors
    /// Every refusal: what this driver cannot do is said here, before anything changed.
    fn plan(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<Launch, VmmError>;

    /// Starts it, in a session of its own; returns when the process runs and its identity is on disk.
    ///
    /// # Errors
    /// When it cannot be started or ends at once; the end of its log is quoted.
    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError>;

    /// Takes over what an earlier daemon spawned; none when it no longer runs.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError>;

    /// The VM's disk, if what runs for `launch` writes to another file than the one that is there now: it was replaced or
    /// removed meanwhile. None when all is well, or that cannot be told.
    fn lost_disk(&self, _launch: &Launch) -> Option<PathBuf> {
        None
    }

    /// What can be done with a machine while it runs; none where there is no machine.
    fn controls(&self) -> Option<&dyn Controls> {
        None
    }

    /// Saving machines, and letting saved ones go on; none where the driver cannot.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Sends a signal to what runs for `launch`; to nobody when nothing does.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn signal(&self, launch: &Launch, signal: KillSignal) -> Result<(), VmmError> {
        process::signal(launch, signal)
    }

    /// Removes what it keeps outside boots' directories for others than `live`. For a moment when no boot begins.
    ///
    /// # Errors
    /// When something is left.
    async fn sweep(&self, _live: &[Launch]) -> Result<(), VmmError> {
        Ok(())
    }

    /// Kills whatever runs for `launch` and waits until it is gone. Idempotent; needs no handle.
    ///
    /// # Errors
    /// When something is left.
    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError>;
}

/// Power over a machine that runs. Everything works from the launch alone and is idempotent, so that a step runs again
/// after a crash, and an undo needs no handle.
#[async_trait]
pub trait Controls: Send + Sync {
    /// Stops its processors; memory, disk and NIC stay as they are.
    ///
    /// # Errors
    /// When the VMM does not answer, or refuses.
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError>;

    /// Lets its processors run again.
    ///
    /// # Errors
    /// When the VMM does not answer, or refuses.
    async fn resume(&self, launch: &Launch) -> Result<(), VmmError>;

    /// Makes the machine's disk, its file included, `bytes` large; never smaller than it is.
    ///
    /// # Errors
    /// When the VMM does not answer, or refuses.
    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError>;
}

/// Saving machines. A machine goes on from what was saved by being planned with [`MachineSpec::saved`]: its VMM is spawned, has
/// its state and stands still, until it is let go on. Everything works from the launch alone and is idempotent.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// What a machine of `spec` would need of whoever lets it go on. Ids and paths in `spec` do not count. Blocks for as long as
    /// a look at a file takes.
    ///
    /// # Errors
    /// When the driver refuses such a machine, or saved ones in general.
    fn shape(&self, spec: &MachineSpec, nic: &NicAttachment) -> Result<MachineShape, VmmError>;

    /// Whether saving a machine breaks the channel to its guest, of the machine that goes on as well.
    fn breaks_channel(&self, _launch: &Launch) -> bool {
        false
    }

    /// Does, while the machine still runs, what makes its standing still shorter. Idempotent, and never needed: a machine is
    /// saved without it too.
    ///
    /// # Errors
    /// When files cannot be written.
    async fn make_ready(&self, _launch: &Launch) -> Result<(), VmmError> {
        Ok(())
    }

    /// Writes memory and devices of a machine that stands still. The drives are whoever's they are: what the guest was told is
    /// written, is in their files when this returns. Bytes of memory that are zero may be written as such.
    ///
    /// # Errors
    /// When the VMM does not answer or cannot write; unfinished files may be left.
    async fn save(&self, launch: &Launch, memory_mib: u64, to: &SavedMachine) -> Result<(), VmmError>;

    /// Lets a machine that was spawned from what was saved go on. Its NIC carries nothing until [`Snapshots::plug`].
    ///
    /// # Errors
    /// When the VMM does not answer, or cannot make sense of what was saved.
    async fn go_on(&self, launch: &Launch) -> Result<(), VmmError>;

    /// Lets the NIC of a machine that went on carry frames.
    ///
    /// # Errors
    /// When the VMM does not answer.
    async fn plug(&self, launch: &Launch) -> Result<(), VmmError>;
}

/// One running VMM.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// The process.
    fn identity(&self) -> Identity;

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    async fn kill(&mut self) -> Result<(), VmmError>;

    /// Waits for its end. Cancel-safe; may be called again.
    async fn wait(&mut self) -> ExitReason;
}

/// What went wrong with a VMM.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The program is not installed.
    #[error("cannot find {program}, which runs the VM (Debian package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// Who brings it.
        package: &'static str,
    },
    /// This driver cannot do what was asked.
    #[error("the {driver} driver refuses: {why}")]
    Refused {
        /// The driver.
        driver: &'static str,
        /// Why.
        why: String,
    },
    /// The process could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it was up.
    #[error("{program} ended while starting ({how}): {log}")]
    EndedEarly {
        /// The program.
        program: String,
        /// How: `status 1`, `signal 9`.
        how: String,
        /// The end of what it printed.
        log: String,
    },
    /// It runs and did not come up.
    #[error("{program} did not come up within {:.0} s: {log}", within.as_secs_f64())]
    NotUp {
        /// The program.
        program: String,
        /// How long it had.
        within: std::time::Duration,
        /// The end of what it printed.
        log: String,
    },
    /// The host has too little memory left.
    #[error("a guest with {memory_mib} MiB of memory does not fit: the host has {available_mib} MiB left")]
    Memory {
        /// What it is to have.
        memory_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// A file it is to run from is not there.
    #[error("cannot find the VM's {what} at {}", path.display())]
    FileMissing {
        /// What it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// Its end cannot be waited for.
    #[error("cannot watch the VMM (process {pid})")]
    Watch {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the boot could not be handled.
    #[error("cannot keep track of the VMM")]
    File(#[from] sys::fs::FsError),
    /// It runs and did not do what it was asked.
    #[error("cannot {act}: {why}")]
    Control {
        /// What it was to do.
        act: &'static str,
        /// Why not; its own words, or how it could not be asked.
        why: String,
    },
    /// What takes root was not done.
    #[error("cannot {act}")]
    Privileged {
        /// What was to be done.
        act: &'static str,
        /// Why not.
        #[source]
        source: crate::privileged::PrivilegedError,
    },
    /// A signal could not be sent.
    #[error("cannot send {name} to the VMM (process {pid})")]
    Signal {
        /// The process.
        pid: u32,
        /// The signal.
        name: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not go away.
    #[error("cannot kill the VMM (process {pid})")]
    Kill {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Firecracker's own name of a guest's vsock, in the directory it runs in.
pub const VSOCK_SOCKET: &str = "vsock";

/// What a VMM counts, beside its log; not every one does.
fn metrics_file(vmm_log: &Path) -> PathBuf {
    vmm_log.with_extension("metrics")
}

/// The driver's files of a boot that every driver names alike.
#[must_use]
pub fn qmp_socket(boot_dir: &Path) -> PathBuf {
    boot_dir.join("qmp.sock")
}
