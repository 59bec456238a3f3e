//! What ends in the middle, and how it is said.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{open, whole};
use crate::pack::pack;
use crate::unpack::{Policy, unpack};
use crate::{TreeError, shown};

/// The whole of an error, as people read it.
fn told(error: &TreeError) -> String {
    format!("{error}: {}", error.source)
}

/// A tree of two directories that are not 0700, with a file in the inner one, as a stream.
fn tree() -> Vec<u8> {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("d/sub")).unwrap();
    fs::write(from.path().join("d/sub/file"), vec![7; 5000]).unwrap();
    for (path, mode) in [("d/sub", 0o751), ("d", 0o555)] {
        fs::set_permissions(from.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut stream = Vec::new();
    pack(&open(from.path()), &whole(b"/d"), &mut stream).unwrap();
    fs::set_permissions(from.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
    stream
}

/// Where the content of the file begins.
fn content_of(stream: &[u8]) -> usize {
    stream.windows(8).position(|bytes| bytes == [7; 8]).unwrap()
}

fn modes(to: &Path) -> [u32; 2] {
    ["d", "d/sub"].map(|path| fs::metadata(to.join(path)).unwrap().mode() & 0o7777)
}

/// Bytes, then an error.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::other("the line is dead"));
        }
        self.0.read(buffer)
    }
}

#[test]
fn directories_have_their_modes_however_it_ends() {
    let stream = tree();
    let half = &stream[..content_of(&stream) + 1000];
    for policy in [Policy::hostile(true), Policy::inside(false)] {
        let to = tempfile::tempdir().unwrap();
        let error = unpack(open(to.path()), policy.clone(), half).unwrap_err();
        assert_eq!(told(&error), "cannot write d/sub/file: the stream ends in the middle of it");
        assert_eq!(modes(to.path()), [0o555, 0o751]);
        fs::set_permissions(to.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
        let to = tempfile::tempdir().unwrap();
        let error = unpack(open(to.path()), policy, Failing(half)).unwrap_err();
        assert_eq!(told(&error), "cannot write d/sub/file: the line is dead");
        assert_eq!(modes(to.path()), [0o555, 0o751]);
        fs::set_permissions(to.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn what_is_no_stream_is_called_what_it_is() {
    let stream = tree();
    let damaged = |at: usize, byte: u8| {
        let mut stream = stream.clone();
        stream[at] = byte;
        stream
    };
    let padded = |begin: &[u8]| [begin, &[0x1b; 2000]].concat();
    // The second header: behind those of the top, with its record.
    let later = content_of(&stream) - 512;
    for (bytes, why) in [
        (Vec::new(), "it is empty"),
        (b"hello\n".to_vec(), "it is no tar stream"),
        (padded(b""), "it is no tar stream"),
        (padded(b"\x1f\x8b\x08"), "it is compressed (gzip): decompress it first"),
        (b"\xfd7zXZ\0".to_vec(), "it is compressed (xz): decompress it first"),
        (padded(b"\x28\xb5\x2f\xfd"), "it is compressed (zstd): decompress it first"),
        (stream[..100].to_vec(), "it is no tar stream"),
        (stream[..512].to_vec(), "it ends too early"),
        (stream[..later].to_vec(), "it ends too early"),
        (stream[..later + 100].to_vec(), "it ends too early"),
        (damaged(later + 150, 0x1b), "a header's checksum is wrong"),
        (damaged(later, 0x1b), "a header's checksum is wrong"),
    ] {
        let to = tempfile::tempdir().unwrap();
        let error = unpack(open(to.path()), Policy::inside(false), bytes.as_slice()).unwrap_err();
        assert_eq!(told(&error), format!("cannot read the stream: {why}"));
    }
}

#[test]
fn a_number_that_is_none_is_named_and_not_shown() {
    type Field = fn(&mut tar::Header) -> &mut [u8];
    let fields: [(&str, Field); 5] = [
        ("size", |header| &mut header.as_old_mut().size),
        ("mode", |header| &mut header.as_old_mut().mode),
        ("owner", |header| &mut header.as_old_mut().uid),
        ("group", |header| &mut header.as_old_mut().gid),
        ("time", |header| &mut header.as_old_mut().mtime),
    ];
    for (name, field) in fields {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.as_old_mut().name[0] = b'x';
        for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime, tar::Header::set_size] {
            set(&mut header, 0);
        }
        header.set_mode(0o644);
        field(&mut header).fill(b'\x1b');
        header.set_cksum();
        let to = tempfile::tempdir().unwrap();
        let error = unpack(open(to.path()), Policy::inside(false), header.as_bytes().as_slice()).unwrap_err();
        assert_eq!(told(&error), format!("cannot read the stream: the {name} in a header is no number"));
    }
}

#[test]
fn what_is_in_the_way_is_said_with_its_path() {
    let stream = tree();
    for (there, is_file, why) in [
        ("d", true, "cannot make d: something there is no directory, and a directory does not replace it"),
        ("d/sub", true, "cannot make d/sub: something there is no directory, and a directory does not replace it"),
        ("d/sub/file", false, "cannot write d/sub/file: there is a directory, and a file does not replace it"),
    ] {
        let to = tempfile::tempdir().unwrap();
        let path = to.path().join(there);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if is_file {
            fs::write(&path, "mine").unwrap()
        } else {
            fs::create_dir(&path).unwrap()
        }
        let error = unpack(open(to.path()), Policy::hostile(false), stream.as_slice()).unwrap_err();
        assert_eq!(told(&error), why);
    }
}

#[test]
fn names_are_shown_as_they_are_but_for_what_a_terminal_would_obey() {
    assert_eq!(shown("it's \"x\" grüße".as_bytes()), "it's \"x\" grüße");
    assert_eq!(shown(b"a\x1b[31m\r\n\\\x9b\xff"), "a\\u{1b}[31m\\r\\n\\\\\u{fffd}\u{fffd}");
    assert_eq!(shown("\u{202e}x\u{2066}".as_bytes()), "\\u{202e}x\\u{2066}");
    assert_eq!(shown(&[b'a'; 5000]).len(), 400);
}

/// A directory of the kernel's that belongs to this process.
const KERNELS: &str = "/proc/self/task";

#[test]
fn the_kernels_directories_take_no_files() {
    let stream = tree();
    let file = {
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join("none"), "x").unwrap();
        let mut stream = Vec::new();
        pack(&open(from.path()), &whole(b"/none"), &mut stream).unwrap();
        stream
    };
    for (stream, act) in [(stream, "cannot make d: "), (file, "cannot write none: ")] {
        for policy in [Policy::hostile(false), Policy::inside(false)] {
            let error = unpack(open(Path::new(KERNELS)), policy, stream.as_slice()).unwrap_err();
            let why = "the kernel's own directories take no files; a command can write to those in them";
            assert_eq!(told(&error), format!("{act}{why}"));
        }
    }
}

#[test]
fn of_the_kernels_files_what_is_asked_for_comes_or_is_an_error() {
    let root = open(Path::new("/"));
    let packed = |path: &str| {
        let mut stream = Vec::new();
        pack(&root, &whole(path.as_bytes()), &mut stream).map(|packed| (packed, stream))
    };
    for path in ["/proc", "/proc/", "/proc/.", "/sys"] {
        let error = packed(path).unwrap_err();
        assert!(told(&error).contains("name what is wanted of it"), "{path}: {}", told(&error));
    }
    // Every process has files there that only a debugger may read, and one without an end.
    let task = format!("/proc/{}", std::process::id());
    let error = packed(&format!("{task}/mem")).unwrap_err();
    assert!(told(&error).starts_with("cannot read mem: "), "{}", told(&error));
    // One file there can only be written.
    let (packed, stream) = packed("/proc/sys/net/ipv4/route").unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!((packed.left_out.count, packed.left_out.names.as_slice()), (1, &["route/flush".to_owned()][..]));
    let to = tempfile::tempdir().unwrap();
    let unpacked = unpack(open(to.path()), Policy::hostile(false), stream.as_slice()).unwrap();
    assert_eq!(packed.left_out, unpacked.left_out, "what could not be read is told");
    let names = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!(names(&to.path().join("route")) + 1, names(Path::new("/proc/sys/net/ipv4/route")));
}
