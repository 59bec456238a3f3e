//! Commands in a running guest.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use wire::agent::message::ExecRequest;
use wire::api::{ApiError, ErrorBody, ErrorCode};
use wire::attach::{self, ExecSpec};

use super::error::Refusal;
use super::{Api, activation, attach as relay};
use crate::guest::Guest;
use crate::model::vm::VmState;
use crate::store::records::VmRecord;
use crate::supervise::spawn;

/// Largest body of an exec request: arguments and environment together, as execve(2) limits them.
pub(super) const EXEC_BYTES_MAX: usize = 3 << 20;
/// How long a command waits for a running guest's channel to come back, after the daemon was restarted.
const RECONNECT: Duration = Duration::from_secs(5);

/// The guest of a VM that runs.
pub(super) async fn guest(api: &Api, record: &VmRecord) -> Result<Guest, Refusal> {
    let name = &record.name;
    if let VmState::Paused { .. } = record.state {
        let error = ApiError::new(ErrorCode::WrongState, format!("{name} is paused"));
        return Err(error.with_hint(format!("banger resume {name}")).into());
    }
    if record.state == VmState::Suspended {
        let error = ApiError::new(ErrorCode::WrongState, format!("{name} is suspended"));
        return Err(error.with_hint(format!("banger resume {name}")).into());
    }
    let (VmState::Running { .. } | VmState::Stopping { .. }) = record.state else {
        let error = ApiError::new(ErrorCode::WrongState, format!("{name} is not running"));
        return Err(error.with_hint(format!("banger start {name}")).into());
    };
    if let Some(guest) = api.host.supervisors.guest(&record.id) {
        return Ok(guest);
    }
    if let Some((_, mut view)) = api.host.supervisors.present(&record.id) {
        let back = view.wait_for(|view| view.guest.is_some() || view.ended.is_some());
        if let Ok(Ok(view)) = tokio::time::timeout(RECONNECT, back).await
            && let Some(guest) = view.guest.clone()
        {
            return Ok(guest);
        }
    }
    let error = ApiError::new(ErrorCode::GuestUnreachable, format!("the agent in {name} does not answer"));
    Err(error.with_hint(format!("banger logs {name} shows its console")).retryable().into())
}

/// Runs a command in a guest, attached to this connection
#[utoipa::path(
    post, path = "/v1/vms/{vm}/exec", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    request_body = ExecSpec,
    responses((status = 101, description = "upgraded to banger-attach/1"), (status = "default", body = ErrorBody))
)]
pub async fn exec(State(api): State<Api>, Path(vm): Path<String>, mut request: Request) -> Result<Response, Refusal> {
    let is_ours = request.headers().get(header::UPGRADE).is_some_and(|value| value == attach::PROTOCOL);
    if !is_ours {
        return Err(Refusal::bad(format!("exec needs an upgrade to {}", attach::PROTOCOL)));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), EXEC_BYTES_MAX).await;
    let body = body.map_err(|_too_large| Refusal::bad("the command with its arguments and environment is too long"))?;
    let spec: ExecSpec = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad(format!("cannot understand the command: {error}")))?;
    let record = api.host.store.find_vm(&vm).await?;
    let has_workspace = record.workspace.is_some();
    let guest = guest(&api, &record).await?;
    let stream = guest.exec(exec_request(spec, &record)).await?;
    let busy = api.activity.begin();
    spawn(format!("exec in {}", record.name), async move {
        let _busy = busy;
        match upgrade.await {
            Ok(client) => {
                let begun = guest.while_it_answers(stream.started());
                if let Err(error) = relay::relay(TokioIo::new(client), &stream, begun).await {
                    tracing::debug!(%error, vm = %record.id, "an exec was given up");
                }
            }
            Err(error) => tracing::debug!(%error, "a client left before its exec began"),
        }
    });
    let mut response = upgraded()?;
    if has_workspace {
        response.headers_mut().insert(attach::WORKSPACE_HEADER, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The answer that gives the connection away.
pub(super) fn upgraded() -> Result<Response, Refusal> {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, attach::PROTOCOL)
        .body(Body::empty())
        .map_err(|_invalid| Refusal(super::error::internal("cannot answer an upgrade")))
}

/// What the guest is asked to run: in the VM's workspace where no other directory is named, with what that says of its
/// commands.
pub(super) fn exec_request(spec: ExecSpec, record: &VmRecord) -> ExecRequest {
    let workspace = record.workspace.as_ref();
    let through = workspace.map(|workspace| activation::through(workspace, spec.cwd.as_deref())).unwrap_or_default();
    let env = workspace.into_iter().flat_map(|workspace| workspace.env.clone()).chain(spec.env).collect();
    ExecRequest {
        login: spec.login || spec.argv.is_empty(),
        through,
        argv: spec.argv,
        env,
        cwd: spec.cwd.or_else(|| workspace.map(|workspace| workspace.guest_path.clone())),
        user: spec.user,
        terminal: spec.terminal,
        stdin: spec.stdin,
        unix_ns: sys::clock::unix_ns(),
        op: String::new(),
    }
}
