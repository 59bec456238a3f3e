//! Makes an image of a VM that runs: what it changed of its system comes out of the guest as a layer, and goes over its
//! image. Its home and the directories of container engines are no part of the system, and stay the VM's alone.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sys::fs::FsError;
use tokio::io::AsyncWriteExt;
use wire::api::{Begun, CommitVm, ErrorCode};
use wire::id::OpId;

use super::engine::Engine;
use super::failure::refused;
use super::image_make::{ImageFrom, ImagePlan, PlaceImage, PublishImage, decide, discard, finish};
use super::parts::check_image;
use super::plan::Plan;
use super::prepare::{answering, check_runs};
use super::staging as making;
use super::world::Host;
use crate::model::image::ImageManifest;
use crate::saga::{Cause, Cx, Progress, Saga, Step, Unit};
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn image_commit() -> Saga<ImagePlan, Host> {
    Saga::named("image.commit")
        .then(ExtendImage) // undo: remove the staging directory
        .then(PlaceImage) // undo: remove the image's directory, unless an image on record owns it
        .commit(PublishImage) // the name moves to the new image
}

/// How much longer than all a guest could hold its changes may be: headers of small files take more room in an archive than
/// on a disk.
const OVERHEAD: u64 = 2;
/// Bytes after which progress is told.
const TOLD_BYTES: u64 = 1 << 20;

/// Decides to make an image of `vm`.
///
/// # Errors
/// A VM that does not run, or a name that cannot be one.
pub async fn plan(host: &Host, vm: &VmRecord, request: CommitVm, operation: OpId) -> Result<ImagePlan, Cause> {
    check_runs(vm)?;
    let image = host.store.find_image(vm.image_id.as_str()).await?;
    let bytes_max = vm.spec.disk_bytes.saturating_add(image.manifest.bytes).saturating_mul(OVERHEAD);
    let from = ImageFrom::Vm { vm: vm.id.clone(), vm_name: vm.name.clone(), image: image.id, bytes_max };
    decide(host, from, &request.name, operation).await
}

impl Engine {
    /// Makes an image of the VM that `key` stands for.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn commit(self: &Arc<Self>, key: &str, request: CommitVm) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(key).await?;
        let operation = OpId::from_random(sys::rand::bytes());
        let plan = plan(self.host(), &vm, request, operation.clone()).await?;
        self.begin_as(operation, Plan::ImageCommit(Box::new(plan))).await
    }
}

/// Takes the changes out of the guest and makes one root filesystem of the image and them.
struct ExtendImage;

#[async_trait]
impl Step<ImagePlan, Host> for ExtendImage {
    fn name(&self) -> &'static str {
        "extend_image"
    }

    async fn run(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        let ImageFrom::Vm { vm_name, image, .. } = &cx.plan.from else {
            return Err(cx.plan.mixed_up());
        };
        let staging = cx.plan.staging(cx.world);
        discard(cx.world, staging.clone()).await?;
        sys::fs::create_private_dir(&staging)?;
        let layer = staging.join("layer.tar");
        tokio::select! {
            fetched = fetch(cx, &layer) => fetched?,
            () = cx.cancelled() => return Err(Cause::cancelled()),
        }
        let below = cx.world.store.find_image(image.as_str()).await?;
        check_image(cx.world, &below)?;
        let (maker, dir, of) = (cx.world.maker.clone(), cx.world.image_dir(image), below.manifest);
        let at = (layer.clone(), staging);
        let made = making::watched(cx, move |watcher| maker.extend_image(&of, &dir, &at.0, &at.1, watcher)).await?;
        sys::fs::remove_file(&layer)?;
        finish(cx, ImageManifest { source: format!("{vm_name}, of {}", below.name), ..made })
    }

    async fn undo(&self, cx: &Cx<'_, ImagePlan, Host>) -> Result<(), Cause> {
        discard(cx.world, cx.plan.staging(cx.world)).await
    }
}

/// Writes what the guest changed to the new file `layer`.
async fn fetch(cx: &Cx<'_, ImagePlan, Host>, layer: &Path) -> Result<(), Cause> {
    let ImageFrom::Vm { vm, vm_name, bytes_max, .. } = &cx.plan.from else {
        return Err(cx.plan.mixed_up());
    };
    let guest = answering(cx.world, vm, vm_name).await?;
    let unwritten = |source| FsError { act: "write", path: layer.to_owned(), source };
    guest.sync().await?;
    let mut file = tokio::fs::File::from_std(sys::fs::create_new(layer, 0o600)?);
    let stream = guest.layer().await?;
    let stage = Some(format!("fetch what {vm_name} changed"));
    let (mut bytes, mut reported) = (0, 0);
    while let Some(piece) = stream.read().await? {
        bytes += piece.len() as u64;
        if bytes > *bytes_max {
            let message = format!("the guest of {vm_name} sends more than it can hold");
            return Err(refused(ErrorCode::OperationFailed, message));
        }
        file.write_all(&piece).await.map_err(unwritten)?;
        if bytes - reported >= TOLD_BYTES {
            reported = bytes;
            cx.progress(Progress { stage: stage.clone(), part: None, done: bytes, total: None, unit: Unit::Bytes });
        }
    }
    stream.done().await?;
    Ok(file.flush().await.map_err(unwritten)?)
}
