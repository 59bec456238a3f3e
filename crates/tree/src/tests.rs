//! Round trips through real filesystems.

mod broken;
mod hostile;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::pack::{Fidelity, What, pack};
use super::unpack::{Policy, unpack};

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
fn a_stream_that_is_cut_short_is_no_tree() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("x"), vec![7; 5000]).unwrap();
    let mut stream = Vec::new();
    pack(&open(from.path()), &whole(b"/x"), &mut stream).unwrap();
    let complete = stream.len() - 1024;
    for end in [0, 100, 512, 3000, complete - 512, complete] {
        for policy in [Policy::hostile(false), Policy::inside(false)] {
            let to = tempfile::tempdir().unwrap();
            fs::write(to.path().join("x"), "old").unwrap();
            let error = unpack(open(to.path()), policy, &stream[..end]).unwrap_err();
            assert_eq!(error.source.kind(), std::io::ErrorKind::UnexpectedEof, "{end}");
            let is_old = fs::read(to.path().join("x")).unwrap() == b"old";
            assert_eq!(is_old, end < complete, "{end}: old or whole");
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "{end}: nothing beside it");
        }
    }
}

#[test]
fn what_is_left_out_is_named() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("tree")).unwrap();
    fs::write(from.path().join("tree/z"), "z").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("tree/socket\u{1b}")).unwrap();
    let fifo = |name: &str| {
        rustix::fs::mkfifoat(rustix::fs::CWD, from.path().join("tree").join(name), rustix::fs::Mode::RUSR).unwrap();
    };
    fifo("pipe");
    let send = |policy| {
        let mut stream = tempfile::NamedTempFile::new().unwrap();
        let packed = pack(&open(from.path()), &whole(b"/tree"), &mut stream).unwrap();
        let unpacked = unpack(open(to.path()), policy, stream.reopen().unwrap()).unwrap();
        (packed.left_out, unpacked.left_out, stream)
    };
    let (sent, received, stream) = send(Policy::hostile(false));
    assert_eq!((sent.count, sent.names), (1, vec![r"tree/socket\u{1b}".to_owned()]));
    assert_eq!((received.count, received.names), (2, vec!["tree/pipe".to_owned(), r"tree/socket\u{1b}".to_owned()]));
    assert_eq!(fs::read_dir(to.path().join("tree")).unwrap().count(), 1);
    // Others read past what names it.
    let listed = sys::process::run(sys::process::command("tar").arg("-tf").arg(stream.path())).unwrap();
    assert_eq!(String::from_utf8(listed).unwrap(), "tree/\ntree/pipe\ntree/z\n");
    assert_eq!(send(Policy::inside(false)).1.count, 1, "pipes are made where they are wanted");
    (0..20).for_each(|number| fifo(&format!("pipe {number}")));
    let (_, received, _) = send(Policy::hostile(false));
    assert_eq!((received.count, received.names.len()), (22, 10));
}

#[test]
fn a_file_of_the_kernel_has_the_size_it_has() {
    let (to, root) = (tempfile::tempdir().unwrap(), open(Path::new("/")));
    let mut stream = Vec::new();
    pack(&root, &whole(b"/proc/version"), &mut stream).unwrap();
    unpack(open(to.path()), Policy::hostile(false), stream.as_slice()).unwrap();
    assert_eq!(fs::read(to.path().join("version")).unwrap(), fs::read("/proc/version").unwrap());
}
