//! What every way to an image ends with: a staging directory gets its final name, the image a row and a name.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{BuildImage, ErrorCode};
use wire::id::{ImageId, OpId, VmId};
use wire::naming::VmName;

use super::failure::{caused, refused};
use super::maker::Keeping;
use super::parts::is_unchanged;
use super::staging::{self as making, Staged};
use super::world::{Host, blocking, staging_name};
use crate::model::image::{ImageManifest, checked_name};
use crate::saga::{Cause, Cx, Step};
use crate::store::StoreError;
use crate::store::records::ImageRecord;

/// The file of a root filesystem in an image's directory.
pub(super) const ROOTFS: &str = "rootfs.ext4";

/// What an image is made of. Untagged, for a build was written down as its request alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageFrom {
    /// A recipe.
    Recipe(BuildImage),
    /// What somebody else made, wherever it is.
    Source(String),
    /// A VM that runs: its image, and what is changed over it.
    Vm {
        /// The VM.
        vm: VmId,
        /// What it is called.
        vm_name: VmName,
        /// The image it is made of.
        image: ImageId,
        /// Most bytes that its changes can honestly be.
        bytes_max: u64,
    },
    /// A root filesystem that is a file already.
    File {
        /// Its absolute path.
        file: String,
        /// How it becomes the image's.
        keeping: Keeping,
    },
}

/// One image to be made, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePlan {
    /// What it is made of.
    #[serde(alias = "request")]
    pub from: ImageFrom,
    /// What the image will be called.
    pub name: String,
    /// Names the staging directory.
    pub operation: OpId,
    /// Who has the name now.
    pub replaces: Option<ImageId>,
}

impl ImagePlan {
    /// Where it is made.
    pub(super) fn staging(&self, host: &Host) -> PathBuf {
        host.images_dir().join(staging_name(&self.operation))
    }

    /// The VM that it is made of.
    #[must_use]
    pub(super) fn vm(&self) -> Option<&VmId> {
        match &self.from {
            ImageFrom::Vm { vm, .. } => Some(vm),
            ImageFrom::Recipe(_) | ImageFrom::Source(_) | ImageFrom::File { .. } => None,
        }
    }

    /// The refusal of a step that is not of this plan's list.
    pub(super) fn mixed_up(&self) -> Cause {
        refused(ErrorCode::Internal, format!("{:?} is not what this operation makes images of", self.from))
    }
}

/// Decides to make an image of this name.
///
/// # Errors
/// When nothing can be called so, or the disk is full.
pub(super) async fn decide(host: &Host, from: ImageFrom, name: &str, operation: OpId) -> Result<ImagePlan, Cause> {
    let name = image_name(name)?;
    crate::storage::check_room(&host.dirs.state)?;
    let images = host.store.images().await?;
    let has_it = |image: &ImageRecord| image.name == name || image.also.contains(&name);
    let replaces = images.into_iter().find(has_it).map(|image| image.id);
    Ok(ImagePlan { from, name, operation, replaces })
}

/// A name for an image, as it is kept.
///
/// # Errors
/// When nothing can be called so.
pub(crate) fn image_name(name: &str) -> Result<String, Cause> {
    checked_name(name).ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        let rule = "is letters, digits, '.', '_' and '-', or that of an image in a registry, registry/path:tag";
        refused(ErrorCode::BadRequest, format!("the name of an image {rule}, not {shown:?}"))
    })
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

/// Finishes the staging directory of an image that was made.
pub(super) fn finish(cx: &Cx<'_, ImagePlan, Host>, manifest: ImageManifest) -> Result<(), Cause> {
    let manifest = ImageManifest { name: cx.plan.name.clone(), ..manifest };
    let staged = Staged { operation: cx.plan.operation.clone(), was: None };
    making::write_manifest(&cx.plan.staging(cx.world), &manifest, &staged)
}

/// The image of this id, if it is on record.
async fn known(host: &Host, id: &ImageId) -> Result<Option<ImageRecord>, Cause> {
    match host.store.find_image(id.as_str()).await {
        Ok(image) => Ok(Some(image)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is at `target` stands for `made` from now on: a file of the user's must still be what it was, and does not stand for
/// one of banger's own.
fn check_there(
    cx: &Cx<'_, ImagePlan, Host>,
    target: &Path,
    made: &ImageManifest,
    called: Option<&str>,
) -> Result<(), Cause> {
    let Some(there) = manifest_in(target)? else {
        return Ok(());
    };
    let is_ours = making::staged_in(target)?.is_some_and(|staged| staged.operation == cx.plan.operation);
    let Some(linked) = there.linked.as_ref().filter(|_| !is_ours) else {
        if let (Some(file), None) = (&made.linked, &there.linked) {
            cx.warning(&format!("its content is here already, and {} is not linked", file.path));
        }
        return Ok(());
    };
    if made.linked.is_some() && is_unchanged(linked, &target.join(ROOTFS)) {
        return Ok(());
    }
    let called = called.unwrap_or(&there.name);
    let message = format!("image {called} has the same content, and its file is yours: {}", linked.path);
    let hint = format!("banger image promote {called}, or banger image delete {called} if that file has changed");
    Err(refused(ErrorCode::WrongState, message).with_hint(hint))
}

/// Gives the finished directory its final name.
pub(super) struct PlaceImage;

#[async_trait]
impl Step<ImagePlan, Host> for PlaceImage {
    fn name(&self) -> &'static str {
        "place_image"
    }

    async fn run(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let staging = cx.plan.staging(cx.world);
        let Some(manifest) = manifest_in(&staging)? else {
            // Placed already, by a run that died before it could say so; the next step finds out.
            return Ok(());
        };
        let target = cx.world.image_dir(&manifest.id());
        if target.exists() {
            // The same content is there: its files stay, a VM may be using them.
            let was = known(cx.world, &manifest.id()).await?.map(|known| known.name);
            check_there(cx, &target, &manifest, was.as_deref())?;
            making::adopt(&target, &Staged { operation: cx.plan.operation.clone(), was })?;
            return making::remove_tree(staging).await;
        }
        if !staging.join(ROOTFS).exists() {
            let message = "the image that is the same was deleted in the meantime";
            return Err(refused(ErrorCode::OperationFailed, message).retryable());
        }
        Ok(sys::fs::rename(&staging, &target)?)
    }

    async fn undo(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let Some(dir) = making::placed_by(&cx.world.images_dir(), &cx.plan.operation)? else {
            return Ok(());
        };
        let is_on_record = match manifest_in(&dir)? {
            Some(manifest) => known(cx.world, &manifest.id()).await?.is_some(),
            None => false,
        };
        if is_on_record { Ok(()) } else { making::remove_tree(dir).await }
    }
}

/// Records the image; its name, if another had it, moves.
pub(super) struct PublishImage;

#[async_trait]
impl Step<ImagePlan, Host> for PublishImage {
    fn name(&self) -> &'static str {
        "publish_image"
    }

    async fn run(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let lost = || refused(ErrorCode::Internal, "the finished image is gone");
        let dir = making::placed_by(&cx.world.images_dir(), &cx.plan.operation)?.ok_or_else(lost)?;
        let manifest = manifest_in(&dir)?.ok_or_else(lost)?;
        let record = ImageRecord {
            id: manifest.id(),
            name: cx.plan.name.clone(),
            also: Vec::new(),
            manifest,
            created_at_ms: (cx.world.now_ms)(),
        };
        cx.world.store.publish_image(record).await.map_err(|error| caused(ErrorCode::OperationFailed, &error))
    }

    async fn undo(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let Some(dir) = making::placed_by(&cx.world.images_dir(), &cx.plan.operation)? else {
            return Ok(());
        };
        let (Some(manifest), Some(staged)) = (manifest_in(&dir)?, making::staged_in(&dir)?) else {
            return Ok(());
        };
        let id = manifest.id();
        let name = cx.plan.name.clone();
        Ok(cx.world.store.unpublish_image(&id, staged.was.is_some(), &name, cx.plan.replaces.clone()).await?)
    }
}
