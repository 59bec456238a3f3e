//! Archives of every shape, also as GNU tar writes them, and damaged ones.

use super::*;
use proptest::prelude::*;

fn records(bytes: &[u8]) -> Result<Vec<Record>, TarError> {
    let mut tarball = Tarball::new(bytes);
    let mut found = Vec::new();
    while let Some(record) = tarball.next()? {
        found.push(record);
    }
    Ok(found)
}

fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

fn one_file() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let pax: [(&str, &[u8]); 3] =
        [("mtime", b"1234.5"), ("SCHILY.xattr.user.a", b"one\n12 path=evil\n"), ("comment", b"x")];
    tar.append_pax_extensions(pax).unwrap();
    tar.append(&header("a/file", EntryType::Regular, 5), b"hello".as_slice()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn pax_values_may_hold_anything() {
    let bytes = one_file();
    let found = records(&bytes).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "a/file");
    assert_eq!(found[0].mtime, (1234, 500_000_000));
    assert_eq!(found[0].xattrs, [("user.a".to_owned(), b"one\n12 path=evil\n".to_vec())]);
    let RecordKind::File(content) = &found[0].kind else { panic!("a file") };
    let at = content.segments[0].at as usize;
    assert_eq!(&bytes[at..at + 5], b"hello");
}

#[test]
fn long_names_and_links() {
    let long = "d/".repeat(120) + "end";
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = header("x", EntryType::Regular, 0);
    tar.append_data(&mut file, &long, io::empty()).unwrap();
    let mut link = header("y", EntryType::Symlink, 0);
    tar.append_link(&mut link, "z", &long).unwrap();
    let found = records(&tar.into_inner().unwrap()).unwrap();
    assert_eq!(found[0].path, long);
    assert_eq!((found[1].path.as_str(), &found[1].kind), ("z", &RecordKind::Symlink(long)));
}

#[test]
fn times_have_fractions_and_may_be_early() {
    for (text, time) in [
        ("5", Some((5, 0))),
        ("5.25", Some((5, 250_000_000))),
        ("-1.25", Some((-2, 750_000_000))),
        ("5.0000000019", Some((5, 1))),
        ("x", None),
        ("1.x", None),
    ] {
        assert_eq!(timestamp(text), time, "{text}");
    }
}

#[test]
fn a_cut_or_damaged_archive_is_said_to_be_one() {
    let bytes = one_file();
    for cut in [0, 100, 512, 600, 1500, bytes.len() - 1024] {
        assert!(matches!(records(&bytes[..cut]), Err(TarError::Truncated { .. })), "cut to {cut}");
    }
    let mut flipped = bytes.clone();
    flipped[1024 + 10] ^= 1;
    let err = records(&flipped).unwrap_err().to_string();
    assert!(err.contains("checksum"), "{err}");
}

/// What GNU tar writes, read back: `--sparse` in both formats.
#[test]
fn sparse_files_of_gnu_tar() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("holes")).unwrap();
    file.set_len(40 << 20).unwrap();
    for piece in 0..9u64 {
        file.write_all_at(&[piece as u8 + 1; 4096], piece * (4 << 20) + 8192).unwrap();
    }
    for format in ["gnu", "pax"] {
        let mut tar = sys::process::command("tar");
        tar.arg("-C").arg(dir.path()).args(["--sparse", &format!("--format={format}"), "-cf", "-", "holes"]);
        let bytes = sys::process::run(&mut tar).unwrap();
        assert!(bytes.len() < 1 << 20, "{format} is sparse");
        let found = records(&bytes).unwrap();
        assert_eq!(found[0].path, "holes", "{format}");
        let RecordKind::File(content) = &found[0].kind else { panic!("a file") };
        assert_eq!((content.size_bytes, content.segments.len()), (40 << 20, 9), "{format}");
        for (piece, segment) in content.segments.iter().enumerate() {
            assert_eq!(segment.offset, piece as u64 * (4 << 20) + 8192);
            assert_eq!(bytes[segment.at as usize], piece as u8 + 1);
        }
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(at in 0usize..4096, with in any::<u8>(), fix in any::<bool>()) {
        let mut bytes = one_file();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        if fix {
            for block in bytes.chunks_exact_mut(512) {
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                if block[257..262] == *b"ustar" {
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        let _outcome = records(&bytes);
    }

    #[test]
    fn arbitrary_pax_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _outcome = pax(&bytes, &mut Extensions::default());
    }
}
