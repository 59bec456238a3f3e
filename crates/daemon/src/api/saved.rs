//! Machines that are saved: suspend, snapshots, forks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use wire::api::{Begun, ErrorBody, ForkVm, Forked, RestoreSnapshot, Snapshot, SnapshotList, TakeSnapshot};

use super::Api;
use super::error::Refusal;
use super::vms::{self, Accepted};
use crate::ops::fork::Asked;
use crate::snapshot;
use crate::store::records::VmRecord;

/// Saves a VM's memory and ends its VMM; a start, or a resumption, goes on from there
#[utoipa::path(
    post, path = "/v1/vms/{vm}/suspend", params(("vm" = String, Path)),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn suspend(State(api): State<Api>, Path(vm): Path<String>) -> Result<Accepted, Refusal> {
    vms::accepted(api.engine.suspend(&vm).await)
}

/// A VM's snapshots
#[utoipa::path(
    get, path = "/v1/vms/{vm}/snapshots", params(("vm" = String, Path)),
    responses((status = 200, body = SnapshotList), (status = "default", body = ErrorBody))
)]
pub async fn list(State(api): State<Api>, Path(vm): Path<String>) -> Result<Json<SnapshotList>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let found = snapshot::all(&api.host.dirs.state, &record.id);
    Ok(Json(SnapshotList { snapshots: found.into_iter().map(|found| seen(&record, (found.bytes(), found))).collect() }))
}

fn seen(vm: &VmRecord, (bytes, found): (u64, snapshot::Snapshot)) -> Snapshot {
    Snapshot {
        bytes,
        vm: vm.name.to_string(),
        name: found.manifest.name,
        memory_mib: found.manifest.memory_mib,
        created_at_ms: found.manifest.created_at_ms,
    }
}

/// Takes a snapshot of a VM that runs: memory, devices and disk of one moment
#[utoipa::path(
    post, path = "/v1/vms/{vm}/snapshots", params(("vm" = String, Path)), request_body = TakeSnapshot,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn take(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<TakeSnapshot>,
) -> Result<Accepted, Refusal> {
    vms::accepted(api.engine.snapshot(&vm, request.name).await)
}

/// Brings a VM back to a snapshot of it, running
#[utoipa::path(
    post, path = "/v1/vms/{vm}/snapshots/{snapshot}/restore",
    params(("vm" = String, Path), ("snapshot" = String, Path)), request_body = RestoreSnapshot,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn restore(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
    Json(request): Json<RestoreSnapshot>,
) -> Result<Accepted, Refusal> {
    vms::accepted(api.engine.restore(&vm, &name, request.force).await)
}

/// Deletes a snapshot
#[utoipa::path(
    delete, path = "/v1/vms/{vm}/snapshots/{snapshot}", params(("vm" = String, Path), ("snapshot" = String, Path)),
    responses((status = 200, body = Snapshot), (status = "default", body = ErrorBody))
)]
pub async fn delete(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
) -> Result<Json<Snapshot>, Refusal> {
    let (record, deleted) = api.engine.delete_snapshot(&vm, &name).await?;
    Ok(Json(seen(&record, deleted)))
}

/// Makes new VMs that go on from where a VM is now
#[utoipa::path(
    post, path = "/v1/vms/{vm}/fork", params(("vm" = String, Path)), request_body = ForkVm,
    responses((status = 202, body = Forked), (status = "default", body = ErrorBody))
)]
pub async fn fork(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<ForkVm>,
) -> Result<(StatusCode, Json<Forked>), Refusal> {
    let asked = Asked { name: request.name, count: usize::try_from(request.count).unwrap_or(usize::MAX) };
    let (begun, vms) = api.engine.fork(&vm, &asked).await?;
    Ok((StatusCode::ACCEPTED, Json(Forked { operation: begun.operation, vms })))
}
