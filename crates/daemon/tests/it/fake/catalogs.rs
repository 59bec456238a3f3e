//! A catalog without anybody else: it has the image `listed` and any kernel.

use std::path::Path;

use async_trait::async_trait;
use daemon::model::digest::Digest;
use daemon::model::image::{ImageManifest, Origin};
use daemon::model::progress::{OnProgress, Progress, Watcher};
use daemon::ops::catalogs::{Catalogs, FetchedKernel, kernel_source};
use daemon::ops::puller::Fetched;
use daemon::saga::Cause;
use wire::api::Available;

use super::{Drivers, image_manifest};

/// The image that the catalog has.
const LISTED: &str = "listed";

struct Image(Origin);

struct Kernel(String);

fn nothing() -> Available {
    Available { catalog: None, serial: 0, kept_for_ms: None, why: None, entries: Vec::new() }
}

fn digest(name: &str) -> String {
    format!("sha256:{}", Digest::of(name.as_bytes()))
}

fn image(reference: String) -> Box<dyn Fetched> {
    let target = digest(&reference);
    let (manifest, config, blobs) = (target.clone(), target.clone(), Vec::new());
    Box::new(Image(Origin { reference, target, manifest, config, blobs, kernel_ref: Some("6.1".into()) }))
}

#[async_trait]
impl Catalogs for Drivers {
    async fn has_image(&self, name: &str) -> Result<bool, Cause> {
        Ok(name == LISTED)
    }

    async fn images(&self) -> Result<Available, Cause> {
        Ok(nothing())
    }

    async fn kernels(&self) -> Result<Available, Cause> {
        Ok(nothing())
    }

    async fn image(&self, name: &str, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause> {
        progress(Progress::Stage("fetch bundle".into()));
        Ok(image(format!("catalog:{name}")))
    }

    async fn bundle(&self, path: &Path, _: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause> {
        Ok(image(format!("bundle:{}", path.display())))
    }

    async fn kernel(&self, name: &str, progress: OnProgress<'_>) -> Result<Box<dyn FetchedKernel>, Cause> {
        progress(Progress::Stage("fetch bundle".into()));
        Ok(Box::new(Kernel(name.to_owned())))
    }
}

impl Fetched for Image {
    fn origin(&self) -> &Origin {
        &self.0
    }

    fn flatten(&self, staging: &Path, _: Watcher<'_>) -> Result<ImageManifest, Cause> {
        sys::fs::write_atomic(&staging.join("rootfs.ext4"), b"rootfs", 0o600)?;
        Ok(ImageManifest { origin: Some(self.0.clone()), ..image_manifest(&self.0.reference) })
    }
}

impl FetchedKernel for Kernel {
    fn described(&self) -> String {
        kernel_source(&self.0, &digest(&self.0))
    }

    fn warning(&self) -> Option<String> {
        None
    }

    fn unpack(&self, into: &Path, _: Watcher<'_>) -> Result<(), Cause> {
        sys::fs::create_private_dir(into)?;
        Ok(sys::fs::write_atomic(&into.join("vmlinux"), b"vmlinux", 0o600)?)
    }
}
