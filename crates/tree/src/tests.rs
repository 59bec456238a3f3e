//! Round trips through real filesystems.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::pack::{Fidelity, What, pack};
use super::unpack::{Policy, Unpacked, unpack};

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn whole(path: &[u8]) -> What<'_> {
    What { path, follow: false, called: None, fidelity: Fidelity::Whole }
}

fn round_trip(from: &Path, name: &str, to: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    let path = format!("/{name}");
    pack(&open(from), &whole(path.as_bytes()), &mut stream).unwrap();
    unpack(open(to), Policy::inside(false), stream.as_slice()).unwrap();
    stream
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn everything_about_a_file_survives() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tree = from.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("plain"), b"content").unwrap();
    fs::set_permissions(tree.join("plain"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(tree.join("plain"), tree.join("same")).unwrap();
    symlink("/etc/passwd", tree.join("link")).unwrap();
    symlink("x".repeat(300), tree.join("long link")).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    fs::create_dir(tree.join("d".repeat(120))).unwrap();
    fs::write(tree.join(&long), b"long").unwrap();
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"odd \xff\n\\name")), b"odd").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let time = rustix::fs::Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    if is_root() {
        std::os::unix::fs::chown(tree.join("plain"), Some(1234), Some(5678)).unwrap();
        fs::set_permissions(tree.join("plain"), fs::Permissions::from_mode(0o4751)).unwrap();
    }
    let has_xattrs =
        rustix::fs::setxattr(tree.join("plain"), "user.test", b"a\0\nb", rustix::fs::XattrFlags::empty()).is_ok();
    rustix::fs::utimensat(rustix::fs::CWD, tree.join("plain"), &times, rustix::fs::AtFlags::empty()).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o511)).unwrap();
    rustix::fs::utimensat(rustix::fs::CWD, &tree, &times, rustix::fs::AtFlags::empty()).unwrap();

    round_trip(from.path(), "tree", to.path());

    let got = to.path().join("tree");
    let (a, b) = (fs::metadata(tree.join("plain")).unwrap(), fs::metadata(got.join("plain")).unwrap());
    let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.len(), m.mtime(), m.mtime_nsec(), m.nlink());
    assert_eq!(facts(&a), facts(&b));
    assert_eq!(b.ino(), fs::metadata(got.join("same")).unwrap().ino());
    assert_eq!(fs::read_link(got.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(got.join("long link")).unwrap().as_os_str().len(), 300);
    assert_eq!(fs::read(got.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read(got.join(std::ffi::OsStr::from_bytes(b"odd \xff\n\\name"))).unwrap(), b"odd");
    let directory = fs::metadata(&got).unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime_nsec()), (0o511, 123_456_789));
    assert_eq!(fs::metadata(got.join("fifo")).unwrap().mode() & 0o7777, 0o640);
    if has_xattrs {
        let mut value = [0; 8];
        let count = rustix::fs::getxattr(got.join("plain"), "user.test", &mut value).unwrap();
        assert_eq!(&value[..count], b"a\0\nb");
    }
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&got, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn holes_stay_holes_in_many_pieces() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = File::create(from.path().join("big")).unwrap();
    let length = 512_u64 << 20;
    file.set_len(length).unwrap();
    for piece in 0..60_u64 {
        file.write_all_at(format!("piece {piece}").as_bytes(), piece * (8 << 20) + 4096).unwrap();
    }
    let stream = round_trip(from.path(), "big", to.path());
    assert!(stream.len() < 1 << 19, "{} bytes sent", stream.len());
    let got = File::open(to.path().join("big")).unwrap();
    let meta = got.metadata().unwrap();
    assert_eq!(meta.len(), length);
    assert!(meta.blocks() * 512 < 2 << 20, "{} bytes on disk", meta.blocks() * 512);
    let mut piece = [0; 8];
    got.read_exact_at(&mut piece, 59 * (8 << 20) + 4096).unwrap();
    assert_eq!(&piece, b"piece 59");
}

#[test]
fn a_file_that_is_all_hole_keeps_its_length() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    File::create(from.path().join("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::write(from.path().join("empty"), b"").unwrap();
    for name in ["hole", "empty"] {
        round_trip(from.path(), name, to.path());
    }
    assert_eq!(fs::metadata(to.path().join("hole")).unwrap().len(), 1 << 20);
    assert_eq!(fs::metadata(to.path().join("empty")).unwrap().len(), 0);
}

#[test]
fn gnu_tar_and_we_understand_each_other() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = File::create(from.path().join("sparse")).unwrap();
    file.set_len(100 << 20).unwrap();
    for piece in 0..8_u64 {
        file.write_all_at(b"data", piece * (10 << 20)).unwrap();
    }
    let same = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        assert_eq!(meta.len(), 100 << 20, "{}", path.display());
        assert!(meta.blocks() * 512 < 1 << 20, "{}", path.display());
        let mut data = [0; 4];
        File::open(path).unwrap().read_exact_at(&mut data, 70 << 20).unwrap();
        assert_eq!(&data, b"data");
    };
    for format in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=0.0"],
    ] {
        let stream = sys::process::run(
            sys::process::command("tar").arg("-C").arg(from.path()).args(["-S", "-cf", "-"]).args(format).arg("sparse"),
        )
        .unwrap();
        unpack(open(to.path()), Policy::inside(false), stream.as_slice()).unwrap();
        same(&to.path().join("sparse"));
    }
    let mut ours = tempfile::NamedTempFile::new().unwrap();
    pack(&open(from.path()), &whole(b"/sparse"), &mut ours).unwrap();
    ours.flush().unwrap();
    let other = tempfile::tempdir().unwrap();
    sys::process::run(sys::process::command("tar").arg("-C").arg(other.path()).arg("-xf").arg(ours.path())).unwrap();
    same(&other.path().join("sparse"));
}

#[test]
fn no_name_and_no_link_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let hostile = |name: &str, link: Option<&Path>, through: &str| {
        let to = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        if let Some(target) = link {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.as_old_mut().name[..through.len()].copy_from_slice(through.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        let stream = builder.into_inner().unwrap();
        unpack(open(to.path()), Policy::inside(false), stream.as_slice())
    };
    assert!(hostile("d", Some(outside.path()), "d/file").is_err());
    assert!(hostile("d", Some(Path::new("../../../../../../../../tmp")), "d/file").is_err());
    assert!(hostile("", None, "../file").is_err());
    assert!(hostile("", None, "a/../../file").is_err());
    hostile("", None, "/absolute").unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// An entry as somebody who means harm would write it.
#[derive(Debug, Clone)]
struct Hostile {
    kind: tar::EntryType,
    name: String,
    link: String,
    mode: u32,
}

fn hostile_stream(entries: &[Hostile]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let body: &[u8] = if entry.kind == tar::EntryType::Regular { b"theirs" } else { b"" };
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(4321);
        header.set_gid(4321);
        header.set_mtime(1);
        header.set_size(body.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        builder.append_pax_extensions([("SCHILY.xattr.trusted.overlay.opaque", &b"y"[..])]).unwrap();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let kind = prop_oneof![
        4 => Just(tar::EntryType::Regular),
        3 => Just(tar::EntryType::Directory),
        3 => Just(tar::EntryType::Symlink),
        2 => Just(tar::EntryType::Link),
        1 => Just(tar::EntryType::Char),
        1 => Just(tar::EntryType::Fifo),
    ];
    let part = prop::sample::select(vec!["top", "top", "a", "mine", "in", "..", ".", "", "out"]);
    let name = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let link = prop_oneof![
        name.clone(),
        Just("OUTSIDE".to_owned()),
        Just("../../../../../../../../OUTSIDE".to_owned()),
        Just("/etc/passwd".to_owned()),
        Just(".".to_owned()),
    ];
    let below = name.clone().prop_map(|name| format!("top/{name}"));
    (kind, prop_oneof![1 => name, 3 => below], link, any::<u32>()).prop_map(|(kind, name, link, mode)| Hostile {
        kind,
        name,
        link,
        mode: mode & 0o7777,
    })
}

/// Everything below a directory: path, kind, mode, owner, length, time, what a link says.
fn facts_below(directory: &Path) -> Vec<(std::path::PathBuf, u32, u32, u64, i64, Option<std::path::PathBuf>)> {
    let mut facts = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let link = fs::read_link(&path).ok();
        facts.push((path.clone(), meta.mode(), meta.uid(), meta.len(), meta.mtime_nsec(), link));
        if meta.is_dir() {
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() | 0o700)).unwrap();
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    facts.sort();
    facts
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let to = tempfile::tempdir().unwrap();
        let _: Result<Unpacked, super::TreeError> = unpack(open(to.path()), Policy::inside(false), bytes.as_slice());
    }

    /// Whatever a guest sends, it changes what was asked for and nothing else, and plants nothing there that acts.
    #[test]
    fn a_hostile_stream_changes_what_was_asked_for_only(
        entries in prop::collection::vec(hostile(), 1..12),
        is_there in any::<bool>(),
        damage in prop::option::of((0_usize..8192, any::<u8>())),
    ) {
        let world = tempfile::tempdir().unwrap();
        let (outside, to) = (world.path().join("outside"), world.path().join("to"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mine"), "mine").unwrap();
        fs::create_dir(&to).unwrap();
        fs::create_dir(to.join("in")).unwrap();
        fs::write(to.join("in/mine"), "mine").unwrap();
        fs::write(to.join("mine"), "mine").unwrap();
        symlink(&outside, to.join("out")).unwrap();
        if is_there {
            fs::create_dir(to.join("asked")).unwrap();
            symlink(&outside, to.join("asked/out")).unwrap();
            symlink("../in", to.join("asked/in")).unwrap();
        }
        let entries: Vec<Hostile> = entries
            .into_iter()
            .map(|entry| Hostile { link: entry.link.replace("OUTSIDE", outside.to_str().unwrap()), ..entry })
            .filter(|entry| entry.link.len() < 100)
            .collect();
        let mut stream = hostile_stream(&entries);
        if let Some((at, value)) = damage && let Some(byte) = stream.get_mut(at) {
            *byte = value;
        }
        let kept = |_: ()| {
            let mut facts = facts_below(&outside);
            facts.extend(facts_below(&to).into_iter().filter(|fact| !fact.0.starts_with(to.join("asked")) && fact.0 != to));
            facts
        };
        let before = kept(());
        let _: Result<Unpacked, super::TreeError> =
            unpack(open(&to), Policy::hostile(false).called(Some(b"asked".to_vec())), stream.as_slice());
        prop_assert_eq!(before, kept(()));
        if to.join("asked").symlink_metadata().is_ok() {
            for fact in facts_below(&to.join("asked")) {
                let kind = fact.1 & 0o170_000;
                prop_assert!([0o100_000, 0o040_000, 0o120_000].contains(&kind), "{:?} is special", fact);
                prop_assert!(kind == 0o120_000 || fact.1 & 0o7000 == 0, "{:?} is setuid", fact);
                prop_assert_ne!(fact.2, 4321);
                let mut value = [0; 8];
                prop_assert!(rustix::fs::lgetxattr(&fact.0, "trusted.overlay.opaque", &mut value).is_err());
            }
        }
    }
}

#[test]
fn what_is_asked_for_bears_the_name_asked_for() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("tree/sub")).unwrap();
    fs::write(from.path().join("tree/file"), "x").unwrap();
    fs::hard_link(from.path().join("tree/file"), from.path().join("tree/sub/same")).unwrap();
    symlink("tree", from.path().join("link")).unwrap();
    let send = |path: &str, follow, called: Option<&str>, name: Option<&str>| {
        let mut stream = Vec::new();
        let what = What { path: path.as_bytes(), follow, called: called.map(str::as_bytes), fidelity: Fidelity::Plain };
        pack(&open(from.path()), &what, &mut stream).unwrap();
        let policy = Policy::hostile(false).called(name.map(|name| name.as_bytes().to_vec()));
        unpack(open(to.path()), policy, stream.as_slice()).unwrap();
    };
    let is_tree = |path: &str| {
        let (a, b) =
            (fs::metadata(to.path().join(path).join("file")), fs::metadata(to.path().join(path).join("sub/same")));
        assert_eq!(a.unwrap().ino(), b.unwrap().ino(), "{path}");
    };
    send("/tree", false, None, Some("received"));
    is_tree("received");
    send("/tree", false, Some("sent"), None);
    is_tree("sent");
    send("/link", false, None, None);
    assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("tree"));
    send("/link", true, None, Some("followed"));
    is_tree("followed");
    send("/link/", false, None, Some("slash"));
    is_tree("slash");
    symlink("tree/file", from.path().join("to file")).unwrap();
    send("/to file", true, None, None);
    assert_eq!(fs::read_to_string(to.path().join("to file")).unwrap(), "x");
    fs::create_dir(to.path().join("content")).unwrap();
    fs::set_permissions(to.path().join("content"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(from.path().join("tree"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut stream = Vec::new();
    pack(&open(from.path()), &whole(b"/tree/."), &mut stream).unwrap();
    unpack(open(&to.path().join("content")), Policy::hostile(true), stream.as_slice()).unwrap();
    is_tree("content");
    let mode = fs::metadata(to.path().join("content")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o700, "a directory that is there keeps its mode");
}

#[test]
fn directories_and_files_do_not_replace_each_other() {
    for (is_directory, there) in [(true, "file"), (false, "directory")] {
        let to = tempfile::tempdir().unwrap();
        match there {
            "file" => fs::write(to.path().join("x"), "mine").unwrap(),
            _ => fs::create_dir(to.path().join("x")).unwrap(),
        }
        let kind = if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular };
        let stream = hostile_stream(&[Hostile { kind, name: "x".into(), link: String::new(), mode: 0o755 }]);
        for policy in [Policy::inside(false), Policy::hostile(false)] {
            let error = unpack(open(to.path()), policy, stream.as_slice()).unwrap_err();
            assert!(error.source.to_string().contains("in its place"), "{}", error.source);
        }
    }
}

#[test]
fn a_stream_that_is_cut_short_is_no_tree() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("x"), vec![7; 5000]).unwrap();
    let mut stream = Vec::new();
    pack(&open(from.path()), &whole(b"/x"), &mut stream).unwrap();
    for end in [0, 100, 512, 3000, 512 + 5120] {
        let to = tempfile::tempdir().unwrap();
        let error = unpack(open(to.path()), Policy::hostile(false), &stream[..end]).unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::UnexpectedEof, "{end}");
    }
}

#[test]
fn a_map_that_claims_much_costs_little() {
    // One run at the end of a file of exabytes; a map of a thousand million pieces.
    let to = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_path("x").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(1);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 62);
    gnu.sparse[0].set_offset((1 << 62) - 1);
    gnu.sparse[0].set_length(1);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b"x"[..]).unwrap();
    let stream = builder.into_inner().unwrap();
    // The filesystem takes such a file or refuses it; nobody writes its zeros.
    let _: Result<Unpacked, super::TreeError> = unpack(open(to.path()), Policy::hostile(false), stream.as_slice());
    let mut builder = tar::Builder::new(Vec::new());
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")];
    builder.append_pax_extensions(records).unwrap();
    let mut map = b"1000000000\n".to_vec();
    map.resize(512, b'0');
    let mut header = tar::Header::new_gnu();
    header.set_path("y").unwrap();
    header.set_size(512);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    builder.append(&header, map.as_slice()).unwrap();
    let stream = builder.into_inner().unwrap();
    assert!(unpack(open(to.path()), Policy::hostile(false), stream.as_slice()).is_err());
}

#[test]
fn a_file_of_the_kernel_has_the_size_it_has() {
    let (to, root) = (tempfile::tempdir().unwrap(), open(Path::new("/")));
    let mut stream = Vec::new();
    pack(&root, &whole(b"/proc/version"), &mut stream).unwrap();
    unpack(open(to.path()), Policy::hostile(false), stream.as_slice()).unwrap();
    assert_eq!(fs::read(to.path().join("version")).unwrap(), fs::read("/proc/version").unwrap());
}
