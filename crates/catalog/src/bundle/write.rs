//! Bundles are made: of the same content the same bytes, whoever makes them when and on whatever disk. Every entry is root's,
//! of 1970, in one order, and a plain file: holes are zeros, of which zstd leaves nothing, so that any tar reads them.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci::Digest;
use sha2::{Digest as _, Sha256};
use tree::writer::{Dress, Writer};
use zstd::stream::write::Encoder;

use super::manifest::{ImageManifest, KernelManifest};
use super::{BundleError, CONFIG, INITRD, MANIFEST, MODULES, ROOTFS, VMLINUX, WINDOW_LOG, Watch};

/// How hard zstd tries, where nobody says otherwise: beyond it a bundle takes minutes more for some percent less.
pub const LEVEL: i32 = 12;
/// Links of a module tree that lead to where the kernel was built.
const LINKS_LEFT_OUT: [&str; 2] = ["build", "source"];

/// A bundle that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its file.
    pub path: PathBuf,
    /// Its content.
    pub sha256: Digest,
    /// Its length.
    pub size: u64,
    /// The content of its `rootfs.ext4` or its `vmlinux`.
    pub holds: Digest,
}

/// Makes the bundle of an image at `out`, replacing what is there. The digest that `manifest` names becomes that of `rootfs`.
/// `watch` is told of the bytes that go in.
///
/// # Errors
/// When `rootfs` cannot be read, `out` cannot be written, or something in the manifest cannot be.
pub fn make_image(
    rootfs: &Path,
    manifest: &ImageManifest,
    out: &Path,
    level: i32,
    watch: &mut Watch<'_>,
) -> Result<Made, BundleError> {
    manifest.check().map_err(BundleError::Manifest)?;
    write(out, level, |packing| packing.image(rootfs, manifest, watch))
}

/// As [`make_image`], written to `to` as it is made. Gives the content of `rootfs`.
///
/// # Errors
/// When `rootfs` cannot be read, `to` cannot be written, or something in the manifest cannot be.
pub fn write_image(
    rootfs: &Path,
    manifest: &ImageManifest,
    to: &mut dyn Write,
    level: i32,
    watch: &mut Watch<'_>,
) -> Result<Digest, BundleError> {
    manifest.check().map_err(BundleError::Manifest)?;
    packed(to, level, Path::new("the bundle"), |packing| packing.image(rootfs, manifest, watch))
}

/// Makes the bundle of a kernel at `out`, replacing what is there, of `vmlinux` in `directory` and of what there is beside it:
/// `initrd.img`, `config`, `modules/`.
///
/// # Errors
/// When something cannot be read, is neither file nor directory, or `out` cannot be written.
pub fn make_kernel(
    directory: &Path,
    manifest: &KernelManifest,
    out: &Path,
    level: i32,
    watch: &mut Watch<'_>,
) -> Result<Made, BundleError> {
    manifest.check().map_err(BundleError::Manifest)?;
    let pack = |packing: &mut Packing<'_>| {
        packing.json(manifest)?;
        let digest = packing.file(VMLINUX, &directory.join(VMLINUX), watch)?;
        for name in [INITRD, CONFIG] {
            let path = directory.join(name);
            if path.symlink_metadata().is_ok() {
                packing.file(name, &path, watch)?;
            }
        }
        let modules = directory.join(MODULES);
        if modules.symlink_metadata().is_ok() {
            packing.tree(MODULES, &modules, watch)?;
        }
        Ok(digest)
    };
    write(out, level, pack)
}

/// What a bundle is written to.
struct Packing<'a> {
    writer: Writer<&'a mut dyn Write>,
}

/// A file that is hashed as it is written.
struct Hashed {
    file: File,
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write(
    out: &Path,
    level: i32,
    pack: impl FnOnce(&mut Packing<'_>) -> Result<Digest, BundleError>,
) -> Result<Made, BundleError> {
    let incoming = sys::fs::sibling(out);
    let file = sys::fs::create_new(&incoming, 0o644)?;
    let mut hashed = Hashed { file, hasher: Sha256::new(), bytes: 0 };
    let packed = packed(&mut hashed, level, &incoming, pack);
    let renamed = packed.and_then(|holds| {
        let synced = hashed.file.sync_all();
        synced.map_err(|source| BundleError::Write { path: incoming.clone(), source })?;
        sys::fs::rename(&incoming, out)?;
        Ok(holds)
    });
    match renamed {
        Ok(holds) => {
            Ok(Made { path: out.to_owned(), sha256: Digest::finish(hashed.hasher), size: hashed.bytes, holds })
        }
        Err(error) => {
            sys::fs::remove_file(&incoming)?;
            Err(error)
        }
    }
}

fn packed(
    to: &mut dyn Write,
    level: i32,
    path: &Path,
    pack: impl FnOnce(&mut Packing<'_>) -> Result<Digest, BundleError>,
) -> Result<Digest, BundleError> {
    let failed = |source| BundleError::Write { path: path.to_owned(), source };
    let encoder = || {
        let mut encoder = Encoder::new(to, level)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.long_distance_matching(true)?;
        encoder.include_checksum(true)?;
        Ok(encoder)
    };
    let mut encoder = encoder().map_err(failed)?;
    let mut packing = Packing { writer: Writer::new(&mut encoder) };
    let holds = pack(&mut packing)?;
    packing.writer.finish()?;
    encoder.finish().map_err(failed)?;
    Ok(holds)
}

fn dress(path: &str, mode: u32) -> Dress<'_> {
    Dress { path: path.as_bytes(), mode, mtime: 0 }
}

impl Packing<'_> {
    fn image(&mut self, rootfs: &Path, manifest: &ImageManifest, watch: &mut Watch<'_>) -> Result<Digest, BundleError> {
        let digest = self.file(ROOTFS, rootfs, watch)?;
        self.json(&ImageManifest { digest: Some(digest), ..manifest.clone() })?;
        Ok(digest)
    }

    fn json(&mut self, manifest: &impl serde::Serialize) -> Result<(), BundleError> {
        let text = serde_json::to_string_pretty(manifest).expect("it is JSON") + "\n";
        Ok(self.writer.bytes(dress(MANIFEST, 0o644), text.as_bytes())?)
    }

    fn file(&mut self, name: &str, path: &Path, watch: &mut Watch<'_>) -> Result<Digest, BundleError> {
        let read = |source| BundleError::Read { path: path.to_owned(), source };
        let is_file = path.metadata().map_err(read)?.is_file();
        if !is_file {
            return Err(BundleError::Special { path: path.to_owned() });
        }
        let file = sys::fs::open(path)?;
        let length = file.metadata().map_err(read)?.len();
        let mut hasher = Sha256::new();
        let mut seen = |chunk: &[u8]| {
            hasher.update(chunk);
            watch(chunk.len() as u64)
        };
        self.writer.whole(dress(name, 0o644), &file, length, &mut seen)?;
        Ok(Digest::finish(hasher))
    }

    /// A directory and all below it.
    fn tree(&mut self, name: &str, directory: &Path, watch: &mut Watch<'_>) -> Result<(), BundleError> {
        let mut waiting = vec![(name.to_owned(), directory.to_owned())];
        while let Some((name, path)) = waiting.pop() {
            let read = |source| BundleError::Read { path: path.clone(), source };
            let kind = path.symlink_metadata().map_err(read)?.file_type();
            if kind.is_file() {
                self.file(&name, &path, watch)?;
                continue;
            }
            let last = name.rsplit('/').next().unwrap_or_default();
            if kind.is_symlink() && LINKS_LEFT_OUT.contains(&last) {
                continue;
            }
            if !kind.is_dir() {
                return Err(BundleError::Special { path });
            }
            self.writer.directory(dress(&name, 0o755))?;
            let entries = std::fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(read)?;
            let mut below = Vec::new();
            for entry in entries {
                let last = entry.file_name().into_string();
                let last = last.map_err(|_| BundleError::Special { path: entry.path() })?;
                below.push((format!("{name}/{last}"), entry.path()));
            }
            // The last is taken first.
            below.sort_unstable_by(|a, b| b.0.cmp(&a.0));
            waiting.append(&mut below);
        }
        Ok(())
    }
}
