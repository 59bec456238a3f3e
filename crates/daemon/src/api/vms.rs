//! VMs: list, show, create, start, stop, restart, kill, pause, resume, reset, delete, wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use wire::agent::message::Level;
use wire::api::{
    ApiError, Begun, CreateVm, DeleteVm, ErrorBody, ErrorCode, KillVm, ListVms, Ready, ResetVm, StartVm, StopVm, Vm,
    VmFilter, VmLine, VmLines, VmList, VmSort, Wait, WaitVm,
};

use super::error::Refusal;
use super::view::{self, Around};
use super::{Api, answer, guests};
use crate::ops::world::blocking;
use crate::saga::Cause;
use crate::store::StoreError;
use crate::store::records::{BootSummary, VmRecord, VmSummary};

/// How long a level is waited for when nothing is asked: a loaded host that emulates the processor takes a minute.
const WAIT: Duration = Duration::from_secs(180);

/// A VM as clients see it, with what its disk takes on the host.
fn seen_with(api: &Api, vm: VmSummary, boot: Option<BootSummary>, disk_allocated_bytes: u64) -> Vm {
    let supervisors = &api.host.supervisors;
    let (pid, idle, operation) = (supervisors.pid(&vm.id), supervisors.idle(&vm.id), api.engine.holder(&vm.id));
    view::vm(vm, Around { boot, pid, disk_allocated_bytes, operation, idle })
}

/// A VM as clients see it.
pub(super) async fn seen(api: &Api, record: VmRecord) -> Result<Vm, StoreError> {
    let boot = api.host.store.last_boot(&record.id).await?;
    let allocated = api.host.storage.allocated_bytes(&record.id);
    Ok(seen_with(api, record.into(), boot.map(BootSummary::from), allocated))
}

/// VMs: all, or those asked for
#[utoipa::path(
    get, path = "/v1/vms",
    params(
        ("filter" = Option<VmFilter>, Query, description = "KEY=VALUE,KEY=VALUE with state, name, image and id"),
        ("latest" = Option<bool>, Query), ("sort" = Option<VmSort>, Query), ("reverse" = Option<bool>, Query),
        ("brief" = Option<bool>, Query, description = "the answer is a VmLines, as far as a table shows VMs"),
    ),
    responses((status = 200, body = VmList), (status = "default", body = ErrorBody))
)]
pub async fn list(State(api): State<Api>, Query(query): Query<ListVms>) -> Result<Response, Refusal> {
    let storage = Arc::clone(&api.host.storage);
    let is_measured = !query.brief || query.sort == VmSort::Disk;
    let measure = move || Ok(if is_measured { storage.allocated() } else { HashMap::new() });
    // Two looks at the same time: many VMs have many files.
    let (listed, allocated) = tokio::join!(api.host.store.listing(), blocking(measure));
    let allocated = allocated?;
    let seen = |(vm, boot): (VmSummary, _)| {
        let bytes = allocated.get(&vm.id).copied().unwrap_or(0);
        seen_with(&api, vm, boot, bytes)
    };
    let vms = query.apply(listed?.into_iter().map(seen).collect());
    if query.brief {
        return answer(&VmLines { vms: vms.into_iter().map(VmLine::from).collect() });
    }
    answer(&VmList { vms })
}

/// One VM
#[utoipa::path(
    get, path = "/v1/vms/{vm}", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = Vm), (status = "default", body = ErrorBody))
)]
pub async fn show(State(api): State<Api>, Path(vm): Path<String>) -> Result<Json<Vm>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    Ok(Json(seen(&api, record).await?))
}

/// The answer of a handler that begins an operation.
pub type Accepted = (StatusCode, Json<Begun>);

pub(super) fn accepted(begun: Result<Begun, Cause>) -> Result<Accepted, Refusal> {
    Ok((StatusCode::ACCEPTED, Json(begun?)))
}

/// Makes a VM, and boots it when asked
#[utoipa::path(
    post, path = "/v1/vms", request_body = CreateVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn create(State(api): State<Api>, Json(request): Json<CreateVm>) -> Result<Accepted, Refusal> {
    accepted(api.engine.create(request).await)
}

/// Boots a VM
#[utoipa::path(
    post, path = "/v1/vms/{vm}/start", params(("vm" = String, Path)), request_body = StartVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn start(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(_request): Json<StartVm>,
) -> Result<Accepted, Refusal> {
    accepted(api.engine.start(&vm).await)
}

/// Ends a boot: the guest is asked, and killed at the deadline
#[utoipa::path(
    post, path = "/v1/vms/{vm}/stop", params(("vm" = String, Path)), request_body = StopVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn stop(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<StopVm>,
) -> Result<Accepted, Refusal> {
    accepted(api.engine.stop(&vm, request.timeout_ms.map(Duration::from_millis)).await)
}

/// Ends a boot and begins another
#[utoipa::path(
    post, path = "/v1/vms/{vm}/restart", params(("vm" = String, Path)), request_body = StartVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn restart(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(_request): Json<StartVm>,
) -> Result<Accepted, Refusal> {
    accepted(api.engine.restart(&vm, None).await)
}

/// Has the next boot drop the system layer; `/root` and the direct paths stay
#[utoipa::path(
    post, path = "/v1/vms/{vm}/reset", params(("vm" = String, Path)), request_body = ResetVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn reset(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<ResetVm>,
) -> Result<Accepted, Refusal> {
    accepted(api.engine.reset(&vm, request.restart).await)
}

/// Ends a boot by a signal to its VMM; nothing in the guest is asked or saved
#[utoipa::path(
    post, path = "/v1/vms/{vm}/kill", params(("vm" = String, Path)), request_body = KillVm,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn kill(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<KillVm>,
) -> Result<Accepted, Refusal> {
    accepted(api.engine.kill(&vm, request.signal).await)
}

/// Stops a VM's processors; everything it holds stays
#[utoipa::path(
    post, path = "/v1/vms/{vm}/pause", params(("vm" = String, Path)),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn pause(State(api): State<Api>, Path(vm): Path<String>) -> Result<Accepted, Refusal> {
    accepted(api.engine.pause(&vm).await)
}

/// Lets a paused VM's processors run again, and tells its guest the time
#[utoipa::path(
    post, path = "/v1/vms/{vm}/resume", params(("vm" = String, Path)),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn resume(State(api): State<Api>, Path(vm): Path<String>) -> Result<Accepted, Refusal> {
    accepted(api.engine.resume(&vm).await)
}

/// Removes a VM and its disk, running or not
#[utoipa::path(
    delete, path = "/v1/vms/{vm}",
    params(
        ("vm" = String, Path), ("only_off" = Option<bool>, Query, description = "refuse a VM that runs"),
        ("discard" = Option<bool>, Query, description = "also with work in it that was never exported"),
    ),
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn delete(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<DeleteVm>,
) -> Result<Accepted, Refusal> {
    if !query.discard {
        api.engine.check_exported(&vm).await?;
    }
    if query.only_off {
        return accepted(api.engine.delete_if_off(&vm).await);
    }
    accepted(api.engine.delete(&vm).await)
}

/// Waits until a guest is ready
#[utoipa::path(
    post, path = "/v1/vms/{vm}/wait", params(("vm" = String, Path)), request_body = WaitVm,
    responses((status = 200, body = Ready), (status = "default", body = ErrorBody))
)]
pub async fn wait(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<WaitVm>,
) -> Result<Json<Ready>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let guest = guests::guest(&api, &record).await?;
    let within = request.timeout_ms.map_or(WAIT, Duration::from_millis);
    let level = match request.level {
        Wait::Agent => return Ok(Json(ready(&api, &record, Wait::Agent, Vec::new(), None).await?)),
        Wait::System => Level::System,
        Wait::Ssh => Level::Ssh,
    };
    match tokio::time::timeout(within, guest.wait_ready(level)).await {
        Ok(reached) => {
            let reached = reached?;
            Ok(Json(ready(&api, &record, request.level, reached.failed_units, reached.note).await?))
        }
        Err(_elapsed) => {
            let what = match level {
                Level::System => "did not finish booting",
                Level::Ssh => "did not answer as SSH",
            };
            let name = &record.name;
            let error = ApiError::new(ErrorCode::Timeout, format!("{name} {what} within {} s", within.as_secs()));
            let hint = format!("it runs: banger exec -it {name}; banger logs {name} shows its console");
            Err(error.with_hint(hint).retryable().into())
        }
    }
}

async fn ready(
    api: &Api,
    record: &VmRecord,
    level: Wait,
    failed_units: Vec<String>,
    note: Option<String>,
) -> Result<Ready, StoreError> {
    let started_at_ms = api.host.store.last_boot(&record.id).await?.map(|boot| boot.started_at_ms);
    let now = (api.host.now_ms)();
    let elapsed_ms = started_at_ms.map_or(0, |started| now.saturating_sub(started));
    Ok(Ready { level, failed_units, note, elapsed_ms })
}
