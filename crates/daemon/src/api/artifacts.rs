//! Images and kernels: what VMs boot from.

use std::collections::HashSet;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use futures_util::TryStreamExt;
use wire::api::{
    Available, Begun, BuildImage, CommitVm, ErrorBody, ErrorCode, Image, ImageList, ImportKernel, Kernel, KernelList,
};
use wire::api::{LoadQuery, PromoteImage, PruneImages, PrunedImages, PullImage, RegisterImage};

use super::Api;
use super::error::Refusal;
use super::trees::take_the_rest;
use super::view;
use crate::ops::catalogs::kernel_source;
use crate::ops::failure::refused;
use crate::ops::image_make::image_name;
use crate::ops::puller::Archive;
use crate::store::StoreError;
use crate::store::records::{ImageRecord, KernelRecord};

type Accepted = (StatusCode, Json<Begun>);

async fn image(api: &Api, record: ImageRecord) -> Result<Image, StoreError> {
    let used_by = api.host.store.image_users(&record.id).await?;
    let allocated = sys::fs::allocated_bytes(&api.host.image_dir(&record.id).join("rootfs.ext4"));
    Ok(view::image(record, used_by, allocated))
}

async fn kernel(api: &Api, record: KernelRecord) -> Result<Kernel, StoreError> {
    let used_by = api.host.store.kernel_users(&record.id).await?;
    Ok(view::kernel(record, used_by))
}

/// All images
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = ImageList), (status = "default", body = ErrorBody)))]
pub async fn list_images(State(api): State<Api>) -> Result<Json<ImageList>, Refusal> {
    let mut images = Vec::new();
    for record in api.host.store.images().await? {
        images.push(image(&api, record).await?);
    }
    Ok(Json(ImageList { images }))
}

/// What images the catalog has for this processor
#[utoipa::path(
    get, path = "/v1/images/available",
    responses((status = 200, body = Available), (status = "default", body = ErrorBody))
)]
pub async fn available_images(State(api): State<Api>) -> Result<Json<Available>, Refusal> {
    let mut available = api.host.catalogs.images().await?;
    let images = api.host.store.images().await?;
    let bundles: HashSet<&str> =
        images.iter().filter_map(|image| Some(image.manifest.origin.as_ref()?.target.as_str())).collect();
    for entry in &mut available.entries {
        entry.is_here = bundles.contains(entry.digest.as_str());
    }
    Ok(Json(available))
}

/// One image
#[utoipa::path(
    get, path = "/v1/images/{image}", params(("image" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = Image), (status = "default", body = ErrorBody))
)]
pub async fn show_image(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Image>, Refusal> {
    let record = api.host.store.find_image(&name).await?;
    Ok(Json(image(&api, record).await?))
}

/// Builds an image from a recipe
#[utoipa::path(
    post, path = "/v1/images/build", request_body = BuildImage,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn build_image(State(api): State<Api>, Json(request): Json<BuildImage>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.build_image(request).await?)))
}

/// Makes an image of what others built, from a registry or an archive
#[utoipa::path(
    post, path = "/v1/images/pull", request_body = PullImage,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn pull_image(State(api): State<Api>, Json(request): Json<PullImage>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.pull_image(request).await?)))
}

/// Makes an image of a root filesystem that is a file already
#[utoipa::path(
    post, path = "/v1/images/register", request_body = RegisterImage,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn register_image(State(api): State<Api>, Json(request): Json<RegisterImage>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.register_image(request).await?)))
}

/// Gives an image that is a link to a file of the user's a file of its own
#[utoipa::path(
    post, path = "/v1/images/{image}/promote", request_body = PromoteImage,
    params(("image" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn promote_image(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(PromoteImage {}): Json<PromoteImage>,
) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.promote_image(&name).await?)))
}

/// Makes an image of an archive: what `docker save` writes, or an OCI archive
#[utoipa::path(
    post, path = "/v1/images/load",
    params(("name" = Option<String>, Query, description = "what to call the image, instead of what its archive does")),
    request_body(content_type = "application/octet-stream"),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn load_image(
    State(api): State<Api>,
    Query(query): Query<LoadQuery>,
    body: Body,
) -> Result<Accepted, Refusal> {
    let name = query.name.as_deref().map(image_name).transpose();
    let mut archive: Archive = Box::pin(body.into_data_stream().map_err(std::io::Error::other));
    let loaded = match name {
        Ok(name) => api.host.puller.load(&mut archive).await.map(|(source, called)| (source, name.or(called))),
        Err(cause) => Err(cause),
    };
    match loaded {
        Ok((source, Some(name))) => {
            let request = PullImage { source: source.clone(), name: Some(name) };
            let begun = api.engine.pull_image(request).await;
            if begun.is_err() {
                // Nobody comes for it any more.
                drop(api.host.puller.fetch(&source, &|_| {}).await);
            }
            Ok((StatusCode::ACCEPTED, Json(begun?)))
        }
        Ok((_, None)) => {
            let cause = refused(ErrorCode::BadRequest, "the archive does not say what its image is called");
            Err(cause.with_hint("say it with --name").into())
        }
        Err(cause) => {
            take_the_rest("the rest of an archive that is refused", archive);
            Err(cause.into())
        }
    }
}

/// Makes an image of a VM that runs: its image, and what is changed over it
#[utoipa::path(
    post, path = "/v1/vms/{vm}/commit", params(("vm" = String, Path)), request_body = CommitVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn commit(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<CommitVm>,
) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.commit(&vm, request).await?)))
}

/// Gives an image one more name; another image that has it loses it
#[utoipa::path(
    put, path = "/v1/images/{image}/names/{name}", params(("image" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Image), (status = "default", body = ErrorBody))
)]
pub async fn name_image(
    State(api): State<Api>,
    Path((key, name)): Path<(String, String)>,
) -> Result<Json<Image>, Refusal> {
    let name = image_name(&name)?;
    let record = api.host.store.find_image(&key).await?;
    api.host.store.name_image(&record.id, &name).await?;
    let record = api.host.store.find_image(record.id.as_str()).await?;
    Ok(Json(image(&api, record).await?))
}

/// Removes cached parts of images
#[utoipa::path(
    post, path = "/v1/images/prune", request_body = PruneImages,
    responses((status = 200, body = PrunedImages), (status = "default", body = ErrorBody))
)]
pub async fn prune_images(
    State(api): State<Api>,
    Json(request): Json<PruneImages>,
) -> Result<Json<PrunedImages>, Refusal> {
    let images = if request.all { Vec::new() } else { api.host.store.images().await? };
    let origins = images.into_iter().filter_map(|image| image.manifest.origin);
    let kept = origins.flat_map(|origin| origin.blobs).collect();
    let (blobs, bytes) = api.host.puller.prune(kept).await?;
    Ok(Json(PrunedImages { blobs, bytes }))
}

/// Removes an image no VM is made of; one of several names goes alone
#[utoipa::path(
    delete, path = "/v1/images/{image}", params(("image" = String, Path)),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn delete_image(State(api): State<Api>, Path(name): Path<String>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.delete_image(&name).await?)))
}

/// All kernels
#[utoipa::path(get, path = "/v1/kernels", responses((status = 200, body = KernelList), (status = "default", body = ErrorBody)))]
pub async fn list_kernels(State(api): State<Api>) -> Result<Json<KernelList>, Refusal> {
    let mut kernels = Vec::new();
    for record in api.host.store.kernels().await? {
        kernels.push(kernel(&api, record).await?);
    }
    Ok(Json(KernelList { kernels }))
}

/// What kernels the catalog has for this processor
#[utoipa::path(
    get, path = "/v1/kernels/available",
    responses((status = 200, body = Available), (status = "default", body = ErrorBody))
)]
pub async fn available_kernels(State(api): State<Api>) -> Result<Json<Available>, Refusal> {
    let mut available = api.host.catalogs.kernels().await?;
    let kernels = api.host.store.kernels().await?;
    let sources: HashSet<&str> = kernels.iter().map(|kernel| kernel.manifest.source.as_str()).collect();
    for entry in &mut available.entries {
        entry.is_here = sources.contains(kernel_source(&entry.name, &entry.digest).as_str());
    }
    Ok(Json(available))
}

/// One kernel
#[utoipa::path(
    get, path = "/v1/kernels/{kernel}", params(("kernel" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = Kernel), (status = "default", body = ErrorBody))
)]
pub async fn show_kernel(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Kernel>, Refusal> {
    let record = api.host.store.find_kernel(&name).await?;
    Ok(Json(kernel(&api, record).await?))
}

/// Imports a kernel
#[utoipa::path(
    post, path = "/v1/kernels/import", request_body = ImportKernel,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn import_kernel(State(api): State<Api>, Json(request): Json<ImportKernel>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.import_kernel(request).await?)))
}

/// Removes a kernel no VM boots
#[utoipa::path(
    delete, path = "/v1/kernels/{kernel}", params(("kernel" = String, Path)),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn delete_kernel(State(api): State<Api>, Path(name): Path<String>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.engine.delete_kernel(&name).await?)))
}
