//! A kernel package of the host's Debian archive, fetched and verified by apt.
//!
//! apt knows the host's sources, mirrors, proxies and keys; nothing of that is repeated here. The host's own package
//! index is asked first. Where it does not know the package (a machine that never ran `apt-get update`), an index of our
//! own is kept in the cache: apt needs no privilege for that.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sys::process::RunError;

use crate::model::progress::{Cancelled, Watcher};

/// How often a running apt is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The end of what a failed apt said.
const SAID_BYTES_MAX: u64 = 4096;

/// Why a kernel package was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name is no package's.
    #[error("{package:?} is not the name of a Debian package")]
    Name {
        /// As asked.
        package: String,
    },
    /// apt is missing or failed.
    #[error("cannot ask apt about {package}")]
    Apt {
        /// As asked.
        package: String,
        /// Why.
        #[source]
        err: RunError,
    },
    /// No index knows it.
    #[error("Debian's archive has no kernel package {package}")]
    Unknown {
        /// As asked.
        package: String,
    },
    /// The transfer failed.
    #[error("cannot fetch {package}: {said}")]
    Transfer {
        /// The versioned package.
        package: String,
        /// What apt said last.
        said: String,
    },
    /// The cache cannot be used.
    #[error("cannot keep the package")]
    Cache(#[from] sys::fs::FsError),
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

/// Fetches `package`, or the versioned package that a meta package stands for, into `cache`, and gives its file. One that
/// is there already and has the right digest is not fetched again.
///
/// # Errors
/// [`FetchError`]; what was fetched of it stays in `cache` and is completed or replaced next time.
pub fn fetch(package: &str, cache: &Path, watcher: Watcher<'_>) -> Result<PathBuf, FetchError> {
    if !is_package_name(package) {
        return Err(FetchError::Name { package: package.to_owned() });
    }
    sys::fs::create_private_dir(cache)?;
    watcher.stage("find package");
    let mut index = Index::Host;
    let mut found = find(package, &index)?;
    if found.is_none() {
        index = Index::Own(cache.join("apt"));
        update(&index, package, watcher)?;
        found = find(package, &index)?;
    }
    let versioned = found.ok_or_else(|| FetchError::Unknown { package: package.to_owned() })?;
    let file = announced(&versioned, &index)?;
    watcher.stage("fetch package");
    let path = cache.join(&file.name);
    let mut command = index.command("apt-get");
    command.args(["-qq", "download", &versioned]).current_dir(cache);
    run_watched(&mut command, &versioned, watcher, || {
        watcher.bytes(fs::metadata(&path).map_or(0, |meta| meta.len()), Some(file.bytes));
    })?;
    watcher.bytes(file.bytes, Some(file.bytes));
    Ok(path)
}

/// Debian policy, section 5.6.1; and never something apt would take for an option or a version.
fn is_package_name(name: &str) -> bool {
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

/// Which package index apt works with.
enum Index {
    /// The host's.
    Host,
    /// One in our cache.
    Own(PathBuf),
}

impl Index {
    fn command(&self, program: &str) -> Command {
        let mut command = sys::process::command(program);
        // What is downloaded lands in our private directory, which apt's own sandbox user cannot enter.
        command.args(["-o", "APT::Sandbox::User=root"]).env("LC_ALL", "C");
        if let Index::Own(dir) = self {
            for (option, place) in [("Dir::State", "state"), ("Dir::Cache", "cache")] {
                command.arg("-o").arg(format!("{option}={}", dir.join(place).display()));
            }
        }
        command
    }
}

/// Fills an index of our own.
fn update(index: &Index, package: &str, watcher: Watcher<'_>) -> Result<(), FetchError> {
    if let Index::Own(dir) = index {
        for place in ["state/lists/partial", "cache/archives/partial"] {
            sys::fs::create_private_dir(&dir.join(place))?;
        }
    }
    watcher.stage("fetch package index");
    run_watched(index.command("apt-get").args(["-qq", "update"]), package, watcher, || {})
}

/// The versioned kernel package behind `package`, if the index knows it.
fn find(package: &str, index: &Index) -> Result<Option<String>, FetchError> {
    let failed = |err| FetchError::Apt { package: package.to_owned(), err };
    let shown = match sys::process::run(index.command("apt-cache").args(["show", "--no-all-versions", package])) {
        Ok(shown) => String::from_utf8_lossy(&shown).into_owned(),
        // apt-cache says so when it knows no such package.
        Err(RunError::Failed { .. }) => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    Ok(versioned(package, &shown))
}

/// Reads what `apt-cache show` printed: a kernel image package stands for itself, a meta package for the one it depends on.
fn versioned(package: &str, shown: &str) -> Option<String> {
    let field = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    field("Package")?;
    let is_image = |name: &str| {
        name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if is_image(package) {
        return Some(package.to_owned());
    }
    let depends = field("Depends")?;
    let names = depends.split([',', '|']).filter_map(|item| item.split_ascii_whitespace().next());
    names.filter(|name| is_package_name(name)).find(|name| is_image(name)).map(str::to_owned)
}

/// A package file as the index announces it.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    name: String,
    bytes: u64,
}

fn announced(package: &str, index: &Index) -> Result<Announced, FetchError> {
    let printed = sys::process::run(index.command("apt-get").args(["-qq", "download", "--print-uris", package]))
        .map_err(|err| FetchError::Apt { package: package.to_owned(), err })?;
    parse_uris(&String::from_utf8_lossy(&printed)).ok_or_else(|| FetchError::Unknown { package: package.to_owned() })
}

/// Reads `'URI' file size hash`, as apt-get(8) prints with `--print-uris`.
fn parse_uris(printed: &str) -> Option<Announced> {
    let mut words = printed.lines().find(|line| line.starts_with('\''))?.rsplit_once("' ")?.1.split_ascii_whitespace();
    let name = words.next()?.to_owned();
    let bytes = words.next()?.parse().ok()?;
    let is_plain = name.ends_with(".deb") && !name.contains('/') && !name.starts_with('.');
    is_plain.then_some(Announced { name, bytes })
}

/// Runs apt to its end, looking at it now and then; a cancellation kills it.
fn run_watched(
    command: &mut Command,
    package: &str,
    watcher: Watcher<'_>,
    mut look: impl FnMut(),
) -> Result<(), FetchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| FetchError::Apt { package: package.to_owned(), err: RunError::Start { program, source } };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(start)?;
    let said = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut said) = said {
            // What cannot be read any more is not quoted.
            drop(said.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut text));
            drop(std::io::copy(&mut said, &mut std::io::sink()));
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let ended = loop {
        if let Err(cancelled) = watcher.check() {
            drop(child.kill());
            drop(child.wait());
            return Err(cancelled.into());
        }
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) => std::thread::sleep(LOOK_EVERY),
            Err(_) => break false,
        }
        look();
    };
    let said = reader.join().unwrap_or_default();
    if ended { Ok(()) } else { Err(FetchError::Transfer { package: package.to_owned(), said }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_meta_package_stands_for_the_one_it_depends_on() {
        let meta = "Package: linux-image-cloud-amd64\nDepends: base (>= 1), linux-image-6.1.0-9-cloud-amd64 (= 6.1)\n";
        assert_eq!(versioned("linux-image-cloud-amd64", meta).as_deref(), Some("linux-image-6.1.0-9-cloud-amd64"));
        let itself = "Package: linux-image-6.1.0-9-amd64\nDepends: kmod\n";
        assert_eq!(versioned("linux-image-6.1.0-9-amd64", itself).as_deref(), Some("linux-image-6.1.0-9-amd64"));
        assert_eq!(versioned("bash", "Package: bash\nDepends: libc6\n"), None);
        assert_eq!(versioned("nothing", ""), None);
    }

    #[test]
    fn names_that_could_be_options_are_refused() {
        for bad in ["", "-o", "a", "linux image", "../x", "a=1", "A-b", "a/b"] {
            assert!(!is_package_name(bad), "{bad:?}");
        }
        assert!(is_package_name("linux-image-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn the_announced_file() {
        let printed = "'http://host/p/x_1_amd64.deb' x_1_amd64.deb 26713492 SHA256:00\n";
        assert_eq!(parse_uris(printed), Some(Announced { name: "x_1_amd64.deb".into(), bytes: 26_713_492 }));
        assert_eq!(parse_uris("'u' ../x.deb 1 SHA256:0\n"), None);
        assert_eq!(parse_uris("E: nothing\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}") {
            drop(parse_uris(&text));
            drop(versioned("meta", &text));
        }
    }
}
