//! A catalog, fetched or as it was last time; its files, into the cache of blobs.
//!
//! ```text
//! refresh: catalog.json ─► catalog.json.sig ─► signed by somebody trusted? ─► serial not lower? ─► kept ─► Current
//!               └──────────────────┴──────────────────────┴─ no ───────────────────┴─► what was kept, proven again
//! pull:    file ─► hashed as it comes ─► size, sha256 as the catalog says ─► a pinned blob
//! ```

mod directory;
mod error;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::blobs::Pin;
use oci::registry::RegistryError;
use oci::{Architecture, Blobs, Options, Progress, Web};
use sys::fs::FsError;

use crate::document::{Artifact, CATALOG_BYTES_MAX, Catalog, ImageEntry, KernelEntry};
use crate::embedded::embedded;
use crate::kept::{self, Kept};
use crate::signature::{SIGNATURE_BYTES_MAX, SignatureError, Signatures};
use crate::source::{CATALOG_FILE, SIGNATURE_FILE, Site, Source, Trust};
pub use error::{FetchError, PullError};

/// Who asks one catalog.
#[derive(Debug)]
pub struct Client {
    site: Site,
    web: Web,
    kept: PathBuf,
}

/// A catalog that may be used.
#[derive(Debug)]
pub struct Current {
    /// What it lists. Its serial number is to be remembered.
    pub catalog: Catalog,
    /// How new it is.
    pub freshness: Freshness,
}

/// How new a catalog is.
#[derive(Debug)]
pub enum Freshness {
    /// It came just now.
    Fetched,
    /// It is the one that came last, since there is no other.
    Kept {
        /// How long ago that was.
        age: Duration,
        /// Why there is no other.
        why: Option<FetchError>,
    },
    /// It is part of the program.
    Embedded,
}

impl Current {
    /// What whoever has set no catalog has.
    #[must_use]
    pub fn embedded() -> Current {
        Current { catalog: embedded(), freshness: Freshness::Embedded }
    }

    /// The image of this name for this processor.
    ///
    /// # Errors
    /// When there is none, or no catalog.
    pub fn image(&self, name: &str, architecture: Architecture) -> Result<&ImageEntry, FetchError> {
        self.catalog.image(name, architecture).ok_or_else(|| self.missing("image", name, architecture))
    }

    /// The kernel of this name for this processor.
    ///
    /// # Errors
    /// When there is none, or no catalog.
    pub fn kernel(&self, name: &str, architecture: Architecture) -> Result<&KernelEntry, FetchError> {
        self.catalog.kernel(name, architecture).ok_or_else(|| self.missing("kernel", name, architecture))
    }

    fn missing(&self, kind: &'static str, name: &str, architecture: Architecture) -> FetchError {
        let name = name.chars().take(100).collect();
        match self.freshness {
            Freshness::Embedded => FetchError::NotConfigured { kind, name },
            Freshness::Fetched | Freshness::Kept { .. } => FetchError::NoEntry { kind, name, architecture },
        }
    }
}

impl Client {
    /// A client of this site; copies of its catalog are kept below `kept`. Of the options, patience, proxies and
    /// authorities are followed.
    ///
    /// # Errors
    /// When a proxy or an authority is malformed.
    pub fn new(site: Site, options: &Options, kept: &Path) -> Result<Client, FetchError> {
        let failed = |source| FetchError::SetUp { site: site.source().to_string(), source: Box::new(source) };
        let web = Web::new(options).map_err(failed)?;
        let kept = kept::path(kept, site.source());
        Ok(Client { site, web, kept })
    }

    /// The catalog as it is now. Where it cannot be had, the one that came last, if it is still trusted. `last_serial` is the
    /// highest serial number that was ever accepted from this site; 0 at first.
    ///
    /// # Errors
    /// When it cannot be had or is not believed, and there is no other.
    pub async fn refresh(&self, last_serial: u64) -> Result<Current, FetchError> {
        let (path, source) = (self.kept.clone(), self.site.source().clone());
        let read = tokio::task::spawn_blocking(move || Kept::read(&path, &source)).await;
        let kept = read.ok().flatten().and_then(|kept| self.believed(&kept, last_serial));
        let last = kept.as_ref().map_or(last_serial, |(catalog, _)| last_serial.max(catalog.serial));
        match self.fetch(last).await {
            Ok(catalog) => Ok(Current { catalog, freshness: Freshness::Fetched }),
            Err(why) => match kept {
                Some((catalog, age)) => Ok(Current { catalog, freshness: Freshness::Kept { age, why: Some(why) } }),
                None => Err(why),
            },
        }
    }

    /// The catalog that came last, without asking anybody for a newer one; none, or one that is not trusted any more, is
    /// nothing.
    #[must_use]
    pub fn last(&self, last_serial: u64) -> Option<Current> {
        let kept = Kept::read(&self.kept, self.site.source())?;
        let (catalog, age) = self.believed(&kept, last_serial)?;
        Some(Current { catalog, freshness: Freshness::Kept { age, why: None } })
    }

    /// A file of the catalog, from the cache or the site. Who asks for it while it is being fetched waits for that.
    ///
    /// # Errors
    /// When it cannot be had, is not what the catalog says, or cannot be kept.
    pub async fn pull(&self, artifact: &Artifact, blobs: &Blobs, progress: &dyn Progress) -> Result<Pin, PullError> {
        let file = &artifact.file;
        match self.site.source() {
            Source::Web { base, .. } => {
                let url = format!("{base}{file}");
                let pin = self.web.file(&url, file, artifact.sha256, artifact.size, blobs, progress).await;
                pin.map_err(|source| PullError::Get {
                    file: file.clone(),
                    site: base.clone(),
                    source: Box::new(source),
                })
            }
            Source::Directory(directory) => directory::copy(&directory.join(file), artifact, blobs, progress).await,
        }
    }

    async fn fetch(&self, last: u64) -> Result<Catalog, FetchError> {
        match self.try_fetch(last).await {
            // Somebody may have published more than once in between.
            Err(FetchError::Signature { source: SignatureError::Another, .. }) => self.try_fetch(last).await,
            ended => ended,
        }
    }

    async fn try_fetch(&self, last: u64) -> Result<Catalog, FetchError> {
        let bytes = self.document(CATALOG_FILE, CATALOG_BYTES_MAX).await?;
        let signatures = match self.site.trust() {
            Trust::None => None,
            Trust::Keys(_) => Some(self.document(SIGNATURE_FILE, SIGNATURE_BYTES_MAX).await.map_err(|error| {
                if is_missing(&error) { FetchError::Unsigned { site: self.shown() } } else { error }
            })?),
        };
        let catalog = self.check(&bytes, signatures.as_deref(), last)?;
        // Both are text by now.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let kept = Kept {
            source: self.shown(),
            fetched_ms: sys::clock::unix_ms(),
            catalog: text(bytes),
            signatures: signatures.map(text),
        };
        if let Err(error) = self.keep(kept).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the catalog is not kept for later");
        }
        Ok(catalog)
    }

    /// Believes a catalog, or not.
    fn check(&self, bytes: &[u8], signatures: Option<&[u8]>, last: u64) -> Result<Catalog, FetchError> {
        if let Trust::Keys(keys) = self.site.trust() {
            let signatures = signatures.ok_or_else(|| FetchError::Unsigned { site: self.shown() })?;
            let checked = Signatures::parse(signatures).and_then(|all| all.check(bytes, keys).map(drop));
            checked.map_err(|source| FetchError::Signature { site: self.shown(), source })?;
        }
        let catalog = Catalog::parse(bytes).map_err(|source| FetchError::Catalog { site: self.shown(), source })?;
        if catalog.serial < last {
            return Err(FetchError::Rollback { site: self.shown(), serial: catalog.serial, last });
        }
        Ok(catalog)
    }

    /// A copy, if it is still believed, and how old it is.
    fn believed(&self, kept: &Kept, last_serial: u64) -> Option<(Catalog, Duration)> {
        let signatures = kept.signatures.as_deref().map(str::as_bytes);
        match self.check(kept.catalog.as_bytes(), signatures, last_serial) {
            Ok(catalog) => {
                let age_ms = sys::clock::unix_ms().saturating_sub(kept.fetched_ms);
                Some((catalog, Duration::from_millis(age_ms)))
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the catalog that was kept is not used");
                None
            }
        }
    }

    async fn keep(&self, kept: Kept) -> Result<(), FsError> {
        let path = self.kept.clone();
        let written = tokio::task::spawn_blocking(move || kept.write(&path)).await;
        written.unwrap_or(Ok(()))
    }

    /// One of the two documents.
    async fn document(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        match self.site.source() {
            Source::Web { base, .. } => {
                let got = self.web.document(&format!("{base}{name}"), name, limit_bytes).await;
                got.map_err(|source| FetchError::Get { site: self.shown(), source: Box::new(source) })
            }
            Source::Directory(directory) => {
                let path = directory.join(name);
                directory::read(&path, limit_bytes).await.map_err(|source| FetchError::Read { path, source })
            }
        }
    }

    fn shown(&self) -> String {
        self.site.source().to_string()
    }
}

fn is_missing(error: &FetchError) -> bool {
    match error {
        FetchError::Get { source, .. } => matches!(**source, RegistryError::NotFound { .. }),
        FetchError::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
