//! What the fuzz targets call: each takes any bytes, and nothing may panic, hang or leave its directory.

use std::path::Path;

use crate::archive::{self, Format};
use crate::blobs::Blobs;
use crate::config::Config;
use crate::manifest::{self, Architecture, Document};
use crate::options::{Limits, Options};
use crate::reference::Reference;
use crate::registry;
use crate::source::{Choice, Source};

/// Text as a reference and as a source: what is read reads back from how it is shown.
///
/// # Panics
/// When it does not.
pub fn fuzz_reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
        assert!(!reference.default_name().is_empty());
    }
    if let Ok(source) = text.parse::<Source>() {
        assert!(!source.default_name().is_empty());
    }
}

/// Bytes as a manifest, an index, a configuration, and what a registry says to strangers.
///
/// # Panics
/// When a manifest does not read back.
pub fn fuzz_manifest(data: &[u8]) {
    match manifest::parse(data, None) {
        Ok(Document::Manifest(manifest)) => {
            let rendered = manifest.render();
            assert!(matches!(manifest::parse(&rendered, None), Ok(Document::Manifest(again)) if again == manifest));
        }
        Ok(Document::Index(index)) => drop(index.choose(Architecture::Amd64).is_ok()),
        Err(_) => {}
    }
    drop(Config::parse(data));
    if let Ok(header) = std::str::from_utf8(data) {
        registry::fuzz_challenge(header);
    }
}

/// Bytes as an archive of either kind, into the cache below `scratch`.
///
/// # Panics
/// When the cache cannot be made.
pub fn fuzz_archive(data: &[u8], scratch: &Path) {
    let blobs = Blobs::open(scratch).expect("a directory of the target's own");
    let limits = Limits { layer_bytes: 1 << 20, image_bytes: 4 << 20, archive_entries: 1000 };
    let options = Options { limits, architecture: Architecture::Amd64, ..Options::default() };
    for format in [Format::Docker, Format::Oci, Format::Any] {
        drop(archive::unpack(data, format, &Choice::Only, &options, &blobs));
    }
}
