//! Makes an image of what others built: its layers come into the cache, verified, and are flattened into one root
//! filesystem; that of a catalog's bundle comes whole.

use async_trait::async_trait;
use wire::api::PullImage;
use wire::id::OpId;

use super::catalogs::{self, Ours};
use super::image_make::{ImageFrom, ImagePlan, PlaceImage, PublishImage, decide, discard, finish};
use super::puller::Fetched;
use super::staging as making;
use super::world::Host;
use crate::model::image::{ImageManifest, Origin};
use crate::saga::{Cause, Cx, Saga, Step};

/// The list.
#[must_use]
pub fn image_pull() -> Saga<ImagePlan, Host> {
    Saga::named("image.pull")
        .then(FlattenImage) // undo: remove the staging directory; what has come stays in the cache
        .then(PlaceImage) // undo: remove the image's directory, unless an image on record owns it
        .commit(PublishImage) // the name moves to the new image
}

/// Decides a pull.
///
/// # Errors
/// When the source is none, or the name cannot be one.
pub async fn plan(host: &Host, request: PullImage, operation: OpId) -> Result<ImagePlan, Cause> {
    let source = catalogs::in_full(host, request.source).await?;
    let name = match Ours::of(&source) {
        Some(ours) => ours.check()?,
        None => host.puller.check_source(&source)?,
    };
    let name = request.name.unwrap_or(name);
    decide(host, ImageFrom::Source(source), &name, operation).await
}

/// Brings the image and makes one root filesystem of its layers, unless there is one already.
struct FlattenImage;

#[async_trait]
impl Step<ImagePlan, Host> for FlattenImage {
    fn name(&self) -> &'static str {
        "flatten_image"
    }

    async fn run(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let ImageFrom::Source(source) = &cx.plan.from else {
            return Err(cx.plan.mixed_up());
        };
        let staging = cx.plan.staging(cx.world);
        discard(cx.world, staging.clone()).await?;
        sys::fs::create_private_dir(&staging)?;
        let fetched = fetch(cx, source).await?;
        if let Some(warning) = fetched.warning() {
            cx.warning(&warning);
        }
        if let Some(manifest) = same(cx.world, fetched.origin()).await? {
            return finish(cx, manifest);
        }
        let manifest = making::watched(cx, move |watcher| fetched.flatten(&staging, watcher)).await?;
        finish(cx, manifest)
    }

    async fn undo(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        discard(cx.world, cx.plan.staging(cx.world)).await
    }
}

/// Brings it into the cache; a cancellation ends that at once.
async fn fetch(cx: &Cx<'_, ImagePlan, Host>, source: &str) -> Result<Box<dyn Fetched>, Cause> {
    let (report, reports) = making::reports();
    match Ours::of(source) {
        Some(ours) => making::followed(cx, reports, ours.fetch(cx.world, &report)).await,
        None => making::followed(cx, reports, cx.world.puller.fetch(source, &report)).await,
    }
}

/// The manifest of an image on record that was made of the same layers with the same configuration.
async fn same(host: &Host, origin: &Origin) -> Result<Option<ImageManifest>, Cause> {
    let is_same = |other: &Origin| other.config == origin.config && other.manifest == origin.manifest;
    let images = host.store.images().await?;
    Ok(images.into_iter().map(|image| image.manifest).find(|manifest| manifest.origin.as_ref().is_some_and(is_same)))
}
