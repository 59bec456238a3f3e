//! Takes the kernel out of a Debian kernel package, deb(5): an ar archive whose `data.tar` holds `boot/` and `lib/modules/`.
//!
//! Nothing is unpacked as the archive wishes: only regular files beneath the two directories are taken, each is
//! written to a path built from checked names, and counts and sizes are bounded.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::image::codec::Codec;
use crate::image::stream::{Bounded, Watched, copy};
use crate::model::progress::Watcher;

/// Entries a package may have; a distribution kernel has some 5,000.
const ENTRIES_MAX: usize = 200_000;
/// Bytes a package may unpack to; a distribution kernel has some 400 MB.
const UNPACKED_MAX_BYTES: u64 = 4 << 30;
/// Longest path taken from a package.
const PATH_MAX_BYTES: usize = 1024;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The file cannot be opened.
    #[error("cannot open {}", .package.display())]
    Open {
        /// The package.
        package: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The outer archive is damaged.
    #[error("{} is not a whole Debian package", .package.display())]
    Archive {
        /// The package.
        package: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The outer archive has no data.
    #[error("{} is not a Debian package: it has no data.tar", .package.display())]
    NoData {
        /// The package.
        package: PathBuf,
    },
    /// The data is in a format that is not read.
    #[error("{} cannot be unpacked: {member} is in an unknown or unsupported format", .package.display())]
    Codec {
        /// The package.
        package: PathBuf,
        /// The member.
        member: String,
    },
    /// The data is damaged.
    #[error("{} is damaged: {member} cannot be read at {}", .package.display(), .entry.as_deref().unwrap_or("its start"))]
    Data {
        /// The package.
        package: PathBuf,
        /// The member.
        member: String,
        /// The entry, or the last one that could be read.
        entry: Option<String>,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// An entry has a name that leads outside.
    #[error("{} is refused: entry {entry:?} in {member} {why}", .package.display())]
    Entry {
        /// The package.
        package: PathBuf,
        /// The member.
        member: String,
        /// The entry.
        entry: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] sys::fs::FsError),
}

/// The path an entry is taken to beneath the target, if it is one a kernel consists of.
fn wanted(path: &str) -> Option<PathBuf> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.strip_prefix("usr/").unwrap_or(path);
    if let Some(name) = path.strip_prefix("boot/") {
        let kept = ["vmlinuz-", "vmlinux-", "config-"].iter().any(|kind| name.starts_with(kind));
        return (kept && !name.contains('/')).then(|| Path::new("boot").join(name));
    }
    let below = path.strip_prefix("lib/modules/")?;
    Some(Path::new("lib/modules").join(below))
}

/// Unpacks the kernel in `package` to `target/{boot,lib/modules}`.
///
/// # Errors
/// [`DebError`], naming the package, the member and the entry.
pub(crate) fn unpack(package: &Path, target: &Path, watcher: Watcher<'_>) -> Result<(), DebError> {
    let opened = |err| DebError::Open { package: package.to_owned(), err };
    let file = File::open(package).map_err(opened)?;
    let length = file.metadata().map_err(opened)?.len();
    let damaged = |err| DebError::Archive { package: package.to_owned(), err };
    let mut archive = ar::Archive::new(Watched::new(BufReader::new(file), watcher, Some(length)));
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(damaged)?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if !name.starts_with("data.tar") {
            continue;
        }
        let (size, mut data) = (member.header().size(), Counted { inner: &mut member, bytes: 0 });
        Unpacking { package, member: &name, target, watcher }.data(&mut data)?;
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
    Err(DebError::NoData { package: package.to_owned() })
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

/// One unpacking: what its errors must name.
struct Unpacking<'a> {
    package: &'a Path,
    member: &'a str,
    target: &'a Path,
    watcher: Watcher<'a>,
}

impl Unpacking<'_> {
    fn data(&self, reader: &mut dyn Read) -> Result<(), DebError> {
        let damaged = |entry: Option<&String>, err| DebError::Data {
            package: self.package.to_owned(),
            member: self.member.to_owned(),
            entry: entry.cloned(),
            err,
        };
        let mut head = Vec::new();
        reader.take(8).read_to_end(&mut head).map_err(|err| damaged(None, err))?;
        let whole = io::Cursor::new(head.clone()).chain(reader);
        let unsupported = || DebError::Codec { package: self.package.to_owned(), member: self.member.to_owned() };
        let plain: Box<dyn Read> = match Codec::sniff(&head) {
            Some(codec) => codec.decode(whole).map_err(|_| unsupported())?,
            None if self.member == "data.tar" => Box::new(whole),
            None => return Err(unsupported()),
        };
        let mut archive = tar::Archive::new(Bounded::new(plain, UNPACKED_MAX_BYTES));
        let mut last = None;
        let entries = archive.entries().map_err(|err| damaged(None, err))?;
        for (count, entry) in entries.enumerate() {
            let mut entry = entry.map_err(|err| damaged(last.as_ref(), err))?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if count >= ENTRIES_MAX {
                return Err(self.refuse(path, "is one too many"));
            }
            if let Some(to) = self.place(&path, entry.header().entry_type())? {
                self.write(&mut entry, &to, &path)?;
            }
            last = Some(path);
        }
        // The checksum of the compressed data comes last.
        copy(&mut archive.into_inner(), &mut io::sink(), self.watcher).map_err(|err| damaged(last.as_ref(), err))?;
        Ok(())
    }

    fn refuse(&self, entry: String, why: &'static str) -> DebError {
        DebError::Entry { package: self.package.to_owned(), member: self.member.to_owned(), entry, why }
    }

    /// Where an entry goes; `None` for those that are not taken.
    fn place(&self, path: &str, kind: tar::EntryType) -> Result<Option<PathBuf>, DebError> {
        if path.starts_with('/') || path.split('/').any(|name| name == "..") {
            return Err(self.refuse(path.chars().take(200).collect(), "leads outside the package"));
        }
        if path.len() > PATH_MAX_BYTES || path.contains('\0') {
            return Err(
                self.refuse(path.chars().take(200).collect(), "has a name that is too long or holds a NUL byte")
            );
        }
        Ok(wanted(path).filter(|_| kind.is_file()).map(|below| self.target.join(below)))
    }

    fn write(&self, entry: &mut dyn Read, to: &Path, path: &str) -> Result<(), DebError> {
        if let Some(parent) = to.parent() {
            sys::fs::create_private_dir(parent)?;
        }
        let mut file = sys::fs::create_new(to, 0o600)?;
        copy(entry, &mut file, self.watcher).map(|_| ()).map_err(|err| match err.kind() {
            // Only writing meets a full disk: the package is as good as before.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                sys::fs::FsError { act: "write", path: to.to_owned(), source: err }.into()
            }
            _ => DebError::Data {
                package: self.package.to_owned(),
                member: self.member.to_owned(),
                entry: Some(path.to_owned()),
                err,
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
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
