//! Images and kernels in bundles, from the cache or from a file, on their way into a staging directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use catalog::bundle::{BundleError, ImageBundle, Inspected, Limits, ROOTFS, extract_image, extract_kernel, inspect};
use catalog::{ImageEntry, KernelEntry};
use oci::blobs::{BlobError, Pin, off_thread};
use oci::{Architecture, Digest};
use sha2::{Digest as _, Sha256};
use wire::api::ErrorCode;

use super::failed;
use crate::image::ext4::{Contents, Unmountable, look};
use crate::model::image::{ExecSettings, ImageManifest, Origin};
use crate::model::progress::{OnProgress, Progress, Watcher};
use crate::ops::catalogs::{FetchedKernel, kernel_source};
use crate::ops::failure::{caused, refused};
use crate::ops::puller::Fetched;
use crate::saga::Cause;
use crate::workshop::files::open;

/// Bytes that are hashed at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes between two reports.
const REPORT_BYTES: u64 = 4 << 20;

/// A bundle that can be read.
pub(super) enum Packed {
    /// In the cache.
    Pinned(Pin),
    /// In a file of somebody's.
    File {
        /// Where.
        path: PathBuf,
        /// What was in it when it was looked at.
        digest: Digest,
    },
    /// In a file without a name, which goes with this.
    Spooled {
        /// The file.
        file: File,
        /// What is in it.
        digest: Digest,
    },
}

impl Packed {
    /// A file, and the digest of what is in it.
    pub(super) async fn file(path: &Path, progress: OnProgress<'_>) -> Result<Packed, Cause> {
        let read = |error: &io::Error| unreadable(path, error);
        let mut file = open(path).map_err(|error| read(&error))?;
        let total = file.metadata().map_err(|error| read(&error))?.len();
        progress(Progress::Stage("hash bundle".into()));
        let (mut hasher, mut done, mut is_ended) = (Sha256::new(), 0, false);
        while !is_ended {
            let stretched = off_thread(move || stretch(file, hasher)).await;
            let bytes;
            (file, hasher, bytes) = stretched.map_err(|error| failed(ErrorCode::OperationFailed, &error, None))?;
            done += bytes;
            is_ended = bytes < REPORT_BYTES;
            progress(Progress::Bytes { done, total: Some(total) });
        }
        Ok(Packed::File { path: path.to_owned(), digest: Digest::finish(hasher) })
    }

    fn digest(&self) -> Digest {
        match self {
            Packed::Pinned(pin) => pin.digest,
            Packed::File { digest, .. } | Packed::Spooled { digest, .. } => *digest,
        }
    }

    fn open(&self) -> Result<File, Cause> {
        match self {
            Packed::Pinned(pin) => pin.open().map_err(|error| failed(ErrorCode::OperationFailed, &error, None)),
            Packed::File { path, .. } => open(path).map_err(|error| unreadable(path, &error)),
            Packed::Spooled { file, .. } => rewound(file).map_err(|error| caused(ErrorCode::OperationFailed, &error)),
        }
    }
}

/// The same file, from its beginning on.
fn rewound(file: &File) -> io::Result<File> {
    let mut again = file.try_clone()?;
    io::Seek::rewind(&mut again)?;
    Ok(again)
}

fn unreadable(path: &Path, error: &io::Error) -> Cause {
    let code = if error.kind() == io::ErrorKind::NotFound { ErrorCode::NotFound } else { ErrorCode::BadRequest };
    refused(code, format!("cannot read {}: {error}", path.display()))
}

/// Hashes up to the next report.
fn stretch(mut file: File, mut hasher: Sha256) -> Result<(File, Sha256, u64), BlobError> {
    let (mut chunk, mut bytes) = (vec![0; CHUNK_BYTES], 0);
    while bytes < REPORT_BYTES {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&chunk[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BlobError::Read(error)),
        }
    }
    Ok((file, hasher, bytes))
}

fn bundle_failed(error: &BundleError) -> Cause {
    failed(ErrorCode::OperationFailed, error, error.hint())
}

/// What passes reports of unpacking on, and ends it.
fn watch(watcher: Watcher<'_>) -> impl FnMut(u64) -> io::Result<()> {
    let (mut done, mut told) = (0, 0);
    move |count| {
        done += count;
        if done - told >= REPORT_BYTES {
            told = done;
            watcher.bytes(done, None);
        }
        watcher.check().map_err(io::Error::other)
    }
}

/// An image in a bundle.
pub(super) struct BundledImage {
    origin: Origin,
    packed: Packed,
    /// What the catalog says it is.
    entry: Option<ImageEntry>,
    warning: Option<String>,
}

impl BundledImage {
    /// One that the catalog lists.
    pub(super) fn of_catalog(entry: &ImageEntry, pin: Pin, warning: Option<String>) -> BundledImage {
        let packed = Packed::Pinned(pin);
        let kernel_ref = entry.kernel_ref.as_ref().map(ToString::to_string);
        let origin = origin(format!("catalog:{}", entry.name), packed.digest(), kernel_ref);
        BundledImage { origin, packed, entry: Some(entry.clone()), warning }
    }

    /// One in a file.
    pub(super) fn of_file(path: &Path, packed: Packed) -> BundledImage {
        let origin = origin(format!("bundle:{}", path.display()), packed.digest(), None);
        BundledImage { origin, packed, entry: None, warning: None }
    }

    /// One that came as a stream, and what it calls itself.
    ///
    /// # Errors
    /// When it is no image's, or is hostile.
    pub(super) fn of_stream(file: File, digest: Digest) -> Result<(BundledImage, String), Cause> {
        let packed = Packed::Spooled { file, digest };
        let inspected = inspect(packed.open()?, &Limits::default(), &mut |_| Ok(()));
        let name = match inspected.map_err(|error| bundle_failed(&error))? {
            Inspected::Image(image) => image.manifest.name.to_string(),
            Inspected::Kernel(_) => {
                let cause = refused(ErrorCode::BadRequest, "the bundle is a kernel's");
                return Err(cause.with_hint("unpack it, and: banger kernel import DIRECTORY"));
            }
        };
        let origin = origin(format!("bundle of {name}"), digest, None);
        Ok((BundledImage { origin, packed, entry: None, warning: None }, name))
    }

    fn check(&self, image: &ImageBundle) -> Result<(), Cause> {
        if let Some(entry) = &self.entry {
            image.check(entry).map_err(|error| bundle_failed(&error))?;
        }
        let (arch, here) = (&image.manifest.arch, Architecture::host());
        if arch.is_for(here) {
            return Ok(());
        }
        let message = format!("the bundle is for {}, and this host is {here}", arch.processor());
        Err(refused(ErrorCode::Unsupported, message))
    }

    fn manifest(&self, image: ImageBundle, contents: Contents) -> Result<ImageManifest, Cause> {
        let said = image.manifest;
        let digest = image.rootfs_sha256.hex().parse();
        let kernel_ref = said.kernel_ref.map(String::from).or_else(|| self.origin.kernel_ref.clone());
        Ok(ImageManifest {
            name: String::new(),
            variant: said.variant,
            digest: digest.map_err(|error| caused(ErrorCode::Internal, &error))?,
            bytes: image.rootfs_bytes,
            content_bytes: said.content_bytes.unwrap_or(contents.used_bytes),
            entries: said.entries.unwrap_or(contents.used_inodes),
            packages: said.packages,
            recipe_sha256: None,
            source: self.origin.reference.clone(),
            init: said.init,
            arch: said.arch.processor().to_owned(),
            exec: ExecSettings { env: said.exec.env, user: said.exec.user, workdir: said.exec.workdir },
            command: said.exec.command,
            origin: Some(Origin { kernel_ref, ..self.origin.clone() }),
            linked: None,
        })
    }
}

/// Where an image in a bundle is from. Its bundle counts as all of it; in the cache it is needed no more once it is unpacked.
fn origin(reference: String, bundle: Digest, kernel_ref: Option<String>) -> Origin {
    let digest = bundle.to_string();
    Origin {
        reference,
        target: digest.clone(),
        manifest: digest.clone(),
        config: digest,
        blobs: Vec::new(),
        kernel_ref,
    }
}

impl Fetched for BundledImage {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    fn flatten(&self, staging: &Path, watcher: Watcher<'_>) -> Result<ImageManifest, Cause> {
        watcher.stage("unpack bundle");
        let extracted = extract_image(self.packed.open()?, staging, &Limits::default(), &mut watch(watcher));
        let image = extracted.map_err(|error| bundle_failed(&error))?;
        self.check(&image)?;
        let contents = look(&staging.join(ROOTFS)).map_err(|error: Unmountable| {
            failed(
                ErrorCode::Unsupported,
                &error,
                Some("tell whoever made the bundle; mkfs.ext4 and a clean unmount are enough"),
            )
        })?;
        self.manifest(image, contents)
    }
}

/// A kernel in a bundle.
pub(super) struct BundledKernel {
    entry: KernelEntry,
    pin: Pin,
    warning: Option<String>,
}

impl BundledKernel {
    /// One that the catalog lists.
    pub(super) fn new(entry: &KernelEntry, pin: Pin, warning: Option<String>) -> BundledKernel {
        BundledKernel { entry: entry.clone(), pin, warning }
    }
}

impl FetchedKernel for BundledKernel {
    fn described(&self) -> String {
        kernel_source(self.entry.name.as_str(), &self.entry.artifact.sha256.to_string())
    }

    fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    fn unpack(&self, into: &Path, watcher: Watcher<'_>) -> Result<(), Cause> {
        watcher.stage("unpack bundle");
        let packed = self.pin.open().map_err(|error| failed(ErrorCode::OperationFailed, &error, None))?;
        let extracted = extract_kernel(packed, into, &Limits::default(), &mut watch(watcher));
        let kernel = extracted.map_err(|error| bundle_failed(&error))?;
        kernel.check(&self.entry).map_err(|error| bundle_failed(&error))
    }
}
