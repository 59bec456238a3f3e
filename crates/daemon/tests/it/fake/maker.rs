//! What VMs boot from, made of nothing.

use std::path::{Path, PathBuf};

use daemon::model::digest::Digest;
use daemon::model::image::{ImageManifest, LinkedFile};
use daemon::model::kernel::KernelManifest;
use daemon::model::progress::Watcher;
use daemon::ops::maker::{Keeping, Maker};
use daemon::saga::Cause;
use wire::api::{BuildImage, KernelSource};

use super::{Drivers, guest, image_manifest, kernel_manifest};

impl Maker for Drivers {
    fn check_image(&self, request: &BuildImage) -> Result<String, Cause> {
        if request.recipe == "none" {
            return Err(Cause::new("not_found", "no recipe \"none\""));
        }
        Ok(request.recipe.clone())
    }

    fn build_image(&self, request: &BuildImage, staging: &Path, watcher: Watcher<'_>) -> Result<ImageManifest, Cause> {
        watcher.stage("fetch packages");
        watcher.bytes(5, Some(10));
        sys::fs::write_atomic(&staging.join("rootfs.ext4"), b"rootfs", 0o600)?;
        if request.recipe == "endless" {
            while watcher.check().is_ok() {
                std::thread::yield_now();
            }
            return Err(Cause::new("operation_failed", "interrupted"));
        }
        Ok(image_manifest(&request.recipe))
    }

    fn extend_image(
        &self,
        of: &ImageManifest,
        below: &Path,
        layer: &Path,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<ImageManifest, Cause> {
        watcher.stage("write root filesystem");
        assert!(below.is_dir() && std::fs::read(layer).unwrap() == guest::LAYER);
        sys::fs::write_atomic(&staging.join("rootfs.ext4"), b"rootfs", 0o600)?;
        Ok(ImageManifest { exec: of.exec.clone(), ..image_manifest("a commit") })
    }

    fn register_image(
        &self,
        path: &Path,
        keeping: Keeping,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<ImageManifest, Cause> {
        watcher.stage("copy root filesystem");
        let target = staging.join("rootfs.ext4");
        match keeping {
            Keeping::Copied => sys::fs::copy_sparse(path, &target, 0o600)?,
            Keeping::Linked => sys::fs::link(path, &target)?,
        }
        let file = LinkedFile::new(path.display().to_string(), &std::fs::metadata(&target).unwrap());
        let linked = (keeping == Keeping::Linked).then_some(file);
        Ok(ImageManifest { linked, ..image_manifest("a file") })
    }

    fn copy_image(&self, from: &Path, to: &Path, _: Digest, watcher: Watcher<'_>) -> Result<(), Cause> {
        watcher.stage("copy root filesystem");
        Ok(sys::fs::copy_sparse(from, to, 0o600)?)
    }

    fn discard_image(&self, staging: &Path) -> Result<(), Cause> {
        Ok(sys::fs::remove_tree(staging)?)
    }

    fn fetch_kernel(&self, package: &str, cache: &Path, _: Watcher<'_>) -> Result<PathBuf, Cause> {
        let path = cache.join(format!("{package}.deb"));
        sys::fs::write_atomic(&path, b"deb", 0o600)?;
        Ok(path)
    }

    fn import_kernel(&self, source: &KernelSource, staging: &Path, _: Watcher<'_>) -> Result<KernelManifest, Cause> {
        let KernelSource::Path { path, .. } = source else { panic!("packages are fetched before") };
        assert!(Path::new(path).exists());
        sys::fs::write_atomic(&staging.join("vmlinux"), b"vmlinux", 0o600)?;
        Ok(kernel_manifest("6.6"))
    }

    fn ensure_initramfs(&self, _: &Path, _: &KernelManifest) -> Result<PathBuf, Cause> {
        let path = self.0.dirs.cache.join("initramfs.cpio");
        sys::fs::write_atomic(&path, b"initramfs", 0o600)?;
        Ok(path)
    }
}
