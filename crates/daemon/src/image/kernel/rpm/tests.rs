//! Packages of every shape, made here and, where it is installed, by rpmbuild.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::header::{MAGIC as HEADER_MAGIC, TYPE_INT32, TYPE_STRING, TYPE_STRING_ARRAY};
use super::*;
use crate::image::codec::Codec;
use crate::image::codec::tests::encode;
use crate::image::newc::Archive;
use crate::model::digest::Digest;

const FILES: [(&str, &[u8]); 5] = [
    ("./lib/modules/6.1.0-9.fc41.x86_64/vmlinuz", b"kernel"),
    ("./lib/modules/6.1.0-9.fc41.x86_64/config", b"CONFIG_A=y\n"),
    ("./lib/modules/6.1.0-9.fc41.x86_64/kernel/a.ko.xz", b"module"),
    ("./lib/modules/6.1.0-9.fc41.x86_64/System.map", b"symbols"),
    ("./usr/share/licenses/kernel-core/COPYING", b"text"),
];

/// A value of a tag: number, type, count, bytes.
type Tag<'a> = (u32, u32, u32, &'a [u8]);

fn header(tags: &[Tag<'_>]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, kind, count, value) in tags {
        store.resize(store.len().next_multiple_of(8), 0);
        for number in [*tag, *kind, store.len() as u32, *count] {
            index.extend(number.to_be_bytes());
        }
        store.extend(*value);
    }
    let mut bytes = HEADER_MAGIC.to_vec();
    bytes.extend([0; 4]);
    bytes.extend((tags.len() as u32).to_be_bytes());
    bytes.extend((store.len() as u32).to_be_bytes());
    bytes.extend(index);
    bytes.extend(store);
    bytes
}

fn around(payload: &[u8], more: &[Tag<'_>]) -> Vec<u8> {
    let mut bytes = LEAD_MAGIC.to_vec();
    bytes.extend([3, 0, 0, 0, 0, 1]);
    bytes.resize(LEAD_BYTES, 0);
    bytes.extend(header(&[(62, 7, 17, b"0123456789abcdef!")]));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let digest = format!("{}\0", Digest::of(payload));
    let mut tags = vec![
        (1000, TYPE_STRING, 1, b"kernel-core\0".as_slice()),
        (TAG_PAYLOAD_FORMAT, TYPE_STRING, 1, b"cpio\0"),
        (TAG_PAYLOAD_DIGEST, TYPE_STRING_ARRAY, 1, digest.as_bytes()),
    ];
    tags.extend(more);
    bytes.extend(header(&tags));
    bytes.extend(payload);
    bytes
}

/// A package with these files; `codec` compresses its payload.
pub(crate) fn package(codec: Option<Codec>, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("./lib/modules", 0o755);
    for (path, content) in files {
        archive.file(path, 0o644, content);
    }
    let plain = archive.finish();
    let algorithm: Tag<'_> = (TAG_PAYLOAD_DIGEST_ALGORITHM, TYPE_INT32, 1, &SHA256.to_be_bytes());
    around(&codec.map_or(plain.clone(), |codec| encode(codec, &plain)), &[algorithm])
}

/// The same in rpm's sixth format, whose archive knows files by their numbers only. `sizes` are what the header claims.
fn numbered(sizes: &[usize], directories: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (index, (_, content)) in FILES.iter().enumerate().rev() {
        archive.extend(format!("07070X{index:08x}\0\0").bytes());
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive.extend(Archive::default().finish());
    let count = FILES.len() as u32;
    let names: Vec<_> = FILES.iter().flat_map(|(path, _)| [path.rsplit('/').next().unwrap(), "\0"]).collect();
    let indexes: Vec<u8> = [0u32, 0, 1, 0, 2].iter().flat_map(|index| index.to_be_bytes()).collect();
    let modes: Vec<u8> = [0o100_644u16; 5].iter().flat_map(|mode| mode.to_be_bytes()).collect();
    let inodes: Vec<u8> = (1..=count).flat_map(u32::to_be_bytes).collect();
    let long_sizes: Vec<u8> = sizes.iter().flat_map(|size| (*size as u64).to_be_bytes()).collect();
    around(
        &encode(Codec::Zstd, &archive),
        &[
            (5008, 5, sizes.len() as u32, &long_sizes),
            (1117, TYPE_STRING_ARRAY, count, names.concat().as_bytes()),
            (1116, TYPE_INT32, count, &indexes),
            (1030, 3, count, &modes),
            (1096, TYPE_INT32, count, &inodes),
            (1118, TYPE_STRING_ARRAY, 3, directories),
        ],
    )
}

fn unpack_file(file: &Path, out: &Path) -> Result<(), String> {
    unpack(file, out, Watcher::none())
        .map_err(|err| format!("{err}: {:?}", std::error::Error::source(&err).map(ToString::to_string)))
}

fn unpacked(package: &[u8]) -> Result<tempfile::TempDir, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kernel.rpm");
    fs::write(&file, package).unwrap();
    unpack_file(&file, &dir.path().join("out")).map(|()| dir)
}

fn assert_taken(out: &Path) {
    for (name, content) in [
        ("boot/vmlinuz-6.1.0-9.fc41.x86_64", b"kernel".as_slice()),
        ("boot/config-6.1.0-9.fc41.x86_64", b"CONFIG_A=y\n"),
        ("lib/modules/6.1.0-9.fc41.x86_64/kernel/a.ko.xz", b"module"),
    ] {
        assert_eq!(fs::read(out.join(name)).expect(name), content);
    }
    assert_eq!(fs::read_dir(out.join("lib/modules/6.1.0-9.fc41.x86_64")).unwrap().count(), 1);
    assert!(!out.join("usr").exists());
}

#[test]
fn takes_the_kernel_and_nothing_else() {
    for codec in [None, Some(Codec::Gzip), Some(Codec::Xz), Some(Codec::Zstd), Some(Codec::Lzma)] {
        let dir = unpacked(&package(codec, &FILES)).unwrap();
        assert_taken(&dir.path().join("out"));
    }
}

#[test]
fn files_known_by_their_numbers_are_taken() {
    let sizes = FILES.map(|(_, content)| content.len());
    let directories = "/lib/modules/6.1.0-9.fc41.x86_64/\0/lib/modules/6.1.0-9.fc41.x86_64/kernel/\0/usr/share/\0";
    let dir = unpacked(&numbered(&sizes, directories.as_bytes())).unwrap();
    assert_taken(&dir.path().join("out"));
    for bad in ["/lib/\0", "/lib/\0/lib/", ""] {
        let err = unpacked(&numbered(&sizes, bad.as_bytes())).unwrap_err();
        assert!(err.contains("contradicts itself"), "{err}");
    }
    let err = unpacked(&numbered(&sizes[1..], directories.as_bytes())).unwrap_err();
    assert!(err.contains("contradicts itself"), "{err}");
    let err = unpacked(&numbered(&[1 << 40; 5], directories.as_bytes())).unwrap_err();
    assert!(err.contains("payload cannot be read"), "{err}");
}

/// Has rpmbuild make a package of [`FILES`] with `macros`, and gives its file. `None` where there is no rpmbuild.
fn rpmbuild(dir: &Path, macros: &[&str]) -> Option<PathBuf> {
    let program = Path::new("/usr/bin/rpmbuild");
    if !program.exists() {
        return None;
    }
    let mut spec =
        "Name: kernel-core\nVersion: 6.1\nRelease: 1\nSummary: x\nLicense: x\n%description\nx\n%install\n".to_owned();
    for (index, (path, content)) in FILES.iter().enumerate() {
        let source = dir.join(index.to_string());
        fs::write(&source, content).unwrap();
        spec += &format!("install -D -m 0644 {} %{{buildroot}}{}\n", source.display(), &path[1..]);
    }
    spec += "%files\n/lib/modules\n/usr/share/licenses\n";
    fs::write(dir.join("k.spec"), spec).unwrap();
    let mut build = sys::process::command(program);
    build.arg("-bb").arg("--quiet").env("HOME", dir);
    let places = format!("_topdir {}", dir.join("rpm").display());
    for value in macros.iter().copied().chain([places.as_str(), "_rpmfilename k.rpm", "__os_install_post %{nil}"]) {
        build.args(["--define", value]);
    }
    sys::process::run(build.arg(dir.join("k.spec"))).expect("rpmbuild builds it");
    Some(dir.join("rpm/RPMS/k.rpm"))
}

#[test]
fn real_packages_are_read() {
    for payload in ["w9.gzdio", "w19.zstdio", "w2.xzdio", "w9T2.xzdio", "w.ufdio"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(file) = rpmbuild(dir.path(), &[&format!("_binary_payload {payload}")]) else {
            return;
        };
        let out = dir.path().join("out");
        unpack_file(&file, &out).expect(payload);
        assert_taken(&out);
    }
}

/// `BANGER_TEST_KERNEL_RPM` names a `kernel-core` package.
#[test]
fn a_real_fedora_package_is_read() {
    let Some(package) = std::env::var_os("BANGER_TEST_KERNEL_RPM") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    unpack_file(Path::new(&package), dir.path()).expect("the package named by BANGER_TEST_KERNEL_RPM");
    let boot: Vec<_> = fs::read_dir(dir.path().join("boot")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(boot.iter().any(|name| name.to_string_lossy().starts_with("vmlinuz-")), "{boot:?}");
}

#[test]
fn what_a_real_package_has_besides_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(file) = rpmbuild(dir.path(), &["_binary_payload w9.bzdio"]) else {
        return;
    };
    let err = unpack_file(&file, &dir.path().join("out")).unwrap_err();
    assert!(err.contains("k.rpm") && err.contains("unsupported format"), "{err}");
}

#[test]
fn hostile_entries_are_refused_by_name() {
    for bad in ["../boot/vmlinuz-x", "/boot/vmlinuz-x", "./boot/../../vmlinuz-x"] {
        let err = unpacked(&package(None, &[(bad, b"x")])).unwrap_err();
        assert!(err.contains(bad) && err.contains("payload") && err.contains("kernel.rpm"), "{err}");
    }
    let err = unpacked(&package(None, &[FILES[0], FILES[0]])).unwrap_err();
    assert!(err.contains("vmlinuz") && err.contains("a second time"), "{err}");
    let mut linked = package(None, &[FILES[0]]);
    let name = memchr::memmem::find(&linked, b"./lib/modules/6.1.0-9").unwrap();
    linked[name - 110 + 6 + 4 * 8 + 7] = b'2';
    let err = unpacked(&linked).unwrap_err();
    assert!(err.contains("6.1.0-9.fc41.x86_64/vmlinuz") && err.contains("several links"), "{err}");
}

#[test]
fn each_part_is_checked() {
    let good = package(Some(Codec::Gzip), &FILES);
    for (at, with, what) in [
        (0, b"\0".as_slice(), "it begins with"),
        (4, b"\x09", "its format is 9.0"),
        (7, b"\x01", "source package"),
        (96, b"\0", "its signature begins with"),
        (96 + 8, b"\xff\xff\xff\xff", "its signature claims 4294967295 entries"),
        (96 + 8, b"\0\0\0\0", "claims 0 entries"),
        (96 + 12, b"\xff\xff\xff\xff", "4294967295 bytes of values"),
        (152, b"\0", "its header begins with"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        let err = unpacked(&bytes).expect_err(what);
        assert!(err.contains(what) && err.contains("not a whole rpm package"), "{err}");
    }
    let mut other = good;
    let format = memchr::memmem::find(&other, b"cpio\0").unwrap();
    other[format..format + 4].copy_from_slice(b"drpm");
    let err = unpacked(&other).unwrap_err();
    assert!(err.contains("drpm"), "{err}");
}

#[test]
fn damage_is_named() {
    let noise: Vec<u8> = (0..50_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let path = "./lib/modules/6.1/vmlinuz";
    for codec in [Codec::Gzip, Codec::Xz, Codec::Zstd] {
        let good = package(Some(codec), &[(path, &noise)]);
        for cut in [0, 4, 95, 96, 110, 140, 200, 300, good.len() / 2, good.len() - 1] {
            let err = unpacked(&good[..cut]).expect_err("cut");
            assert!(err.contains("kernel.rpm"), "{cut}: {err}");
        }
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x40;
        assert!(unpacked(&flipped).is_err(), "flipped");
    }
    // Where the compression has no checksum, the header's digest shows it; and nothing may follow.
    let mut flipped = package(None, &[(path, &noise)]);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    let err = unpacked(&flipped).expect_err("flipped");
    assert!(err.contains("its header promises"), "{err}");
    let mut longer = package(Some(Codec::Zstd), &[(path, &noise)]);
    longer.push(0);
    let err = unpacked(&longer).expect_err("longer");
    assert!(err.contains("its header promises"), "{err}");
}

proptest! {
    // Each case writes some files and makes them durable.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn flipped_bytes_never_panic(at in 0usize..2000, with in any::<u8>()) {
        let mut bytes = package(None, &FILES);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        let _outcome = unpacked(&bytes);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(head in 0usize..400, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = package(Some(Codec::Gzip), &FILES);
        bytes.truncate(head);
        bytes.extend(tail);
        if let Ok(header) = read_headers(&mut bytes.as_slice()) {
            let _texts = (header.text(TAG_PAYLOAD_DIGEST), header.number(TAG_PAYLOAD_DIGEST_ALGORITHM));
            let _files = header.files();
        }
        let _outcome = unpacked(&bytes);
    }
}
