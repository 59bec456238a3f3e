//! The copy of the catalog that was accepted last: with its signatures in one file, so that the two belong together, and
//! proven again each time it is used.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde::{Deserialize, Serialize};
use sys::fs::FsError;

use crate::document::CATALOG_BYTES_MAX;
use crate::signature::SIGNATURE_BYTES_MAX;
use crate::source::Source;

/// Both documents as text in text, which at worst makes six letters of one.
const KEPT_BYTES_MAX: u64 = 6 * (CATALOG_BYTES_MAX + SIGNATURE_BYTES_MAX) + (64 << 10);

/// A catalog as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Where from.
    pub(crate) source: String,
    /// When: milliseconds since 1970.
    pub(crate) fetched_ms: u64,
    pub(crate) catalog: String,
    /// None where nobody looked at them.
    pub(crate) signatures: Option<String>,
}

/// Its file: each source has one.
pub(crate) fn path(directory: &Path, source: &Source) -> PathBuf {
    directory.join(format!("catalog-{}.json", &Digest::of(source.to_string().as_bytes()).hex()[..16]))
}

impl Kept {
    /// Keeps it instead of the one before.
    pub(crate) fn write(&self, path: &Path) -> Result<(), FsError> {
        if let Some(directory) = path.parent() {
            sys::fs::create_private_dir(directory)?;
        }
        let text = serde_json::to_string(self).expect("it is JSON");
        sys::fs::write_atomic(path, text.as_bytes(), 0o600)
    }

    /// What is kept for this source; a file that cannot be read is none, since it is only a copy.
    pub(crate) fn read(path: &Path, source: &Source) -> Option<Kept> {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(KEPT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.source == source.to_string()).then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Insecure;

    #[test]
    fn each_source_has_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["https://x.org/", "/srv/x"].map(|text| Source::parse(text, Insecure::Refused).unwrap());
        let [at_one, at_two] = [&one, &two].map(|source| path(&dir.path().join("new"), source));
        assert_ne!(at_one, at_two);
        let kept = Kept { source: one.to_string(), fetched_ms: 7, catalog: "{}\n".into(), signatures: None };
        kept.write(&at_one).unwrap();
        assert_eq!(Kept::read(&at_one, &one), Some(kept));
        assert_eq!(Kept::read(&at_one, &two), None);
        assert_eq!(Kept::read(&at_two, &two), None);
        std::fs::write(&at_one, "{").unwrap();
        assert_eq!(Kept::read(&at_one, &one), None);
    }
}
