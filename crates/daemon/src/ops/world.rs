//! What the steps of every operation work on: the store, the drivers, the directories, the clock.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wire::agent::message::{BootConfig, GitIdentity, SyncedFile};
use wire::api::{Defaults, ErrorCode};
use wire::id::{BootId, ImageId, KernelId, OpId};
use wire::layout::UserDirs;
use wire::naming;

use super::catalogs::Catalogs;
use super::courier::Courier;
use super::failure::{MAKE_ROOM, refused};
use super::maker::Maker;
use super::puller::Puller;
use crate::model::autostart::Autostart;
use crate::model::image::ExecSettings;
use crate::network::NetworkDriver;
use crate::saga::{Cause, Faults};
use crate::storage::StorageDriver;
use crate::store::Store;
use crate::supervise::Supervisors;
use crate::template::Templates;
use crate::vmm::VmmDriver;

/// The world of every saga.
pub struct Host {
    /// What is remembered.
    pub store: Store,
    /// Runs VMs.
    pub vmm: Arc<dyn VmmDriver>,
    /// Makes disks.
    pub storage: Arc<dyn StorageDriver>,
    /// Attaches NICs.
    pub network: Arc<dyn NetworkDriver>,
    /// Makes what VMs boot from.
    pub maker: Arc<dyn Maker>,
    /// Brings images of others.
    pub puller: Arc<dyn Puller>,
    /// What can be had by a short name.
    pub catalogs: Arc<dyn Catalogs>,
    /// Carries workspaces.
    pub courier: Arc<dyn Courier>,
    /// Machines that fresh VMs go on from.
    pub templates: Templates,
    /// Owns what runs.
    pub supervisors: Arc<Supervisors>,
    /// Where files live.
    pub dirs: UserDirs,
    /// What its owner decided.
    pub settings: Settings,
    /// What every boot's guest gets from this host, read anew for each.
    pub guest_settings: Arc<dyn Fn() -> GuestSettings + Send + Sync>,
    /// What starts the daemon when the host boots, looked up anew each time.
    pub autostart: Arc<dyn Fn() -> Autostart + Send + Sync>,
    /// The wall clock.
    pub now_ms: fn() -> u64,
    /// Faults on purpose; none outside tests.
    pub faults: Faults,
}

/// What the host's owner decided.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a VM gets when nothing is asked.
    pub defaults: Defaults,
    /// How long a guest may take until its agent answers and is configured.
    pub boot_timeout: Duration,
    /// How long a guest may take to power off before it is killed, when nothing else is asked.
    pub stop_timeout: Duration,
    /// Whether fresh VMs go on from templates, and those are made.
    pub templates: bool,
}

/// What every boot's guest gets from this host.
#[derive(Debug, Clone, Default)]
pub struct GuestSettings {
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Who root's git commits are by.
    pub git_identity: Option<GitIdentity>,
    /// Files put below `/root`.
    pub files: Vec<SyncedFile>,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// Least room an operation that fills the disk begins with: what it writes before it fails at a full one.
pub const ROOM_BYTES_MIN: u64 = 4 << 20;

impl Host {
    /// Refuses when the disk that holds the state is full. What the database keeps for itself is for making room.
    ///
    /// # Errors
    /// [`ErrorCode::Exhausted`], or when the filesystem cannot be asked.
    pub fn check_room(&self) -> Result<(), Cause> {
        let (state, free) = (&self.dirs.state, sys::fs::available_bytes(&self.dirs.state)?);
        if free >= ROOM_BYTES_MIN {
            return Ok(());
        }
        let message = format!("the disk that holds {} is full: {} are free", state.display(), wire::size::human(free));
        Err(refused(ErrorCode::Exhausted, message).with_hint(MAKE_ROOM).retryable())
    }

    /// The directory of one image: `rootfs.ext4`, `manifest.json`.
    #[must_use]
    pub fn image_dir(&self, image: &ImageId) -> PathBuf {
        self.images_dir().join(image.as_str())
    }

    /// Holds the images.
    #[must_use]
    pub fn images_dir(&self) -> PathBuf {
        naming::images_dir(&self.dirs.state)
    }

    /// The directory of one kernel: `vmlinux`, `modules.ext4`, `manifest.json`.
    #[must_use]
    pub fn kernel_dir(&self, kernel: &KernelId) -> PathBuf {
        self.kernels_dir().join(kernel.as_str())
    }

    /// Holds the kernels.
    #[must_use]
    pub fn kernels_dir(&self) -> PathBuf {
        naming::kernels_dir(&self.dirs.state)
    }

    /// Holds the consoles of boots whose VM was taken back.
    #[must_use]
    pub fn failed_dir(&self) -> PathBuf {
        self.dirs.state.join("failed")
    }

    /// Where that boot's console is kept when its VM is taken back.
    #[must_use]
    pub fn kept_console(&self, boot: &BootId) -> PathBuf {
        self.failed_dir().join(format!("{boot}.console.log"))
    }
}

/// What begins with this below `images/` and `kernels/` is unfinished.
pub const STAGING_PREFIX: &str = ".staging-";

/// The name of an operation's staging directory.
#[must_use]
pub fn staging_name(operation: &OpId) -> String {
    format!("{STAGING_PREFIX}{operation}")
}

/// Runs `work` on a thread that may block.
///
/// # Errors
/// What `work` gives, or that it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Cause> + Send + 'static) -> Result<T, Cause> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(refused(ErrorCode::Internal, "a defect: a worker thread panicked; see the daemon's log")),
    }
}

/// What an image says of the commands in its VMs, as the guest is told it.
pub(super) fn told_of(exec: &ExecSettings) -> BootConfig {
    BootConfig {
        image_env: exec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        image_user: exec.user.clone(),
        image_workdir: exec.workdir.clone(),
        ..BootConfig::default()
    }
}
