//! Any bytes as a layer of an image, and in the place of any of a filesystem.

use std::fs::File;
use std::sync::LazyLock;

use oci::{Compression, Layer};

use super::layers::{Limits, flatten};
use super::rootfs::filesystem;
use crate::model::progress::Watcher;

/// Little enough to be done often.
const LIMITS: Limits =
    Limits { unpacked_bytes: 4 << 20, suspicious_bytes: 1 << 20, ratio: 200, metadata_bytes: 1 << 20 };

fn layer(dir: &std::path::Path, name: &str, data: &[u8], compression: Compression) -> Layer {
    let path = dir.join(name);
    sys::fs::write_atomic(&path, data, 0o600).expect("room for a small file");
    let digest = oci::Digest::of(data);
    Layer { digest, diff_id: digest, compression, size: data.len() as u64, path }
}

/// Puts `data` as a layer over one of a few files, packed as its first byte says. Panics when what comes of it cannot be read,
/// or something is left beside it.
pub fn fuzz_layer_bytes(data: &[u8]) {
    let Some((&packing, data)) = data.split_first() else { return };
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(packing) % 3];
    let dir = tempfile::tempdir().expect("a directory for what is made");
    let layers =
        [layer(dir.path(), "0", TREE.as_slice(), Compression::None), layer(dir.path(), "1", data, compression)];
    let image = dir.path().join("rootfs.ext4");
    if flatten(&layers, &image, LIMITS, Watcher::none()).is_ok() {
        let file = File::open(&image).expect("what was written");
        filesystem::records(&file, Watcher::none()).expect("what we write we read");
    }
    let left = std::fs::read_dir(dir.path()).expect("the directory made above").count();
    assert!(left <= 3, "something is left beside the layers and the image");
}

/// Four of `data`'s bytes say which byte of a filesystem becomes what, again and again; then it is read.
pub fn fuzz_filesystem_bytes(data: &[u8]) {
    let mut bytes = FILESYSTEM.clone();
    for patch in data.chunks_exact(4) {
        let at = u32::from_le_bytes([patch[0], patch[1], patch[2], 0]) as usize % bytes.len();
        bytes[at] = patch[3];
    }
    let length = bytes.len() as u64;
    if let Ok(records) = filesystem::records_of(bytes.as_slice(), length, Watcher::none()) {
        assert!(!records.is_empty(), "every filesystem has a root");
    }
}

/// A few files of each kind, as an archive.
static TREE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut tar = tar::Builder::new(Vec::new());
    let kinds = [
        ("a/", tar::EntryType::Directory, "", 0),
        ("a/file", tar::EntryType::Regular, "", 9000),
        ("a/same", tar::EntryType::Link, "a/file", 0),
        ("b", tar::EntryType::Symlink, "a", 0),
        ("null", tar::EntryType::Char, "", 0),
    ];
    for (path, kind, target, size) in kinds {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(path).expect("it is short");
        if !target.is_empty() {
            header.set_link_name(target).expect("it is short");
        }
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if kind == tar::EntryType::Char {
            header.set_device_major(1).expect("the format has it");
            header.set_device_minor(3).expect("the format has it");
        }
        header.set_size(size);
        header.set_cksum();
        tar.append(&header, std::io::Read::take(std::io::repeat(b'x'), size)).expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
});

/// The same as a filesystem that does not say that its parts have checksums: what a fuzzer changes is looked at.
static FILESYSTEM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory for what is made");
    let layers = [layer(dir.path(), "0", TREE.as_slice(), Compression::None)];
    let image = dir.path().join("rootfs.ext4");
    flatten(&layers, &image, LIMITS, Watcher::none()).expect("it is a good archive");
    let mut bytes = std::fs::read(&image).expect("what was written");
    let features = mkext4::spec::ro_compat::METADATA_CSUM.to_le_bytes();
    // `s_feature_ro_compat` of the superblock.
    for (at, feature) in features.iter().enumerate() {
        bytes[1024 + 0x64 + at] &= !feature;
    }
    bytes
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_each() {
        for packing in 0..3 {
            fuzz_layer_bytes(&[&[packing], TREE.as_slice()].concat());
        }
        fuzz_layer_bytes(b"");
        assert!(
            filesystem::records_of(FILESYSTEM.as_slice(), FILESYSTEM.len() as u64, Watcher::none()).unwrap().len() > 5
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]

        #[test]
        fn a_damaged_filesystem_ends_in_an_error(
            // Where its superblock, its descriptors, its inodes and its directories are.
            patches in proptest::collection::vec((0..100_u32, 0..4096_u32, proptest::prelude::any::<u8>()), 1..20),
        ) {
            let used: Vec<u32> = (0..FILESYSTEM.len() as u32 / 4096)
                .filter(|block| FILESYSTEM[*block as usize * 4096..][..4096].iter().any(|byte| *byte != 0))
                .collect();
            let place = |(block, at, to): (u32, u32, u8)| {
                let place = (used[block as usize % used.len()] * 4096 + at).to_le_bytes();
                [place[0], place[1], place[2], to]
            };
            fuzz_filesystem_bytes(&patches.into_iter().map(place).collect::<Vec<_>>().concat());
        }
    }
}
