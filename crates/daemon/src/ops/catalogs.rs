//! What can be had by a short name, as operations see it: the catalog, and bundles without one.
//!
//! | a source is | means |
//! |---|---|
//! | `catalog:NAME` | the image of this name in the catalog |
//! | `bundle:/PATH` | the image in this file |
//! | `NAME`, in the catalog | the same as `catalog:NAME` |
//! | anything else | none of ours: a [`Puller`](super::puller::Puller)'s |

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use wire::api::{Available, ErrorCode};

use super::failure::refused;
use super::puller::Fetched;
use super::world::Host;
use crate::model::progress::{OnProgress, Watcher};
use crate::saga::Cause;

/// What the source of an image of the catalog begins with.
const CATALOG: &str = "catalog:";
/// What the source of an image in a file begins with.
const BUNDLE: &str = "bundle:";
/// How the files of bundles end.
const BUNDLE_SUFFIX: &str = ".tar.zst";
/// Fewer digits behind a name are part of it.
const DIGEST_DIGITS_MIN: usize = 8;

/// What stands behind the name of a bundle that no catalog has yet.
const PROCESSORS: [&str; 4] = ["-amd64", "-arm64", "-x86_64", "-aarch64"];

/// Brings images and kernels of a catalog.
#[async_trait]
pub trait Catalogs: Send + Sync {
    /// Whether the catalog has an image of this name for this processor.
    ///
    /// # Errors
    /// When there is a catalog and it cannot be had.
    async fn has_image(&self, name: &str) -> Result<bool, Cause>;

    /// The catalog's images.
    ///
    /// # Errors
    /// When there is a catalog and it cannot be had.
    async fn images(&self) -> Result<Available, Cause>;

    /// The catalog's kernels.
    ///
    /// # Errors
    /// When there is a catalog and it cannot be had.
    async fn kernels(&self) -> Result<Available, Cause>;

    /// Brings an image here, verified. To give it up, drop this.
    ///
    /// # Errors
    /// When there is none of this name, it cannot be had, or is not what the catalog says.
    async fn image(&self, name: &str, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause>;

    /// The image in a file.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn bundle(&self, path: &Path, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause>;

    /// Brings a kernel here, verified. To give it up, drop this.
    ///
    /// # Errors
    /// When there is none of this name, it cannot be had, or is not what the catalog says.
    async fn kernel(&self, name: &str, progress: OnProgress<'_>) -> Result<Box<dyn FetchedKernel>, Cause>;
}

/// A kernel whose bundle is in the cache, and stays there as long as this lives.
pub trait FetchedKernel: Send + Sync {
    /// Where it is from: [`kernel_source`].
    fn described(&self) -> String;

    /// What a person should know about how it was had.
    fn warning(&self) -> Option<String>;

    /// Unpacks `vmlinux`, and what comes with it, into the new directory `into`.
    ///
    /// # Errors
    /// When it is damaged or hostile, does not fit, or `watcher` says to stop.
    fn unpack(&self, into: &Path, watcher: Watcher<'_>) -> Result<(), Cause>;
}

/// Where a kernel of the catalog is from, as it is kept: by that it is known to be the one in the catalog. The digest is its
/// bundle's, `sha256:…`.
#[must_use]
pub fn kernel_source(name: &str, digest: &str) -> String {
    format!("{CATALOG}{name}@{digest}")
}

/// A source that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ours {
    /// An image of the catalog.
    Catalog(String),
    /// An image in a file.
    Bundle(PathBuf),
}

impl Ours {
    /// What `source` is of ours.
    pub(super) fn of(source: &str) -> Option<Ours> {
        let catalog = source.strip_prefix(CATALOG).map(|name| Ours::Catalog(name.to_owned()));
        catalog.or_else(|| source.strip_prefix(BUNDLE).map(|path| Ours::Bundle(PathBuf::from(path))))
    }

    /// Checks it before anything begins and gives the name that the image has unless somebody says otherwise.
    pub(super) fn check(&self) -> Result<String, Cause> {
        match self {
            Ours::Catalog(name) if is_short(name) => Ok(name.clone()),
            Ours::Catalog(name) => {
                let shown: String = name.chars().take(80).collect();
                Err(refused(ErrorCode::BadRequest, format!("{shown:?} is not the name of an image in a catalog")))
            }
            Ours::Bundle(path) if !path.is_absolute() => {
                Err(refused(ErrorCode::BadRequest, format!("{} must be an absolute path", path.display())))
            }
            Ours::Bundle(path) => Ok(name_of_file(path)),
        }
    }

    /// Brings it.
    pub(super) async fn fetch(&self, host: &Host, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause> {
        match self {
            Ours::Catalog(name) => host.catalogs.image(name, progress).await,
            Ours::Bundle(path) => host.catalogs.bundle(path, progress).await,
        }
    }
}

/// `source` in full: a name alone that the catalog has is of the catalog.
///
/// # Errors
/// When there is a catalog, nobody can tell whether it has this name, and it could be one of it: what a name means does not
/// depend on who answers.
pub(super) async fn in_full(host: &Host, source: String) -> Result<String, Cause> {
    if !is_short(&source) {
        return Ok(source);
    }
    match host.catalogs.has_image(&source).await {
        Ok(true) => Ok(format!("{CATALOG}{source}")),
        Ok(false) => Ok(source),
        Err(cause) => {
            let either = format!("or say which: catalog:{source}, docker.io/library/{source}");
            let hint = cause.hint.as_ref().map_or_else(|| either.clone(), |hint| format!("{hint}; {either}"));
            Err(cause.with_hint(hint))
        }
    }
}

/// Whether an image in a catalog can be called so.
fn is_short(name: &str) -> bool {
    wire::naming::is_artifact_name(name)
}

/// What an image in this file is called: the file's name, without the processor and the digest that catalogs put behind it.
fn name_of_file(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = file.strip_suffix(BUNDLE_SUFFIX).unwrap_or(&file);
    let is_digest = |part: &str| {
        part.len() >= DIGEST_DIGITS_MIN && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let name = match stem.rsplit_once('-').filter(|(_, digest)| is_digest(digest)) {
        Some((rest, _)) => rest.rsplit_once('-').map_or(rest, |(name, _)| name),
        None => PROCESSORS.iter().find_map(|processor| stem.strip_suffix(processor)).unwrap_or(stem),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours() {
        let name = |source: &str| Ours::of(source).map(|ours| ours.check().map_err(|cause| cause.message));
        assert_eq!(name("catalog:debian"), Some(Ok("debian".into())));
        assert_eq!(name("bundle:/a/debian-amd64-0f1e2d3c4b5a.tar.zst"), Some(Ok("debian".into())));
        assert_eq!(name("bundle:/a/my-image.tar.zst"), Some(Ok("my-image".into())));
        assert_eq!(name("bundle:/a/my-image-amd64.tar.zst"), Some(Ok("my-image".into())));
        assert_eq!(name("bundle:/a/-0f1e2d3c4b5a.tar.zst"), Some(Ok(String::new())));
        for other in ["debian", "oci:/a", "docker.io/library/debian", "catalog"] {
            assert_eq!(name(other), None, "{other}");
        }
        for bad in ["catalog:", "catalog:a/b", "catalog:a:b", "bundle:a", "bundle:"] {
            assert!(name(bad).unwrap().is_err(), "{bad}");
        }
    }
}
