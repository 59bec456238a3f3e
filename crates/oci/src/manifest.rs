//! Manifests and indexes, of OCI and of Docker's schema 2, as far as they describe an image for a machine.
//!
//! ```text
//! index    ──► manifest, one a platform (or another index)
//! manifest ──► configuration, layers
//! ```
//!
//! A document is what its `mediaType` says, else what the registry said, else what its fields show. One that could be read
//! as either kind is refused: two readers of the same digest must not see two images.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The largest manifest or index that is read: the limit of Docker's registry and of containerd.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest configuration that is read. Real ones have a few KiB; a long history makes some hundred.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Layers of one image. Docker's own limit is 127.
pub const LAYERS_MAX: usize = 500;
/// Manifests of one index; the largest official ones have some 20, with as many attestations.
const MANIFESTS_MAX: usize = 1000;

/// An OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What layers of either kind begin with; how they are compressed stands behind it.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A processor that guests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// This machine's.
    #[must_use]
    pub const fn host() -> Architecture {
        if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 }
    }

    /// As images spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }

    /// Which of several variants to take first: the baseline, then what may ask for more than this machine has.
    fn rank(self, variant: Option<&str>) -> u8 {
        match (self, variant) {
            (_, None | Some("")) | (Architecture::Amd64, Some("v1")) | (Architecture::Arm64, Some("v8")) => 0,
            (Architecture::Amd64 | Architecture::Arm64, Some(_)) => 1,
        }
    }
}

/// How a layer's tar stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Bytes of a blob's beginning that [`Compression::sniff`] wants to see.
    pub const HEAD_BYTES: usize = 6;

    /// What the first bytes of a blob show. Media types are wrong often enough that everybody looks.
    ///
    /// # Errors
    /// With the name of a format that is recognised and not read.
    pub fn sniff(head: &[u8]) -> Result<Compression, &'static str> {
        const READ: [(&[u8], Compression); 2] =
            [(b"\x1f\x8b", Compression::Gzip), (b"\x28\xb5\x2f\xfd", Compression::Zstd)];
        const REFUSED: [(&[u8], &str); 3] = [(b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x04\x22\x4d\x18", "lz4")];
        if let Some((_, name)) = REFUSED.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(name);
        }
        let read = READ.iter().find(|(magic, _)| head.starts_with(magic));
        Ok(read.map_or(Compression::None, |(_, compression)| *compression))
    }
}

/// A document that points at others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several manifests.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// One image: what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Several manifests, one a platform or one a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// In its order.
    pub manifests: Vec<Descriptor>,
}

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is said to be.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For which machine, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What somebody noted about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A machine, as an index describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The processor.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// Which kind of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest, an index or a configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of its kind.
    #[error("cannot read the manifest")]
    Parse(#[source] serde_json::Error),
    /// The configuration is not JSON of its kind.
    #[error("cannot read the image's configuration")]
    ParseConfig(#[source] serde_json::Error),
    /// Docker's first format: its layers are named, but not by what they hold.
    #[error("the manifest is of Docker's schema 1, which banger does not read")]
    Schema1,
    /// It could be an index and a manifest.
    #[error("the document is an index and a manifest at once")]
    Ambiguous,
    /// It is neither.
    #[error("{media_type:?} is neither a manifest nor an index")]
    UnknownDocument {
        /// What it is said to be.
        media_type: String,
    },
    /// A chart, a signature, a policy: registries hold more than images.
    #[error("it is no image: its configuration is of type {media_type:?}")]
    NotAnImage {
        /// What the configuration is said to be.
        media_type: String,
    },
    /// A layer that cannot be read.
    #[error("layer {digest} is of type {media_type:?}, which banger does not read")]
    UnknownLayer {
        /// Which.
        digest: Digest,
        /// What it is said to be.
        media_type: String,
    },
    /// More layers than an image has.
    #[error("the image has {count} layers, and at most {LAYERS_MAX} are read")]
    TooManyLayers {
        /// How many.
        count: usize,
    },
    /// More manifests than an index has.
    #[error("the index has {count} manifests, and at most {MANIFESTS_MAX} are read")]
    TooManyManifests {
        /// How many.
        count: usize,
    },
    /// Manifest and configuration contradict each other.
    #[error("the manifest has {layers} layers and the configuration {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// There is none for this machine.
    #[error("the image is not for linux/{wanted}, but for {}", list(.offered))]
    NoPlatform {
        /// This machine's processor.
        wanted: Architecture,
        /// What there is.
        offered: Vec<String>,
    },
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn list(offered: &[String]) -> String {
    if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index; `said` is the content type that the registry gave.
///
/// # Errors
/// When it is neither, is malformed, or describes no image.
pub fn parse(bytes: &[u8], said: Option<&str>) -> Result<Document, ManifestError> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Parse)?;
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err(ManifestError::Schema1);
    }
    let said = said.map(|said| said.split(';').next().unwrap_or(said).trim());
    let known = |kind: &&str| [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].contains(kind);
    let kind = raw.media_type.as_deref().or(said.filter(known));
    match (kind, raw.manifests, raw.config, raw.layers) {
        (_, Some(_), config, layers) if config.is_some() || layers.is_some() => Err(ManifestError::Ambiguous),
        (None | Some(OCI_INDEX | DOCKER_INDEX), Some(manifests), _, _) => index(manifests).map(Document::Index),
        (None | Some(OCI_MANIFEST | DOCKER_MANIFEST), None, Some(config), Some(layers)) => {
            manifest(config, layers).map(Document::Manifest)
        }
        (kind, ..) => Err(ManifestError::UnknownDocument { media_type: kind.unwrap_or_default().to_owned() }),
    }
}

fn index(manifests: Vec<Descriptor>) -> Result<Index, ManifestError> {
    match manifests.len() {
        count if count > MANIFESTS_MAX => Err(ManifestError::TooManyManifests { count }),
        _ => Ok(Index { manifests }),
    }
}

fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, ManifestError> {
    if ![OCI_CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str()) {
        return Err(ManifestError::NotAnImage { media_type: config.media_type });
    }
    if layers.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers { count: layers.len() });
    }
    if let Some(layer) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        return Err(ManifestError::UnknownLayer { digest: layer.digest, media_type: layer.media_type.clone() });
    }
    Ok(Manifest { config, layers })
}

fn is_layer(media_type: &str) -> bool {
    LAYERS
        .iter()
        .filter_map(|prefix| media_type.strip_prefix(prefix))
        .any(|packing| matches!(packing, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
}

impl Index {
    /// The manifest for this machine.
    ///
    /// # Errors
    /// When there is none; what there is instead is named.
    pub fn choose(&self, wanted: Architecture) -> Result<&Descriptor, ManifestError> {
        let platform_of = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => platform.os == "linux" && platform.architecture == wanted.name(),
            None => false,
        };
        let variant_of = |descriptor: &&Descriptor| {
            wanted.rank(descriptor.platform.as_ref().and_then(|platform| platform.variant.as_deref()))
        };
        // Whoever names no platform leaves it to the configuration.
        let unnamed = || self.manifests.iter().find(|descriptor| descriptor.platform.is_none());
        let chosen = self.manifests.iter().filter(platform_of).min_by_key(variant_of).or_else(unnamed);
        chosen.ok_or_else(|| ManifestError::NoPlatform { wanted, offered: self.offered() })
    }

    fn offered(&self) -> Vec<String> {
        let named = self.manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
        // Attestations are for the platform `unknown/unknown`.
        let real = named.filter(|platform| platform.os != "unknown");
        real.map(|platform| {
            let variant = platform.variant.iter().map(|variant| format!("/{variant}")).collect::<String>();
            format!("{}/{}{variant}", platform.os, platform.architecture)
        })
        .collect()
    }
}

impl Manifest {
    /// An OCI manifest of these parts, for sources that have none.
    ///
    /// # Panics
    /// Never: it is plain data.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Rendered<'a> {
            schema_version: u32,
            media_type: &'a str,
            config: &'a Descriptor,
            layers: &'a [Descriptor],
        }
        let rendered =
            Rendered { schema_version: 2, media_type: OCI_MANIFEST, config: &self.config, layers: &self.layers };
        serde_json::to_vec(&rendered).expect("numbers, text and lists of them")
    }
}

impl Descriptor {
    /// A pointer to content of this type.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: None }
    }

    /// A note on it.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// The media type of a layer.
#[must_use]
pub(crate) fn layer_type(compression: Compression) -> String {
    let packing = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    format!("{}{packing}", LAYERS[0])
}

#[cfg(test)]
mod tests;
