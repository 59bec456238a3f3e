//! The [`Puller`] of real things: registries, archives and the cache of what came from them.

mod arriving;
mod gauge;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use oci::archive::Format;
use oci::source::Choice;
use oci::{Blobs, Options, PullError, Pulled, Source};
use wire::api::{ErrorCode, SaveFormat};
use wire::id::OpId;

use super::failed;

use crate::image::layers::{self, LayersError, Limits};
use crate::model::image::{ExecSettings, ImageManifest, Origin};
use crate::model::progress::{OnProgress, Watcher};
use crate::ops::failure::refused;
use crate::ops::puller::{Archive, Fetched, Puller};
use crate::saga::Cause;
use gauge::Gauge;

/// Brings images of others.
pub struct Registries {
    options: Options,
    cache: PathBuf,
    /// What came as an archive, until it is fetched.
    loaded: Mutex<HashMap<String, Box<dyn Fetched>>>,
}

/// What the source of an image that was loaded begins with.
const LOADED: &str = "loaded:";

impl Registries {
    /// Fetches as `options` say into the directory `cache`, which is made with the first image.
    #[must_use]
    pub fn new(options: Options, cache: PathBuf) -> Registries {
        Registries { options, cache, loaded: Mutex::default() }
    }

    /// Keeps what was loaded until it is fetched, by the source that is given back.
    fn keep(&self, image: Box<dyn Fetched>) -> String {
        let source = format!("{LOADED}{}", OpId::from_random(sys::rand::bytes()));
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(source.clone(), image);
        source
    }

    fn blobs(&self) -> Result<Blobs, Cause> {
        Blobs::open(&self.cache).map_err(|error| failed(ErrorCode::OperationFailed, &error, None))
    }
}

fn source_of(text: &str) -> Result<Source, Cause> {
    let source: Source = text.parse().map_err(|error| failed(ErrorCode::BadRequest, &error, None))?;
    let path = match &source {
        Source::DockerArchive { path, .. } | Source::OciArchive { path, .. } | Source::OciLayout { path, .. } => path,
        Source::Registry(_) | Source::DockerDaemon(_) => return Ok(source),
    };
    if !path.is_absolute() {
        return Err(refused(ErrorCode::BadRequest, format!("{} must be an absolute path", path.display())));
    }
    Ok(source)
}

fn pull_failed(error: &PullError) -> Cause {
    let code = match error {
        PullError::Registry { source, .. } if source.is_ours() => ErrorCode::BadRequest,
        PullError::Unusable { .. } | PullError::Packing { .. } => ErrorCode::Unsupported,
        _ => ErrorCode::OperationFailed,
    };
    // What is pulled has been said.
    let cause: &(dyn std::error::Error + 'static) = match error {
        PullError::Registry { source, .. } => source.as_ref(),
        _ => error,
    };
    failed(code, cause, error.hint().as_deref())
}

fn flatten_failed(error: &LayersError) -> Cause {
    failed(ErrorCode::OperationFailed, error, None)
}

#[async_trait]
impl Puller for Registries {
    fn check_source(&self, source: &str) -> Result<String, Cause> {
        if source.starts_with(LOADED) {
            return Ok("loaded".to_owned());
        }
        Ok(match source_of(source)? {
            Source::Registry(reference) | Source::DockerDaemon(reference) => reference.familiar(),
            other => other.default_name(),
        })
    }

    async fn fetch(&self, source: &str, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause> {
        if source.starts_with(LOADED) {
            let taken = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
            let gone = || {
                let message = "the archive went with the daemon that had it";
                refused(ErrorCode::OperationFailed, message).with_hint("load it once more")
            };
            return taken.ok_or_else(gone);
        }
        let source = source_of(source)?;
        let gauge = Gauge::new(progress);
        let pulled = oci::pull(&source, &self.options, &self.blobs()?, &gauge).await;
        Ok(Box::new(Image::new(source.to_string(), pulled.map_err(|error| pull_failed(&error))?)))
    }

    async fn load(&self, archive: &mut Archive) -> Result<(String, Option<String>), Cause> {
        let unread = |error: io::Error| failed(ErrorCode::OperationFailed, &error, None);
        if arriving::is_bundle(archive).await.map_err(unread)? {
            let (image, name) = super::catalogs::arrived(archive, &self.cache).await?;
            return Ok((self.keep(image), Some(name)));
        }
        let (inlet, outlet) = oci::archive::pipe();
        let blobs = self.blobs()?;
        let loading = oci::load(outlet, Format::Any, &Choice::Only, &self.options, &blobs, &());
        let feeding = async move {
            while let Some(piece) = archive.next().await {
                if !inlet.put(piece).await {
                    break;
                }
            }
        };
        let mut loading = std::pin::pin!(loading);
        let loaded = tokio::select! {
            loaded = &mut loading => loaded,
            () = feeding => loading.await,
        };
        let pulled = loaded.map_err(|error| pull_failed(&error))?;
        let called = pulled.called.as_ref().map(oci::Reference::familiar);
        let reference = called.as_ref().map_or_else(|| "an archive".to_owned(), |name| format!("an archive of {name}"));
        Ok((self.keep(Box::new(Image::new(reference, pulled))), called))
    }

    fn save(
        &self,
        manifest: &ImageManifest,
        rootfs: &Path,
        format: SaveFormat,
        to: &mut dyn io::Write,
    ) -> Result<(), Cause> {
        super::save::save(manifest, rootfs, format, to, Watcher::none())
    }

    async fn prune(&self, kept: Vec<String>) -> Result<(u64, u64), Cause> {
        let kept: HashSet<oci::Digest> = kept.iter().filter_map(|digest| digest.parse().ok()).collect();
        let blobs = self.blobs()?;
        let freed = crate::ops::world::blocking(move || {
            blobs.prune(&kept).map_err(|error| failed(ErrorCode::OperationFailed, &error, None))
        });
        let freed = freed.await?;
        Ok((freed.count, freed.bytes))
    }
}

/// An image in the cache.
struct Image {
    origin: Origin,
    pulled: Pulled,
}

impl Image {
    fn new(reference: String, pulled: Pulled) -> Image {
        let mut blobs: Vec<String> = pulled.digests().map(|digest| digest.to_string()).collect();
        blobs.sort_unstable();
        blobs.dedup();
        let origin = Origin {
            reference,
            target: pulled.target.to_string(),
            manifest: pulled.manifest.to_string(),
            config: pulled.config_digest.to_string(),
            blobs,
            kernel_ref: None,
        };
        Image { origin, pulled }
    }
}

/// What commands begin with, as the configuration says.
fn exec_of(config: &oci::Config) -> ExecSettings {
    let pairs = config.env.iter().filter_map(|pair| pair.split_once('='));
    let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    ExecSettings {
        env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        user: said(&config.user),
        workdir: said(&config.working_dir),
    }
}

impl Fetched for Image {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn flatten(&self, staging: &Path, watcher: Watcher<'_>) -> Result<ImageManifest, Cause> {
        let flattened = layers::flatten(&self.pulled.layers, &staging.join("rootfs.ext4"), Limits::default(), watcher);
        let rootfs = flattened.map_err(|error| flatten_failed(&error))?;
        let config = &self.pulled.config;
        Ok(ImageManifest {
            name: String::new(),
            variant: None,
            digest: rootfs.sha256,
            bytes: rootfs.bytes,
            content_bytes: rootfs.content_bytes,
            entries: rootfs.entries,
            packages: rootfs.packages,
            recipe_sha256: None,
            source: self.origin.reference.clone(),
            init: rootfs.init,
            arch: config.architecture.clone(),
            exec: exec_of(config),
            command: config.entrypoint.iter().chain(&config.cmd).cloned().collect(),
            origin: Some(self.origin.clone()),
            linked: None,
        })
    }
}
