//! The [`Catalogs`] of real things: one configured catalog, or the list that is part of the program; and bundles in files.
//!
//! | file | what |
//! |---|---|
//! | here | the catalog, as it is now or as it was last |
//! | `bundle.rs` | images and kernels in bundles |
//! | `serial.rs` | the highest serial number that was ever accepted |
//! | `gauge.rs` | how far a bundle is |

mod bundle;
mod gauge;
mod serial;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use catalog::{Artifact, Client, Current, FetchError, Freshness, PullError, Site};
use futures_util::StreamExt;
use oci::blobs::Pin;
use oci::{Architecture, Blobs, Digest, Options};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use wire::api::{Available, AvailableEntry, ErrorCode};

use super::failed;
use crate::model::progress::OnProgress;
use crate::ops::catalogs::{Catalogs, FetchedKernel};
use crate::ops::puller::{Archive, Fetched};
use crate::saga::Cause;
use bundle::{BundledImage, BundledKernel, Packed};
use gauge::Gauge;
use serial::Serial;

/// How long somebody who only looks at the list waits for a newer one than the last.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be had from one catalog.
pub struct Shelf {
    configured: Option<Configured>,
    options: Options,
    /// Of blobs.
    cache: PathBuf,
}

/// A catalog that somebody set.
struct Configured {
    site: Site,
    /// Holds the copy of the catalog that came last, and its number.
    state: PathBuf,
    serial: Serial,
}

impl Shelf {
    /// What is to be had at `site`; of nobody who has set none. What is remembered of it is below `state`, which is made
    /// with the first catalog, and files come into the directory `cache`, as `options` say.
    #[must_use]
    pub fn new(site: Option<Site>, options: Options, state: PathBuf, cache: PathBuf) -> Shelf {
        let configured = site.map(|site| {
            let serial = Serial::of(&state, &site.source().to_string());
            Configured { site, state, serial }
        });
        Shelf { configured, options, cache }
    }

    fn blobs(&self) -> Result<Blobs, Cause> {
        Blobs::open(&self.cache).map_err(|error| failed(ErrorCode::OperationFailed, &error, None))
    }

    fn client(&self, configured: &Configured) -> Result<Client, Cause> {
        Client::new(configured.site.clone(), &self.options, &configured.state).map_err(|error| fetch_failed(&error))
    }

    /// The catalog as it is now, or as it was last where there is no newer one.
    async fn current(&self) -> Result<Current, Cause> {
        let Some(configured) = &self.configured else {
            return Ok(Current::embedded());
        };
        let last = configured.serial.read()?;
        let current = self.client(configured)?.refresh(last).await.map_err(|error| fetch_failed(&error))?;
        if let Freshness::Kept { why: Some(why), .. } = &current.freshness {
            tracing::warn!(error = why as &dyn std::error::Error, "the catalog that came last is used");
        }
        configured.serial.remember(current.catalog.serial)?;
        Ok(current)
    }

    /// The same for somebody who only looks: a server that is silent is not waited for.
    async fn looked_at(&self) -> Result<(Current, Option<String>), Cause> {
        let Ok(current) = tokio::time::timeout(LOOK_TIMEOUT, self.current()).await else {
            return self.last();
        };
        let current = current?;
        let why = match &current.freshness {
            Freshness::Kept { why: Some(why), .. } => Some(wire::api::chain(why)),
            Freshness::Kept { why: None, .. } | Freshness::Fetched | Freshness::Embedded => None,
        };
        Ok((current, why))
    }

    /// The catalog that came last, now that the server is silent.
    fn last(&self) -> Result<(Current, Option<String>), Cause> {
        let why = format!("its server says nothing for {} s", LOOK_TIMEOUT.as_secs());
        let last = match &self.configured {
            Some(configured) => self.client(configured)?.last(configured.serial.read()?),
            None => Some(Current::embedded()),
        };
        match last {
            Some(current) => Ok((current, Some(why))),
            None => {
                let source = self.configured.as_ref().map(|it| it.site.source().to_string()).unwrap_or_default();
                let message = format!("cannot fetch the catalog from {source}: {why}");
                Err(crate::ops::failure::refused(ErrorCode::OperationFailed, message).retryable())
            }
        }
    }

    async fn available(&self, all: impl Fn(&catalog::Catalog) -> Vec<AvailableEntry>) -> Result<Available, Cause> {
        let (current, why) = self.looked_at().await?;
        let kept_for_ms = match current.freshness {
            Freshness::Kept { age, .. } => Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            Freshness::Fetched | Freshness::Embedded => None,
        };
        let mut entries = all(&current.catalog);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Available {
            catalog: self.configured.as_ref().map(|configured| configured.site.source().to_string()),
            serial: current.catalog.serial,
            kept_for_ms,
            why,
            entries,
        })
    }

    /// Brings the file of an entry into the cache.
    async fn pull(&self, artifact: &Artifact, progress: OnProgress<'_>) -> Result<Pin, Cause> {
        let Some(configured) = &self.configured else {
            // Nothing is listed then.
            return Err(crate::ops::failure::refused(ErrorCode::NotFound, "no catalog is configured"));
        };
        let gauge = Gauge::new(progress);
        let pulled = self.client(configured)?.pull(artifact, &self.blobs()?, &gauge).await;
        pulled.map_err(|error| pull_failed(&error))
    }
}

/// The image of a bundle that comes as a stream, and what it calls itself. The bundle is in the filesystem of `cache`
/// meanwhile, in a file without a name.
///
/// # Errors
/// When it cannot be read or kept, is no image's, or is hostile.
pub(super) async fn arrived(archive: &mut Archive, cache: &Path) -> Result<(Box<dyn Fetched>, String), Cause> {
    let failed = |error: std::io::Error| failed(ErrorCode::OperationFailed, &error, None);
    sys::fs::create_private_dir(cache)?;
    let spool = tempfile::tempfile_in(cache).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(spool);
    let mut hasher = Sha256::new();
    while let Some(piece) = archive.next().await {
        let piece = piece.map_err(failed)?;
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let (file, digest) = (file.into_std().await, Digest::finish(hasher));
    let (image, name) = crate::ops::world::blocking(move || BundledImage::of_stream(file, digest)).await?;
    Ok((Box::new(image), name))
}

/// What is to be said of a catalog that is not the newest.
fn warning(current: &Current) -> Option<String> {
    match &current.freshness {
        Freshness::Kept { age, why: Some(why) } => {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let age = wire::duration::human(age_ms);
            Some(format!("the catalog is the one of {age} ago, for there is no newer one: {}", wire::api::chain(why)))
        }
        Freshness::Kept { why: None, .. } | Freshness::Fetched | Freshness::Embedded => None,
    }
}

fn fetch_failed(error: &FetchError) -> Cause {
    let (code, hint) = match error {
        FetchError::NoEntry { kind, .. } => {
            (ErrorCode::NotFound, Some(format!("banger {kind} list --available shows what there is")))
        }
        FetchError::NotConfigured { .. } => {
            let hint =
                "set [catalog] in config.toml: its source, and the keys that sign it; there is no public one yet";
            (ErrorCode::NotFound, Some(hint.to_owned()))
        }
        other => (ErrorCode::OperationFailed, other.hint()),
    };
    failed(code, error, hint.as_deref())
}

fn pull_failed(error: &PullError) -> Cause {
    failed(ErrorCode::OperationFailed, error, error.hint().as_deref())
}

#[async_trait]
impl Catalogs for Shelf {
    async fn has_image(&self, name: &str) -> Result<bool, Cause> {
        if self.configured.is_none() {
            return Ok(false);
        }
        let (current, _) = self.looked_at().await?;
        Ok(current.catalog.image(name, Architecture::host()).is_some())
    }

    async fn images(&self) -> Result<Available, Cause> {
        let here = Architecture::host();
        self.available(|catalog| {
            let entries = catalog.images.iter().filter(|entry| entry.arch.is_for(here));
            let entry = |entry: &catalog::ImageEntry| AvailableEntry {
                name: entry.name.to_string(),
                distro: entry.distro.to_string(),
                arch: entry.arch.processor().to_owned(),
                version: None,
                kernel_ref: entry.kernel_ref.as_ref().map(ToString::to_string),
                digest: entry.artifact.sha256.to_string(),
                size: entry.artifact.size,
                description: entry.description.clone(),
                is_here: false,
            };
            entries.map(entry).collect()
        })
        .await
    }

    async fn kernels(&self) -> Result<Available, Cause> {
        let here = Architecture::host();
        self.available(|catalog| {
            let entries = catalog.kernels.iter().filter(|entry| entry.arch.is_for(here));
            let entry = |entry: &catalog::KernelEntry| AvailableEntry {
                name: entry.name.to_string(),
                distro: entry.distro.to_string(),
                arch: entry.arch.processor().to_owned(),
                version: Some(entry.version.to_string()),
                kernel_ref: None,
                digest: entry.artifact.sha256.to_string(),
                size: entry.artifact.size,
                description: entry.description.clone(),
                is_here: false,
            };
            entries.map(entry).collect()
        })
        .await
    }

    async fn image(&self, name: &str, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause> {
        progress(crate::model::progress::Progress::Stage("read catalog".into()));
        let current = self.current().await?;
        let entry = current.image(name, Architecture::host()).map_err(|error| fetch_failed(&error))?;
        let pin = self.pull(&entry.artifact, progress).await?;
        Ok(Box::new(BundledImage::of_catalog(entry, pin, warning(&current))))
    }

    async fn bundle(&self, path: &Path, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause> {
        let packed = Packed::file(path, progress).await?;
        Ok(Box::new(BundledImage::of_file(path, packed)))
    }

    async fn kernel(&self, name: &str, progress: OnProgress<'_>) -> Result<Box<dyn FetchedKernel>, Cause> {
        progress(crate::model::progress::Progress::Stage("read catalog".into()));
        let current = self.current().await?;
        let entry = current.kernel(name, Architecture::host()).map_err(|error| fetch_failed(&error))?;
        let pin = self.pull(&entry.artifact, progress).await?;
        Ok(Box::new(BundledKernel::new(entry, pin, warning(&current))))
    }
}
