//! A project's files in a guest: looked at, put there, compared, brought back.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::{Stream, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use wire::api::{
    ApiError, Begun, ERROR_TRAILER, EXPORT_TRAILER, ErrorBody, ErrorCode, ExportBranch, ExportQuery, Exported,
    GuestSide, InspectWorkspace, Inspection, KeepExported, PrepareWorkspace, Workspace, WorkspaceQuery,
    WorkspaceStatus,
};
use wire::naming;

use super::Api;
use super::error::Refusal;
use super::guests::guest;
use super::trees::{trailers, wants_trailers};
use super::vms::{Accepted, accepted};
use crate::ops::courier::{Delivered, Outgoing};
use crate::ops::unexported::delivered;
use crate::ops::world::blocking;
use crate::store::records::VmRecord;

/// Looks at a repository: what of it would travel
#[utoipa::path(
    post, path = "/v1/workspaces/inspect", request_body = InspectWorkspace,
    responses((status = 200, body = Inspection), (status = "default", body = ErrorBody))
)]
pub async fn inspect(
    State(api): State<Api>,
    Json(request): Json<InspectWorkspace>,
) -> Result<Json<Inspection>, Refusal> {
    let courier = Arc::clone(&api.host.courier);
    Ok(Json(blocking(move || courier.inspect(&request.source, request.list)).await?))
}

/// Puts a repository into a guest, or brings what is there up to date
#[utoipa::path(
    post, path = "/v1/vms/{vm}/workspace", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    request_body = PrepareWorkspace,
    responses((status = 202, body = Begun), (status = "default", body = ErrorBody))
)]
pub async fn prepare(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<PrepareWorkspace>,
) -> Result<Accepted, Refusal> {
    accepted(api.engine.prepare(&vm, request).await)
}

/// Compares both sides of a workspace with what was sent
#[utoipa::path(
    get, path = "/v1/vms/{vm}/workspace",
    params(("vm" = String, Path), ("host_only" = Option<bool>, Query, description = "the guest is not asked")),
    responses((status = 200, body = WorkspaceStatus), (status = "default", body = ErrorBody))
)]
pub async fn status(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<WorkspaceQuery>,
) -> Result<Json<WorkspaceStatus>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let workspace = recorded(&record)?;
    let (courier, dir) = (Arc::clone(&api.host.courier), naming::vm_dir(&api.host.dirs.state, &record.id));
    let of = workspace.clone();
    let host = blocking(move || Ok(courier.host_side(&dir, &of))).await?;
    let guest = if query.host_only { None } else { Some(guest_side(&api, &record).await) };
    Ok(Json(WorkspaceStatus { workspace, host, guest }))
}

async fn guest_side(api: &Api, record: &VmRecord) -> GuestSide {
    let looked = match brought(api, record).await {
        Ok(delivered) => api.host.courier.look(&delivered).await.map_err(Refusal::from),
        Err(refusal) => Err(refusal),
    };
    match looked {
        Ok(looked) => looked.side,
        Err(Refusal(error)) => GuestSide { problem: Some(error.message), ..GuestSide::default() },
    }
}

fn recorded(record: &VmRecord) -> Result<Workspace, Refusal> {
    let whole = record.workspace.clone().filter(|workspace| workspace.prepared_at_ms.is_some());
    whole.ok_or_else(|| {
        let error = ApiError::new(ErrorCode::WrongState, format!("{} has no workspace", record.name));
        error.with_hint(format!("banger workspace prepare {} PATH", record.name)).into()
    })
}

/// The workspace of a VM whose guest answers.
async fn brought(api: &Api, record: &VmRecord) -> Result<Delivered, Refusal> {
    let workspace = recorded(record)?;
    let guest = guest(api, record).await?;
    delivered(&api.host, record, guest.clone()).ok_or_else(|| {
        let message = format!("the workspace at {} is not whole", workspace.guest_path);
        ApiError::new(ErrorCode::WrongState, message).into()
    })
}

/// Exports the work in a guest: one patch, or its commits
#[utoipa::path(
    get, path = "/v1/vms/{vm}/workspace/export",
    params(
        ("vm" = String, Path), ("format" = Option<wire::api::ExportFormat>, Query),
        ("base_commit" = Option<String>, Query, description = "what it is to be applied to"),
        ("guest_path" = Option<String>, Query, description = "absolute, in the guest"),
    ),
    responses((status = 200, content_type = "text/x-patch"), (status = "default", body = ErrorBody))
)]
pub async fn export(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<ExportQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let delivered = brought(&api, &record).await?;
    let mut outgoing = api.host.courier.export(&delivered, &query).await?;
    // What fails before there is anything to send is an ordinary refusal.
    let first = outgoing.read().await?;
    let wants_trailers = wants_trailers(&headers);
    let mut response = Response::new(Body::new(StreamBody::new(frames(outgoing, first, wants_trailers))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/x-patch"));
    if wants_trailers {
        let both = announced(EXPORT_TRAILER, ERROR_TRAILER);
        response.headers_mut().insert(header::TRAILER, both);
    }
    Ok(response)
}

/// The names of both trailers, as the header that announces them.
fn announced(one: &'static str, other: &'static str) -> HeaderValue {
    HeaderValue::from_str(&format!("{one}, {other}")).expect("names of headers are printable")
}

/// How far an export is.
enum Stage {
    First(Box<dyn Outgoing>, Option<Bytes>),
    Rest(Box<dyn Outgoing>),
    Over,
}

/// The bytes of an export. How it ended is told in a trailer; who reads none sees a failure as an answer that breaks off.
fn frames(
    outgoing: Box<dyn Outgoing>,
    first: Option<Bytes>,
    wants_trailers: bool,
) -> impl Stream<Item = Result<Frame<Bytes>, ApiError>> {
    stream::try_unfold(Stage::First(outgoing, first), move |stage| async move {
        let (outgoing, read) = match stage {
            Stage::First(outgoing, first) => (outgoing, Ok(first)),
            Stage::Rest(mut outgoing) => {
                let read = outgoing.read().await;
                (outgoing, read)
            }
            Stage::Over => return Ok(None),
        };
        match read {
            Ok(Some(bytes)) => Ok(Some((Frame::data(bytes), Stage::Rest(outgoing)))),
            Ok(None) if wants_trailers => {
                let trailers = done_trailers(&outgoing.done())?;
                Ok(Some((Frame::trailers(trailers), Stage::Over)))
            }
            Ok(None) => Ok(None),
            Err(cause) => {
                let error = ApiError::from(cause);
                if wants_trailers { Ok(Some((Frame::trailers(trailers(&error)?), Stage::Over))) } else { Err(error) }
            }
        }
    })
}

fn done_trailers(exported: &Exported) -> Result<HeaderMap, ApiError> {
    let internal = || ApiError::new(ErrorCode::Internal, "what was exported cannot be told");
    let json = serde_json::to_string(exported).map_err(|_| internal())?.replace('\x7f', "");
    let value = HeaderValue::from_bytes(json.as_bytes()).map_err(|_| internal())?;
    Ok(HeaderMap::from_iter([(HeaderName::from_static(EXPORT_TRAILER), value)]))
}

/// Brings the guest's commits into a branch of the host's repository
#[utoipa::path(
    post, path = "/v1/vms/{vm}/workspace/branch", params(("vm" = String, Path)), request_body = ExportBranch,
    responses((status = 200, body = Exported), (status = "default", body = ErrorBody))
)]
pub async fn branch(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<ExportBranch>,
) -> Result<Json<Exported>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let delivered = brought(&api, &record).await?;
    Ok(Json(api.host.courier.branch(&delivered, &request).await?))
}

/// Takes down that what was exported is safe
#[utoipa::path(
    post, path = "/v1/vms/{vm}/workspace/exported", params(("vm" = String, Path)), request_body = KeepExported,
    responses((status = 200, body = Workspace), (status = "default", body = ErrorBody))
)]
pub async fn exported(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Json(request): Json<KeepExported>,
) -> Result<Json<Workspace>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    recorded(&record)?;
    let changed = api.host.store.note_exported(&record.id, request.fingerprint).await?;
    Ok(Json(changed.map_or_else(|| recorded(&record), Ok)?))
}
