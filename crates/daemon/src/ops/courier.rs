//! What moves between a repository on the host and a guest, for operations and handlers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use wire::api::{ExportBranch, ExportQuery, Exported, GuestSide, HostSide, Inspection, Workspace, WorkspaceSource};
use wire::naming::VmName;

use crate::guest::Guest;
use crate::model::progress::Progress;
use crate::saga::Cause;

/// One workspace on its way into a guest.
pub struct Delivery {
    /// Which repository, and what of it.
    pub source: WorkspaceSource,
    /// Where in the guest.
    pub guest_path: String,
    /// Changes made in the guest may be overwritten.
    pub force: bool,
    /// What was sent before, as far as it is the same repository at the same place.
    pub before: Option<Workspace>,
    /// The VM's own directory: notes are kept in it.
    pub dir: PathBuf,
    /// When it is, milliseconds since 1970.
    pub now_ms: u64,
    /// Hears how far it is.
    pub report: Arc<dyn Fn(Progress) + Send + Sync>,
    /// Becomes true when nobody wants it any more.
    pub cancelled: Arc<AtomicBool>,
}

/// A workspace in a guest that runs, and whose it is.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The guest.
    pub guest: Guest,
    /// What is in it.
    pub workspace: Workspace,
    /// The VM's name.
    pub name: VmName,
    /// The VM's own directory.
    pub dir: PathBuf,
    /// Most bytes that may come out.
    pub bytes_max: u64,
}

/// What became of a workspace in its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// As clients are told.
    pub side: GuestSide,
    /// It is as it was sent.
    pub is_unchanged: bool,
}

/// An export on its way out. Dropping it ends it.
#[async_trait]
pub trait Outgoing: Send + Sync {
    /// The next bytes; none at the end, when all of it was sound.
    ///
    /// # Errors
    /// When the guest fails, floods, or sends what it was not asked for.
    async fn read(&mut self) -> Result<Option<bytes::Bytes>, Cause>;

    /// What was exported, after the end.
    fn done(self: Box<Self>) -> Exported;
}

/// Carries workspaces.
#[async_trait]
pub trait Courier: Send + Sync {
    /// Looks at a repository: what would travel. Blocking.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    fn inspect(&self, source: &WorkspaceSource, list: bool) -> Result<Inspection, Cause>;

    /// Puts a repository into a guest, or brings what is there up to date, and notes what was sent. Doing it again is
    /// doing it once.
    ///
    /// # Errors
    /// When the guest's own work would be overwritten, or something cannot be read, sent or written.
    async fn deliver(&self, guest: &Guest, delivery: Delivery) -> Result<(), Cause>;

    /// What was delivered last, as noted in a VM's directory. Blocking.
    ///
    /// # Errors
    /// When the notes cannot be read.
    fn delivered(&self, dir: &Path) -> Result<Option<Workspace>, Cause>;

    /// What has become of the repository since. Blocking.
    fn host_side(&self, dir: &Path, workspace: &Workspace) -> HostSide;

    /// What has become of the files in the guest since.
    ///
    /// # Errors
    /// When the guest cannot tell.
    async fn look(&self, delivered: &Delivered) -> Result<Looked, Cause>;

    /// Begins to export.
    ///
    /// # Errors
    /// When what is asked for cannot be had.
    async fn export(&self, delivered: &Delivered, query: &ExportQuery) -> Result<Box<dyn Outgoing>, Cause>;

    /// Brings the guest's commits into a branch of the host's repository.
    ///
    /// # Errors
    /// When there are none, they are not sound, or the branch cannot be written.
    async fn branch(&self, delivered: &Delivered, asked: &ExportBranch) -> Result<Exported, Cause>;
}
