//! Importing a kernel: from a package, a file or a directory to what a VMM boots.
//!
//! [`import`] takes these steps, each in its own file:
//!
//! 1. find the parts (`find.rs`): packages are unpacked (`package.rs`, of which `deb.rs` and `rpm.rs` read the formats), a
//!    directory or a file is looked at in place, and `host.rs` knows where a host's own kernel is,
//! 2. unpack the kernel to ELF (`bzimage.rs`) and read what it says of itself (`elf.rs`),
//! 3. index the modules (`depmod.rs`, `modules.rs`), for Debian's packages come without,
//! 4. refuse a kernel that cannot run the guest (`config.rs`),
//! 5. write `vmlinux`, `config`, `modules.ext4` (`tree.rs`), `needed-modules/` and `manifest.json`.
//!
//! A staging directory that a failed import leaves behind is its caller's to remove; nothing outside it is written.

mod bzimage;
mod config;
mod deb;
mod depmod;
mod elf;
mod fetch;
mod find;
pub mod fuzz;
mod host;
pub(super) mod modules;
mod package;
mod rpm;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use bzimage::BzImageError;
pub use config::Unfit;
pub use elf::ElfError;
pub use fetch::{FetchError, fetch};
pub use host::{host, host_release};
pub use modules::ModuleError;
pub use package::PackageError;

use crate::image::ext4::Ext4Error;
use crate::image::stream::{Bounded, Hashing, copy};
use crate::model::digest::Digest;
use crate::model::kernel::{ConfigSource, KernelManifest, LoadModule, ModuleCompression, ModuleDrive};
use crate::model::progress::{Cancelled, Watcher};
use config::Config;
use find::Parts;
use modules::ModuleTree;

/// A `.config` is some 300 KB.
const CONFIG_MAX_BYTES: u64 = 8 << 20;

/// Why a kernel cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The package cannot be read.
    #[error("cannot take the kernel out of the package")]
    Package(#[from] PackageError),
    /// There is no kernel where one was looked for.
    #[error("no kernel found in {}: {why}", .path.display())]
    NotFound {
        /// Where.
        path: PathBuf,
        /// What is missing or in the way.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// A kernel is there, and its reader has no right to it: Ubuntu closes `/boot/vmlinuz-*` to all but root.
    #[error("cannot read {}: only root may", .path.display())]
    Closed {
        /// The kernel.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Fs(#[from] sys::fs::FsError),
    /// The kernel image does not unpack.
    #[error("cannot unpack kernel {}", .path.display())]
    Unpack {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        err: BzImageError,
    },
    /// What was unpacked is not a kernel for this processor.
    #[error("kernel {} is not usable", .path.display())]
    Elf {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        err: ElfError,
    },
    /// The image does not say which release it is.
    #[error("kernel {} does not say which release it is", .path.display())]
    NoRelease {
        /// The image.
        path: PathBuf,
    },
    /// The modules' files contradict each other.
    #[error("the kernel's modules cannot be ordered")]
    Modules(#[source] ModuleError),
    /// depmod is missing.
    #[error("cannot index the kernel's modules: depmod is missing, install the package kmod")]
    NoDepmod,
    /// depmod failed.
    #[error("cannot index the kernel's modules")]
    Depmod(#[source] sys::process::RunError),
    /// The kernel cannot run the guest.
    #[error("kernel {release} cannot run banger's guest")]
    Unfit {
        /// The kernel.
        release: String,
        /// The missing option.
        #[source]
        err: Unfit,
    },
    /// The module drive cannot be written.
    #[error("cannot write the module drive")]
    Drive(#[from] Ext4Error),
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

impl KernelError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoDepmod => Some("apt-get install kmod"),
            Self::Closed { .. } => Some(
                "sudo chmod a+r /boot/vmlinuz-$(uname -r) opens the kernel that runs to everybody; or import its package",
            ),
            Self::Unfit { err: Unfit::NoConfig, .. } => Some("name the kernel's configuration with --config"),
            Self::Unfit { err: Unfit::ModuleMissing { .. }, .. } => Some(
                "where modules have a package of their own (linux-modules-…, kernel-modules-core-…), give it together with the kernel's",
            ),
            Self::Unfit { .. } => Some("Debian's linux-image-cloud-amd64 has everything the guest needs"),
            Self::Unpack { err: BzImageError::Unsupported(_), .. } => Some("give the unpacked vmlinux instead"),
            Self::Package(_)
            | Self::NotFound { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Fs(_)
            | Self::Unpack { .. }
            | Self::Elf { .. }
            | Self::NoRelease { .. }
            | Self::Modules(_)
            | Self::Depmod(_)
            | Self::Drive(_)
            | Self::Cancelled(_) => None,
        }
    }
}

/// What to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A package, a `vmlinuz` or `vmlinux`, or a directory that holds one or the packages of one kernel.
    pub path: PathBuf,
    /// The other packages of the same kernel, where its distribution makes several of one.
    pub more: Vec<PathBuf>,
    /// The kernel's configuration, where it is neither in the kernel nor beside it.
    pub config: Option<PathBuf>,
    /// The kernel's module tree, where it is not beside it: `lib/modules/<release>` or a directory that holds it.
    pub modules: Option<PathBuf>,
}

/// Whether `text` can be a kernel's release: it becomes part of a path.
pub(crate) fn is_release(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-~".contains(c))
        && !text.contains("..")
}

/// Imports the kernel of `source` into the directory `staging`, which must exist and be empty.
///
/// Afterwards `staging` holds `vmlinux`, `config` where there is one, `modules.ext4` and `needed-modules/` where the
/// kernel has modules, and `manifest.json` with what is returned.
///
/// # Errors
/// [`KernelError`]; `staging` then holds leftovers for the caller to remove.
pub fn import(source: &Source, staging: &Path, watcher: Watcher<'_>) -> Result<KernelManifest, KernelError> {
    let work = staging.join("unpacked");
    let parts = find::parts(source, &work, watcher)?;
    watcher.stage("unpack kernel");
    let kernel = read_kernel(&parts, watcher)?;
    watcher.stage("index modules");
    let tree_dir = find::module_tree(&parts, source, &kernel.release, &work, watcher)?;
    let tree = tree_dir.as_deref().map(ModuleTree::read).transpose()?;
    watcher.stage("check configuration");
    let config = read_config(&parts, &kernel)?;
    let unfit = |err| KernelError::Unfit { release: kernel.release.clone(), err };
    let parsed = config.as_ref().map(|(text, source)| (Config::parse(text), *source));
    let facts =
        config::facts(parsed.as_ref().map(|(config, source)| (config, *source)), tree.as_ref()).map_err(unfit)?;
    config::check(&facts, tree.as_ref()).map_err(unfit)?;
    if !kernel.pvh {
        return Err(unfit(Unfit::NoPvh));
    }
    watcher.stage("write kernel");
    let vmlinux_sha256 = write_file(&staging.join("vmlinux"), &kernel.vmlinux, watcher)?;
    let config_sha256 = match &config {
        Some((text, _)) => write_file(&staging.join("config"), text.as_bytes(), watcher)?,
        None => Digest::of(b""),
    };
    let load_order = match (&tree, &tree_dir) {
        (Some(tree), Some(dir)) => write_needed(tree, dir, staging)?,
        _ => Vec::new(),
    };
    watcher.stage("write module drive");
    let modules = match (&tree, &tree_dir) {
        (Some(tree), Some(dir)) => Some(write_drive(tree, dir, staging, watcher)?),
        _ => None,
    };
    sys::fs::remove_tree(&work)?;
    let manifest = KernelManifest {
        digest: kernel_digest(vmlinux_sha256, config_sha256, modules.as_ref()),
        release: kernel.release,
        arch: "amd64".to_owned(),
        source: parts.described,
        vmlinux_sha256,
        vmlinux_bytes: kernel.vmlinux.len() as u64,
        pvh: kernel.pvh,
        config_source: facts.source,
        options: facts.options,
        module_compression: tree.as_ref().map_or(ModuleCompression::None, ModuleTree::compression),
        modules,
        load_order,
    };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has only string keys and finite numbers");
    write_file(&staging.join("manifest.json"), &json, watcher)?;
    Ok(manifest)
}

/// What names a kernel: its image, its configuration and its modules.
#[must_use]
pub fn kernel_digest(vmlinux: Digest, config: Digest, modules: Option<&ModuleDrive>) -> Digest {
    let modules = modules.map(|drive| drive.sha256);
    let parts = [Some(vmlinux), Some(config), modules];
    Digest::of_parts(parts.iter().flatten().map(|digest| digest.as_bytes().as_slice()))
}

struct Kernel {
    vmlinux: Vec<u8>,
    release: String,
    pvh: bool,
    ikconfig: Option<String>,
}

fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, KernelError> {
    let failed = |err| KernelError::Read { path: path.to_owned(), err };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    Bounded::new(file, max_bytes).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn read_kernel(parts: &Parts, watcher: Watcher<'_>) -> Result<Kernel, KernelError> {
    let path = &parts.kernel;
    let image = read_file(path, bzimage::VMLINUX_MAX_BYTES).map_err(|err| match err {
        KernelError::Read { path, err } if err.kind() == io::ErrorKind::PermissionDenied => {
            KernelError::Closed { path }
        }
        other => other,
    })?;
    let (vmlinux, release) = if elf::is_elf(&image) {
        (image, None)
    } else {
        let unpacked = bzimage::unpack(&image, watcher).map_err(|err| match watcher.check() {
            Ok(()) => KernelError::Unpack { path: path.clone(), err },
            Err(cancelled) => cancelled.into(),
        })?;
        (unpacked.vmlinux, unpacked.release)
    };
    let parsed = elf::Elf::parse(&vmlinux).map_err(|err| KernelError::Elf { path: path.clone(), err })?;
    let release = release.or_else(|| parsed.release()).ok_or_else(|| KernelError::NoRelease { path: path.clone() })?;
    let (pvh, ikconfig) = (parsed.pvh, parsed.ikconfig());
    Ok(Kernel { vmlinux, release, pvh, ikconfig })
}

/// The configuration: the one that was named, else the kernel's own copy, else the one beside it.
fn read_config(parts: &Parts, kernel: &Kernel) -> Result<Option<(String, ConfigSource)>, KernelError> {
    if parts.named_config.is_none()
        && let Some(text) = &kernel.ikconfig
    {
        return Ok(Some((text.clone(), ConfigSource::Ikconfig)));
    }
    let Some(path) = parts.named_config.clone().or_else(|| find::neighbouring_config(parts, &kernel.release)) else {
        return Ok(None);
    };
    let bytes = read_file(&path, CONFIG_MAX_BYTES)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    if Config::parse(&text).is_empty() {
        let err = io::Error::new(io::ErrorKind::InvalidData, "it is no kernel configuration: no line sets an option");
        return Err(KernelError::Read { path, err });
    }
    Ok(Some((text, ConfigSource::File)))
}

fn write_file(path: &Path, bytes: &[u8], watcher: Watcher<'_>) -> Result<Digest, KernelError> {
    let failed = |err| KernelError::Write { path: path.to_owned(), err };
    let mut file = Hashing::new(sys::fs::create_new(path, 0o600)?);
    copy(&mut &bytes[..], &mut file, watcher).map_err(failed)?;
    let (file, digest) = file.into_parts();
    file.sync_all().map_err(failed)?;
    Ok(digest)
}

fn write_needed(tree: &ModuleTree, dir: &Path, staging: &Path) -> Result<Vec<LoadModule>, KernelError> {
    let needed = staging.join("needed-modules");
    sys::fs::create_private_dir(&needed)?;
    let mut order = Vec::new();
    for (index, (name, path)) in tree.load_order().map_err(KernelError::Modules)?.into_iter().enumerate() {
        let file = format!("{index:02}-{name}.ko");
        write_file(&needed.join(&file), &modules::read_module(&dir.join(path))?, Watcher::none())?;
        order.push(LoadModule { name, file });
    }
    Ok(order)
}

fn write_drive(
    tree: &ModuleTree,
    dir: &Path,
    staging: &Path,
    watcher: Watcher<'_>,
) -> Result<ModuleDrive, KernelError> {
    let path = staging.join("modules.ext4");
    let written = tree::write(dir, &path, watcher)?;
    let failed = |err| KernelError::Read { path: path.clone(), err };
    let mut file = Hashing::new(File::open(&path).map_err(failed)?);
    copy(&mut file, &mut io::sink(), watcher).map_err(failed)?;
    Ok(ModuleDrive { sha256: file.finish().0, bytes: written.bytes, count: tree.len() as u64 })
}

#[cfg(test)]
mod tests;
