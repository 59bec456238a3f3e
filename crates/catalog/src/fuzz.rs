//! What the fuzz targets call: each takes any bytes, and nothing may panic, hang or leave its directory.

use std::path::Path;

use crate::bundle::{ImageManifest, KernelManifest, Limits, extract_image, extract_kernel, inspect};
use crate::document::Catalog;
use crate::keys::{PrivateKey, PublicKey};
use crate::signature::Signatures;
use crate::source::{Insecure, Source};

/// Bytes as a catalog: what is read reads back.
///
/// # Panics
/// When it does not.
pub fn fuzz_catalog(data: &[u8]) {
    if let Ok(catalog) = Catalog::parse(data) {
        assert_eq!(Catalog::parse(catalog.render().as_bytes()).ok(), Some(catalog));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Source::parse(text, Insecure::Refused));
    }
}

/// Bytes as signatures, as keys and as manifests: what is read reads back, and nobody has signed it.
///
/// # Panics
/// When it does not, or somebody has.
pub fn fuzz_signature(data: &[u8]) {
    if let Ok(signatures) = Signatures::parse(data) {
        assert_eq!(Signatures::parse(signatures.render().as_bytes()).ok(), Some(signatures.clone()));
        assert!(signatures.check(b"a document that nobody signed", &[]).is_err());
    }
    if let Ok(key) = String::from_utf8_lossy(data).parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        assert_eq!(key.to_pem().parse(), Ok(key));
    }
    drop(PrivateKey::parse(data));
    drop(ImageManifest::parse(data));
    drop(KernelManifest::parse(data));
}

/// Bytes as a bundle of either kind, packed already, unpacked below `scratch`: a refused one leaves nothing.
///
/// # Panics
/// When it does.
pub fn fuzz_bundle(packed: &[u8], scratch: &Path) {
    let limits = Limits { rootfs_bytes: 4 << 20, kernel_bytes: 1 << 20, modules_bytes: 1 << 20, entries: 100 };
    let watch = &mut |_| Ok(());
    drop(inspect(packed, &limits, watch));
    let (image, kernel) = (scratch.join("image"), scratch.join("kernel"));
    assert_eq!(extract_image(packed, &image, &limits, watch).is_ok(), image.exists());
    assert_eq!(extract_kernel(packed, &kernel, &limits, watch).is_ok(), kernel.exists());
}
