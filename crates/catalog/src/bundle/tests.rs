//! Bundles: what is made comes out again, and nothing else does.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use oci::Digest;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

/// A manifest of an image that is called `name`.
pub(crate) fn manifest(name: &str) -> ImageManifest {
    let mut manifest =
        ImageManifest::new(name.parse().unwrap(), "debian-12".parse().unwrap(), "amd64".parse().unwrap());
    manifest.kernel_ref = Some("generic".parse().unwrap());
    manifest.description = "what it is".to_owned();
    manifest.exec.env.insert("A".to_owned(), "b=c".to_owned());
    manifest
}

/// A manifest of a kernel that is called `name`.
pub(crate) fn kernel_manifest(name: &str) -> KernelManifest {
    KernelManifest {
        name: name.parse().unwrap(),
        distro: "debian".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        version: "6.12.48+deb13".parse().unwrap(),
        description: String::new(),
    }
}

fn quiet() -> impl FnMut(u64) -> io::Result<()> {
    |_| Ok(())
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 1).unwrap()
}

/// A bundle of these entries; content of a link is what it leads to.
fn bundle(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = Header::new_gnu();
        // The builder refuses the names that are wanted here.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        let content = if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
            b""
        } else {
            *content
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    zstd(&builder.into_inner().unwrap())
}

const FILE: EntryType = EntryType::Regular;
const OURS: &[u8] = br#"{"name":"a","distro":"debian","arch":"x86_64","kernel_ref":"generic-6.12","later":[1]}"#;

/// Unpacks an image below `dir`, and says what is there afterwards.
fn image(dir: &Path, packed: &[u8], limits: &Limits) -> Result<ImageBundle, BundleError> {
    let into = dir.join("into");
    let unpacked = extract_image(packed, &into, limits, &mut quiet());
    assert_eq!(into.exists(), unpacked.is_ok(), "what is refused leaves nothing");
    unpacked
}

fn refused(entries: &[(&str, EntryType, &[u8])]) -> BundleError {
    let dir = tempfile::tempdir().unwrap();
    let packed = bundle(entries);
    let refused = image(dir.path(), &packed, &Limits::default()).unwrap_err();
    assert!(inspect(packed.as_slice(), &Limits::default(), &mut quiet()).is_err() || refused.hint().is_some());
    refused
}

#[test]
fn a_bundle_of_the_original_system_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let packed = bundle(&[("rootfs.ext4", FILE, b"root"), ("manifest.json", FILE, OURS)]);
    let unpacked = image(dir.path(), &packed, &Limits::default()).unwrap();
    assert_eq!((unpacked.rootfs_sha256, unpacked.rootfs_bytes), (Digest::of(b"root"), 4));
    assert_eq!(unpacked.manifest.kernel_ref.as_ref().unwrap().as_str(), "generic-6.12");
    assert_eq!(std::fs::read(dir.path().join("into/rootfs.ext4")).unwrap(), b"root");
    assert_eq!(std::fs::read_dir(dir.path().join("into")).unwrap().count(), 1);
    let twice = extract_image(packed.as_slice(), &dir.path().join("into"), &Limits::default(), &mut quiet());
    assert!(matches!(twice, Err(BundleError::Occupied { .. })));
    // As `tar -C … -cf - .` makes it, in another order.
    let dotted =
        bundle(&[("./", EntryType::Directory, b""), ("./manifest.json", FILE, OURS), ("./rootfs.ext4", FILE, b"root")]);
    let found = inspect(dotted.as_slice(), &Limits::default(), &mut quiet()).unwrap();
    assert_eq!(found, Inspected::Image(Box::new(unpacked)));
}

#[test]
fn what_does_not_belong_there_is_refused_by_name() {
    let root: (&str, EntryType, &[u8]) = ("rootfs.ext4", FILE, b"root");
    let ours = ("manifest.json", FILE, OURS);
    for foreign in ["vmlinux", "readme", "rootfs.ext4.sig", "a/rootfs.ext4", "modules/x", "Manifest.json"] {
        let error = refused(&[root, ours, (foreign, FILE, b"")]);
        assert!(matches!(&error, BundleError::Foreign { entry, .. } if entry == foreign), "{foreign}: {error}");
    }
    for path in ["../x", "/rootfs.ext4", "a/../rootfs.ext4", "a//b", "\u{1b}[2J"] {
        let error = refused(&[(path, FILE, b"")]);
        assert!(matches!(&error, BundleError::UnsafePath { .. }), "{path}: {error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let error = refused(&[ours, ("rootfs.ext4", kind, b"/etc/passwd")]);
        assert!(matches!(&error, BundleError::NoFile { entry } if entry == "rootfs.ext4"), "{error}");
    }
    assert!(matches!(refused(&[("rootfs.ext4/", EntryType::Directory, b"")]), BundleError::Foreign { .. }));
    assert!(matches!(refused(&[root, ours, root]), BundleError::Twice { .. }));
    assert!(matches!(refused(&[root, ("./rootfs.ext4", FILE, b"")]), BundleError::Twice { .. }));
    assert!(matches!(refused(&[root]), BundleError::Missing { entry: "manifest.json" }));
    assert!(matches!(refused(&[ours]), BundleError::Missing { entry: "rootfs.ext4" }));
    assert!(matches!(refused(&[]), BundleError::Missing { .. }));
    assert!(matches!(inspect(bundle(&[ours]).as_slice(), &Limits::default(), &mut quiet()), Err(BundleError::Nothing)));
}

#[test]
fn a_manifest_is_what_it_may_be() {
    let manifest = |change: &str| -> String {
        let text = String::from_utf8(OURS.to_vec()).unwrap();
        text.replace("\"later\":[1]", change)
    };
    for (change, expected) in [
        ("\"init\":\"sbin/init\"", "init"),
        ("\"exec\":{\"workdir\":\"x\"}", "exec.workdir"),
        ("\"exec\":{\"env\":{\"a=b\":\"\"}}", "exec.env"),
        ("\"exec\":{\"env\":{\"a\":\"\\u0000\"}}", "exec.env"),
        ("\"exec\":{\"user\":\"\"}", "exec.user"),
        ("\"description\":\"\\u001b\"", "description"),
        ("\"digest\":\"abc\"", "malformed"),
        ("\"name\":\"../x\"", "malformed"),
    ] {
        let text = manifest(change);
        let error = refused(&[("rootfs.ext4", FILE, b"root"), ("manifest.json", FILE, text.as_bytes())]);
        let BundleError::Manifest(source) = error else { panic!("{change}: {error}") };
        assert!(source.to_string().contains(expected), "{change}: {source}");
    }
    let other = manifest(&format!("\"digest\":\"{}\"", Digest::of(b"other").hex()));
    let error = refused(&[("rootfs.ext4", FILE, b"root"), ("manifest.json", FILE, other.as_bytes())]);
    assert!(matches!(error, BundleError::Digest { .. }));
    let empty = OURS.to_vec();
    let empty = String::from_utf8(empty).unwrap().replace("generic-6.12", "");
    assert_eq!(ImageManifest::parse(empty.as_bytes()).unwrap().kernel_ref, None);
}

#[test]
fn what_is_too_much_is_refused_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { rootfs_bytes: 100, kernel_bytes: 100, modules_bytes: 100, entries: 3 };
    let large = bundle(&[("manifest.json", FILE, OURS), ("rootfs.ext4", FILE, &[0; 101])]);
    let error = image(dir.path(), &large, &limits).unwrap_err();
    assert!(matches!(error, BundleError::TooLarge { bytes: 101, limit_bytes: 100, .. }));
    let many: Vec<_> = ["modules/a", "modules/b", "modules/c", "modules/d"].map(|path| (path, FILE, &b""[..])).into();
    let kernel = |packed: &[u8]| extract_kernel(packed, &dir.path().join("k"), &limits, &mut quiet()).unwrap_err();
    assert!(matches!(kernel(&bundle(&many)), BundleError::TooMany { entry, limit: 3 } if entry == "modules/d"));
    let together = bundle(&[("modules/a", FILE, &[0; 60]), ("modules/b", FILE, &[0; 60])]);
    assert!(matches!(kernel(&together), BundleError::TooLarge { bytes: 120, .. }));
    // Some hundred bytes of padding that unpack to more than all limits together.
    let mut plain = zstd::decode_all(bundle(&[("vmlinux", FILE, b"x")]).as_slice()).unwrap();
    plain.resize(300 << 20, 0);
    assert!(matches!(kernel(&zstd(&plain)), BundleError::Stream { after: Some(entry), .. } if entry == "vmlinux"));
    assert!(!dir.path().join("k").exists());
}

#[test]
fn a_stream_that_ends_early_or_late_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    let packed = bundle(&[("rootfs.ext4", FILE, &[7; 5000]), ("manifest.json", FILE, OURS)]);
    for end in [0, 1, 10, packed.len() / 2, packed.len() - 1] {
        assert!(matches!(image(dir.path(), &packed[..end], &limits), Err(BundleError::Stream { .. })), "{end}");
    }
    let plain = zstd::decode_all(packed.as_slice()).unwrap();
    for end in [100, 512, 3000, 5632, 6700] {
        assert!(matches!(image(dir.path(), &zstd(&plain[..end]), &limits), Err(BundleError::Stream { .. })), "{end}");
    }
    for not in [&b"not zstd"[..], &plain] {
        assert!(matches!(image(dir.path(), not, &limits), Err(BundleError::Stream { .. })));
    }
    let behind = [plain.as_slice(), b"x"].concat();
    assert!(matches!(image(dir.path(), &zstd(&behind), &limits), Err(BundleError::Trailing)));
    let behind = [packed.as_slice(), &zstd(&plain)].concat();
    assert!(matches!(image(dir.path(), &behind, &limits), Err(BundleError::Trailing)));
    let behind = [packed.as_slice(), b"x"].concat();
    assert!(matches!(image(dir.path(), &behind, &limits), Err(BundleError::Stream { .. })));
}

#[test]
fn who_watches_may_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let packed = bundle(&[("rootfs.ext4", FILE, &[7; 5000]), ("manifest.json", FILE, OURS)]);
    let mut stop = |_| Err(io::Error::other("told to stop"));
    let stopped = extract_image(packed.as_slice(), &into, &Limits::default(), &mut stop).unwrap_err();
    assert!(matches!(stopped, BundleError::Stream { source, .. } if source.to_string() == "told to stop"));
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), 0, "a directory that was there stays");
    std::fs::write(dir.path().join("rootfs"), b"root").unwrap();
    let mut stop = |_| Err(io::Error::other("told to stop"));
    let out = dir.path().join("out");
    assert!(make_image(&dir.path().join("rootfs"), &manifest("a"), &out, 1, &mut stop).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// A file of `length` bytes with data at some places, and as much of the rest written as zeros as `dense` says.
fn sparse(path: &Path, length: u64, dense: bool) {
    let file = File::create_new(path).unwrap();
    if dense {
        file.write_all_at(&vec![0; usize::try_from(length).unwrap()], 0).unwrap();
    }
    file.set_len(length).unwrap();
    file.write_all_at(b"superblock", 1024).unwrap();
    file.write_all_at(&[9; 70_000], 3 << 20).unwrap();
    file.write_all_at(b"end", length - 3).unwrap();
}

#[test]
fn the_same_content_makes_the_same_bundle_and_its_zeros_take_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    sparse(&path("one"), 16 << 20, false);
    sparse(&path("two"), 16 << 20, true);
    let mut seen = 0;
    let mut watch = |count| {
        seen += count;
        Ok(())
    };
    let one = make_image(&path("one"), &manifest("a"), &path("one.tar.zst"), 3, &mut watch).unwrap();
    let two = make_image(&path("two"), &manifest("a"), &path("two.tar.zst"), 3, &mut quiet()).unwrap();
    assert_eq!((one.sha256, one.size, seen), (two.sha256, two.size, 16 << 20));
    let bytes = std::fs::read(&one.path).unwrap();
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (one.sha256, one.size));
    assert!(one.size < 100_000);

    let into = path("into");
    let unpacked = extract_image(bytes.as_slice(), &into, &Limits::default(), &mut quiet()).unwrap();
    assert_eq!(unpacked.rootfs_sha256, one.holds);
    assert_eq!(unpacked.manifest, ImageManifest { digest: Some(one.holds), ..manifest("a") });
    let rootfs = into.join("rootfs.ext4");
    assert!(std::fs::read(&rootfs).unwrap() == std::fs::read(path("two")).unwrap());
    let meta = rootfs.metadata().unwrap();
    assert!(meta.blocks() * 512 <= 256 << 10, "{} bytes on the disk", meta.blocks() * 512);
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_sparse_entry_is_read_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    sparse(&path, 8 << 20, false);
    let file = File::open(&path).unwrap();
    let mut plain = Vec::new();
    let mut writer = tree::writer::Writer::new(&mut plain);
    let dress = |path| tree::writer::Dress { path, mode: 0o644, mtime: 0 };
    let stat = rustix::fs::fstat(&file).unwrap();
    writer.file(dress(b"rootfs.ext4"), &file, &stat, &mut |_| Ok(())).unwrap();
    writer.bytes(dress(b"manifest.json"), OURS).unwrap();
    writer.finish().unwrap();
    assert!(plain.len() < 1 << 20, "its holes are not in the stream");
    let unpacked = image(dir.path(), &zstd(&plain), &Limits::default()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((unpacked.rootfs_sha256, unpacked.rootfs_bytes), (Digest::of(&bytes), 8 << 20));
    assert!(std::fs::read(dir.path().join("into/rootfs.ext4")).unwrap() == bytes);
}

#[test]
fn a_kernel_comes_with_what_is_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir_all(from.join("modules/6.12/kernel/fs")).unwrap();
    std::fs::create_dir_all(from.join("modules/6.12/empty")).unwrap();
    for (path, content) in [
        ("vmlinux", &b"\x7fELF"[..]),
        ("config", b"CONFIG_X=y\n"),
        ("modules/6.12/modules.dep", b""),
        ("modules/6.12/kernel/fs/ext4.ko.zst", b"module"),
        ("notes", b"not a part"),
    ] {
        std::fs::write(from.join(path), content).unwrap();
    }
    std::os::unix::fs::symlink("/usr/src/linux", from.join("modules/6.12/build")).unwrap();
    let out = dir.path().join("k.tar.zst");
    let made = make_kernel(&from, &kernel_manifest("k"), &out, 3, &mut quiet()).unwrap();
    assert_eq!(made.holds, Digest::of(b"\x7fELF"));
    let into = dir.path().join("into");
    let unpacked = extract_kernel(File::open(&out).unwrap(), &into, &Limits::default(), &mut quiet()).unwrap();
    assert_eq!((unpacked.has_initrd, unpacked.has_config, unpacked.modules), (false, true, 2));
    assert_eq!((unpacked.manifest.as_ref().unwrap(), unpacked.vmlinux_sha256), (&kernel_manifest("k"), made.holds));
    assert_eq!(std::fs::read(into.join("modules/6.12/kernel/fs/ext4.ko.zst")).unwrap(), b"module");
    assert!(into.join("modules/6.12/empty").is_dir() && !into.join("notes").exists());
    // An image is no kernel, and a kernel no image.
    let as_image = extract_image(File::open(&out).unwrap(), &dir.path().join("i"), &Limits::default(), &mut quiet());
    assert!(matches!(as_image, Err(BundleError::Foreign { entry, .. }) if entry == "vmlinux"));
    std::os::unix::fs::symlink("ext4.ko.zst", from.join("modules/6.12/kernel/fs/other")).unwrap();
    let special = make_kernel(&from, &kernel_manifest("k"), &out, 3, &mut quiet()).unwrap_err();
    assert!(matches!(special, BundleError::Special { .. }));
}

#[test]
fn a_kernel_of_the_original_system_is_read_and_paths_do_not_cross() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("into");
    let kernel = |entries: &[(&str, EntryType, &[u8])]| {
        extract_kernel(bundle(entries).as_slice(), &into, &Limits::default(), &mut quiet())
    };
    for entries in [
        vec![("vmlinux", FILE, &b""[..]), ("modules/a", FILE, b""), ("modules/a/b", FILE, b"")],
        vec![("vmlinux", FILE, b""), ("modules/a/b", FILE, b""), ("modules/a", FILE, b"")],
        vec![("vmlinux", FILE, b""), ("modules", EntryType::Directory, b""), ("modules/a", EntryType::Symlink, b"/")],
        vec![("vmlinux", FILE, b""), ("modules", FILE, b"")],
        vec![("initrd.img", FILE, b"")],
    ] {
        assert!(kernel(&entries).is_err(), "{entries:?}");
        assert!(!into.exists());
    }
    let theirs = kernel(&[
        ("vmlinux", FILE, b"k"),
        ("initrd.img", FILE, b"i"),
        ("modules/", EntryType::Directory, b""),
        ("modules/6.12/", EntryType::Directory, b""),
        ("modules/6.12/a.ko", FILE, b"m"),
        ("modules/", EntryType::Directory, b""),
    ]);
    let theirs = theirs.unwrap();
    assert!(theirs.manifest.is_none() && theirs.has_initrd && theirs.modules == 1);
}

#[test]
fn a_bundle_is_that_of_its_entry() {
    use crate::document::tests::image as entry;
    let dir = tempfile::tempdir().unwrap();
    let packed = bundle(&[("rootfs.ext4", FILE, b"root"), ("manifest.json", FILE, OURS)]);
    let unpacked = image(dir.path(), &packed, &Limits::default()).unwrap();
    unpacked.check(&entry("a", "amd64", b"x")).unwrap();
    for other in [entry("b", "amd64", b"x"), entry("a", "arm64", b"x")] {
        assert!(matches!(unpacked.check(&other), Err(BundleError::Another { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_is_packed_comes_out(
        blocks in prop::collection::vec(prop_oneof![2 => Just(0_u8), 1 => any::<u8>()], 0..200),
        tail in prop::collection::vec(any::<u8>(), 0..10),
    ) {
        let mut bytes: Vec<u8> = blocks.iter().flat_map(|byte| vec![*byte; 4096]).collect();
        bytes.extend(tail);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rootfs"), &bytes).unwrap();
        let out = dir.path().join("out");
        let made = make_image(&dir.path().join("rootfs"), &manifest("a"), &out, 1, &mut quiet()).unwrap();
        let into = dir.path().join("into");
        let unpacked = extract_image(File::open(&out).unwrap(), &into, &Limits::default(), &mut quiet()).unwrap();
        prop_assert_eq!((made.holds, unpacked.rootfs_sha256), (Digest::of(&bytes), Digest::of(&bytes)));
        prop_assert!(std::fs::read(into.join("rootfs.ext4")).unwrap() == bytes);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_trace(bytes in prop::collection::vec(any::<u8>(), 0..3000), at in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        crate::fuzz::fuzz_bundle(&zstd(&bytes), dir.path());
        let mut damaged = zstd::decode_all(bundle(&[("rootfs.ext4", FILE, b"r"), ("manifest.json", FILE, OURS)]).as_slice()).unwrap();
        let at = at.index(damaged.len());
        damaged[at] ^= bytes.first().copied().unwrap_or(1);
        crate::fuzz::fuzz_bundle(&zstd(&damaged), &dir.path().join("damaged"));
    }
}
