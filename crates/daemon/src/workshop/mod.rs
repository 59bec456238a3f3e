//! The [`Maker`] of real things: operations ask, the `image` modules make. Only `main.rs` knows it, and its siblings for
//! images of others, [`Registries`], and for what has a short name, [`Shelf`].

mod catalogs;
mod files;
mod images;
mod save;

use std::error::Error;
use std::path::{Path, PathBuf};

use sys::process::RunError;
use wire::api::{BuildImage, ErrorCode, KernelSource};
use wire::layout::Install;

use crate::image::build::{self, BuildError};
use crate::image::kernel::{self, FetchError, KernelError};
use crate::image::{initramfs, layers, recipe};
use crate::model::digest::Digest;
use crate::model::image::ImageManifest;
use crate::model::kernel::KernelManifest;
use crate::model::progress::{Watcher, is_cancelled};
use crate::ops::failure::{caused, refused};
use crate::ops::maker::{Keeping, Maker};
use crate::saga::Cause;
pub use catalogs::Shelf;
pub use images::Registries;

/// Makes what VMs boot from with the parts of this installation.
pub struct Workshop {
    install: Install,
    cache: PathBuf,
    state: PathBuf,
}

impl Workshop {
    /// A workshop with the agent and the recipes of `install`, keeping what it can use again in `cache` and what its
    /// builds say below `state`.
    #[must_use]
    pub fn new(install: Install, cache: PathBuf, state: PathBuf) -> Workshop {
        Workshop { install, cache, state }
    }

    /// The directory of a recipe: its path, or the name of one that this installation brings.
    fn recipe_dir(&self, recipe: &str) -> Result<PathBuf, Cause> {
        if recipe.starts_with('/') {
            return Ok(PathBuf::from(recipe));
        }
        let dir = self.install.recipes().join(recipe);
        if wire::naming::is_artifact_name(recipe) && dir.is_dir() {
            return Ok(dir);
        }
        let cause = refused(ErrorCode::NotFound, format!("no recipe {recipe:?} in this installation"));
        Err(cause.with_hint(format!("it brings: {}; another one is named by its directory", self.recipes().join(", "))))
    }

    fn recipes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.install.recipes()).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Whether a full disk is behind it: a call's of ours, or one of a program that was run.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let is_ours = matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded));
        if is_ours || error.downcast_ref::<RunError>().is_some_and(RunError::is_disk_full) {
            return true;
        }
        next = error.source();
    }
    false
}

fn failed(what: ErrorCode, error: &(dyn Error + 'static), hint: Option<&str>) -> Cause {
    if is_cancelled(error) {
        return Cause::cancelled();
    }
    let cause = caused(if is_full(error) { ErrorCode::Exhausted } else { what }, error);
    match hint {
        Some(hint) => cause.with_hint(hint),
        None if is_full(error) => cause.with_hint("make room on the disk, or put state elsewhere with BANGER_HOME"),
        None => cause,
    }
}

fn build_failed(error: &BuildError) -> Cause {
    let code = match error {
        BuildError::Recipe(_) => ErrorCode::BadRequest,
        BuildError::NoMmdebstrap
        | BuildError::Rights(_)
        | BuildError::Download(build::DownloadError::NoClient { .. }) => ErrorCode::Unsupported,
        BuildError::Download(_)
        | BuildError::Run(_)
        | BuildError::Failed { .. }
        | BuildError::Rootfs(_)
        | BuildError::Fs(_)
        | BuildError::Path { .. }
        | BuildError::Cancelled(_) => ErrorCode::OperationFailed,
    };
    failed(code, error, error.hint())
}

fn kernel_failed(error: &KernelError) -> Cause {
    let code = match error {
        KernelError::NotFound { .. } => ErrorCode::NotFound,
        KernelError::Unfit { .. } | KernelError::NoDepmod => ErrorCode::Unsupported,
        _ => ErrorCode::OperationFailed,
    };
    failed(code, error, error.hint())
}

fn fetch_failed(error: &FetchError) -> Cause {
    let (code, hint) = match error {
        FetchError::Name { .. } => (ErrorCode::BadRequest, None),
        FetchError::Unknown { .. } => (ErrorCode::NotFound, Some("apt-cache search linux-image lists what there is")),
        FetchError::Apt { .. } => {
            (ErrorCode::Unsupported, Some("give a kernel by its file: banger kernel import FILE"))
        }
        FetchError::Transfer { .. } => {
            (ErrorCode::OperationFailed, Some("is the network there? apt-get update says more"))
        }
        FetchError::Cache(_) | FetchError::Cancelled(_) => (ErrorCode::OperationFailed, None),
    };
    failed(code, error, hint)
}

impl Maker for Workshop {
    fn check_image(&self, request: &BuildImage) -> Result<String, Cause> {
        let dir = self.recipe_dir(&request.recipe)?;
        let recipe = recipe::load(&dir, request.variant.as_deref())
            .map_err(|error| failed(ErrorCode::BadRequest, &error, None))?;
        Ok(request.name.clone().unwrap_or(recipe.name))
    }

    fn build_image(&self, request: &BuildImage, staging: &Path, watcher: Watcher<'_>) -> Result<ImageManifest, Cause> {
        let recipe_dir = self.recipe_dir(&request.recipe)?;
        let log = self.state.join("image-build.log");
        build::build(
            build::Request {
                recipe_dir: &recipe_dir,
                variant: request.variant.as_deref(),
                name: request.name.as_deref(),
                staging,
                cache: &self.cache,
                log: &log,
            },
            watcher,
        )
        .map_err(|error| build_failed(&error))
    }

    fn extend_image(
        &self,
        of: &ImageManifest,
        below: &Path,
        layer: &Path,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<ImageManifest, Cause> {
        let below = below.join("rootfs.ext4");
        let extended = layers::extend((&below, of.digest), layer, &staging.join("rootfs.ext4"), watcher);
        let rootfs = extended.map_err(|error| failed(ErrorCode::OperationFailed, &error, None))?;
        Ok(ImageManifest {
            variant: None,
            digest: rootfs.sha256,
            bytes: rootfs.bytes,
            content_bytes: rootfs.content_bytes,
            entries: rootfs.entries,
            packages: rootfs.packages,
            recipe_sha256: None,
            init: rootfs.init,
            origin: None,
            linked: None,
            ..of.clone()
        })
    }

    fn register_image(
        &self,
        path: &Path,
        keeping: Keeping,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<ImageManifest, Cause> {
        files::register(path, keeping, staging, watcher)
    }

    fn copy_image(&self, from: &Path, to: &Path, digest: Digest, watcher: Watcher<'_>) -> Result<(), Cause> {
        files::copy_verified(from, to, digest, watcher)
    }

    fn discard_image(&self, staging: &Path) -> Result<(), Cause> {
        Ok(build::discard(staging)?)
    }

    fn fetch_kernel(&self, package: &str, cache: &Path, watcher: Watcher<'_>) -> Result<PathBuf, Cause> {
        kernel::fetch(package, cache, watcher).map_err(|error| fetch_failed(&error))
    }

    fn import_kernel(
        &self,
        source: &KernelSource,
        staging: &Path,
        watcher: Watcher<'_>,
    ) -> Result<KernelManifest, Cause> {
        let source = match source {
            KernelSource::Path { path, more, config, modules } => kernel::Source {
                path: PathBuf::from(path),
                more: more.iter().map(PathBuf::from).collect(),
                config: config.as_ref().map(PathBuf::from),
                modules: modules.as_ref().map(PathBuf::from),
            },
            KernelSource::Host => {
                kernel::host(Path::new("/"), &kernel::host_release()).map_err(|error| kernel_failed(&error))?
            }
            KernelSource::Debian { .. } | KernelSource::Catalog { .. } => {
                return Err(refused(ErrorCode::Internal, "a kernel is imported from files only"));
            }
        };
        kernel::import(&source, staging, watcher).map_err(|error| kernel_failed(&error))
    }

    fn ensure_initramfs(&self, kernel_dir: &Path, manifest: &KernelManifest) -> Result<PathBuf, Cause> {
        let agent = self.install.agent();
        initramfs::ensure(&agent, kernel_dir, manifest, &self.cache.join("initramfs"))
            .map_err(|error| failed(ErrorCode::OperationFailed, &error, None))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_disk_that_is_full_for_a_program_is_told_like_one_that_is_for_us() {
        let failed = |stderr: &str| {
            KernelError::Depmod(RunError::Failed {
                program: "depmod".to_owned(),
                status: ExitStatus::from_raw(1 << 8),
                stderr: stderr.to_owned(),
            })
        };
        let full = kernel_failed(&failed("depmod: ERROR: Could not create index: No space left on device"));
        assert!(full.is(ErrorCode::Exhausted) && full.hint.is_some_and(|hint| hint.starts_with("make room on")));
        let other = kernel_failed(&failed("depmod: ERROR: bad module"));
        assert!(other.is(ErrorCode::OperationFailed) && other.hint.is_none());
    }
}
