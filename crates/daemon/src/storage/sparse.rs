//! The driver `sparse`: each disk is one sparse file that begins as a copy of a template.
//!
//! A template is an ext4 of one of [`TEMPLATES_BYTES`] made once by mke2fs(8) and kept in the cache. A disk is the data
//! blocks of the one that fits best, copied (a fifth of a MiB; shared where the host's filesystem can), the file's length
//! set to what was asked. The guest grows the filesystem into the file while it is mounted, so a disk of 1 TiB costs
//! what one of 1 GiB does. A disk of the usual size needs no growing, which is a third of a second of an emulated boot.
//!
//! What the template has, for whoever mounts it: label [`LABEL`], 4 KiB blocks, 64-bit block numbers (a grown one may
//! exceed 16 TiB), a journal of [`JOURNAL_MIB`] MiB, no reserved blocks, nothing in it but `lost+found` and [`DIRECTORIES`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sys::process::{command, find_program, run};
use tokio::sync::Mutex;
use wire::id::VmId;
use wire::naming::{DISK_FILE, vm_dir, vm_disk, vms_dir};

use super::{StorageDriver, StorageError, check_room, check_size};

/// Lengths of the templates: the smallest disk, and the one that VMs get when nothing is asked.
pub const TEMPLATES_BYTES: [u64; 2] = [super::DISK_BYTES_MIN, 8 << 30];
/// Disks up to this many times the usual begin as the usual one. Beyond it a boot grows the filesystem far anyway, and
/// the small template is the quicker copy.
const USUAL_UP_TO: u64 = 8;
/// The filesystem's label.
pub const LABEL: &str = "banger-disk";
/// The filesystem's journal: enough for a large disk, it cannot be grown later.
pub const JOURNAL_MIB: u64 = 64;

/// What the templates' names in the cache begin with; another recipe gets another name.
const TEMPLATE_NAME: &str = "disk-template-3";
/// The program that makes it.
const PROGRAM: &str = "mke2fs";
/// What makes its directories.
const EDITOR: &str = "debugfs";
/// Directories of a new disk, with their modes: what the agent's first boot would make, one by one, while it is waited for.
const DIRECTORIES: [(&str, u32); 4] =
    [("system", 0o755), ("system/upper", 0o755), ("system/work", 0o700), ("direct", 0o700)];
/// The Debian package that brings both.
const PACKAGE: &str = "e2fsprogs";
/// Where it is when `PATH` is an ordinary user's.
const SBIN: &str = "/usr/sbin:/sbin";

/// Where a filesystem tells of itself.
const SUPERBLOCK: u64 = 1024;
/// Where it has there when it was mounted last.
const MTIME: u64 = 0x2c;

/// Disks as sparse files.
#[derive(Debug, Clone)]
pub struct SparseFiles {
    state: PathBuf,
    /// Holds the templates.
    cache: PathBuf,
    /// The value of `PATH`.
    path: OsString,
    /// Held while a template is made.
    making: Arc<Mutex<()>>,
}

impl SparseFiles {
    /// The name of this driver.
    pub const NAME: &'static str = "sparse";

    /// A driver that keeps disks below `state` and its template below `cache`, and finds programs in `path`.
    #[must_use]
    pub fn new(state: PathBuf, cache: &Path, path: Option<OsString>) -> SparseFiles {
        SparseFiles { state, cache: cache.to_path_buf(), path: path.unwrap_or_default(), making: Arc::default() }
    }

    /// The template that a disk of `bytes` begins as, made if the cache has none.
    fn ensure_template(&self, bytes: u64) -> Result<PathBuf, StorageError> {
        let [small, usual] = TEMPLATES_BYTES;
        let length = if (usual..=usual * USUAL_UP_TO).contains(&bytes) { usual } else { small };
        let template = self.cache.join(format!("{TEMPLATE_NAME}-{}m.ext4", length >> 20));
        if template.exists() {
            return Ok(template);
        }
        let find = |program| {
            find_program(program, &self.path)
                .or_else(|| find_program(program, SBIN.as_ref()))
                .ok_or(StorageError::Missing { program, package: PACKAGE })
        };
        let programs = [find(PROGRAM)?, find(EDITOR)?];
        sys::fs::create_private_dir(&self.cache).map_err(StorageError::Template)?;
        let temporary = sys::fs::sibling(&template);
        // A template that a power cut leaves half written would be every later disk's.
        let made = make_template(&programs, &temporary, length)
            .and_then(|()| sys::fs::sync(&temporary).map_err(StorageError::Template))
            .and_then(|()| sys::fs::rename(&temporary, &template).map_err(StorageError::Template));
        if made.is_err() {
            sys::fs::remove_file(&temporary).map_err(StorageError::Template)?;
        }
        made.map(|()| template)
    }

    fn make_disk(&self, vm: &VmId, bytes: u64) -> Result<PathBuf, StorageError> {
        let failed = |source| StorageError::Disk { vm: vm.clone(), bytes, source };
        let disk = self.path(vm);
        sys::fs::create_private_dir(&vm_dir(&self.state, vm)).map_err(failed)?;
        remove_unfinished(&disk).map_err(failed)?;
        check_room(&self.state)?;
        let template = self.ensure_template(bytes)?;
        place(&template, &disk, Some(bytes)).map_err(failed)?;
        Ok(disk)
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SparseFiles) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let driver = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&driver));
        done.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }
}

/// Puts a copy of `from` at `to`, whole or not at all, of another length if asked.
fn place(from: &Path, to: &Path, bytes: Option<u64>) -> Result<(), sys::fs::FsError> {
    let temporary = sys::fs::sibling(to);
    let made = sys::fs::copy_sparse(from, &temporary, 0o600)
        .and_then(|()| bytes.map_or(Ok(()), |bytes| sys::fs::set_len(&temporary, bytes)))
        .and_then(|()| sys::fs::sync(&temporary))
        .and_then(|()| sys::fs::rename(&temporary, to));
    if made.is_err() {
        sys::fs::remove_file(&temporary)?;
    }
    made
}

fn make_template([mke2fs, debugfs]: &[PathBuf; 2], at: &Path, bytes: u64) -> Result<(), StorageError> {
    sys::fs::create_new(at, 0o600).map_err(StorageError::Template)?;
    sys::fs::set_len(at, bytes).map_err(StorageError::Template)?;
    let mut mke2fs = command(mke2fs);
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", LABEL]);
    // Descriptors of groups beside the groups: none are set aside in advance, which would be MiBs of each disk to copy.
    mke2fs.args(["-O", "64bit,metadata_csum,meta_bg,^resize_inode", "-J", &format!("size={JOURNAL_MIB}")]);
    // Nothing is written that a sparse file has as zeros.
    mke2fs.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"]).arg(at);
    run(&mut mke2fs).map_err(StorageError::Format)?;
    // Not by `mke2fs -d`, which would make them this user's: debugfs(8) makes them root's.
    for (directory, mode) in DIRECTORIES {
        for request in
            [format!("mkdir {directory}"), format!("set_inode_field {directory} mode 0{:o}", 0o40_000 | mode)]
        {
            run(command(debugfs).args(["-w", "-R", &request]).arg(at)).map_err(StorageError::Format)?;
        }
    }
    Ok(())
}

/// Removes what a daemon that died left of a disk it was making.
fn remove_unfinished(disk: &Path) -> Result<(), sys::fs::FsError> {
    let (Some(dir), Some(name)) = (disk.parent(), disk.file_name()) else {
        return Ok(());
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        sys::fs::remove_file(&entry.path())?;
    }
    Ok(())
}

#[async_trait]
impl StorageDriver for SparseFiles {
    fn name(&self) -> &'static str {
        SparseFiles::NAME
    }

    async fn ensure_disk(&self, vm: &VmId, bytes: u64) -> Result<PathBuf, StorageError> {
        check_size(bytes)?;
        let disk = self.path(vm);
        if disk.exists() {
            return Ok(disk);
        }
        let one_at_a_time = Arc::clone(&self.making).lock_owned().await;
        let vm = vm.clone();
        // Held until it is made, also when nobody waits any more.
        let made = self.blocking(move |driver| {
            let made = driver.make_disk(&vm, bytes);
            drop(one_at_a_time);
            made
        });
        made.await
    }

    async fn blank(&self, path: &Path, bytes: u64) -> Result<(), StorageError> {
        check_size(bytes)?;
        let one_at_a_time = Arc::clone(&self.making).lock_owned().await;
        let path = path.to_path_buf();
        let made = self.blocking(move |driver| {
            let template = driver.ensure_template(bytes)?;
            drop(one_at_a_time);
            let placed = remove_unfinished(&path).and_then(|()| place(&template, &path, Some(bytes)));
            placed.map_err(|source| StorageError::Blank { path, source })
        });
        made.await
    }

    fn is_untouched(&self, vm: &VmId) -> bool {
        let mut part = [0; 14];
        let read =
            std::fs::File::open(self.path(vm)).and_then(|disk| disk.read_exact_at(&mut part, SUPERBLOCK + MTIME));
        // s_mtime, s_wtime, s_mnt_count, s_max_mnt_count, s_magic of `struct ext4_super_block`.
        read.is_ok() && part[..4] == [0; 4] && part[8..10] == [0; 2] && part[12..] == [0x53, 0xef]
    }

    async fn copy_out(&self, vm: &VmId, to: &Path) -> Result<(), StorageError> {
        let (vm, to) = (vm.clone(), to.to_path_buf());
        self.blocking(move |driver| {
            let from = driver.path(&vm);
            sys::fs::copy_sparse(&from, &to, 0o600).map_err(|source| StorageError::Copy { vm, from, source })
        })
        .await
    }

    async fn replace(&self, vm: &VmId, from: &Path) -> Result<(), StorageError> {
        let (vm, from) = (vm.clone(), from.to_path_buf());
        self.blocking(move |driver| {
            let disk = driver.path(&vm);
            let placed = remove_unfinished(&disk).and_then(|()| place(&from, &disk, None));
            placed.map_err(|source| StorageError::Copy { vm, from, source })
        })
        .await
    }

    async fn ensure_size(&self, vm: &VmId, bytes: u64) -> Result<(), StorageError> {
        check_size(bytes)?;
        if self.length_bytes(vm) >= bytes {
            return Ok(());
        }
        // A hole at the end: no block is written, whatever the size.
        let failed = |source| StorageError::Grow { vm: vm.clone(), bytes, source };
        sys::fs::set_len(&self.path(vm), bytes).map_err(failed)
    }

    fn length_bytes(&self, vm: &VmId) -> u64 {
        std::fs::metadata(self.path(vm)).map_or(0, |meta| meta.len())
    }

    async fn ensure_deleted(&self, vm: &VmId) -> Result<(), StorageError> {
        let disk = self.path(vm);
        let failed = |source| StorageError::Delete { vm: vm.clone(), source };
        remove_unfinished(&disk).map_err(failed)?;
        sys::fs::remove_file(&disk).map_err(failed)
    }

    fn path(&self, vm: &VmId) -> PathBuf {
        vm_disk(&self.state, vm)
    }

    fn allocated_bytes(&self, vm: &VmId) -> u64 {
        sys::fs::allocated_bytes(&self.path(vm))
    }

    fn allocated(&self) -> HashMap<VmId, u64> {
        let found = sys::fs::allocated_bytes_below(&vms_dir(&self.state), DISK_FILE);
        found.into_iter().filter_map(|(name, bytes)| Some((name.parse().ok()?, bytes))).collect()
    }
}

#[cfg(test)]
mod tests;
