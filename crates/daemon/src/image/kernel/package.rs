//! Takes the kernel out of a distribution's package, whatever its format.
//!
//! Nothing is unpacked as a package wishes: only regular files that a kernel consists of are taken ([`wanted`]), each is
//! written to a path built from checked names, and counts and sizes are bounded. `deb.rs` and `rpm.rs` read the formats.
//! What comes out is laid out as Debian does it, whichever package it was: `boot/vmlinuz-<release>`,
//! `boot/config-<release>`, `lib/modules/<release>/`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::is_release;
use crate::image::codec::Codec;
use crate::image::stream::copy;
use crate::model::progress::Watcher;

/// Entries a package may have; a distribution kernel has some 5,000.
const ENTRIES_MAX: usize = 200_000;
/// Bytes a package may unpack to; a distribution kernel has some 400 MB.
pub(super) const UNPACKED_MAX_BYTES: u64 = 4 << 30;
/// Longest path taken from a package.
const PATH_MAX_BYTES: usize = 1024;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The file cannot be opened.
    #[error("cannot open {}", .package.display())]
    Open {
        /// The package.
        package: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// What is around the data is damaged.
    #[error("{} is not a whole {format} package", .package.display())]
    Archive {
        /// The package.
        package: PathBuf,
        /// The format it should have.
        format: &'static str,
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
    /// An entry breaks a rule.
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

/// A format of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Deb,
    Rpm,
}

impl Format {
    /// The format of a file with these first bytes and this name. A damaged package is still told by its name.
    pub(super) fn of(head: &[u8], path: &Path) -> Option<Self> {
        let named = |suffix| path.extension().is_some_and(|extension| extension == suffix);
        if head.starts_with(b"!<arch>\n") || named("deb") {
            Some(Self::Deb)
        } else if head.starts_with(super::rpm::LEAD_MAGIC) || named("rpm") {
            Some(Self::Rpm)
        } else {
            None
        }
    }
}

/// Unpacks the kernel in `package` to `target/{boot,lib/modules}`.
///
/// # Errors
/// [`PackageError`], naming the package, the member and the entry.
pub(super) fn unpack(package: &Path, format: Format, target: &Path, watcher: Watcher<'_>) -> Result<(), PackageError> {
    match format {
        Format::Deb => super::deb::unpack(package, target, watcher),
        Format::Rpm => super::rpm::unpack(package, target, watcher),
    }
}

/// The path an entry is taken to beneath the target, if it is one a kernel consists of.
///
/// Debian's kernels are in `boot/`, Fedora's beside their modules, with much that no guest reads: symbols, dumps of
/// types, a checksum for the boot loader.
pub(super) fn wanted(path: &str) -> Option<PathBuf> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.strip_prefix("usr/").unwrap_or(path);
    if let Some(name) = path.strip_prefix("boot/") {
        let kept = ["vmlinuz-", "vmlinux-", "config-"].iter().any(|kind| name.starts_with(kind));
        return (kept && !name.contains('/')).then(|| Path::new("boot").join(name));
    }
    let (release, below) = path.strip_prefix("lib/modules/")?.split_once('/')?;
    if !is_release(release) {
        return None;
    }
    match below {
        "vmlinuz" | "config" => Some(Path::new("boot").join(format!("{below}-{release}"))),
        _ if is_of_modules(below) => Some(Path::new("lib/modules").join(release).join(below)),
        _ => None,
    }
}

/// Whether a file of `lib/modules/<release>`, named by its path there, is a module or says something of modules.
pub(super) fn is_of_modules(below: &str) -> bool {
    below.contains('/') || below.starts_with("modules.")
}

/// One unpacking: what its errors must name.
pub(super) struct Unpacking<'a> {
    pub(super) package: &'a Path,
    pub(super) member: &'a str,
    pub(super) target: &'a Path,
    pub(super) watcher: Watcher<'a>,
}

impl Unpacking<'_> {
    /// What `reader` holds compressed; plain data where `may_be_plain`.
    pub(super) fn decode<'r>(
        &self,
        reader: &'r mut dyn Read,
        may_be_plain: bool,
    ) -> Result<Box<dyn Read + 'r>, PackageError> {
        let mut head = Vec::new();
        reader.take(8).read_to_end(&mut head).map_err(|err| self.damaged(None, err))?;
        let unsupported = || PackageError::Codec { package: self.package.to_owned(), member: self.member.to_owned() };
        let whole = io::Cursor::new(head.clone()).chain(reader);
        match Codec::sniff(&head) {
            Some(codec) => codec.decode(whole).map_err(|_| unsupported()),
            None if may_be_plain => Ok(Box::new(whole)),
            None => Err(unsupported()),
        }
    }

    pub(super) fn damaged(&self, entry: Option<&str>, err: io::Error) -> PackageError {
        PackageError::Data {
            package: self.package.to_owned(),
            member: self.member.to_owned(),
            entry: entry.map(str::to_owned),
            err,
        }
    }

    pub(super) fn refuse(&self, entry: &str, why: &'static str) -> PackageError {
        let entry = entry.chars().take(200).collect();
        PackageError::Entry { package: self.package.to_owned(), member: self.member.to_owned(), entry, why }
    }

    /// Takes the entry `path`, the `count`th of its package, if a kernel consists of such.
    pub(super) fn take(
        &self,
        path: &str,
        count: usize,
        is_file: bool,
        content: &mut dyn Read,
    ) -> Result<(), PackageError> {
        if count >= ENTRIES_MAX {
            return Err(self.refuse(path, "is one too many"));
        }
        if path.starts_with('/') || path.split('/').any(|name| name == "..") {
            return Err(self.refuse(path, "leads outside the package"));
        }
        if path.len() > PATH_MAX_BYTES || path.contains('\0') {
            return Err(self.refuse(path, "has a name that is too long or holds a NUL byte"));
        }
        match wanted(path).filter(|_| is_file) {
            Some(below) => self.write(content, &self.target.join(below), path),
            None => Ok(()),
        }
    }

    fn write(&self, content: &mut dyn Read, to: &Path, path: &str) -> Result<(), PackageError> {
        if let Some(parent) = to.parent() {
            sys::fs::create_private_dir(parent)?;
        }
        let mut file = match sys::fs::create_new(to, 0o600) {
            Err(err) if err.source.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.refuse(path, "is there a second time"));
            }
            outcome => outcome?,
        };
        copy(content, &mut file, self.watcher).map(|_| ()).map_err(|err| match err.kind() {
            // Only writing meets a full disk: the package is as good as before.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                sys::fs::FsError { act: "write", path: to.to_owned(), source: err }.into()
            }
            _ => self.damaged(Some(path), err),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_kernel_consists_of_is_taken() {
        for (path, to) in [
            ("./boot/vmlinuz-6.1", Some("boot/vmlinuz-6.1")),
            ("boot/config-6.1", Some("boot/config-6.1")),
            ("boot/System.map-6.1", None),
            ("boot/efi/vmlinuz-6.1", None),
            ("./lib/modules/6.1/vmlinuz", Some("boot/vmlinuz-6.1")),
            ("usr/lib/modules/6.1/config", Some("boot/config-6.1")),
            ("./lib/modules/6.1/modules.builtin", Some("lib/modules/6.1/modules.builtin")),
            ("./lib/modules/6.1/kernel/fs/a.ko.xz", Some("lib/modules/6.1/kernel/fs/a.ko.xz")),
            ("./lib/modules/6.1/System.map", None),
            ("./lib/modules/6.1/symvers.xz", None),
            ("./lib/modules/.x/vmlinuz", None),
            ("./lib/modules/6.1", None),
            ("./usr/share/doc/copyright", None),
        ] {
            assert_eq!(wanted(path).as_deref(), to.map(Path::new), "{path}");
        }
    }

    #[test]
    fn a_format_is_told_by_its_bytes_or_its_name() {
        for (head, name, format) in [
            (b"!<arch>\n".as_slice(), "x", Some(Format::Deb)),
            (b"\xed\xab\xee\xdb\x03", "x", Some(Format::Rpm)),
            (b"", "x.deb", Some(Format::Deb)),
            (b"", "x.rpm", Some(Format::Rpm)),
            (b"MZ", "vmlinuz-6.1", None),
        ] {
            assert_eq!(Format::of(head, Path::new(name)), format, "{name}");
        }
    }
}
