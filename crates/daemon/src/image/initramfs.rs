//! The initramfs: the agent as `/init`, the modules the kernel needs, and nothing else.
//!
//! | path | what |
//! |---|---|
//! | `/init` | the agent's binary |
//! | `/modules/<n>-<name>.ko` | modules, uncompressed |
//! | `/modules.list` | their paths, one a line, in the order to load them; a blank line ends a group (`kernel/modules.rs`) |
//! | `/dev/console`, `/dev/null` | nodes for the moments before a devtmpfs is mounted |
//! | `/dev /proc /sys /run /newroot` | where the agent mounts |
//!
//! Archives are kept in a cache directory under the digest of their content. One that is there is compared byte for
//! byte before it is used, so a damaged file is replaced, never booted. The archive is not compressed: unpacking costs
//! a guest without hardware virtualisation more than reading.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::kernel::modules::grouped;
use super::newc::Archive;
use super::stream::Bounded;
use crate::model::digest::Digest;
use crate::model::kernel::{KernelManifest, OptionState};

/// The agent is 2 MB, a debug build of it some 60 MB.
const AGENT_MAX_BYTES: u64 = 256 << 20;
/// All modules together are some 1 MB.
const MODULE_MAX_BYTES: u64 = 64 << 20;
/// Modules in one initramfs; a dozen is usual.
const MODULES_MAX: usize = 256;

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A part cannot be read.
    #[error("cannot read {what} {}", .path.display())]
    Read {
        /// Which part.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The agent is not a program.
    #[error("agent {} is not an ELF file", .path.display())]
    Agent {
        /// Its file.
        path: PathBuf,
    },
    /// The manifest names a file that cannot be one of the modules'.
    #[error("kernel manifest is damaged: {file:?} is not the name of a module file")]
    ModuleName {
        /// The name.
        file: String,
    },
    /// The manifest names too many modules.
    #[error("kernel manifest is damaged: it lists {count} modules to load, more than {MODULES_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The cache cannot be written.
    #[error("cannot keep the initramfs")]
    Cache(#[from] sys::fs::FsError),
}

/// The path of an initramfs with `agent` and the modules of the kernel in `kernel_dir`, made if `cache_dir` has none.
///
/// `kernel_dir` is the directory [`super::kernel::import`] filled, `manifest` what it returned.
///
/// # Errors
/// [`InitramfsError`] when a part cannot be read or the cache not be written.
pub fn ensure(
    agent: &Path,
    kernel_dir: &Path,
    manifest: &KernelManifest,
    cache_dir: &Path,
) -> Result<PathBuf, InitramfsError> {
    let archive = build(agent, kernel_dir, manifest)?;
    let path = cache_dir.join(wire::naming::initramfs_name(&Digest::of(&archive).to_string()));
    if fs::read(&path).is_ok_and(|kept| kept == archive) {
        return Ok(path);
    }
    sys::fs::create_private_dir(cache_dir)?;
    sys::fs::write_atomic(&path, &archive, 0o600)?;
    Ok(path)
}

fn read(what: &'static str, path: &Path, max_bytes: u64) -> Result<Vec<u8>, InitramfsError> {
    let failed = |err| InitramfsError::Read { what, path: path.to_owned(), err };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    Bounded::new(file, max_bytes).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn build(agent: &Path, kernel_dir: &Path, manifest: &KernelManifest) -> Result<Vec<u8>, InitramfsError> {
    let init = read("agent", agent, AGENT_MAX_BYTES)?;
    if !init.starts_with(b"\x7fELF") {
        return Err(InitramfsError::Agent { path: agent.to_owned() });
    }
    if manifest.load_order.len() > MODULES_MAX {
        return Err(InitramfsError::TooMany { count: manifest.load_order.len() });
    }
    let mut archive = Archive::with_capacity(init.len() + (2 << 20));
    for directory in ["dev", "proc", "sys", "run", "newroot", "modules"] {
        archive.directory(directory, 0o755);
    }
    archive.device("dev/console", 0o600, 5, 1);
    archive.device("dev/null", 0o666, 1, 3);
    archive.file("init", 0o755, &init);
    let is_signed = manifest.options.get(SIG_FORCE) != Some(&OptionState::Absent);
    let mut list = String::new();
    let names: Vec<&str> = manifest.load_order.iter().map(|module| module.name.as_str()).collect();
    for group in grouped(&names) {
        for module in group.into_iter().map(|index| &manifest.load_order[index]) {
            if module.file.is_empty() || module.file.contains(['/', '\0', '\n']) {
                return Err(InitramfsError::ModuleName { file: module.file.clone() });
            }
            let path = kernel_dir.join("needed-modules").join(&module.file);
            let name = format!("modules/{}", module.file);
            let module = read("module", &path, MODULE_MAX_BYTES)?;
            archive.file(&name, 0o644, if is_signed { &module } else { unsigned(&module) });
            list.push_str(&format!("/{name}\n"));
        }
        list.push('\n');
    }
    archive.file("modules.list", 0o644, list.as_bytes());
    Ok(archive.finish())
}

/// Set in a kernel that takes signed modules only.
const SIG_FORCE: &str = "CONFIG_MODULE_SIG_FORCE";
/// The end of a signed module (Documentation/admin-guide/module-signing.rst); before it stand a `struct
/// module_signature` of 12 bytes, whose last four are the signature's length, and the signature.
const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// Bytes of a `struct module_signature`: include/linux/module_signature.h.
const SIGNATURE_BYTES: usize = 12;

/// A module without its signature. The package it came from was verified on the host; in a guest whose processor is
/// emulated, verifying ten modules again takes as long as mounting its root.
fn unsigned(module: &[u8]) -> &[u8] {
    let stripped = (|| {
        let signed = module.strip_suffix(SIGNATURE_MAGIC)?;
        let (rest, info) = signed.split_at_checked(signed.len().checked_sub(SIGNATURE_BYTES)?)?;
        let length = u32::from_be_bytes(*info.last_chunk::<4>()?);
        rest.get(..rest.len().checked_sub(usize::try_from(length).ok()?)?)
    })();
    stripped.unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::newc::tests::parse;
    use crate::model::kernel::{ConfigSource, LoadModule, ModuleCompression};

    fn manifest(files: &[&str]) -> KernelManifest {
        KernelManifest {
            digest: Digest::of(b""),
            release: "6.1".to_owned(),
            arch: "x86_64".to_owned(),
            source: "test".to_owned(),
            vmlinux_sha256: Digest::of(b""),
            vmlinux_bytes: 0,
            pvh: true,
            config_source: ConfigSource::File,
            options: Default::default(),
            module_compression: ModuleCompression::None,
            modules: None,
            load_order: files
                .iter()
                .map(|file| LoadModule { name: (*file).to_owned(), file: (*file).to_owned() })
                .collect(),
        }
    }

    struct Parts {
        dir: tempfile::TempDir,
    }

    impl Parts {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("agent"), b"\x7fELF agent").unwrap();
            fs::create_dir(dir.path().join("needed-modules")).unwrap();
            for name in ["00-b.ko", "01-a.ko"] {
                fs::write(dir.path().join("needed-modules").join(name), name).unwrap();
            }
            Self { dir }
        }

        fn ensure(&self, files: &[&str]) -> Result<PathBuf, InitramfsError> {
            let dir = self.dir.path();
            ensure(&dir.join("agent"), dir, &manifest(files), &dir.join("cache"))
        }
    }

    #[test]
    fn a_signature_is_left_out_and_nothing_else() {
        let signed =
            [b"\x7fELF code".as_slice(), b"SIGNATURE", &[0; 8], &9_u32.to_be_bytes(), SIGNATURE_MAGIC].concat();
        assert_eq!(unsigned(&signed), b"\x7fELF code");
        for odd in [b"".as_slice(), b"plain", SIGNATURE_MAGIC, &signed[9 + 10..]] {
            let too_long = [odd, &[0xff; 12], SIGNATURE_MAGIC].concat();
            assert_eq!(unsigned(odd), odd);
            assert_eq!(unsigned(&too_long), too_long);
        }
    }

    #[test]
    fn holds_the_agent_and_the_modules_in_order() {
        let parts = Parts::new();
        let entries = parse(&fs::read(parts.ensure(&["00-b.ko", "01-a.ko"]).unwrap()).unwrap());
        let find = |path: &str| entries.iter().find(|entry| entry.path == path).unwrap();
        assert_eq!(find("init").mode, 0o100_755);
        assert_eq!(find("init").content, b"\x7fELF agent");
        assert_eq!(find("modules.list").content, b"\n\n\n\n\n/modules/00-b.ko\n/modules/01-a.ko\n\n");
        assert_eq!(find("modules/01-a.ko").content, b"01-a.ko");
        assert_eq!((find("dev/console").device, find("dev/null").device), ((5, 1), (1, 3)));
        let of = |path: &str| entries.iter().position(|entry| entry.path == path).unwrap();
        assert!(of("modules") < of("modules/00-b.ko"), "a directory comes before what is in it");
    }

    #[test]
    fn equal_parts_give_one_file_and_a_damaged_one_is_replaced() {
        let parts = Parts::new();
        let first = parts.ensure(&["00-b.ko"]).unwrap();
        let bytes = fs::read(&first).unwrap();
        let made = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(parts.ensure(&["00-b.ko"]).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made, "kept, not rewritten");
        let mut flipped = bytes.clone();
        flipped[200] ^= 1;
        for damaged in [&bytes[..bytes.len() - 4], &flipped] {
            fs::write(&first, damaged).unwrap();
            assert_eq!(parts.ensure(&["00-b.ko"]).unwrap(), first);
            assert_eq!(fs::read(&first).unwrap(), bytes);
        }
        assert_ne!(parts.ensure(&[]).unwrap(), first);
    }

    #[test]
    fn bad_parts_are_named() {
        let parts = Parts::new();
        let says = |files: &[&str], what: &str| {
            let err = parts.ensure(files).unwrap_err().to_string();
            assert!(err.contains(what), "{err}");
        };
        says(&["02-missing.ko"], "02-missing.ko");
        says(&["../agent"], "../agent");
        says(&vec!["00-b.ko"; MODULES_MAX + 1], "257");
        fs::write(parts.dir.path().join("agent"), "#!/bin/sh").unwrap();
        says(&[], "not an ELF");
    }
}
