//! Where images of others come from, as operations see it.

use std::io;
use std::path::Path;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use wire::api::SaveFormat;

use crate::model::image::{ImageManifest, Origin};
use crate::model::progress::{OnProgress, Watcher};
use crate::saga::Cause;

/// An archive that comes as a stream.
pub type Archive = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Brings images from registries and archives, and makes files of them for others.
#[async_trait]
pub trait Puller: Send + Sync {
    /// Checks a source before anything begins and gives the name that the image has unless somebody says otherwise.
    ///
    /// # Errors
    /// When it says nothing about where an image is.
    fn check_source(&self, source: &str) -> Result<String, Cause>;

    /// Brings every part of the image into the cache, verified. To give it up, drop this.
    ///
    /// # Errors
    /// When it cannot be had, is not what it says, or is for another processor.
    async fn fetch(&self, source: &str, progress: OnProgress<'_>) -> Result<Box<dyn Fetched>, Cause>;

    /// Brings the image of an archive that comes as a stream into the cache. Gives a source that [`Puller::fetch`] knows
    /// once, as long as this process lives, and what the archive calls the image.
    ///
    /// # Errors
    /// When it holds none or several, is not what it says, or is hostile.
    async fn load(&self, archive: &mut Archive) -> Result<(String, Option<String>), Cause>;

    /// Writes the image whose root filesystem is the file `rootfs` to `to`, as a file for others. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or `to` not be written; part of it may be written then.
    fn save(
        &self,
        manifest: &ImageManifest,
        rootfs: &Path,
        format: SaveFormat,
        to: &mut dyn io::Write,
    ) -> Result<(), Cause>;

    /// Removes what is in the cache, besides what `kept` names and what is in use. Gives how many files went, and the bytes
    /// they took of the disk.
    ///
    /// # Errors
    /// When the cache cannot be read or changed.
    async fn prune(&self, kept: Vec<String>) -> Result<(u64, u64), Cause>;
}

/// An image whose parts are in the cache, and stay there as long as this lives.
pub trait Fetched: Send + Sync {
    /// Where it is from.
    fn origin(&self) -> &Origin;

    /// What a person should know about how it was had.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Writes `rootfs.ext4` into `staging`, an empty directory, and says what is in it.
    ///
    /// # Errors
    /// When a layer is damaged or hostile, it does not fit, or `watcher` says to stop.
    fn flatten(&self, staging: &Path, watcher: Watcher<'_>) -> Result<ImageManifest, Cause>;
}
