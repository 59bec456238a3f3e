//! Round trips through real filesystems.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::pack::pack;
use super::unpack::unpack;

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn round_trip(from: &Path, name: &str, to: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    pack(&open(from), format!("/{name}").as_bytes(), &mut stream).unwrap();
    unpack(open(to), false, stream.as_slice()).unwrap();
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
        rustix::fs::setxattr(tree.join("plain"), "user.test", b"a\0b", rustix::fs::XattrFlags::empty()).is_ok();
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
        assert_eq!(&value[..count], b"a\0b");
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
    for format in [&["--format=gnu"][..], &["--format=posix"], &["--format=posix", "--sparse-version=0.1"]] {
        let stream = sys::process::run(
            sys::process::command("tar").arg("-C").arg(from.path()).args(["-S", "-cf", "-"]).args(format).arg("sparse"),
        )
        .unwrap();
        unpack(open(to.path()), false, stream.as_slice()).unwrap();
        same(&to.path().join("sparse"));
    }
    let mut ours = tempfile::NamedTempFile::new().unwrap();
    pack(&open(from.path()), b"/sparse", &mut ours).unwrap();
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
        unpack(open(to.path()), false, stream.as_slice())
    };
    assert!(hostile("d", Some(outside.path()), "d/file").is_err());
    assert!(hostile("d", Some(Path::new("../../../../../../../../tmp")), "d/file").is_err());
    assert!(hostile("", None, "../file").is_err());
    assert!(hostile("", None, "a/../../file").is_err());
    hostile("", None, "/absolute").unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let to = tempfile::tempdir().unwrap();
        let _: Result<u64, super::TreeError> = unpack(open(to.path()), false, bytes.as_slice());
    }
}
