//! Finds the parts of a kernel: its image, its configuration and its modules, wherever its source keeps them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::package::{self, Format};
use super::{KernelError, Source, is_release, modules, tree};
use crate::model::progress::Watcher;

/// Where a kernel's parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// The bzImage or ELF file.
    pub(super) kernel: PathBuf,
    /// The configuration the user named.
    pub(super) named_config: Option<PathBuf>,
    /// Directories that may hold `lib/modules/<release>` or `modules/<release>`.
    roots: Vec<PathBuf>,
    /// The source for a person.
    pub(super) described: String,
}

/// Packages that make one kernel: Fedora has five and some for less common hardware.
const PACKAGES_MAX: usize = 16;
/// What names of packages with a kernel or modules begin with.
const PACKAGES: &[&str] = &["linux-image-", "linux-modules-", "kernel-"];
/// Parts of names of packages beside a kernel that a guest has no use of.
const NOT_A_KERNELS: &[&str] = &["-dbg", "-debug", "-devel", "-doc", "-headers", "-tools", "-uki", "-cross"];

/// Looks at what `source` is and finds the kernel in it; packages are unpacked to `work`.
pub(super) fn parts(source: &Source, work: &Path, watcher: Watcher<'_>) -> Result<Parts, KernelError> {
    let path = &source.path;
    let failed = |err| KernelError::Read { path: path.clone(), err };
    let metadata = fs::metadata(path).map_err(failed)?;
    let described =
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let named_config = source.config.clone();
    if metadata.is_dir() && source.more.is_empty() {
        let packages = match kernel_in(path, path) {
            Ok(kernel) => return Ok(Parts { kernel, named_config, roots: vec![path.clone()], described }),
            Err(none) => packages_in(path)?.ok_or(none)?,
        };
        let kernel = unpack(&packages, path, work, watcher)?;
        return Ok(Parts { kernel, named_config, roots: vec![work.to_owned()], described });
    }
    if metadata.is_dir() {
        return Err(KernelError::NotFound { path: path.clone(), why: NOT_A_PACKAGE.to_owned() });
    }
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is neither a file nor a directory")));
    }
    if source.more.is_empty() && format_of(path)?.is_none() {
        // A file in some /boot has its modules beside that directory, Fedora's is among them.
        let roots = path.ancestors().skip(1).take(2).map(Path::to_owned).collect();
        return Ok(Parts { kernel: path.clone(), named_config, roots, described });
    }
    let packages: Vec<_> = [path].into_iter().chain(&source.more).cloned().collect();
    let kernel = unpack(&packages, path, work, watcher)?;
    let described = match source.more.len() {
        0 => described,
        more => format!("{described} and {more} more"),
    };
    Ok(Parts { kernel, named_config, roots: vec![work.to_owned()], described })
}

fn format_of(path: &Path) -> Result<Option<Format>, KernelError> {
    use std::io::Read;
    let failed = |err| KernelError::Read { path: path.to_owned(), err };
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(|err| match err.kind() {
        io::ErrorKind::PermissionDenied => KernelError::Closed { path: path.to_owned() },
        _ => failed(err),
    })?;
    file.take(8).read_to_end(&mut head).map_err(failed)?;
    Ok(Format::of(&head, path))
}

/// What is said of one of several that is no package.
const NOT_A_PACKAGE: &str = "given with other packages, it has to be one itself";
/// What is said of a directory without a kernel.
const NO_KERNEL: &str = "neither boot/vmlinuz* nor vmlinuz* nor vmlinux* is there";

/// Unpacks the packages of one kernel over each other, and finds the kernel; `source` is what a person knows them by.
fn unpack(packages: &[PathBuf], source: &Path, work: &Path, watcher: Watcher<'_>) -> Result<PathBuf, KernelError> {
    let refuse = |path: &Path, why: &str| KernelError::NotFound { path: path.to_owned(), why: why.to_owned() };
    if packages.len() > PACKAGES_MAX {
        return Err(refuse(source, "more packages than make one kernel, name those of one"));
    }
    watcher.stage("unpack package");
    for path in packages {
        let not_one = || refuse(path, NOT_A_PACKAGE);
        let format = format_of(path)?.ok_or_else(not_one)?;
        package::unpack(path, format, work, watcher).map_err(|err| match watcher.check() {
            Ok(()) => KernelError::Package(err),
            Err(cancelled) => cancelled.into(),
        })?;
    }
    match kernel_in(work, source) {
        Err(KernelError::NotFound { why, .. }) if why == NO_KERNEL && work.join("lib/modules").is_dir() => {
            Err(refuse(source, "there are only modules, give the package with the kernel too"))
        }
        outcome => outcome,
    }
}

/// The packages of a kernel that lie in a directory, in the order of their names; `None` without any.
fn packages_in(dir: &Path) -> Result<Option<Vec<PathBuf>>, KernelError> {
    let failed = |err| KernelError::Read { path: dir.to_owned(), err };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_one = name.to_str().is_some_and(|name| {
            (name.ends_with(".deb") || name.ends_with(".rpm"))
                && PACKAGES.iter().any(|begin| name.starts_with(begin))
                && !NOT_A_KERNELS.iter().any(|part| name.contains(part))
        });
        if is_one {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok((!found.is_empty()).then_some(found))
}

/// The one kernel image in a directory: in its `boot/`, in itself, or beside its modules; `source` is what a person knows
/// it by.
fn kernel_in(dir: &Path, source: &Path) -> Result<PathBuf, KernelError> {
    let mut found = Vec::new();
    for place in [dir.join("boot"), dir.to_owned()] {
        let Ok(entries) = fs::read_dir(&place) else {
            continue; // no boot/ beneath it
        };
        for entry in entries {
            let entry = entry.map_err(|err| KernelError::Read { path: place.clone(), err })?;
            let name = entry.file_name();
            let is_kernel = name.to_str().is_some_and(|name| {
                ["vmlinuz", "vmlinux", "bzImage"]
                    .iter()
                    .any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
            });
            if is_kernel && entry.path().is_file() {
                found.push(entry.path());
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    if found.is_empty() {
        let places = ["lib/modules", "usr/lib/modules"].map(|place| beside_modules(&dir.join(place)));
        // On a merged /usr both are one.
        found = places.into_iter().find(|kernels| !kernels.is_empty()).unwrap_or_default();
    }
    found.sort();
    let refuse = |why| KernelError::NotFound { path: source.to_owned(), why };
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(refuse(NO_KERNEL.to_owned())),
        many => {
            let known_by = |path: &PathBuf| path.strip_prefix(dir).unwrap_or(path).display().to_string();
            let names: Vec<_> = many.iter().map(known_by).take(5).collect();
            Err(refuse(format!("it holds several, name one of them: {}", names.join(", "))))
        }
    }
}

/// The kernels in a `lib/modules`, each in the directory of its release.
fn beside_modules(modules: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(modules).into_iter().flatten().flatten();
    let mut kernels: Vec<_> = entries.map(|entry| entry.path().join("vmlinuz")).filter(|path| path.is_file()).collect();
    kernels.sort();
    kernels
}

/// `config-<release>` beside the kernel, or `config` or `.config` there.
pub(super) fn neighbouring_config(parts: &Parts, release: &str) -> Option<PathBuf> {
    let dir = parts.kernel.parent()?;
    let named = [format!("config-{release}"), "config".to_owned(), ".config".to_owned()];
    let beside = named.iter().map(|name| dir.join(name));
    let with_modules = parts.roots.iter().flat_map(|root| {
        [root.join("lib/modules").join(release).join("config"), root.join(format!("config-{release}"))]
    });
    beside.chain(with_modules).find(|path| path.is_file())
}

/// The kernel's module tree, indexed: a copy in `work` unless it is there already. `None` for a kernel without modules.
pub(super) fn module_tree(
    parts: &Parts,
    source: &Source,
    release: &str,
    work: &Path,
    watcher: Watcher<'_>,
) -> Result<Option<PathBuf>, KernelError> {
    debug_assert!(is_release(release), "checked where it was read");
    let tree_dir = work.join("lib/modules").join(release);
    let found = match &source.modules {
        Some(named) => Some(named_tree(named, release)?),
        None => parts.roots.iter().find_map(|root| tree_beneath(root, release)),
    };
    let Some(found) = found else {
        return Ok(None);
    };
    if found != tree_dir {
        tree::copy_tree(&found, &tree_dir, watcher)?;
    }
    modules::index(work, release)?;
    Ok(Some(tree_dir))
}

fn tree_beneath(root: &Path, release: &str) -> Option<PathBuf> {
    let places = ["lib/modules", "usr/lib/modules", "modules"];
    let beneath = places.iter().map(|place| root.join(place).join(release)).find(|dir| dir.is_dir());
    beneath.or_else(|| Some(root.join(release)).filter(|dir| is_tree(dir)))
}

fn is_tree(dir: &Path) -> bool {
    dir.join("kernel").is_dir() || dir.join("modules.dep").is_file()
}

/// The tree the user named, either itself or by a directory that holds it.
fn named_tree(named: &Path, release: &str) -> Result<PathBuf, KernelError> {
    let candidates = [Some(named.to_owned()), Some(named.join(release)), tree_beneath(named, release)];
    candidates.into_iter().flatten().find(|dir| is_tree(dir)).ok_or_else(|| KernelError::NotFound {
        path: named.to_owned(),
        why: format!("it is no module tree of {release}"),
    })
}
