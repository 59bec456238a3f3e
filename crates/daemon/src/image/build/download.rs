//! Fetches a pinned package from another registry by the registry's own client, and takes one file out of it.
//!
//! A package is kept in the cache under its digest and checked each time it is used; a client that brings anything
//! else than what the recipe pins is refused.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::runner::{self, Ending, LastLines, RunnerError};
use crate::image::codec::Codec;
use crate::image::recipe::{Download, Registry};
use crate::image::stream::{Bounded, Hashing, Watched, copy};
use crate::model::digest::Digest;
use crate::model::progress::{Cancelled, Watcher};

/// Bytes of a package, and of the file taken out of it.
const PACKAGE_MAX_BYTES: u64 = 1 << 30;

/// Why a package of another registry cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The registry's client is missing.
    #[error("cannot fetch {package}: {client} is missing")]
    NoClient {
        /// What was to be fetched.
        package: String,
        /// The client.
        client: &'static str,
    },
    /// The client failed.
    #[error("cannot fetch {package}: {client} failed, see {}\n{said}", .log.display())]
    Client {
        /// What was to be fetched.
        package: String,
        /// The client.
        client: &'static str,
        /// All it said.
        log: PathBuf,
        /// The last it said.
        said: String,
    },
    /// The client could not be run or followed.
    #[error("cannot fetch {package} with {client}")]
    Run {
        /// What was to be fetched.
        package: String,
        /// The client.
        client: &'static str,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// What came is not what the recipe pins.
    #[error("{package} is refused: its sha256 is {found}, the recipe pins {pinned}")]
    Digest {
        /// What was fetched.
        package: String,
        /// What came.
        found: Digest,
        /// What should have come.
        pinned: Digest,
    },
    /// The package cannot be read.
    #[error("cannot read {package}")]
    Package {
        /// Which.
        package: String,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The file is not in the package.
    #[error("{package} has no file {member}")]
    NoMember {
        /// Which.
        package: String,
        /// The file.
        member: String,
    },
    /// A file cannot be kept.
    #[error(transparent)]
    Keep(#[from] sys::fs::FsError),
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

/// Where a build keeps things: its own directory, the cache, the log.
pub(super) struct Places<'a> {
    pub(super) work: &'a Path,
    pub(super) cache: &'a Path,
    pub(super) log: &'a Path,
}

fn named(download: &Download) -> String {
    format!("{} {} of {}", download.package, download.version, client(download.registry).1)
}

fn client(registry: Registry) -> (&'static str, &'static str) {
    match registry {
        Registry::Npm => ("npm", "npm"),
        Registry::Pypi => ("pip3", "PyPI"),
    }
}

/// The file a download stands for, taken out of its package into `places.work`.
pub(super) fn ensure(
    download: &Download,
    places: &Places<'_>,
    log: &mut File,
    watcher: Watcher<'_>,
) -> Result<PathBuf, DownloadError> {
    let packages = places.cache.join("downloads");
    let kept = packages.join(download.sha256.to_string());
    watcher.stage(format!("check {}", download.package));
    if !kept.exists() || digest(&kept, download, watcher)? != download.sha256 {
        watcher.stage(format!("fetch {}", download.package));
        let fetched = fetch(download, places, log, watcher)?;
        let found = digest(&fetched, download, watcher)?;
        if found != download.sha256 {
            return Err(DownloadError::Digest { package: named(download), found, pinned: download.sha256 });
        }
        sys::fs::create_private_dir(&packages)?;
        let incoming = sys::fs::sibling(&kept);
        sys::fs::copy_sparse(&fetched, &incoming, 0o600)?;
        sys::fs::rename(&incoming, &kept)?;
    }
    watcher.stage(format!("unpack {}", download.package));
    take_member(download, &kept, places.work, watcher)
}

fn digest(path: &Path, download: &Download, watcher: Watcher<'_>) -> Result<Digest, DownloadError> {
    let failed = |err| match watcher.check() {
        Ok(()) => DownloadError::Package { package: named(download), err },
        Err(cancelled) => cancelled.into(),
    };
    let file = Bounded::new(File::open(path).map_err(failed)?, PACKAGE_MAX_BYTES);
    let mut hashing = Hashing::new(Watched::new(file, watcher, None));
    copy(&mut hashing, &mut io::sink(), watcher).map_err(failed)?;
    Ok(hashing.finish().0)
}

/// The command that downloads a package to `into`, without its dependencies and without running anything of it.
fn fetch_command(download: &Download, into: &Path) -> Command {
    let mut command = sys::process::command(client(download.registry).0);
    match download.registry {
        Registry::Npm => {
            command
                .args(["pack", "--ignore-scripts", "--loglevel=error", "--logs-max=0", "--pack-destination"])
                .arg(into);
            // The package is kept in a cache of ours: the user's own stays as it is.
            command.arg("--cache").arg(into.join("npm")).arg(format!("{}@{}", download.package, download.version));
        }
        Registry::Pypi => {
            command.args(["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]);
            command.arg("--no-cache-dir").arg("--dest");
            command.arg(into).arg(format!("{}=={}", download.package, download.version));
        }
    }
    command.current_dir(into);
    command
}

fn fetch(
    download: &Download,
    places: &Places<'_>,
    log: &mut File,
    watcher: Watcher<'_>,
) -> Result<PathBuf, DownloadError> {
    let (client, _) = client(download.registry);
    let package = named(download);
    let into = places.work.join("fetched").join(download.sha256.to_string());
    sys::fs::create_private_dir(&into)?;
    let mut last = LastLines::default();
    let mut command = fetch_command(download, &into);
    let status = runner::run(&mut command, Ending::Group, log, &mut |line| last.push(line), watcher).map_err(
        |err| match err {
            RunnerError::Start(err) if err.kind() == io::ErrorKind::NotFound => {
                DownloadError::NoClient { package: package.clone(), client }
            }
            RunnerError::Start(err) | RunnerError::Follow(err) => {
                DownloadError::Run { package: package.clone(), client, err }
            }
            RunnerError::Cancelled(cancelled) => cancelled.into(),
        },
    )?;
    let (log, said) = (places.log.to_owned(), last.text());
    let failed = || DownloadError::Client { package: package.clone(), client, log, said };
    if !status.success() {
        return Err(failed());
    }
    let entries = fs::read_dir(&into).map_err(|err| DownloadError::Package { package: package.clone(), err })?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
    files.next().ok_or_else(failed)
}

/// Takes the file out of a gzipped tar archive (npm); a wheel is a zip archive, which is read in `wheel.rs`.
fn take_member(
    download: &Download,
    package: &Path,
    work: &Path,
    watcher: Watcher<'_>,
) -> Result<PathBuf, DownloadError> {
    let failed = |err| DownloadError::Package { package: named(download), err };
    let target = work.join(format!("member-{}", download.sha256));
    let file = File::open(package).map_err(failed)?;
    let mut out = sys::fs::create_new(&target, 0o600)?;
    let found = match download.registry {
        Registry::Npm => {
            let plain = Codec::Gzip.decode(file).map_err(|err| failed(io::Error::other(err)))?;
            from_tar(Bounded::new(plain, PACKAGE_MAX_BYTES), &download.member, &mut out, watcher)
        }
        Registry::Pypi => super::wheel::extract(file, &download.member, PACKAGE_MAX_BYTES, &mut out),
    };
    if found.map_err(failed)? {
        return Ok(target);
    }
    Err(DownloadError::NoMember { package: named(download), member: download.member.clone() })
}

fn from_tar(reader: impl Read, member: &str, out: &mut File, watcher: Watcher<'_>) -> io::Result<bool> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() && *entry.path_bytes() == *member.as_bytes() {
            copy(&mut entry, out, watcher)?;
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::codec::tests::encode;

    fn npm_package(member: &str, content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, member, content).unwrap();
        encode(Codec::Gzip, &tar.into_inner().unwrap())
    }

    fn download(sha256: Digest) -> Download {
        Download {
            registry: Registry::Npm,
            package: "@who/what".to_owned(),
            version: "1.0.0".to_owned(),
            sha256,
            member: "package/bin/what".to_owned(),
            target: "/usr/local/bin/what".to_owned(),
            mode: 0o755,
        }
    }

    #[test]
    fn a_kept_package_is_used_without_its_registry() {
        let dir = tempfile::tempdir().unwrap();
        let package = npm_package("package/bin/what", b"tool");
        let download = download(Digest::of(&package));
        let kept = dir.path().join("cache/downloads").join(download.sha256.to_string());
        sys::fs::create_private_dir(kept.parent().unwrap()).unwrap();
        fs::write(&kept, &package).unwrap();
        let cache = dir.path().join("cache");
        let places = Places { work: dir.path(), cache: &cache, log: dir.path() };
        let mut log = tempfile::tempfile().unwrap();
        let member = ensure(&download, &places, &mut log, Watcher::none()).unwrap();
        assert_eq!(fs::read(member).unwrap(), b"tool");
    }

    #[test]
    fn a_package_without_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("package");
        fs::write(&package, npm_package("package/other", b"")).unwrap();
        let err = take_member(&download(Digest::of(b"")), &package, dir.path(), Watcher::none()).unwrap_err();
        assert!(err.to_string().contains("@who/what 1.0.0 of npm has no file package/bin/what"), "{err}");
    }

    #[test]
    fn clients_get_no_room_to_run_anything() {
        let text = format!("{:?}", fetch_command(&download(Digest::of(b"")), Path::new("/x")));
        assert!(text.contains("\"--cache\" \"/x/npm\""), "{text}");
        assert!(text.contains("--ignore-scripts") && text.contains("@who/what@1.0.0"), "{text}");
    }
}
