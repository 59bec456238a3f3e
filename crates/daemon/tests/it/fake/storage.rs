//! Disks of the host in memory: small files that guests leave marks in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use daemon::storage::{StorageDriver, StorageError};
use wire::id::VmId;

use super::Drivers;

#[async_trait]
impl StorageDriver for Drivers {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn ensure_disk(&self, vm: &VmId, _: u64) -> Result<PathBuf, StorageError> {
        let path = StorageDriver::path(self, vm);
        let made = sys::fs::create_private_dir(path.parent().unwrap())
            .and_then(|()| if path.exists() { Ok(()) } else { sys::fs::write_atomic(&path, b"disk", 0o600) });
        made.map(|()| path).map_err(|source| StorageError::Disk { vm: vm.clone(), bytes: 4, source })
    }

    fn is_untouched(&self, vm: &VmId) -> bool {
        self.0.disk(vm) == "disk"
    }

    async fn blank(&self, path: &Path, bytes: u64) -> Result<(), StorageError> {
        let made = sys::fs::write_atomic(path, b"disk", 0o600);
        made.map_err(|source| StorageError::Disk { vm: VmId::from_random([0; 8]), bytes, source })
    }

    async fn copy_out(&self, vm: &VmId, to: &Path) -> Result<(), StorageError> {
        let from = StorageDriver::path(self, vm);
        let copied = sys::fs::copy_sparse(&from, to, 0o600);
        copied.map_err(|source| StorageError::Copy { vm: vm.clone(), from, source })
    }

    async fn replace(&self, vm: &VmId, from: &Path) -> Result<(), StorageError> {
        let failed = |source| StorageError::Copy { vm: vm.clone(), from: from.to_path_buf(), source };
        let to = StorageDriver::path(self, vm);
        sys::fs::remove_file(&to).and_then(|()| sys::fs::copy_sparse(from, &to, 0o600)).map_err(failed)
    }

    async fn ensure_size(&self, vm: &VmId, bytes: u64) -> Result<(), StorageError> {
        if self.length_bytes(vm) < bytes {
            sys::fs::set_len(&StorageDriver::path(self, vm), bytes).unwrap();
        }
        Ok(())
    }

    fn length_bytes(&self, vm: &VmId) -> u64 {
        std::fs::metadata(StorageDriver::path(self, vm)).map_or(0, |meta| meta.len())
    }

    async fn ensure_deleted(&self, vm: &VmId) -> Result<(), StorageError> {
        sys::fs::remove_file(&StorageDriver::path(self, vm))
            .map_err(|source| StorageError::Delete { vm: vm.clone(), source })
    }

    fn path(&self, vm: &VmId) -> PathBuf {
        wire::naming::vm_disk(&self.0.dirs.state, vm)
    }

    fn allocated_bytes(&self, _: &VmId) -> u64 {
        4
    }

    fn allocated(&self) -> HashMap<VmId, u64> {
        let disks = sys::fs::allocated_bytes_below(&wire::naming::vms_dir(&self.0.dirs.state), "disk.ext4");
        disks.into_iter().filter_map(|(name, _)| Some((name.parse().ok()?, 4))).collect()
    }
}
