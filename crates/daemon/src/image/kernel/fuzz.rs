//! Any bytes through everything that reads kernel files.

use super::config::Config;
use super::modules::ModuleTree;
use super::package::{self, Format};
use super::{bzimage, elf, rpm};
use crate::model::progress::Watcher;

/// Reads `data` as each kind of kernel file in turn; panics when a limit is not kept.
pub fn fuzz_kernel_bytes(data: &[u8]) {
    drop(bzimage::unpack(data, Watcher::none()));
    if let Ok(image) = elf::Elf::parse(data) {
        drop(image.release());
        drop(image.ikconfig());
    }
    if let Ok(header) = rpm::read_headers(&mut &data[..]) {
        drop(header.files());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Config::parse(text));
        if let Ok(tree) = ModuleTree::parse(text, text) {
            drop(tree.load_order());
        }
    }
}

/// Unpacks `data` as an rpm package and as a Debian package; panics when one gets out of its directory.
pub fn fuzz_package_bytes(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory for what is unpacked");
    let file = dir.path().join("package");
    sys::fs::write_atomic(&file, data, 0o600).expect("room for a small file");
    for format in [Format::Rpm, Format::Deb] {
        let out = dir.path().join("out");
        drop(package::unpack(&file, format, &out, Watcher::none()));
        drop(sys::fs::remove_tree(&out));
    }
    let left = std::fs::read_dir(dir.path()).expect("the directory made above");
    assert_eq!(left.count(), 1, "only the package itself is left");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::codec::Codec;

    #[test]
    fn packages_and_noise_stay_in_their_directory() {
        let files: [(&str, &[u8]); 1] = [("./boot/vmlinuz-6.1", b"kernel")];
        let rpm = rpm::tests::package(Some(Codec::Gzip), &files);
        let deb = super::super::deb::tests::package(None, &files);
        for bytes in [rpm.as_slice(), &rpm[..200], deb.as_slice(), &deb[..200], b"", b"\xed\xab\xee\xdb"] {
            fuzz_package_bytes(bytes);
            fuzz_kernel_bytes(bytes);
        }
    }
}
