//! Builds an image: everything is made in a staging directory and published by one rename and one row.

use async_trait::async_trait;
use wire::api::BuildImage;
use wire::id::OpId;

use super::image_make::{ImageFrom, ImagePlan, PlaceImage, PublishImage, decide, discard, finish};
use super::staging as making;
use super::world::{Host, blocking};
use crate::saga::{Cause, Cx, Saga, Step};

/// The list.
#[must_use]
pub fn image_build() -> Saga<ImagePlan, Host> {
    Saga::named("image.build")
        .then(BuildRootfs) // undo: remove the staging directory
        .then(PlaceImage) // undo: remove the image's directory, unless an image on record owns it
        .commit(PublishImage) // the name moves to the new image
}

/// Decides a build.
///
/// # Errors
/// When there is no such recipe or variant, a program it needs is missing, or the name cannot be one.
pub async fn plan(host: &Host, request: BuildImage, operation: OpId) -> Result<ImagePlan, Cause> {
    let (maker, asked) = (host.maker.clone(), request.clone());
    let name = blocking(move || maker.check_image(&asked)).await?;
    let name = request.name.clone().unwrap_or(name);
    decide(host, ImageFrom::Recipe(request), &name, operation).await
}

/// Makes the root filesystem in the staging directory.
struct BuildRootfs;

#[async_trait]
impl Step<ImagePlan, Host> for BuildRootfs {
    fn name(&self) -> &'static str {
        "build_rootfs"
    }

    async fn run(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let ImageFrom::Recipe(request) = cx.plan.from.clone() else {
            return Err(cx.plan.mixed_up());
        };
        let staging = cx.plan.staging(cx.world);
        // What an interrupted build left is no beginning of this one.
        discard(cx.world, staging.clone()).await?;
        sys::fs::create_private_dir(&staging)?;
        let maker = cx.world.maker.clone();
        let manifest = making::watched(cx, move |watcher| maker.build_image(&request, &staging, watcher)).await?;
        finish(cx, manifest)
    }

    async fn undo(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        discard(cx.world, cx.plan.staging(cx.world)).await
    }
}
