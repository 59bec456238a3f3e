//! Imports a kernel: everything is made in a staging directory and published by one rename and one row.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{ErrorCode, ImportKernel, KernelSource};
use wire::id::{KernelId, OpId};

use super::catalogs::FetchedKernel;
use super::failure::{caused, refused};
use super::maker::Maker;
use super::staging::{self as making, Staged};
use super::world::{Host, staging_name};
use crate::model::digest::Digest;
use crate::model::kernel::KernelManifest;
use crate::model::progress::Watcher;
use crate::saga::{Cause, Cx, Saga, Step};
use crate::store::records::KernelRecord;

/// Where the content of a bundle is in the staging directory, until it is imported: nothing of a kernel is called so.
const UNPACKED: &str = "bundle";

/// The list.
#[must_use]
pub fn kernel_import() -> Saga<KernelImportPlan, Host> {
    Saga::named("kernel.import")
        .then(UnpackKernel) // undo: remove the staging directory
        .then(PlaceKernel) // undo: remove the kernel's directory, unless a kernel on record owns it
        .commit(PublishKernel) // the name moves to the new kernel
}

/// One import, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelImportPlan {
    /// Where from.
    pub source: KernelSource,
    /// What to call it; none: its release.
    pub name: Option<String>,
    /// Names the staging directory.
    pub operation: OpId,
    /// Who has the name now.
    pub replaces: Option<KernelId>,
}

impl KernelImportPlan {
    fn staging(&self, host: &Host) -> PathBuf {
        host.kernels_dir().join(staging_name(&self.operation))
    }

    /// What people read before it has a name.
    #[must_use]
    pub fn subject(&self) -> String {
        match (&self.name, &self.source) {
            (Some(name), _) => name.clone(),
            (None, KernelSource::Path { path, .. }) => {
                Path::new(path).file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
            }
            (None, KernelSource::Debian { package }) => package.clone(),
            (None, KernelSource::Host) => "of this host".to_owned(),
            (None, KernelSource::Catalog { name }) => name.clone(),
        }
    }
}

/// Decides an import.
///
/// # Errors
/// When a path is not absolute or not there, or a name cannot be one.
pub async fn plan(host: &Host, request: ImportKernel, operation: OpId) -> Result<KernelImportPlan, Cause> {
    let name = match (&request.name, &request.source) {
        (Some(name), _) => Some(name.clone()),
        (None, KernelSource::Debian { package }) => Some(package.clone()),
        (None, KernelSource::Catalog { name }) => Some(name.clone()),
        (None, KernelSource::Path { .. } | KernelSource::Host) => None,
    };
    if let Some(name) = &name {
        making::check_name("a kernel", name)?;
    }
    match &request.source {
        KernelSource::Path { path, more, config, modules } => {
            for path in std::iter::once(path).chain(more).chain(config).chain(modules) {
                check_path(Path::new(path))?;
            }
        }
        KernelSource::Host => {}
        KernelSource::Debian { package } => check_package(package)?,
        KernelSource::Catalog { name } => making::check_name("a kernel in a catalog", name)?,
    }
    crate::storage::check_room(&host.dirs.state)?;
    let kernels = host.store.kernels().await?;
    // A kernel without a name of its own is called by its release, which is not known before it is unpacked.
    let replaces = kernels.into_iter().find(|kernel| Some(&kernel.name) == name.as_ref()).map(|kernel| kernel.id);
    Ok(KernelImportPlan { source: request.source, name, operation, replaces })
}

fn check_path(path: &Path) -> Result<(), Cause> {
    if !path.is_absolute() {
        return Err(refused(ErrorCode::BadRequest, format!("{} must be an absolute path", path.display())));
    }
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(refused(ErrorCode::NotFound, format!("there is no {}", path.display())))
        }
        Err(error) => Err(refused(ErrorCode::BadRequest, format!("cannot read {}: {}", path.display(), error.kind()))),
    }
}

/// A Debian package name: Debian policy, section 5.6.1. What begins so is no option of a program either.
fn check_package(package: &str) -> Result<(), Cause> {
    let is_good = package.len() >= 2
        && package.len() <= 128
        && package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    if is_good {
        return Ok(());
    }
    let shown: String = package.chars().take(80).collect();
    Err(refused(ErrorCode::BadRequest, format!("{shown:?} is not the name of a Debian package")))
}

/// The id of a kernel: the first 64 bits of its digest.
#[must_use]
pub fn kernel_id(digest: &Digest) -> KernelId {
    KernelId::from_random(making::leading(digest))
}

fn manifest_in(dir: &Path) -> Result<Option<KernelManifest>, Cause> {
    making::read_manifest(dir)
}

/// Fetches the package, when it is one, and unpacks the kernel into the staging directory.
struct UnpackKernel;

#[async_trait]
impl Step<KernelImportPlan, Host> for UnpackKernel {
    fn name(&self) -> &'static str {
        "unpack_kernel"
    }

    async fn run(&self, cx: &Cx<'_, KernelImportPlan, Host>) -> Result<(), Cause> {
        let staging = cx.plan.staging(cx.world);
        sys::fs::remove_tree(&staging)?;
        sys::fs::create_private_dir(&staging)?;
        let (maker, at) = (cx.world.maker.clone(), staging.clone());
        let manifest = match cx.plan.source.clone() {
            source @ (KernelSource::Path { .. } | KernelSource::Host) => {
                making::watched(cx, move |watcher| maker.import_kernel(&source, &at, watcher)).await?
            }
            KernelSource::Debian { package } => {
                let downloads = cx.world.dirs.cache.join("downloads");
                making::watched(cx, move |watcher| from_debian(&*maker, &package, &downloads, &at, watcher)).await?
            }
            KernelSource::Catalog { name } => {
                let fetched = fetch(cx, &name).await?;
                if let Some(warning) = fetched.warning() {
                    cx.warning(&warning);
                }
                making::watched(cx, move |watcher| from_bundle(&*maker, &*fetched, &at, watcher)).await?
            }
        };
        let staged = Staged { operation: cx.plan.operation.clone(), was: None };
        making::write_manifest(&staging, &manifest, &staged)
    }

    async fn undo(&self, cx: &Cx<'_, KernelImportPlan, Host>) -> Result<(), Cause> {
        making::remove_tree(cx.plan.staging(cx.world)).await
    }
}

fn from_debian(
    maker: &dyn Maker,
    package: &str,
    downloads: &Path,
    staging: &Path,
    watcher: Watcher<'_>,
) -> Result<KernelManifest, Cause> {
    sys::fs::create_private_dir(downloads)?;
    let file = maker.fetch_kernel(package, downloads, watcher)?;
    let path = file.to_string_lossy().into_owned();
    let source = KernelSource::Path { path, more: Vec::new(), config: None, modules: None };
    let manifest = maker.import_kernel(&source, staging, watcher)?;
    Ok(KernelManifest { source: format!("{} ({package})", manifest.source), ..manifest })
}

/// Brings the bundle of a kernel here; a cancellation ends that at once.
async fn fetch(cx: &Cx<'_, KernelImportPlan, Host>, name: &str) -> Result<Box<dyn FetchedKernel>, Cause> {
    let (report, reports) = making::reports();
    making::followed(cx, reports, cx.world.catalogs.kernel(name, &report)).await
}

/// What a bundle holds is imported like any directory, so that a kernel that cannot run guests is refused alike.
fn from_bundle(
    maker: &dyn Maker,
    fetched: &dyn FetchedKernel,
    staging: &Path,
    watcher: Watcher<'_>,
) -> Result<KernelManifest, Cause> {
    let unpacked = staging.join(UNPACKED);
    fetched.unpack(&unpacked, watcher)?;
    let at = |name: &str| unpacked.join(name).to_string_lossy().into_owned();
    let there = |name: &str| unpacked.join(name).exists().then(|| at(name));
    let source = KernelSource::Path {
        path: at("vmlinux"),
        more: Vec::new(),
        config: there("config"),
        modules: there("modules"),
    };
    let manifest = maker.import_kernel(&source, staging, watcher)?;
    sys::fs::remove_tree(&unpacked)?;
    Ok(KernelManifest { source: fetched.described(), ..manifest })
}

/// Gives the finished directory its final name.
struct PlaceKernel;

#[async_trait]
impl Step<KernelImportPlan, Host> for PlaceKernel {
    fn name(&self) -> &'static str {
        "place_kernel"
    }

    async fn run(&self, cx: &Cx<'_, KernelImportPlan, Host>) -> Result<(), Cause> {
        let staging = cx.plan.staging(cx.world);
        let Some(manifest) = manifest_in(&staging)? else {
            return Ok(());
        };
        let target = cx.world.kernel_dir(&kernel_id(&manifest.digest));
        if target.exists() {
            let was =
                cx.world.store.find_kernel(kernel_id(&manifest.digest).as_str()).await.ok().map(|known| known.name);
            making::adopt(&target, &Staged { operation: cx.plan.operation.clone(), was })?;
            return making::remove_tree(staging).await;
        }
        Ok(sys::fs::rename(&staging, &target)?)
    }

    async fn undo(&self, cx: &Cx<'_, KernelImportPlan, Host>) -> Result<(), Cause> {
        let Some(dir) = making::placed_by(&cx.world.kernels_dir(), &cx.plan.operation)? else {
            return Ok(());
        };
        let is_on_record = match manifest_in(&dir)? {
            Some(manifest) => cx.world.store.find_kernel(kernel_id(&manifest.digest).as_str()).await.is_ok(),
            None => false,
        };
        if is_on_record { Ok(()) } else { making::remove_tree(dir).await }
    }
}

/// Records the kernel; its name, if another had it, moves.
struct PublishKernel;

#[async_trait]
impl Step<KernelImportPlan, Host> for PublishKernel {
    fn name(&self) -> &'static str {
        "publish_kernel"
    }

    async fn run(&self, cx: &Cx<'_, KernelImportPlan, Host>) -> Result<(), Cause> {
        let lost = || refused(ErrorCode::Internal, "the finished kernel is gone");
        let dir = making::placed_by(&cx.world.kernels_dir(), &cx.plan.operation)?.ok_or_else(lost)?;
        let manifest = manifest_in(&dir)?.ok_or_else(lost)?;
        let record = KernelRecord {
            id: kernel_id(&manifest.digest),
            name: cx.plan.name.clone().unwrap_or_else(|| manifest.release.clone()),
            manifest,
            created_at_ms: (cx.world.now_ms)(),
        };
        cx.world.store.publish_kernel(record).await.map_err(|error| caused(ErrorCode::OperationFailed, &error))
    }

    async fn undo(&self, cx: &Cx<'_, KernelImportPlan, Host>) -> Result<(), Cause> {
        let Some(dir) = making::placed_by(&cx.world.kernels_dir(), &cx.plan.operation)? else {
            return Ok(());
        };
        let (Some(manifest), Some(staged)) = (manifest_in(&dir)?, making::staged_in(&dir)?) else {
            return Ok(());
        };
        let id = kernel_id(&manifest.digest);
        let name = cx.plan.name.clone().unwrap_or_else(|| manifest.release.clone());
        Ok(cx.world.store.unpublish_kernel(&id, staged.was, &name, cx.plan.replaces.clone()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages() {
        for good in ["linux-image-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64", "g++"] {
            assert!(check_package(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-o", "Linux", "a b", "a/b", "a=1", "a;b", &"a".repeat(129)] {
            assert!(check_package(bad).is_err(), "{bad}");
        }
    }
}
