//! The parts of a kernel's bundle, laid out as bundles are: in place where they are so, else in a directory that goes away.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use catalog::bundle::{CONFIG, INITRD, MODULES, VMLINUX};
use sys::fs::FsError;
use wire::api::{ErrorCode, Kernel};

use super::rootfs::Scratch;
use super::work::work;
use crate::client::path;
use crate::cmd::App;
use crate::error::{Failure, Io};
use crate::settings::{self, Settings};

/// What is missing when modules cannot be taken out of their drive.
const DEBUGFS_HINT: &str = "apt-get install e2fsprogs";
/// Directories of a module tree below each other; the kernel's own are 9.
const DEPTH_MAX: usize = 32;

/// A directory with `vmlinux`, and what goes with it.
pub(super) struct Parts {
    pub(super) directory: PathBuf,
    /// What it is called already.
    pub(super) called: Option<String>,
    /// The release of its modules.
    pub(super) release: Option<String>,
    /// Where it is, when it goes away afterwards.
    _scratch: Option<Scratch>,
}

fn failed(error: &FsError) -> Failure {
    Failure::from_error(ErrorCode::OperationFailed, error)
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    let error = Io(error);
    Failure::new(ErrorCode::NotFound, format!("cannot read {}: {error}", path.display()))
}

impl Parts {
    /// Those of the directory or of the kernel that `given` names.
    pub(super) async fn find(app: &App, settings: &Settings, given: &str, out: &Path) -> Result<Parts, Failure> {
        if given.contains('/') || given == "." || Path::new(given).is_dir() {
            return Parts::of_directory(app, Path::new(given), out).await;
        }
        Parts::of_kernel(app, settings, given, out).await
    }

    async fn of_directory(app: &App, directory: &Path, out: &Path) -> Result<Parts, Failure> {
        let trees = directory.join("lib").join(MODULES);
        let beside = directory.join(MODULES);
        if !trees.is_dir() {
            let release = if beside.is_dir() { only_name(&beside)? } else { None };
            return Ok(Parts { directory: directory.to_owned(), called: None, release, _scratch: None });
        }
        let scratch = Scratch::beside(out)?;
        link(directory, scratch.path())?;
        let release = only_name(&trees)?;
        let into = scratch.path().join(MODULES);
        let subject = directory.display().to_string();
        work(app, &subject, "gather modules", move |watch| copy(&trees, &into, DEPTH_MAX, watch)).await?;
        Ok(Parts { directory: scratch.path().to_owned(), called: None, release, _scratch: Some(scratch) })
    }

    /// A kernel that is here has its modules in a drive: debugfs(8) takes them out, without root and without a mount.
    async fn of_kernel(app: &App, settings: &Settings, name: &str, out: &Path) -> Result<Parts, Failure> {
        let target = path("kernels", name, "");
        let kernel: Kernel = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
        let state = settings.dirs().map_err(|error| Failure::from_error(ErrorCode::BadRequest, &error))?.state;
        let directory = wire::naming::kernels_dir(&state).join(kernel.id.as_str());
        let scratch = Scratch::beside(out)?;
        link(&directory, scratch.path())?;
        let drive = directory.join("modules.ext4");
        if drive.exists() {
            let into = scratch.path().join(MODULES).join(&kernel.release);
            work(app, name, "take modules out", move |_| dump(&drive, &into)).await?;
        }
        let (called, release) = (Some(kernel.name), Some(kernel.release));
        Ok(Parts { directory: scratch.path().to_owned(), called, release, _scratch: Some(scratch) })
    }
}

/// Has the files of `from` in `into` as well.
fn link(from: &Path, into: &Path) -> Result<(), Failure> {
    let from = std::fs::canonicalize(from).map_err(|error| unreadable(from, error))?;
    for name in [VMLINUX, INITRD, CONFIG] {
        if from.join(name).exists() {
            sys::fs::symlink(&from.join(name), &into.join(name)).map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// The one directory in `trees`, which is called like the release; none where there are several.
fn only_name(trees: &Path) -> Result<Option<String>, Failure> {
    let entries = std::fs::read_dir(trees).map_err(|error| unreadable(trees, error))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    Ok(if names.len() == 1 { names.pop() } else { None })
}

/// Copies the files of a module tree; links of it lead to where the kernel was built.
fn copy(from: &Path, to: &Path, depth: usize, watch: &mut super::work::Watch<'_>) -> Result<(), Failure> {
    sys::fs::create_private_dir(to).map_err(|error| failed(&error))?;
    for entry in std::fs::read_dir(from).map_err(|error| unreadable(from, error))? {
        let entry = entry.map_err(|error| unreadable(from, error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|error| unreadable(&source, error))?;
        if kind.is_file() {
            sys::fs::copy_sparse(&source, &target, 0o600).map_err(|error| failed(&error))?;
            let bytes = entry.metadata().map_or(0, |meta| meta.len());
            watch(bytes).map_err(|error| unreadable(&source, error))?;
        } else if kind.is_dir() && depth > 0 {
            copy(&source, &target, depth - 1, watch)?;
        }
    }
    Ok(())
}

/// Takes all files out of a drive.
fn dump(drive: &Path, into: &Path) -> Result<(), Failure> {
    sys::fs::create_private_dir(into).map_err(|error| failed(&error))?;
    let mut places = settings::variable("PATH").unwrap_or_default();
    // Debian keeps it out of users' PATH.
    places.push(OsString::from(":/usr/sbin:/sbin"));
    let debugfs = sys::process::find_program("debugfs", &places).ok_or_else(|| {
        let message = "the kernel's modules are in a filesystem, and debugfs is not installed";
        Failure::new(ErrorCode::Unsupported, message).hint(DEBUGFS_HINT)
    })?;
    let mut command = sys::process::command(debugfs);
    command.current_dir(into).args(["-R", "rdump / ."]).arg(drive);
    let ran = sys::process::run(&mut command);
    ran.map_err(|error| Failure::from_error(ErrorCode::OperationFailed, &error))?;
    sys::fs::remove_tree(&into.join("lost+found")).map_err(|error| failed(&error))?;
    // It ends well whatever happened.
    if into.join("modules.dep").is_file() {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::OperationFailed, format!("debugfs took no modules out of {}", drive.display())))
}
