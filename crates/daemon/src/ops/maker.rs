//! What VMs boot from is made here: root filesystems, kernels, initramfs. Blocking; callers put it on a thread.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::api::{BuildImage, KernelSource};

use crate::model::digest::Digest;
use crate::model::image::ImageManifest;
use crate::model::kernel::KernelManifest;
use crate::model::progress::Watcher;
use crate::saga::Cause;

/// How a file of the user's becomes an image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeping {
    /// By a copy, which is banger's own.
    Copied,
    /// By one more name of it; it stays the user's.
    Linked,
}

/// Makes what VMs boot from. Everything lands in the directory it is given; publishing is the caller's act.
pub trait Maker: Send + Sync {
    /// Checks a request before anything begins and gives the name the image will have.
    ///
    /// # Errors
    /// When there is no such recipe or variant, or a program it needs is not installed.
    fn check_image(&self, request: &BuildImage) -> Result<String, Cause>;

    /// Builds `rootfs.ext4` and `manifest.json` in `staging`, an empty directory.
    ///
    /// # Errors
    /// When it cannot be built, or `watcher` says to stop.
    fn build_image(&self, request: &BuildImage, staging: &Path, watcher: Watcher<'_>) -> Result<ImageManifest, Cause>;

    /// Makes `rootfs.ext4` in `staging` of the image in the directory `below` and the layer over it that the file `layer`
    /// is, a tar archive that a guest wrote. What an image of the image `of` says beside that, it says too.
    ///
    /// # Errors
    /// When the layer is hostile or does not fit, it cannot be written, or `watcher` says to stop.
    fn extend_image(
        &self,
        of: &ImageManifest,
        below: &Path,
        layer: &Path,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<ImageManifest, Cause>;

    /// Makes `rootfs.ext4` in `staging`, an empty directory, of the root filesystem in the file `path`.
    ///
    /// # Errors
    /// When no guest could mount it, it cannot be read or kept so, or `watcher` says to stop.
    fn register_image(
        &self,
        path: &Path,
        keeping: Keeping,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<ImageManifest, Cause>;

    /// Copies the root filesystem in `from` to the new file `to`, and makes sure that it is the one of this digest.
    ///
    /// # Errors
    /// When it is another, cannot be read or written, or `watcher` says to stop.
    fn copy_image(&self, from: &Path, to: &Path, digest: Digest, watcher: Watcher<'_>) -> Result<(), Cause>;

    /// Removes a staging directory of [`build_image`](Maker::build_image), wherever a build, or the daemon, died in it.
    ///
    /// # Errors
    /// When something is left.
    fn discard_image(&self, staging: &Path) -> Result<(), Cause>;

    /// Fetches a kernel package of the host's archive into `cache`, verified, and gives its file.
    ///
    /// # Errors
    /// When there is none, or it cannot be fetched.
    fn fetch_kernel(&self, package: &str, cache: &Path, watcher: Watcher<'_>) -> Result<PathBuf, Cause>;

    /// Imports a kernel from files into `staging`, a directory with nothing of that: `vmlinux`, `modules.ext4`, `manifest.json` ….
    ///
    /// # Errors
    /// When it is no kernel, cannot run a guest of ours, or `watcher` says to stop.
    fn import_kernel(
        &self,
        source: &KernelSource,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<KernelManifest, Cause>;

    /// The initramfs of the kernel in `kernel_dir`, made if the cache has none.
    ///
    /// # Errors
    /// When a part is missing or the cache cannot be written.
    fn ensure_initramfs(&self, kernel_dir: &Path, manifest: &KernelManifest) -> Result<PathBuf, Cause>;
}
