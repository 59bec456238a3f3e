//! The kernel this host runs, as something to import.
//!
//! | part | Debian, Ubuntu, Arch's kin | Fedora |
//! |---|---|---|
//! | kernel | `/boot/vmlinuz-<release>` | the same, and `/usr/lib/modules/<release>/vmlinuz` |
//! | configuration | `/boot/config-<release>` | the same, and `/usr/lib/modules/<release>/config` |
//! | modules | `/lib/modules/<release>` | `/usr/lib/modules/<release>` |

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{KernelError, Source, is_release};

/// The release of the kernel that runs.
#[must_use]
pub fn host_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The parts of the kernel `release` of the host whose files are beneath `root`.
///
/// # Errors
/// [`KernelError::NotFound`] when it has none, as in a container; [`KernelError::Closed`] when only root may read it.
pub fn host(root: &Path, release: &str) -> Result<Source, KernelError> {
    find(root, release, &|path| File::open(path).map(drop))
}

/// [`host`], with what opens a file: root is never turned away.
fn find(root: &Path, release: &str, open: &dyn Fn(&Path) -> io::Result<()>) -> Result<Source, KernelError> {
    let refuse = |path: &Path, why: String| KernelError::NotFound { path: path.to_owned(), why };
    if !is_release(release) {
        return Err(refuse(root, format!("{release:?} is no release of a kernel")));
    }
    let boot = root.join("boot");
    let trees = ["usr/lib/modules", "lib/modules"].map(|place| root.join(place).join(release));
    let kernels = beside(&trees, boot.join(format!("vmlinuz-{release}")), "vmlinuz");
    let configs = beside(&trees, boot.join(format!("config-{release}")), "config");
    let modules = trees.into_iter().find(|tree| tree.is_dir());
    let config = configs.into_iter().find(|path| open(path).is_ok());
    let mut closed = None;
    for path in kernels {
        match open(&path) {
            Ok(()) => return Ok(Source { path, more: Vec::new(), config, modules }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => closed = closed.or(Some(path)),
            Err(err) => return Err(KernelError::Read { path, err }),
        }
    }
    Err(match closed {
        Some(path) => KernelError::Closed { path },
        None if modules.is_some() => refuse(
            &boot,
            format!(
                "the host runs {release}, and neither vmlinuz-{release} nor {release}/vmlinuz beside its modules is there"
            ),
        ),
        None => refuse(
            &boot,
            format!(
                "the host runs {release}, of which nothing is here: a container has its host's kernel, and an upgrade may have removed the one that runs"
            ),
        ),
    })
}

fn beside(trees: &[PathBuf], in_boot: PathBuf, name: &str) -> Vec<PathBuf> {
    [in_boot].into_iter().chain(trees.iter().map(|tree| tree.join(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const RELEASE: &str = "6.8.0-31-generic";

    /// A host with these files and directories (those that end in a slash).
    fn root(places: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for place in places {
            let path = root.path().join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if place.ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        }
        root
    }

    fn found(root: &Path, source: Source) -> [String; 3] {
        let shown = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
        let optional = |path: Option<PathBuf>| path.map_or_else(String::new, |path| shown(&path));
        [shown(&source.path), optional(source.config), optional(source.modules)]
    }

    #[test]
    fn each_distributions_places_are_looked_at() {
        let debian = ["boot/vmlinuz-6.8.0-31-generic", "boot/config-6.8.0-31-generic", "lib/modules/6.8.0-31-generic/"];
        let fedora = [
            "usr/lib/modules/6.8.0-31-generic/vmlinuz",
            "usr/lib/modules/6.8.0-31-generic/config",
            "usr/lib/modules/6.8.0-31-generic/",
        ];
        let monolithic = ["boot/vmlinuz-6.8.0-31-generic", "", ""];
        for places in [debian, fedora, monolithic] {
            let files: Vec<_> = places.into_iter().filter(|place| !place.is_empty()).collect();
            let root = root(&files);
            let source = host(root.path(), RELEASE).unwrap();
            assert_eq!(found(root.path(), source), places.map(|place| place.trim_end_matches('/').to_owned()));
        }
    }

    #[test]
    fn a_kernel_that_root_alone_reads_is_said_with_what_helps() {
        let closed = |path: &Path| match path.file_name().unwrap().to_str().unwrap() {
            "vmlinuz-6.8.0-31-generic" => Err(io::ErrorKind::PermissionDenied.into()),
            _ => File::open(path).map(drop),
        };
        let ubuntu = root(&["boot/vmlinuz-6.8.0-31-generic", "lib/modules/6.8.0-31-generic/"]);
        let err = find(ubuntu.path(), RELEASE, &closed).unwrap_err();
        assert!(err.to_string().ends_with("boot/vmlinuz-6.8.0-31-generic: only root may"), "{err}");
        assert!(err.hint().unwrap().contains("sudo chmod a+r /boot/vmlinuz"), "{err}");
        let also = root(&["boot/vmlinuz-6.8.0-31-generic", "lib/modules/6.8.0-31-generic/vmlinuz"]);
        let source = find(also.path(), RELEASE, &closed).unwrap();
        assert_eq!(found(also.path(), source)[0], "lib/modules/6.8.0-31-generic/vmlinuz");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let empty = root(&[]);
        let err = host(empty.path(), RELEASE).unwrap_err().to_string();
        assert!(err.contains(RELEASE) && err.contains("container"), "{err}");
        let other = root(&["boot/vmlinuz-6.8.0-30-generic", "lib/modules/6.8.0-31-generic/"]);
        let err = host(other.path(), RELEASE).unwrap_err().to_string();
        assert!(err.contains("neither vmlinuz-6.8.0-31-generic"), "{err}");
        for bad in ["", "../6.8", "6.8/../.."] {
            let err = host(other.path(), bad).unwrap_err().to_string();
            assert!(err.contains("no release"), "{err}");
        }
    }

    #[test]
    fn this_host_runs_something() {
        assert!(is_release(&host_release()), "{}", host_release());
    }
}
