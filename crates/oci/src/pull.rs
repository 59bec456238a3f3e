//! An image, from wherever it is, into the cache.
//!
//! | source | how |
//! |---|---|
//! | registry | manifest, configuration, then the layers, some at once |
//! | archive, pipe | one pass through the stream, then what is needed of it |
//! | layout | copied, hashed on the way |
//! | Docker daemon | the archive that it makes |
//!
//! Whatever it was, the same is checked at the end: the platform, a `diff_id` a layer, a packing that can be read. A layer
//! that is not packed is compared with its `diff_id`; of the others, who unpacks them does.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::archive::reading::{Gauge, Gauged};
use crate::archive::{self, ArchiveError, Format, Unpacked};
use crate::blobs::{BlobError, Blobs, Pin, off_thread};
use crate::config::Config;
use crate::digest::Digest;
use crate::docker_daemon::{self, DockerDaemonError};
use crate::manifest::{CONFIG_BYTES_MAX, Compression, Descriptor, Manifest, ManifestError};
use crate::options::Options;
use crate::progress::{LayerState, Progress};
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};
use crate::source::{Choice, Source};

/// An image in the cache. As long as this lives, nobody prunes its parts.
#[derive(Debug)]
pub struct Pulled {
    /// What it is called where it comes from: as it was asked for, or as its archive says.
    pub called: Option<Reference>,
    /// What the reference led to: an index, or the manifest itself.
    pub target: Digest,
    /// The manifest for this machine.
    pub manifest: Digest,
    /// The digest of the configuration, which Docker calls the image's id.
    pub config_digest: Digest,
    /// The configuration.
    pub config: Config,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
    pins: Vec<Pin>,
}

/// A layer in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its file.
    pub digest: Digest,
    /// The digest of its tar stream, uncompressed, as the configuration promises it. Whoever unpacks it compares.
    pub diff_id: Digest,
    /// How its file is packed, as its bytes show.
    pub compression: Compression,
    /// The length of its file.
    pub size: u64,
    /// Its file. It is only read.
    pub path: PathBuf,
}

/// An image that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A registry does not give it.
    #[error("cannot pull {image}")]
    Registry {
        /// Which.
        image: String,
        /// Why not.
        #[source]
        source: Box<RegistryError>,
    },
    /// An archive or a layout does not hold it.
    #[error("cannot take an image from {from}")]
    Archive {
        /// Which.
        from: String,
        /// Why not.
        #[source]
        source: ArchiveError,
    },
    /// The Docker daemon does not give it.
    #[error("cannot take {image} from the Docker daemon")]
    DockerDaemon {
        /// Which.
        image: String,
        /// Why not.
        #[source]
        source: DockerDaemonError,
    },
    /// Its parts contradict each other, or this machine.
    #[error("cannot use {image}")]
    Unusable {
        /// Which.
        image: String,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// A layer is not what the image's configuration promises.
    #[error("layer {digest} of {image} is not packed, and is not {diff_id} as the configuration says")]
    DiffId {
        /// Whose.
        image: String,
        /// Which.
        digest: Digest,
        /// What it should be.
        diff_id: Digest,
    },
    /// A layer is packed in a way that is not read.
    #[error("layer {digest} of {image} is compressed with {format}, which banger does not read")]
    Packing {
        /// Whose.
        image: String,
        /// Which.
        digest: Digest,
        /// How.
        format: &'static str,
    },
    /// The cache fails.
    #[error("cannot use the cache for {image}")]
    Cache {
        /// For what.
        image: String,
        /// Why not.
        #[source]
        source: BlobError,
    },
}

impl PullError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PullError::Registry { source, .. } => source.hint(),
            PullError::Archive { source, .. } => source.hint(),
            PullError::DockerDaemon { source, .. } => source.hint(),
            PullError::Unusable { .. } | PullError::DiffId { .. } | PullError::Packing { .. } => None,
            PullError::Cache { source, .. } => {
                source.is_full().then(|| "make room, for instance by pruning images".to_owned())
            }
        }
    }
}

impl Pulled {
    /// Everything in the cache that belongs to it: what [`Blobs::prune`] is told to keep.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.pins.iter().map(|pin| pin.digest)
    }
}

/// Has an image in the cache.
///
/// # Errors
/// When it cannot be had, is not what it says, or is for another machine.
pub async fn pull(
    source: &Source,
    options: &Options,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let from = source.to_string();
    match source {
        Source::Registry(image) => from_registry(image, options, blobs, progress).await,
        Source::DockerArchive { path, choice } => {
            from_file(path, Format::Docker, choice, options, blobs, progress).await
        }
        Source::OciArchive { path, choice } => from_file(path, Format::Oci, choice, options, blobs, progress).await,
        Source::OciLayout { path, choice } => {
            let (path, choice, its_options, its_blobs) = (path.clone(), choice.clone(), options.clone(), blobs.clone());
            let copy = move |gauge| archive::copy(&path, gauge, &choice, &its_options, &its_blobs);
            let copied = gauged(None, progress, copy).await;
            let unpacked = copied.map_err(|source| PullError::Archive { from: from.clone(), source })?;
            finish(from, unpacked, options, progress).await
        }
        Source::DockerDaemon(image) => {
            let failed = |source| PullError::DockerDaemon { image: image.to_string(), source };
            let (outlet, feeding) = docker_daemon::save(image, options).await.map_err(failed)?;
            let loading = load(outlet, Format::Docker, &Choice::Only, options, blobs, progress);
            let mut loading = std::pin::pin!(loading);
            tokio::select! {
                loaded = &mut loading => loaded,
                () = feeding => loading.await,
            }
        }
    }
}

/// Has the image of an archive that comes through a pipe, `docker save | …`, in the cache.
///
/// # Errors
/// When it holds none, is not what it says, or is hostile.
pub async fn load(
    stream: impl Read + Send + 'static,
    format: Format,
    choice: &Choice,
    options: &Options,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let from = "the archive".to_owned();
    let unpacked = unpack(stream, None, format, choice, options, blobs, progress).await;
    let unpacked = unpacked.map_err(|source| PullError::Archive { from: from.clone(), source })?;
    finish(from, unpacked, options, progress).await
}

async fn from_file(
    path: &Path,
    format: Format,
    choice: &Choice,
    options: &Options,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let from = path.display().to_string();
    let failed = |source| PullError::Archive { from: from.clone(), source };
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (total, file) = opened.map_err(|source| failed(ArchiveError::Open { path: from.clone(), source }))?;
    let unpacked = unpack(file, Some(total), format, choice, options, blobs, progress).await.map_err(failed)?;
    finish(from, unpacked, options, progress).await
}

/// Takes an image from an archive.
async fn unpack(
    stream: impl Read + Send + 'static,
    total_bytes: Option<u64>,
    format: Format,
    choice: &Choice,
    options: &Options,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Unpacked, ArchiveError> {
    let (choice, options, blobs) = (choice.clone(), options.clone(), blobs.clone());
    let unpack = move |gauge| archive::unpack(Gauged { inner: stream, gauge }, format, &choice, &options, &blobs);
    gauged(total_bytes, progress, unpack).await
}

/// Does the work in a thread, and tells how far it is.
async fn gauged(
    total_bytes: Option<u64>,
    progress: &dyn Progress,
    work: impl FnOnce(Gauge) -> Result<Unpacked, ArchiveError> + Send + 'static,
) -> Result<Unpacked, ArchiveError> {
    let (gauge, mut read) = Gauge::new();
    let working = tokio::task::spawn_blocking(move || work(gauge));
    // It ends with the gauge, which the thread drops.
    while read.changed().await.is_ok() {
        progress.archive(*read.borrow_and_update(), total_bytes);
    }
    working.await.expect("reading an archive does not panic, and nobody aborts it")
}

async fn from_registry(
    image: &Reference,
    options: &Options,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let name = image.to_string();
    let failed = |source| PullError::Registry { image: name.clone(), source: Box::new(source) };
    let registry = Registry::new(options).map_err(failed)?;
    let found = registry.find(image, blobs).await.map_err(failed)?;
    let (endpoints, manifest) = (&found.endpoints, &found.manifest);
    let config_pin = registry.blob(endpoints, image, &manifest.config, blobs, &()).await.map_err(failed)?;
    let cache = |source| PullError::Cache { image: name.clone(), source };
    let config = config_pin.read(CONFIG_BYTES_MAX).map_err(cache)?;
    // Nothing large is fetched for an image that cannot be used.
    let usable = check(manifest, &config, options);
    usable.map_err(|source| PullError::Unusable { image: name.clone(), source })?;
    progress.layers(&manifest.layers);
    let mut seen = HashSet::new();
    let distinct: Vec<&Descriptor> = manifest.layers.iter().filter(|layer| seen.insert(layer.digest)).collect();
    // A loop, for the compiler does not see that the future of a closure over references may go to another thread.
    let mut fetching = Vec::new();
    for layer in distinct {
        fetching.push(registry.blob(endpoints, image, layer, blobs, progress));
    }
    let fetched: Vec<Pin> =
        stream::iter(fetching).buffer_unordered(options.parallel.max(1)).try_collect().await.map_err(failed)?;
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        let pin = blobs.pin(&layer.digest).map_err(cache)?;
        layers.push(pin.ok_or(BlobError::Gone { digest: layer.digest }).map_err(cache)?);
    }
    drop(fetched);
    let mut pins = found.pins;
    pins.push(config_pin);
    let called = Some(image.clone());
    let unpacked = Unpacked { called, target: found.target, manifest: found.manifest, config, pins, layers };
    assemble(name, unpacked, options).await
}

/// The configuration, if manifest and configuration belong together and to this machine.
fn check(manifest: &Manifest, config: &[u8], options: &Options) -> Result<Config, ManifestError> {
    let config = Config::parse(config)?;
    config.check_platform(options.architecture)?;
    let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
    if layers == diff_ids { Ok(config) } else { Err(ManifestError::LayerCount { layers, diff_ids }) }
}

/// Tells of the layers of an image that came at once.
async fn finish(
    from: String,
    unpacked: Unpacked,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    progress.layers(&unpacked.manifest.layers);
    let pulled = assemble(from, unpacked, options).await?;
    for layer in &pulled.layers {
        progress.layer(&layer.digest, LayerState::Done);
    }
    Ok(pulled)
}

/// Looks at the whole, once all of it is here.
async fn assemble(image: String, unpacked: Unpacked, options: &Options) -> Result<Pulled, PullError> {
    let Unpacked { called, target, manifest, config, mut pins, layers: layer_pins } = unpacked;
    let config = check(&manifest, &config, options);
    let config = config.map_err(|source| PullError::Unusable { image: image.clone(), source })?;
    let heads = off_thread(move || {
        let heads = layer_pins.iter().map(Pin::head).collect::<Result<Vec<_>, _>>()?;
        Ok((layer_pins, heads))
    });
    let (layer_pins, heads) = heads.await.map_err(|source| PullError::Cache { image: image.clone(), source })?;
    let mut layers = Vec::new();
    for ((pin, head), diff_id) in layer_pins.iter().zip(&heads).zip(&config.diff_ids) {
        let (digest, diff_id) = (pin.digest, *diff_id);
        let packing = |format| PullError::Packing { image: image.clone(), digest, format };
        let compression = Compression::sniff(head).map_err(packing)?;
        if compression == Compression::None && digest != diff_id {
            return Err(PullError::DiffId { image, digest, diff_id });
        }
        layers.push(Layer { digest, diff_id, compression, size: pin.size, path: pin.path.clone() });
    }
    // The configuration is the last of what leads to the layers, the manifest the one before.
    let manifest_digest = pins[pins.len() - 2].digest;
    pins.extend(layer_pins);
    let config_digest = manifest.config.digest;
    Ok(Pulled { called, target, manifest: manifest_digest, config_digest, config, layers, pins })
}
