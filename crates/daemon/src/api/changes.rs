//! What is changed about a VM: its name, and what it has.

use axum::Json;
use axum::extract::{Path, State};
use wire::api::{Begun, ErrorBody, RenameVm, SetVm, Vm};

use super::Api;
use super::error::Refusal;
use super::vms::{self, Accepted};

/// Gives a VM another name; its guest takes it as host name at its next boot
#[utoipa::path(
    post, path = "/v1/vms/{vm}/rename", params(("vm" = String, Path)), request_body = RenameVm,
    responses((status = 200, body = Vm), (status = "default", body = ErrorBody))
)]
pub async fn rename(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<RenameVm>,
) -> Result<Json<Vm>, Refusal> {
    let store = &api.host.store;
    let record = store.find_vm(&vm).await?;
    store.rename_vm(&record.id, request.name, (api.host.now_ms)()).await?;
    Ok(Json(vms::seen(&api, store.vm(&record.id).await?).await?))
}

/// Changes what a VM has: anything while it is off, its disk and its policies while it runs too
#[utoipa::path(
    post, path = "/v1/vms/{vm}/set", params(("vm" = String, Path)), request_body = SetVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn set(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<SetVm>,
) -> Result<Accepted, Refusal> {
    vms::accepted(api.engine.set(&vm, request).await)
}
