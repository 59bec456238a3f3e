//! Reads a Debian package, deb(5): an ar archive whose `data.tar` holds the files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::package::{PackageError, UNPACKED_MAX_BYTES, Unpacking};
use crate::image::stream::{Bounded, Watched, copy};
use crate::model::progress::Watcher;

/// Unpacks the kernel in `package` to `target/{boot,lib/modules}`.
///
/// # Errors
/// [`PackageError`], naming the package, the member and the entry.
pub(crate) fn unpack(package: &Path, target: &Path, watcher: Watcher<'_>) -> Result<(), PackageError> {
    let opened = |err| PackageError::Open { package: package.to_owned(), err };
    let file = File::open(package).map_err(opened)?;
    let length = file.metadata().map_err(opened)?.len();
    let damaged = |err| PackageError::Archive { package: package.to_owned(), format: "Debian", err };
    let mut archive = ar::Archive::new(Watched::new(BufReader::new(file), watcher, Some(length)));
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(damaged)?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if !name.starts_with("data.tar") {
            continue;
        }
        let (size, mut data) = (member.header().size(), Counted { inner: &mut member, bytes: 0 });
        self::data(&Unpacking { package, member: &name, target, watcher }, &mut data)?;
        // What follows the compressed stream is padding at most; reading it shows a cut package.
        copy(&mut data, &mut io::sink(), watcher).map_err(damaged)?;
        if data.bytes != size {
            let err = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{name} ends after {} of {size} bytes", data.bytes),
            );
            return Err(damaged(err));
        }
        return Ok(());
    }
    Err(PackageError::NoData { package: package.to_owned() })
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.bytes += got as u64;
        Ok(got)
    }
}

fn data(unpacking: &Unpacking<'_>, reader: &mut dyn Read) -> Result<(), PackageError> {
    let plain = unpacking.decode(reader, unpacking.member == "data.tar")?;
    let mut archive = tar::Archive::new(Bounded::new(plain, UNPACKED_MAX_BYTES));
    let mut last: Option<String> = None;
    let entries = archive.entries().map_err(|err| unpacking.damaged(None, err))?;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|err| unpacking.damaged(last.as_deref(), err))?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let is_file = entry.header().entry_type().is_file();
        unpacking.take(&path, count, is_file, &mut entry)?;
        last = Some(path);
    }
    // The checksum of the compressed data comes last.
    copy(&mut archive.into_inner(), &mut io::sink(), unpacking.watcher)
        .map_err(|err| unpacking.damaged(last.as_deref(), err))?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::codec::Codec;
    use crate::image::codec::tests::encode;
    use proptest::prelude::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // set_path refuses what these tests need to write.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// A package with these files; `codec` compresses its data.
    pub(crate) fn package(codec: Option<Codec>, files: &[(&str, &[u8])]) -> Vec<u8> {
        let tar = tar_of(files);
        let (name, data) = match codec {
            None => ("data.tar".to_owned(), tar),
            Some(codec) => (format!("data.tar.{}", codec.name()), encode(codec, &tar)),
        };
        let mut package = ar::Builder::new(Vec::new());
        for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), ("control.tar", b""), (&name, &data)] {
            package.append(&ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64), bytes).unwrap();
        }
        package.into_inner().unwrap()
    }

    fn unpacked(package: &[u8]) -> Result<tempfile::TempDir, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("linux.deb");
        std::fs::write(&file, package).unwrap();
        unpack(&file, &dir.path().join("out"), Watcher::none())
            .map(|()| dir)
            .map_err(|err| format!("{err}: {:?}", std::error::Error::source(&err).map(ToString::to_string)))
    }

    const FILES: [(&str, &[u8]); 4] = [
        ("./boot/vmlinuz-6.1", b"kernel"),
        ("./usr/lib/modules/6.1/kernel/a.ko", b"module"),
        ("./usr/share/doc/copyright", b"text"),
        ("./boot/System.map-6.1", b"map"),
    ];

    #[test]
    fn takes_the_kernel_and_nothing_else() {
        for codec in [None, Some(Codec::Xz), Some(Codec::Zstd), Some(Codec::Gzip)] {
            let dir = unpacked(&package(codec, &FILES)).unwrap();
            let out = dir.path().join("out");
            assert_eq!(std::fs::read(out.join("boot/vmlinuz-6.1")).unwrap(), b"kernel");
            assert_eq!(std::fs::read(out.join("lib/modules/6.1/kernel/a.ko")).unwrap(), b"module");
            assert_eq!(std::fs::read_dir(out.join("boot")).unwrap().count(), 1);
            assert!(!out.join("usr").exists());
        }
    }

    #[test]
    fn hostile_names_are_refused_by_name() {
        for bad in ["../boot/vmlinuz-x", "/boot/vmlinuz-x", "boot/../../vmlinuz-x"] {
            let err = unpacked(&package(None, &[(bad, b"x")])).unwrap_err();
            assert!(err.contains(bad) && err.contains("data.tar") && err.contains("linux.deb"), "{err}");
        }
    }

    #[test]
    fn damage_is_named() {
        let noise: Vec<u8> = (0..50_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let good = package(Some(Codec::Xz), &[("./boot/vmlinuz-6.1", &noise)]);
        for cut in [0, 4, 100, good.len() / 2, good.len() - 20] {
            let err = unpacked(&good[..cut]).expect_err("cut");
            assert!(err.contains("linux.deb"), "{err}");
        }
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x40;
        let err = unpacked(&flipped).expect_err("flipped");
        assert!(err.contains("data.tar.xz") && err.contains("vmlinuz-6.1"), "{err}");
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(at in 0usize..2000, with in any::<u8>()) {
            let mut bytes = package(None, &FILES);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            let _outcome = unpacked(&bytes);
        }
    }
}
