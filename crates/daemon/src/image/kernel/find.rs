//! Finds the parts of a kernel: its image, its configuration and its modules, wherever its source keeps them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{KernelError, Source, deb, is_release, modules, tree};
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

/// Looks at what `source` is and finds the kernel in it; a package is unpacked to `work`.
pub(super) fn parts(source: &Source, work: &Path, watcher: Watcher<'_>) -> Result<Parts, KernelError> {
    let path = &source.path;
    let failed = |err| KernelError::Read { path: path.clone(), err };
    let metadata = fs::metadata(path).map_err(failed)?;
    let described =
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let named_config = source.config.clone();
    if metadata.is_dir() {
        let kernel = kernel_in(path, path)?;
        return Ok(Parts { kernel, named_config, roots: vec![path.clone()], described });
    }
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is neither a file nor a directory")));
    }
    if is_package(path)? {
        watcher.stage("unpack package");
        deb::unpack(path, work, watcher).map_err(|err| match watcher.check() {
            Ok(()) => KernelError::Deb(err),
            Err(cancelled) => cancelled.into(),
        })?;
        let kernel = kernel_in(work, path)?;
        return Ok(Parts { kernel, named_config, roots: vec![work.to_owned()], described });
    }
    // A file in some /boot has its modules beside that directory.
    let roots = path.ancestors().skip(1).take(2).map(Path::to_owned).collect();
    Ok(Parts { kernel: path.clone(), named_config, roots, described })
}

fn is_package(path: &Path) -> Result<bool, KernelError> {
    use std::io::Read;
    let failed = |err| KernelError::Read { path: path.to_owned(), err };
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(8).read_to_end(&mut head).map_err(failed)?;
    let named = path.extension().is_some_and(|extension| extension == "deb");
    Ok(head == b"!<arch>\n" || named)
}

/// The one kernel image in a directory, in its `boot/` or itself; `source` is what a person knows it by.
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
    found.sort();
    let refuse = |why| KernelError::NotFound { path: source.to_owned(), why };
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(refuse("neither boot/vmlinuz* nor vmlinuz* nor vmlinux* is there".to_owned())),
        many => {
            let names: Vec<_> = many.iter().filter_map(|path| path.file_name()?.to_str()).take(5).collect();
            Err(refuse(format!("it holds several, name one of them: {}", names.join(", "))))
        }
    }
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
    places.iter().map(|place| root.join(place).join(release)).find(|dir| dir.is_dir())
}

/// The tree the user named, either itself or by a directory that holds it.
fn named_tree(named: &Path, release: &str) -> Result<PathBuf, KernelError> {
    let is_tree = |dir: &Path| dir.join("kernel").is_dir() || dir.join("modules.dep").is_file();
    let candidates = [Some(named.to_owned()), Some(named.join(release)), tree_beneath(named, release)];
    candidates.into_iter().flatten().find(|dir| is_tree(dir)).ok_or_else(|| KernelError::NotFound {
        path: named.to_owned(),
        why: format!("it is no module tree of {release}"),
    })
}
