//! What `docker save` and its kin write: `manifest.json`, and what that names.

use serde::Deserialize;

use super::contents::Contents;
use super::{ArchiveError, Unpacked};
use crate::blobs::Blobs;
use crate::config::Config;
use crate::manifest::{
    CONFIG_BYTES_MAX, Compression, Descriptor, LAYERS_MAX, MANIFEST_BYTES_MAX, Manifest, ManifestError, OCI_CONFIG,
    layer_type,
};
use crate::reference::Reference;
use crate::source::Choice;

/// What tells which images there are.
pub(super) const MANIFEST: &str = "manifest.json";

/// One image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    pub(crate) config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Reads `manifest.json`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Image>, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Parse { entry: MANIFEST, source })
}

/// Takes one image from an archive.
pub(super) fn take(contents: &Contents, choice: &Choice, blobs: &Blobs) -> Result<Unpacked, ArchiveError> {
    let images = parse(&contents.document(MANIFEST, "the archive", MANIFEST_BYTES_MAX)?)?;
    let image = choose(&images, choice)?;
    let names = image.layers.as_deref().unwrap_or_default();
    if names.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers { count: names.len() }.into());
    }
    let config_file = contents.file(image.config.as_bytes(), MANIFEST)?;
    let config = config_file.read(&tree::shown(image.config.as_bytes()), CONFIG_BYTES_MAX)?;
    let diff_ids = Config::parse(&config)?.diff_ids;
    if diff_ids.len() != names.len() {
        return Err(ManifestError::LayerCount { layers: names.len(), diff_ids: diff_ids.len() }.into());
    }
    let mut layers = Vec::new();
    let mut descriptors = Vec::new();
    for (name, diff_id) in names.iter().zip(diff_ids) {
        let file = contents.file(name.as_bytes(), MANIFEST)?;
        let compression = compression(name, &file.head)?;
        if compression == Compression::None && file.digest != diff_id {
            return Err(ArchiveError::Mismatch { entry: tree::shown(name.as_bytes()), found: file.digest });
        }
        descriptors.push(Descriptor::new(&layer_type(compression), file.digest, file.size));
        layers.push(contents.publish(file, blobs)?);
    }
    let config_pin = contents.publish(config_file, blobs)?;
    // The archive has no manifest of the kind that has a digest; these parts make one, and always the same.
    let manifest =
        Manifest { config: Descriptor::new(OCI_CONFIG, config_file.digest, config_file.size), layers: descriptors };
    let manifest_pin = blobs.put(&manifest.render())?;
    let called = image.repo_tags.iter().flatten().find_map(|tag| tag.parse().ok());
    let (target, pins) = (manifest_pin.digest, vec![manifest_pin, config_pin]);
    Ok(Unpacked { called, target, manifest, config, pins, layers })
}

fn compression(name: &str, head: &[u8]) -> Result<Compression, ArchiveError> {
    let refused = |_| ArchiveError::Entry {
        entry: tree::shown(name.as_bytes()),
        why: "it is compressed otherwise than with gzip or zstd",
    };
    Compression::sniff(head).map_err(refused)
}

/// The image that was asked for.
pub(crate) fn choose<'a>(images: &'a [Image], choice: &Choice) -> Result<&'a Image, ArchiveError> {
    let tags = |image: &Image| image.repo_tags.clone().unwrap_or_default();
    let offered = || images.iter().flat_map(tags).collect::<Vec<_>>();
    let not_there = || ArchiveError::NotThere { wanted: choice.to_string(), offered: offered() };
    match choice {
        Choice::Only => match images {
            [] => Err(ArchiveError::NoImage),
            [only] => Ok(only),
            _ => Err(ArchiveError::Several { offered: offered() }),
        },
        Choice::At(place) => images.get(*place).ok_or_else(not_there),
        Choice::Named(wanted) => {
            let full: Option<Reference> = wanted.parse().ok();
            let is_it = |tag: &String| tag == wanted || (full.is_some() && tag.parse().ok() == full);
            images.iter().find(|image| tags(image).iter().any(is_it)).ok_or_else(not_there)
        }
    }
}
