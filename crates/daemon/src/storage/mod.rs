//! Drivers for VM disks: what every one of them can do.
//!
//! A disk is made from a template that holds an empty filesystem; its size is only a number until the guest grows the
//! filesystem into it, so making one costs the same whatever its size.

pub mod sparse;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use wire::id::VmId;

/// Where disks live and how they are made.
#[async_trait]
pub trait StorageDriver: Send + Sync {
    /// As in `show`.
    fn name(&self) -> &'static str;

    /// Makes the VM's disk of `bytes` unless it is there. Idempotent, never touches an existing disk's content.
    ///
    /// # Errors
    /// When the host is full or the template cannot be made; nothing is left then.
    async fn ensure_disk(&self, vm: &VmId, bytes: u64) -> Result<PathBuf, StorageError>;

    /// Makes a new disk of `bytes` at `path`, for a machine that is no VM. What is there is replaced.
    ///
    /// # Errors
    /// As [`StorageDriver::ensure_disk`].
    async fn blank(&self, path: &Path, bytes: u64) -> Result<(), StorageError>;

    /// Whether the VM's disk is there and was never mounted, whatever is on record of the VM. Only ever wrong about a disk whose
    /// guest wants it to be.
    fn is_untouched(&self, vm: &VmId) -> bool;

    /// Makes a copy of the VM's disk at `to`, which is not there. Nobody may be writing the disk.
    ///
    /// # Errors
    /// When it cannot be copied; nothing is left then.
    async fn copy_out(&self, vm: &VmId, to: &Path) -> Result<(), StorageError>;

    /// Makes the VM's disk a copy of the one at `from`, whatever it was. Nobody may be using either.
    ///
    /// # Errors
    /// When it cannot be copied; the VM's disk is as it was then.
    async fn replace(&self, vm: &VmId, from: &Path) -> Result<(), StorageError>;

    /// Makes the VM's disk at least `bytes` large; a larger one stays. Nobody may be using it. Idempotent.
    ///
    /// # Errors
    /// When it is not there or cannot be made larger.
    async fn ensure_size(&self, vm: &VmId, bytes: u64) -> Result<(), StorageError>;

    /// How large the disk is; 0 when it is not there.
    fn length_bytes(&self, vm: &VmId) -> u64;

    /// Removes the VM's disk. Idempotent.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    async fn ensure_deleted(&self, vm: &VmId) -> Result<(), StorageError>;

    /// The disk's file.
    fn path(&self, vm: &VmId) -> PathBuf;

    /// What the disk takes on the host.
    fn allocated_bytes(&self, vm: &VmId) -> u64;

    /// What every disk takes on the host, in one look. Blocks.
    fn allocated(&self) -> HashMap<VmId, u64>;
}

/// What went wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The template of empty disks.
    #[error("cannot make the template of VM disks")]
    Template(#[source] sys::fs::FsError),
    /// The program that formats the template failed.
    #[error("cannot format the template of VM disks")]
    Format(#[source] sys::process::RunError),
    /// The program that formats the template is not installed.
    #[error("cannot find {program}, which formats VM disks (Debian package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// Who brings it.
        package: &'static str,
    },
    /// No disk has this size.
    #[error(
        "a VM's disk has between {} and {}, not {}",
        wire::size::human(DISK_BYTES_MIN), wire::size::human(DISK_BYTES_MAX), wire::size::human(*bytes)
    )]
    Size {
        /// What was asked.
        bytes: u64,
    },
    /// The disk itself.
    #[error("cannot make a disk of {} for VM {vm}", wire::size::human(*bytes))]
    Disk {
        /// The VM.
        vm: VmId,
        /// Its size.
        bytes: u64,
        /// Why.
        #[source]
        source: sys::fs::FsError,
    },
    /// Making it larger.
    #[error("cannot grow the disk of VM {vm} to {}", wire::size::human(*bytes))]
    Grow {
        /// The VM.
        vm: VmId,
        /// The size it was to have.
        bytes: u64,
        /// Why.
        #[source]
        source: sys::fs::FsError,
    },
    /// Copying one.
    #[error("cannot copy {} for VM {vm}", from.display())]
    Copy {
        /// The VM.
        vm: VmId,
        /// What was to be copied.
        from: PathBuf,
        /// Why.
        #[source]
        source: sys::fs::FsError,
    },
    /// A disk for a machine that is no VM.
    #[error("cannot make a disk at {}", path.display())]
    Blank {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: sys::fs::FsError,
    },
    /// Removing it.
    #[error("cannot remove the disk of VM {vm}")]
    Delete {
        /// The VM.
        vm: VmId,
        /// Why.
        #[source]
        source: sys::fs::FsError,
    },
    /// Too little room to begin.
    #[error("only {} are free at {}, a VM needs at least {}", wire::size::human(*free), path.display(), wire::size::human(*needed))]
    Full {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
        /// Where.
        path: PathBuf,
    },
}

/// Smallest disk.
pub const DISK_BYTES_MIN: u64 = 512 << 20;
/// Largest disk.
pub const DISK_BYTES_MAX: u64 = 64 << 40;

/// Refuses sizes that make no disk.
///
/// # Errors
/// [`StorageError::Size`].
pub fn check_size(bytes: u64) -> Result<(), StorageError> {
    if (DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&bytes) { Ok(()) } else { Err(StorageError::Size { bytes }) }
}

/// Least room a VM's first boot needs on the host.
pub const FREE_BYTES_MIN: u64 = 256 << 20;

/// Refuses when the filesystem at `path` is nearly full.
///
/// # Errors
/// [`StorageError::Full`], or when the filesystem cannot be asked.
pub fn check_room(path: &Path) -> Result<(), StorageError> {
    let free = sys::fs::available_bytes(path).map_err(StorageError::Template)?;
    if free < FREE_BYTES_MIN {
        return Err(StorageError::Full { free, needed: FREE_BYTES_MIN, path: path.to_path_buf() });
    }
    Ok(())
}
