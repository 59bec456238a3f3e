//! An OCI layout: `index.json`, and blobs by their digests; packed or as a directory.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::contents::{Contents, blob_name};
use super::reading::Gauge;
use super::{ArchiveError, Unpacked};
use crate::blobs::{Begun, BlobError, Blobs, Incoming, Pin};
use crate::manifest::{
    self, CONFIG_BYTES_MAX, Descriptor, Document, Index, MANIFEST_BYTES_MAX, Manifest, ManifestError, OCI_INDEX,
};
use crate::options::Options;
use crate::reference::Reference;
use crate::source::Choice;

/// What tells which images there are.
pub(super) const INDEX: &str = "index.json";
/// What names an image in it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd and newer Dockers name it besides, in full.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Indexes on the way to a manifest, the layout's own not counted.
const INDEXES_MAX: usize = 3;
const CHUNK_BYTES: usize = 256 << 10;
/// How long somebody else who copies the same blob is waited for, between two looks.
const ELSEWHERE_POLL: std::time::Duration = std::time::Duration::from_millis(50);

/// Where a layout is.
pub(super) trait Layout {
    fn index(&self) -> Result<Vec<u8>, ArchiveError>;
    /// A blob, verified, in the cache.
    fn blob(&self, wanted: &Descriptor, needed_by: &'static str, blobs: &Blobs) -> Result<Pin, ArchiveError>;
}

impl Layout for Contents {
    fn index(&self) -> Result<Vec<u8>, ArchiveError> {
        self.document(INDEX, "the archive", MANIFEST_BYTES_MAX)
    }

    fn blob(&self, wanted: &Descriptor, needed_by: &'static str, blobs: &Blobs) -> Result<Pin, ArchiveError> {
        Ok(Contents::blob(self, &wanted.digest, needed_by, blobs)?.check_size(wanted.size)?)
    }
}

/// A directory with a layout.
pub(super) struct Directory<'a> {
    path: &'a Path,
    gauge: RefCell<Gauge>,
}

impl Layout for Directory<'_> {
    fn index(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let file = self.open(INDEX)?;
        file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(BlobError::TooLarge { what: INDEX.to_owned(), limit_bytes: MANIFEST_BYTES_MAX }.into());
        }
        Ok(bytes)
    }

    fn blob(&self, wanted: &Descriptor, _: &'static str, blobs: &Blobs) -> Result<Pin, ArchiveError> {
        loop {
            match blobs.begin(&wanted.digest, wanted.size)? {
                Begun::There(pin) => return Ok(pin.check_size(wanted.size)?),
                Begun::Elsewhere => std::thread::sleep(ELSEWHERE_POLL),
                Begun::Mine(incoming) => {
                    return self.copy(self.open(&blob_name(&wanted.digest))?, incoming);
                }
            }
        }
    }
}

impl Directory<'_> {
    pub(super) fn new(path: &Path, gauge: Gauge) -> Directory<'_> {
        Directory { path, gauge: RefCell::new(gauge) }
    }

    fn open(&self, name: &str) -> Result<File, ArchiveError> {
        let path = self.path.join(name);
        let failed = |source| ArchiveError::Open { path: path.display().to_string(), source };
        // A FIFO would be waited for.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        Ok(file)
    }

    fn copy(&self, mut from: File, mut incoming: Incoming) -> Result<Pin, ArchiveError> {
        incoming.restart()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(incoming.finish()?),
                Ok(count) => {
                    incoming.write(&chunk[..count])?;
                    self.gauge.borrow_mut().add(count).map_err(ArchiveError::Read)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
    }
}

/// Takes one image from a layout.
pub(super) fn take(
    layout: &impl Layout,
    choice: &Choice,
    options: &Options,
    blobs: &Blobs,
) -> Result<Unpacked, ArchiveError> {
    let Document::Index(index) = manifest::parse(&layout.index()?, Some(OCI_INDEX))? else {
        return Err(ArchiveError::NoImage);
    };
    let chosen = select(index, choice)?;
    let called = chosen.manifests.iter().find_map(full_name);
    let mut wanted = chosen.choose(options.architecture)?.clone();
    let mut pins = Vec::new();
    for _ in 0..INDEXES_MAX {
        if wanted.size > MANIFEST_BYTES_MAX {
            let (what, limit_bytes) = (wanted.digest.to_string(), MANIFEST_BYTES_MAX);
            return Err(BlobError::TooLarge { what, limit_bytes }.into());
        }
        let pin = layout.blob(&wanted, INDEX, blobs)?;
        let bytes = pin.read(MANIFEST_BYTES_MAX)?;
        pins.push(pin);
        match manifest::parse(&bytes, Some(&wanted.media_type))? {
            Document::Index(index) => wanted = index.choose(options.architecture)?.clone(),
            Document::Manifest(manifest) => {
                return Ok(Unpacked { called, ..parts(layout, manifest, pins, options, blobs)? });
            }
        }
    }
    Err(ArchiveError::Nested)
}

fn parts(
    layout: &impl Layout,
    manifest: Manifest,
    mut pins: Vec<Pin>,
    options: &Options,
    blobs: &Blobs,
) -> Result<Unpacked, ArchiveError> {
    options.limits.check(&manifest)?;
    let config_pin = layout.blob(&manifest.config, "the manifest", blobs)?;
    let config = config_pin.read(CONFIG_BYTES_MAX)?;
    pins.push(config_pin);
    let layers = manifest.layers.iter().map(|layer| layout.blob(layer, "the manifest", blobs));
    let layers = layers.collect::<Result<_, _>>()?;
    Ok(Unpacked { called: None, target: pins[0].digest, manifest, config, pins, layers })
}

/// The manifests of the image that was asked for: one, or one a platform.
fn select(index: Index, choice: &Choice) -> Result<Index, ArchiveError> {
    let offered: Vec<String> = index.manifests.iter().filter_map(|one| name(one).map(str::to_owned)).collect();
    let not_there = || ArchiveError::NotThere { wanted: choice.to_string(), offered: offered.clone() };
    let manifests: Vec<Descriptor> = match choice {
        Choice::Only => {
            // Several without platforms, or with names of their own, are several images.
            let is_one = index.manifests.len() < 2
                || (index.manifests.iter().all(|one| one.platform.is_some())
                    && index.manifests.windows(2).all(|pair| name(&pair[0]) == name(&pair[1])));
            if !is_one {
                return Err(ArchiveError::Several { offered });
            }
            index.manifests
        }
        Choice::At(place) => index.manifests.into_iter().skip(*place).take(1).collect(),
        Choice::Named(wanted) => index.manifests.into_iter().filter(|one| is_called(one, wanted)).collect(),
    };
    match (manifests.is_empty(), choice) {
        (false, _) => Ok(Index { manifests }),
        (true, Choice::Only) => Err(ManifestError::UnknownDocument { media_type: "an empty index".to_owned() }.into()),
        (true, _) => Err(not_there()),
    }
}

/// The name of an image, where there is more than a tag.
fn full_name(descriptor: &Descriptor) -> Option<Reference> {
    let names = [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(|key| descriptor.annotation(key));
    names.filter(|name| name.contains([':', '/'])).find_map(|name| name.parse().ok())
}

fn name(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotation(REF_NAME).or_else(|| descriptor.annotation(CONTAINERD_NAME))
}

fn is_called(descriptor: &Descriptor, wanted: &str) -> bool {
    let full: Option<Reference> = wanted.parse().ok();
    let names = [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|key| descriptor.annotation(key));
    names.into_iter().any(|name| name == wanted || (full.is_some() && name.parse().ok() == full))
}
