//! Images made by hand.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oci::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use oci::options::{Options, Patience};
use oci::{Architecture, Blobs, Digest, LayerState, Progress};
use serde_json::json;

/// The type of a layer that is not packed.
pub(crate) const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The type of a layer packed with gzip.
pub(crate) const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image and what it is made of.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    /// For this processor, with these layers, not packed.
    pub(crate) fn plain(architecture: &str, layers: &[&[u8]]) -> Image {
        let config = config(architecture, layers);
        Image::of(config, layers.iter().map(|layer| layer.to_vec()).collect(), PLAIN_LAYER)
    }

    /// For amd64, with these layers, packed with gzip.
    pub(crate) fn gzip(layers: &[&[u8]]) -> Image {
        Image::of(config("amd64", layers), layers.iter().map(|layer| gzip(layer)).collect(), GZIP_LAYER)
    }

    /// Of these parts.
    pub(crate) fn of(config: Vec<u8>, layers: Vec<Vec<u8>>, media_type: &str) -> Image {
        let descriptor =
            |media_type: &str, bytes: &[u8]| Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
        let manifest = Manifest {
            config: descriptor(OCI_CONFIG, &config),
            layers: layers.iter().map(|layer| descriptor(media_type, layer)).collect(),
        };
        let manifest = manifest.render();
        Image { config, layers, manifest }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

/// A configuration with the usual fields.
pub(crate) fn config(architecture: &str, layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let process = json!({"Env": ["A=b"], "WorkingDir": "/w", "User": "1:2", "Entrypoint": ["/e"], "Cmd": ["c"]});
    let value = json!({"architecture": architecture, "os": "linux", "config": process,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    serde_json::to_vec(&value).unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// An index of these images, each for its processor.
pub(crate) fn index(images: &[(&Image, &str)]) -> Vec<u8> {
    let manifests: Vec<_> = images
        .iter()
        .map(|(image, architecture)| {
            json!({"mediaType": OCI_MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
                "platform": {"os": "linux", "architecture": architecture}})
        })
        .collect();
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})).unwrap()
}

/// Bytes that no compression makes small, the same for the same seed.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

/// Options for tests: the pauses are short, the deadlines those of a busy machine.
pub(crate) fn options() -> Options {
    let patience =
        Patience { pause: Duration::from_millis(20), pause_max: Duration::from_secs(3), ..Patience::default() };
    Options { architecture: Architecture::Amd64, patience, ..Options::default() }
}

/// A cache of its own.
pub(crate) fn cache() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
    (dir, blobs)
}

/// Whether nothing is on its way in the cache.
pub(crate) fn is_quiet(cache: &Path) -> bool {
    std::fs::read_dir(cache.join("blobs/partial")).unwrap().next().is_none()
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Told {
    all: Mutex<Vec<String>>,
    /// The most bytes that one layer had.
    pub(crate) done_bytes: AtomicU64,
}

impl Told {
    pub(crate) fn all(&self) -> Vec<String> {
        self.all.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|told| told.contains(what)).count()
    }
}

impl Progress for Told {
    fn layers(&self, layers: &[Descriptor]) {
        self.all.lock().unwrap().push(format!("{} layers", layers.len()));
    }

    fn layer(&self, _: &Digest, state: LayerState<'_>) {
        if let LayerState::Coming { done_bytes, .. } = state {
            self.done_bytes.fetch_max(done_bytes, Ordering::SeqCst);
        }
        self.all.lock().unwrap().push(format!("{state:?}"));
    }

    fn archive(&self, done_bytes: u64, _: Option<u64>) {
        self.all.lock().unwrap().push(format!("archive {done_bytes}"));
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut shown = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        shown = format!("{shown}: {error}");
        source = error.source();
    }
    shown
}
