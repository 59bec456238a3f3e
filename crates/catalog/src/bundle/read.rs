//! A bundle, unpacked or only looked through, in one pass. Nothing is written by a name of the bundle's: each entry has its
//! place, or the whole is refused and what was written goes away again.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use oci::Digest;
use sha2::{Digest as _, Sha256};
use tree::reader::{Entry, Reader};
use tree::shown;
use zstd::stream::read::Decoder;

use super::layout::{Kind, Layout, Place};
use super::manifest::{ImageManifest, KernelManifest};
use super::{BundleError, CHUNK_BYTES, CONFIG, INITRD, MANIFEST, MODULES, ROOTFS, VMLINUX, WINDOW_LOG, Watch};
use crate::document::{ImageEntry, KernelEntry};
use crate::name::{Name, Word};

/// What a stream may have beside the files that were accepted: headers, maps of holes, padding. The largest is a map of a
/// million pieces, which has some forty MiB.
const BESIDE_BYTES: u64 = 256 << 20;

/// How much may come out of a bundle.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `rootfs.ext4`, holes counted.
    pub rootfs_bytes: u64,
    /// `vmlinux`, and each of the files beside it.
    pub kernel_bytes: u64,
    /// All modules together.
    pub modules_bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { rootfs_bytes: 64 << 30, kernel_bytes: 1 << 30, modules_bytes: 4 << 30, entries: 50_000 }
    }
}

/// An image that came out of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBundle {
    /// What it says of itself.
    pub manifest: ImageManifest,
    /// The content of `rootfs.ext4`.
    pub rootfs_sha256: Digest,
    /// Its length, holes counted.
    pub rootfs_bytes: u64,
}

/// A kernel that came out of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBundle {
    /// What it says of itself, if anything.
    pub manifest: Option<KernelManifest>,
    /// The content of `vmlinux`.
    pub vmlinux_sha256: Digest,
    /// Its length.
    pub vmlinux_bytes: u64,
    /// Whether `initrd.img` came with it.
    pub has_initrd: bool,
    /// Whether `config` came with it.
    pub has_config: bool,
    /// How many files came below `modules/`.
    pub modules: u64,
}

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspected {
    /// An image.
    Image(Box<ImageBundle>),
    /// A kernel.
    Kernel(KernelBundle),
}

impl ImageBundle {
    /// Refuses one that is another image than its catalog says.
    ///
    /// # Errors
    /// When it is.
    pub fn check(&self, entry: &ImageEntry) -> Result<(), BundleError> {
        same((&entry.name, &entry.arch), (&self.manifest.name, &self.manifest.arch))
    }
}

impl KernelBundle {
    /// Refuses one that is another kernel than its catalog says, if it says anything.
    ///
    /// # Errors
    /// When it is.
    pub fn check(&self, entry: &KernelEntry) -> Result<(), BundleError> {
        match &self.manifest {
            Some(manifest) => same((&entry.name, &entry.arch), (&manifest.name, &manifest.arch)),
            None => Ok(()),
        }
    }
}

fn same(said: (&Name, &Word), found: (&Name, &Word)) -> Result<(), BundleError> {
    if said.0 == found.0 && said.1.processor() == found.1.processor() {
        return Ok(());
    }
    let shown = |(name, arch): (&Name, &Word)| format!("{name} for {arch}");
    Err(BundleError::Another { said: shown(said), found: shown(found) })
}

/// Unpacks an image into `into`, which is empty or not there yet: `rootfs.ext4`, its zeros as holes. `watch` is told of the
/// unpacked bytes.
///
/// # Errors
/// When it is no image's bundle, is hostile, or cannot be written; `into` is then as it was.
pub fn extract_image(
    packed: impl Read,
    into: &Path,
    limits: &Limits,
    watch: &mut Watch<'_>,
) -> Result<ImageBundle, BundleError> {
    let found = unpacked_into(into, |into| go_through(packed, Some(Kind::Image), Some(into), limits, watch))?;
    match found {
        Inspected::Image(image) => Ok(*image),
        Inspected::Kernel(_) => Err(BundleError::Missing { entry: ROOTFS }),
    }
}

/// Unpacks a kernel into `into`, which is empty or not there yet: `vmlinux`, and what there is of `initrd.img`, `config` and
/// `modules/`.
///
/// # Errors
/// When it is no kernel's bundle, is hostile, or cannot be written; `into` is then as it was.
pub fn extract_kernel(
    packed: impl Read,
    into: &Path,
    limits: &Limits,
    watch: &mut Watch<'_>,
) -> Result<KernelBundle, BundleError> {
    let found = unpacked_into(into, |into| go_through(packed, Some(Kind::Kernel), Some(into), limits, watch))?;
    match found {
        Inspected::Kernel(kernel) => Ok(kernel),
        Inspected::Image(_) => Err(BundleError::Missing { entry: VMLINUX }),
    }
}

/// Looks through a whole bundle and writes nothing.
///
/// # Errors
/// When it is none, or is hostile.
pub fn inspect(packed: impl Read, limits: &Limits, watch: &mut Watch<'_>) -> Result<Inspected, BundleError> {
    go_through(packed, None, None, limits, watch)
}

/// Has `work` fill a directory that is empty; what it leaves when it fails is removed.
fn unpacked_into<T>(into: &Path, work: impl FnOnce(&Path) -> Result<T, BundleError>) -> Result<T, BundleError> {
    let read = |source| BundleError::Read { path: into.to_owned(), source };
    let is_made = match std::fs::read_dir(into) {
        Ok(mut entries) => match entries.next() {
            None => false,
            Some(_) => return Err(BundleError::Occupied { path: into.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(read(error)),
    };
    sys::fs::create_private_dir(into)?;
    let done = work(into);
    if done.is_err() {
        for name in [ROOTFS, VMLINUX, INITRD, CONFIG] {
            sys::fs::remove_file(&into.join(name))?;
        }
        sys::fs::remove_tree(&into.join(MODULES))?;
        if is_made {
            sys::fs::remove_tree(into)?;
        }
    }
    done
}

/// Counts what comes out of a bundle, ends it when that is more than was accepted, and tells of it.
struct Counted<'a, R> {
    inner: R,
    /// What may still come: it grows with each file that is accepted.
    left: &'a Cell<u64>,
    watch: &'a mut Watch<'a>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("it unpacks to more than the files in it"))?);
        (self.watch)(count as u64)?;
        Ok(count)
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    manifest: Option<Vec<u8>>,
    rootfs: Option<(Digest, u64)>,
    vmlinux: Option<(Digest, u64)>,
    modules: u64,
}

fn go_through(
    packed: impl Read,
    kind: Option<Kind>,
    into: Option<&Path>,
    limits: &Limits,
    watch: &mut Watch<'_>,
) -> Result<Inspected, BundleError> {
    let stream = |after: &Option<String>| {
        let after = after.clone();
        move |source| BundleError::Stream { after, source }
    };
    let mut decoder = Decoder::new(packed).map_err(stream(&None))?;
    decoder.window_log_max(WINDOW_LOG).map_err(stream(&None))?;
    let mut watch = |count| watch(count);
    let left = Cell::new(BESIDE_BYTES);
    let plain = Counted { inner: decoder, left: &left, watch: &mut watch };
    let mut plain = BufReader::with_capacity(CHUNK_BYTES, plain);
    let mut reader = Reader::new(&mut plain);
    let mut layout = Layout::new(kind, limits);
    let mut found = Found::default();
    let mut last = None;
    while let Some(entry) = reader.next_entry().map_err(stream(&last))? {
        let place = layout.place(&entry)?;
        left.set(left.get().saturating_add(entry.length));
        last = Some(shown(&entry.path));
        found.take(&place, &entry, &mut reader.content(), into)?;
    }
    drop(reader);
    rest_is_zeros(&mut plain).map_err(stream(&last))?.then_some(()).ok_or(BundleError::Trailing)?;
    found.judge(&layout)
}

impl Found {
    fn take(
        &mut self,
        place: &Place,
        entry: &Entry,
        content: &mut impl Read,
        into: Option<&Path>,
    ) -> Result<(), BundleError> {
        let stream = |source| BundleError::Stream { after: Some(shown(&entry.path)), source };
        match place {
            Place::Top => {}
            Place::Manifest => {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).map_err(stream)?;
                self.manifest = Some(bytes);
            }
            Place::Rootfs => self.rootfs = Some(file(into, ROOTFS, entry, content)?),
            Place::Kernel(name) => {
                let taken = file(into, name, entry, content)?;
                if *name == VMLINUX {
                    self.vmlinux = Some(taken);
                }
            }
            Place::Directory(path) => {
                if let Some(into) = into {
                    sys::fs::create_private_dir(&into.join(path))?;
                }
            }
            Place::Module(path) => {
                if let Some(parent) = into.and_then(|into| Some(into.join(path).parent()?.to_owned())) {
                    sys::fs::create_private_dir(&parent)?;
                }
                file(into, path, entry, content)?;
                self.modules += 1;
            }
        }
        Ok(())
    }

    /// What it is, now that all of it was there.
    fn judge(self, layout: &Layout<'_>) -> Result<Inspected, BundleError> {
        let missing = |entry| BundleError::Missing { entry };
        match layout.kind.ok_or(BundleError::Nothing)? {
            Kind::Image => {
                let (rootfs_sha256, rootfs_bytes) = self.rootfs.ok_or(missing(ROOTFS))?;
                let manifest = self.manifest.ok_or(missing(MANIFEST))?;
                let manifest = ImageManifest::parse(&manifest).map_err(BundleError::Manifest)?;
                match manifest.digest {
                    Some(said) if said != rootfs_sha256 => {
                        Err(BundleError::Digest { said: said.hex(), found: rootfs_sha256.hex() })
                    }
                    _ => Ok(Inspected::Image(Box::new(ImageBundle { manifest, rootfs_sha256, rootfs_bytes }))),
                }
            }
            Kind::Kernel => {
                let (vmlinux_sha256, vmlinux_bytes) = self.vmlinux.ok_or(missing(VMLINUX))?;
                let manifest = self.manifest.as_deref().map(KernelManifest::parse).transpose();
                Ok(Inspected::Kernel(KernelBundle {
                    manifest: manifest.map_err(BundleError::Manifest)?,
                    vmlinux_sha256,
                    vmlinux_bytes,
                    has_initrd: layout.has(INITRD),
                    has_config: layout.has(CONFIG),
                    modules: self.modules,
                }))
            }
        }
    }
}

/// One file, to its place or nowhere: its digest and its length. What is zeros in it becomes a hole.
fn file(into: Option<&Path>, path: &str, entry: &Entry, content: &mut impl Read) -> Result<(Digest, u64), BundleError> {
    let mut taking = Taking::new(into.map(|into| into.join(path)))?;
    let mut at = 0;
    let whole = [(0, entry.length)];
    for (offset, bytes) in entry.runs.as_deref().unwrap_or(&whole) {
        taking.zeros(offset - at);
        taking.data(content, path, *offset, *bytes)?;
        at = offset + bytes;
    }
    taking.zeros(entry.length - at);
    taking.finish(entry.length)
}

/// A file on its way.
struct Taking {
    target: Option<(PathBuf, File)>,
    hasher: Sha256,
    chunk: Vec<u8>,
}

impl Taking {
    fn new(target: Option<PathBuf>) -> Result<Taking, BundleError> {
        let target = match target {
            Some(path) => {
                let file = sys::fs::create_new(&path, 0o600)?;
                Some((path, file))
            }
            None => None,
        };
        Ok(Taking { target, hasher: Sha256::new(), chunk: vec![0; CHUNK_BYTES] })
    }

    /// One run.
    fn data(&mut self, content: &mut impl Read, name: &str, offset: u64, bytes: u64) -> Result<(), BundleError> {
        let mut done = 0;
        while done < bytes {
            let want = usize::try_from(bytes - done).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let chunk = &mut self.chunk[..want];
            let read = content.read_exact(chunk);
            read.map_err(|source| BundleError::Stream { after: Some(name.to_owned()), source })?;
            self.hasher.update(&*chunk);
            if let Some((path, file)) = &self.target {
                let written = sys::holes::write_data(chunk, file, offset + done);
                written.map_err(|source| BundleError::Write { path: path.clone(), source })?;
            }
            done += want as u64;
        }
        Ok(())
    }

    /// A hole.
    fn zeros(&mut self, mut left: u64) {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while left > 0 {
            let count = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.hasher.update(&ZEROS[..count]);
            left -= count as u64;
        }
    }

    fn finish(self, length: u64) -> Result<(Digest, u64), BundleError> {
        if let Some((path, file)) = self.target {
            let kept = file.set_len(length).and_then(|()| file.sync_all());
            kept.map_err(|source| BundleError::Write { path, source })?;
        }
        Ok((Digest::finish(self.hasher), length))
    }
}

/// Whether nothing but padding is left.
fn rest_is_zeros(from: &mut impl Read) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(true),
            Ok(count) if chunk[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
