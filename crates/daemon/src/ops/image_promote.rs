//! Gives an image whose file is the user's one of its own: a copy takes the place of the link, and whoever has the other
//! name of the file cannot change the image any more.
//!
//! What uses the image meanwhile has the file open, and goes on with it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wire::api::{Begun, ErrorCode};
use wire::id::OpId;

use super::engine::Engine;
use super::failure::refused;
use super::image_make::{ROOTFS, discard};
use super::plan::Plan;
use super::staging as making;
use super::world::{Host, staging_name};
use crate::model::image::{ImageManifest, LinkedFile};
use crate::saga::{Cause, Cx, Saga, Step, Undo};
use crate::store::StoreError;
use crate::store::records::ImageRecord;

/// What is said of an image in its directory.
const MANIFEST: &str = "manifest.json";

/// The list.
#[must_use]
pub fn image_promote() -> Saga<ImagePromotePlan, Host> {
    Saga::named("image.promote")
        .then(CopyFile) // undo: remove the staging directory
        .then(ReplaceLink) // undo: put the link back, which is kept beside
        .commit(RecordOwnFile) // undo: it is the user's again
        .then(DropLink) // only forward: the link has gone out of use
}

/// One promotion, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePromotePlan {
    /// The image as it is on record.
    pub record: ImageRecord,
    /// The file that it is a link to.
    pub linked: LinkedFile,
    /// Names the staging directory.
    pub operation: OpId,
}

impl ImagePromotePlan {
    fn staging(&self, host: &Host) -> PathBuf {
        host.images_dir().join(staging_name(&self.operation))
    }

    fn place(&self, host: &Host) -> PathBuf {
        host.image_dir(&self.record.id)
    }

    /// Where the link is kept while it may be wanted back. Not in the staging directory, which goes also when this link
    /// cannot be put back yet.
    fn kept(&self, host: &Host) -> PathBuf {
        self.place(host).join("linked.ext4")
    }

    /// The same of what its directory says of the image.
    fn kept_manifest(&self, host: &Host) -> PathBuf {
        self.place(host).join("linked.json")
    }
}

/// Decides to promote an image.
///
/// # Errors
/// When its file is banger's own already.
pub fn plan(record: ImageRecord, operation: OpId) -> Result<ImagePromotePlan, Cause> {
    match record.manifest.linked.clone() {
        Some(linked) => Ok(ImagePromotePlan { record, linked, operation }),
        None => Err(refused(ErrorCode::WrongState, format!("the file of {} is banger's own already", record.name))),
    }
}

impl Engine {
    /// Gives the image that `key` stands for a file of its own.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn promote_image(self: &Arc<Self>, key: &str) -> Result<Begun, Cause> {
        let operation = OpId::from_random(sys::rand::bytes());
        let record = self.host().store.find_image(key).await?;
        let plan = plan(record, operation.clone())?;
        self.begin_as(operation, Plan::ImagePromote(Box::new(plan))).await
    }
}

/// Copies the file beside its place, and makes sure that it is what it was.
struct CopyFile;

#[async_trait]
impl Step<ImagePromotePlan, Host> for CopyFile {
    fn name(&self) -> &'static str {
        "copy_file"
    }

    async fn run(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        let staging = cx.plan.staging(cx.world);
        discard(cx.world, staging.clone()).await?;
        sys::fs::create_private_dir(&staging)?;
        let (from, to) = (cx.plan.place(cx.world).join(ROOTFS), staging.join(ROOTFS));
        let (maker, digest) = (cx.world.maker.clone(), cx.plan.record.manifest.digest);
        making::watched(cx, move |watcher| maker.copy_image(&from, &to, digest, watcher)).await
    }

    async fn undo(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        discard(cx.world, cx.plan.staging(cx.world)).await
    }
}

/// Puts the copy into the place of the link.
struct ReplaceLink;

#[async_trait]
impl Step<ImagePromotePlan, Host> for ReplaceLink {
    fn name(&self) -> &'static str {
        "replace_link"
    }

    async fn run(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        let (copy, kept) = (cx.plan.staging(cx.world).join(ROOTFS), cx.plan.kept(cx.world));
        let place = cx.plan.place(cx.world);
        // Without one it is in its place already, by a run that died before it could say so.
        if copy.exists() {
            for (what, kept) in [(place.join(ROOTFS), &kept), (place.join(MANIFEST), &cx.plan.kept_manifest(cx.world))]
            {
                if !kept.exists() {
                    sys::fs::link(&what, kept)?;
                }
            }
            sys::fs::rename(&copy, &place.join(ROOTFS))?;
        }
        write_own(cx)
    }

    /// Only gives back their names to what was kept: a full disk has room for that.
    async fn undo(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        let place = cx.plan.place(cx.world);
        for (kept, what) in [(cx.plan.kept_manifest(cx.world), MANIFEST), (cx.plan.kept(cx.world), ROOTFS)] {
            // Nothing was replaced, or the image was deleted in the meantime.
            if kept.exists() {
                sys::fs::rename(&kept, &place.join(what))?;
                // Where both were names of one file nothing was renamed (rename(2)).
                sys::fs::remove_file(&kept)?;
            }
        }
        Ok(())
    }
}

/// Says in the image's directory that its file is banger's own.
fn write_own(cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
    let place = cx.plan.place(cx.world);
    let gone = || refused(ErrorCode::NotFound, format!("image {} is gone", cx.plan.record.name));
    let manifest: ImageManifest = making::read_manifest(&place)?.ok_or_else(gone)?;
    making::rewrite_manifest(&place, &ImageManifest { linked: None, ..manifest })
}

/// Records that the file is banger's own.
struct RecordOwnFile;

impl RecordOwnFile {
    async fn record(cx: &Cx<'_, ImagePromotePlan, Host>, linked: Option<LinkedFile>) -> Result<(), StoreError> {
        let (store, id) = (&cx.world.store, &cx.plan.record.id);
        let known = store.find_image(id.as_str()).await?;
        store.describe_image(id, ImageManifest { linked, ..known.manifest }).await
    }
}

#[async_trait]
impl Step<ImagePromotePlan, Host> for RecordOwnFile {
    fn name(&self) -> &'static str {
        "record_own_file"
    }

    async fn run(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        Ok(Self::record(cx, None).await?)
    }

    async fn undo(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        match Self::record(cx, Some(cx.plan.linked.clone())).await {
            // Deleted in the meantime.
            Err(StoreError::NotFound { .. }) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Removes what was kept of the link.
struct DropLink;

#[async_trait]
impl Step<ImagePromotePlan, Host> for DropLink {
    fn name(&self) -> &'static str {
        "drop_link"
    }

    fn undo_policy(&self) -> Undo {
        Undo::Nothing { because: "the image has a file of its own" }
    }

    async fn run(&self, cx: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        sys::fs::remove_file(&cx.plan.kept_manifest(cx.world))?;
        sys::fs::remove_file(&cx.plan.kept(cx.world))?;
        discard(cx.world, cx.plan.staging(cx.world)).await
    }

    async fn undo(&self, _: &Cx<'_, ImagePromotePlan, Host>) -> Result<(), Cause> {
        Ok(())
    }
}
