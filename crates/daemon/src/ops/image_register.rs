//! Makes an image of a root filesystem that is a file already.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use wire::api::{Begun, ErrorCode, RegisterImage};
use wire::id::OpId;

use super::engine::Engine;
use super::failure::refused;
use super::image_make::{ImageFrom, ImagePlan, PlaceImage, PublishImage, decide, discard, finish};
use super::maker::Keeping;
use super::plan::Plan;
use super::staging as making;
use super::world::Host;
use crate::saga::{Cause, Cx, Saga, Step};

/// The list.
#[must_use]
pub fn image_register() -> Saga<ImagePlan, Host> {
    Saga::named("image.register")
        .then(TakeFile) // undo: remove the staging directory; of a file that is linked, its name there
        .then(PlaceImage) // undo: remove the image's directory, unless an image on record owns it
        .commit(PublishImage) // the name moves to the new image
}

/// Decides to make an image of a file.
///
/// # Errors
/// When its path is relative, or the name cannot be one.
pub async fn plan(host: &Host, request: RegisterImage, operation: OpId) -> Result<ImagePlan, Cause> {
    if !Path::new(&request.path).is_absolute() {
        return Err(refused(ErrorCode::BadRequest, format!("{} must be an absolute path", request.path)));
    }
    let keeping = if request.link { Keeping::Linked } else { Keeping::Copied };
    decide(host, ImageFrom::File { file: request.path, keeping }, &request.name, operation).await
}

impl Engine {
    /// Makes an image of a root filesystem that is a file already.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn register_image(self: &Arc<Self>, request: RegisterImage) -> Result<Begun, Cause> {
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = plan(self.host(), request, operation.clone()).await?;
        self.begin_as(operation, Plan::ImageRegister(Box::new(plan))).await
    }
}

/// Copies or links the file into the staging directory, and looks at what is in it.
struct TakeFile;

#[async_trait]
impl Step<ImagePlan, Host> for TakeFile {
    fn name(&self) -> &'static str {
        "take_file"
    }

    async fn run(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let ImageFrom::File { file, keeping } = &cx.plan.from else {
            return Err(cx.plan.mixed_up());
        };
        let staging = cx.plan.staging(cx.world);
        discard(cx.world, staging.clone()).await?;
        sys::fs::create_private_dir(&staging)?;
        let (maker, file, keeping) = (cx.world.maker.clone(), PathBuf::from(file), *keeping);
        let taken =
            move |watcher: crate::model::progress::Watcher<'_>| maker.register_image(&file, keeping, &staging, watcher);
        let manifest = making::watched(cx, taken).await?;
        finish(cx, manifest)
    }

    async fn undo(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        discard(cx.world, cx.plan.staging(cx.world)).await
    }
}
