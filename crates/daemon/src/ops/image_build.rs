//! Builds an image: everything is made in a staging directory and published by one rename and one row.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{BuildImage, ErrorCode};
use wire::id::{ImageId, OpId};

use super::failure::{caused, refused};
use super::staging::{self as making, Staged};
use super::world::{Host, blocking, staging_name};
use crate::model::digest::Digest;
use crate::model::image::ImageManifest;
use crate::saga::{Cause, Cx, Saga, Step};
use crate::store::records::ImageRecord;

/// The list.
#[must_use]
pub fn image_build() -> Saga<ImageBuildPlan, Host> {
    Saga::named("image.build")
        .then(BuildRootfs) // undo: remove the staging directory
        .then(PlaceImage) // undo: remove the image's directory, unless an image on record owns it
        .commit(PublishImage) // the name moves to the new image
}

/// One build, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBuildPlan {
    /// What was asked.
    pub request: BuildImage,
    /// What the image will be called.
    pub name: String,
    /// Names the staging directory.
    pub operation: OpId,
    /// Who has the name now.
    pub replaces: Option<ImageId>,
}

impl ImageBuildPlan {
    fn staging(&self, host: &Host) -> PathBuf {
        host.images_dir().join(staging_name(&self.operation))
    }
}

/// Decides a build.
///
/// # Errors
/// When there is no such recipe or variant, a program it needs is missing, or the name cannot be one.
pub async fn plan(host: &Host, request: BuildImage, operation: OpId) -> Result<ImageBuildPlan, Cause> {
    let (maker, asked) = (host.maker.clone(), request.clone());
    let name = blocking(move || maker.check_image(&asked)).await?;
    let name = request.name.clone().unwrap_or(name);
    making::check_name("an image", &name)?;
    crate::storage::check_room(&host.dirs.state)?;
    let replaces = host.store.images().await?.into_iter().find(|image| image.name == name).map(|image| image.id);
    Ok(ImageBuildPlan { request, name, operation, replaces })
}

/// The id of an image: the first 64 bits of its digest.
#[must_use]
pub fn image_id(digest: &Digest) -> ImageId {
    ImageId::from_random(making::leading(digest))
}

/// The manifest below `dir`; none when there is no such file.
fn manifest_in(dir: &Path) -> Result<Option<ImageManifest>, Cause> {
    making::read_manifest(dir)
}

/// Removes a staging directory on a thread that may block.
pub(crate) async fn discard(host: &Host, staging: PathBuf) -> Result<(), Cause> {
    let maker = host.maker.clone();
    blocking(move || maker.discard_image(&staging)).await
}

/// Makes the root filesystem in the staging directory.
struct BuildRootfs;

#[async_trait]
impl Step<ImageBuildPlan, Host> for BuildRootfs {
    fn name(&self) -> &'static str {
        "build_rootfs"
    }

    async fn run(&self, cx: &Cx<'_, ImageBuildPlan, Host>) -> Result<(), Cause> {
        let staging = cx.plan.staging(cx.world);
        // What an interrupted build left is no beginning of this one.
        discard(cx.world, staging.clone()).await?;
        sys::fs::create_private_dir(&staging)?;
        let (maker, request, name) = (cx.world.maker.clone(), cx.plan.request.clone(), cx.plan.name.clone());
        let at = staging.clone();
        let manifest = making::watched(cx, move |watcher| maker.build_image(&request, &at, watcher)).await?;
        let manifest = ImageManifest { name, ..manifest };
        let staged = Staged { operation: cx.plan.operation.clone(), was: None };
        making::write_manifest(&staging, &manifest, &staged)
    }

    async fn undo(&self, cx: &Cx<'_, ImageBuildPlan, Host>) -> Result<(), Cause> {
        discard(cx.world, cx.plan.staging(cx.world)).await
    }
}

/// Gives the finished directory its final name.
struct PlaceImage;

#[async_trait]
impl Step<ImageBuildPlan, Host> for PlaceImage {
    fn name(&self) -> &'static str {
        "place_image"
    }

    async fn run(&self, cx: &Cx<'_, ImageBuildPlan, Host>) -> Result<(), Cause> {
        let staging = cx.plan.staging(cx.world);
        let Some(manifest) = manifest_in(&staging)? else {
            // Placed already, by a run that died before it could say so; the next step finds out.
            return Ok(());
        };
        let target = cx.world.image_dir(&image_id(&manifest.digest));
        if target.exists() {
            // The same content is there: its files stay, a VM may be using them.
            let was = cx.world.store.find_image(image_id(&manifest.digest).as_str()).await.ok().map(|known| known.name);
            making::adopt(&target, &Staged { operation: cx.plan.operation.clone(), was })?;
            return making::remove_tree(staging).await;
        }
        Ok(sys::fs::rename(&staging, &target)?)
    }

    async fn undo(&self, cx: &Cx<'_, ImageBuildPlan, Host>) -> Result<(), Cause> {
        let Some(dir) = making::placed_by(&cx.world.images_dir(), &cx.plan.operation)? else {
            return Ok(());
        };
        let is_on_record = match manifest_in(&dir)? {
            Some(manifest) => cx.world.store.find_image(image_id(&manifest.digest).as_str()).await.is_ok(),
            None => false,
        };
        if is_on_record { Ok(()) } else { making::remove_tree(dir).await }
    }
}

/// Records the image; its name, if another had it, moves.
struct PublishImage;

#[async_trait]
impl Step<ImageBuildPlan, Host> for PublishImage {
    fn name(&self) -> &'static str {
        "publish_image"
    }

    async fn run(&self, cx: &Cx<'_, ImageBuildPlan, Host>) -> Result<(), Cause> {
        let lost = || refused(ErrorCode::Internal, "the finished image is gone");
        let dir = making::placed_by(&cx.world.images_dir(), &cx.plan.operation)?.ok_or_else(lost)?;
        let manifest = manifest_in(&dir)?.ok_or_else(lost)?;
        let record = ImageRecord {
            id: image_id(&manifest.digest),
            name: cx.plan.name.clone(),
            manifest,
            created_at_ms: (cx.world.now_ms)(),
        };
        cx.world.store.publish_image(record).await.map_err(|error| caused(ErrorCode::OperationFailed, &error))
    }

    async fn undo(&self, cx: &Cx<'_, ImageBuildPlan, Host>) -> Result<(), Cause> {
        let Some(dir) = making::placed_by(&cx.world.images_dir(), &cx.plan.operation)? else {
            return Ok(());
        };
        let (Some(manifest), Some(staged)) = (manifest_in(&dir)?, making::staged_in(&dir)?) else {
            return Ok(());
        };
        let id = image_id(&manifest.digest);
        let name = cx.plan.name.clone();
        Ok(cx.world.store.unpublish_image(&id, staged.was, &name, cx.plan.replaces.clone()).await?)
    }
}
