//! Sessions: asked of the guest each time, because the guest's agent alone keeps them.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header;
use axum::response::Response;
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use wire::agent::message::Failure;
use wire::agent::session::{GRACE_MS_MAX, SessionAttach, SessionRecord, is_session_name};
use wire::api::{
    ApiError, AttachSession, ErrorBody, ErrorCode, SendQuery, Sent, Session, SessionList, SessionState, SignalSession,
    StartSession, StopSession,
};
use wire::attach;
use wire::naming::VmName;

use super::error::{Refusal, guest_error};
use super::guests::{EXEC_BYTES_MAX, exec_request, guest, upgraded};
use super::{Api, attach as relay};
use crate::guest::{Guest, GuestError};
use crate::store::records::VmRecord;
use crate::supervise::spawn;

/// How long a session may take to end when nothing else is asked.
const GRACE: Duration = Duration::from_secs(10);

/// A VM's record, its guest and the name of one of its sessions.
struct Of {
    record: VmRecord,
    guest: Guest,
    name: String,
}

async fn of(api: &Api, vm: &str, name: String) -> Result<Of, Refusal> {
    check_name(&name)?;
    let record = api.host.store.find_vm(vm).await?;
    let guest = guest(api, &record).await?;
    Ok(Of { record, guest, name })
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if is_session_name(name) {
        return Ok(());
    }
    Err(Refusal::bad(format!("{name:?} is no name of a session: a-z, 0-9 and -, at most 63")))
}

/// What a failure means to somebody who asked about a session of `vm`.
fn refusal(vm: &VmName, error: &GuestError) -> Refusal {
    let api = guest_error(error);
    Refusal(match error {
        GuestError::Failed(Failure::Unsupported) => {
            let text = format!("{vm} runs the agent of an older banger, which knows no sessions");
            ApiError::new(ErrorCode::Unsupported, text).with_hint(format!("banger restart {vm} gives it this one"))
        }
        GuestError::Failed(Failure::NoSuchSession { name }) => {
            ApiError::new(ErrorCode::NotFound, format!("{vm} has no session {name}"))
                .with_hint(format!("banger session list {vm} shows those there are; none outlives a boot"))
        }
        GuestError::Failed(Failure::SessionExists { name }) => {
            ApiError::new(ErrorCode::AlreadyExists, format!("a session {name} runs in {vm} already"))
                .with_hint(format!("banger session attach {vm} {name}"))
        }
        GuestError::Failed(Failure::SessionRuns { name }) => api.with_hint(format!("banger session stop {vm} {name}")),
        GuestError::Failed(Failure::SessionsFull) => api.with_hint(format!("banger session stop {vm} NAME ends one")),
        _ => api,
    })
}

fn view(vm: &VmName, record: SessionRecord) -> Session {
    Session {
        vm: vm.to_string(),
        name: record.name,
        state: if record.ended.is_some() { SessionState::Ended } else { SessionState::Running },
        command: record.command,
        terminal: record.terminal,
        pid: record.pid,
        exit_status: record.ended.map(wire::agent::message::ExitStatus::shell_code),
        started_at_ms: record.started_at_ms,
        ended_at_ms: record.ended_at_ms,
        output_bytes: record.output_bytes,
        clients: record.watchers,
    }
}

async fn body<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = axum::body::to_bytes(body, EXEC_BYTES_MAX).await;
    let bytes = bytes.map_err(|_too_large| Refusal::bad("the request is too long"))?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(format!("cannot understand the request: {error}")))
}

/// The sessions of a VM's present boot
#[utoipa::path(
    get, path = "/v1/vms/{vm}/sessions", params(("vm" = String, Path, description = "name, id or beginning of an id")),
    responses((status = 200, body = SessionList), (status = "default", body = ErrorBody))
)]
pub async fn list(State(api): State<Api>, Path(vm): Path<String>) -> Result<Json<SessionList>, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let sessions = guest(&api, &record).await?.sessions().await.map_err(|error| refusal(&record.name, &error))?;
    Ok(Json(SessionList { sessions: sessions.into_iter().map(|session| view(&record.name, session)).collect() }))
}

/// Starts a command that goes on without a client
#[utoipa::path(
    post, path = "/v1/vms/{vm}/sessions", params(("vm" = String, Path)), request_body = StartSession,
    responses((status = 200, body = Session), (status = "default", body = ErrorBody))
)]
pub async fn start(State(api): State<Api>, Path(vm): Path<String>, request: Request) -> Result<Json<Session>, Refusal> {
    let request: StartSession = body(request.into_body()).await?;
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    let record = api.host.store.find_vm(&vm).await?;
    let command = exec_request(request.command, &record);
    let session = guest(&api, &record).await?.start_session(request.name, command).await;
    Ok(Json(view(&record.name, session.map_err(|error| refusal(&record.name, &error))?)))
}

/// One session
#[utoipa::path(
    get, path = "/v1/vms/{vm}/sessions/{session}", params(("vm" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Session), (status = "default", body = ErrorBody))
)]
pub async fn show(State(api): State<Api>, Path((vm, name)): Path<(String, String)>) -> Result<Json<Session>, Refusal> {
    let of = of(&api, &vm, name).await?;
    Ok(Json(find(&of).await?))
}

async fn find(of: &Of) -> Result<Session, Refusal> {
    let sessions = of.guest.sessions().await.map_err(|error| refusal(&of.record.name, &error))?;
    let missing = || GuestError::Failed(Failure::NoSuchSession { name: of.name.clone() });
    let session = sessions.into_iter().find(|session| session.name == of.name);
    session.map(|session| view(&of.record.name, session)).ok_or_else(|| refusal(&of.record.name, &missing()))
}

/// Forgets a session that has ended
#[utoipa::path(
    delete, path = "/v1/vms/{vm}/sessions/{session}", params(("vm" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Session), (status = "default", body = ErrorBody))
)]
pub async fn delete(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
) -> Result<Json<Session>, Refusal> {
    let of = of(&api, &vm, name).await?;
    let session = of.guest.forget_session(&of.name).await;
    Ok(Json(view(&of.record.name, session.map_err(|error| refusal(&of.record.name, &error))?)))
}

/// Shows a session's output and passes input on, attached to this connection
#[utoipa::path(
    post, path = "/v1/vms/{vm}/sessions/{session}/attach", params(("vm" = String, Path), ("session" = String, Path)),
    request_body = AttachSession,
    responses((status = 101, description = "upgraded to banger-attach/1"), (status = "default", body = ErrorBody))
)]
pub async fn attach(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let is_ours = request.headers().get(header::UPGRADE).is_some_and(|value| value == attach::PROTOCOL);
    if !is_ours {
        return Err(Refusal::bad(format!("attach needs an upgrade to {}", attach::PROTOCOL)));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let wanted: AttachSession = body(request.into_body()).await?;
    let of = of(&api, &vm, name).await?;
    // Asked before the connection is given away, so that a session that is not there is an answer like any other.
    find(&of).await?;
    let stream = of.guest.attach_session(SessionAttach {
        name: of.name.clone(),
        input: wanted.stdin,
        follow: wanted.follow,
        tail_lines: wanted.tail,
        terminal: wanted.terminal,
    });
    let stream = stream.await?;
    let busy = api.activity.begin();
    spawn(format!("session {} in {}", of.name, of.record.name), async move {
        let _busy = busy;
        match upgrade.await {
            Ok(client) => {
                if let Err(error) = relay::relay_session(TokioIo::new(client), &stream).await {
                    tracing::debug!(%error, vm = %of.record.id, session = of.name, "a client left a session");
                }
            }
            Err(error) => tracing::debug!(%error, "a client left before it saw a session"),
        }
    });
    upgraded()
}

/// Gives bytes to a session's command, and answers when it has taken them
#[utoipa::path(
    post, path = "/v1/vms/{vm}/sessions/{session}/input",
    params(("vm" = String, Path), ("session" = String, Path), SendQuery),
    request_body(content_type = "application/octet-stream"),
    responses((status = 200, body = Sent), (status = "default", body = ErrorBody))
)]
pub async fn input(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
    Query(query): Query<SendQuery>,
    body: Body,
) -> Result<Json<Sent>, Refusal> {
    let of = of(&api, &vm, name).await?;
    let refused = |error: GuestError| refusal(&of.record.name, &error);
    let input = of.guest.send_session(&of.name, query.eof).await.map_err(refused)?;
    let mut bytes = body.into_data_stream();
    while let Some(chunk) = bytes.next().await {
        // Bytes that break off are no end of input: dropping the stream gives it up.
        let chunk = chunk.map_err(|_gone| Refusal::bad("the input broke off"))?;
        if !input.write(chunk).await.map_err(refused)? {
            break;
        }
    }
    let bytes = input.finish().await.map_err(refused)?;
    Ok(Json(Sent { bytes }))
}

/// Ends a session's command: it is asked, and killed at the deadline
#[utoipa::path(
    post, path = "/v1/vms/{vm}/sessions/{session}/stop", params(("vm" = String, Path), ("session" = String, Path)),
    request_body = StopSession,
    responses((status = 200, body = Session), (status = "default", body = ErrorBody))
)]
pub async fn stop(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
    Json(request): Json<StopSession>,
) -> Result<Json<Session>, Refusal> {
    let grace_ms = request.timeout_ms.unwrap_or(u64::try_from(GRACE.as_millis()).unwrap_or(GRACE_MS_MAX));
    if grace_ms > GRACE_MS_MAX {
        return Err(Refusal::bad("a session is given at most an hour to end"));
    }
    let of = of(&api, &vm, name).await?;
    of.guest.stop_session(&of.name, grace_ms).await.map_err(|error| refusal(&of.record.name, &error))?;
    Ok(Json(find(&of).await?))
}

/// Sends a signal to a session's command
#[utoipa::path(
    post, path = "/v1/vms/{vm}/sessions/{session}/signal", params(("vm" = String, Path), ("session" = String, Path)),
    request_body = SignalSession,
    responses((status = 200, body = Session), (status = "default", body = ErrorBody))
)]
pub async fn signal(
    State(api): State<Api>,
    Path((vm, name)): Path<(String, String)>,
    Json(request): Json<SignalSession>,
) -> Result<Json<Session>, Refusal> {
    if !(1..=31).contains(&request.signal) {
        return Err(Refusal::bad(format!("there is no signal {}: 1 to 31", request.signal)));
    }
    let of = of(&api, &vm, name).await?;
    let session = of.guest.signal_session(&of.name, i32::from(request.signal)).await;
    Ok(Json(view(&of.record.name, session.map_err(|error| refusal(&of.record.name, &error))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: Failure) -> ApiError {
        refusal(&"web".parse().unwrap(), &GuestError::Failed(failure)).0
    }

    #[test]
    fn an_older_agent_is_named_and_so_is_the_way_out() {
        let error = told(Failure::Unsupported);
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert_eq!(error.message, "web runs the agent of an older banger, which knows no sessions");
        assert_eq!(error.hint.as_deref(), Some("banger restart web gives it this one"));
    }

    #[test]
    fn refusals_name_the_vm_and_what_to_do() {
        let name = || "dev".to_owned();
        for (failure, code) in [
            (Failure::NoSuchSession { name: name() }, ErrorCode::NotFound),
            (Failure::SessionExists { name: name() }, ErrorCode::AlreadyExists),
            (Failure::SessionRuns { name: name() }, ErrorCode::InUse),
            (Failure::SessionsFull, ErrorCode::Exhausted),
        ] {
            let error = told(failure.clone());
            assert_eq!(error.code, code, "{failure}");
            assert!(error.hint.is_some_and(|hint| hint.contains(" web")), "{failure}");
        }
        assert_eq!(told(Failure::SessionOver { name: name() }).code, ErrorCode::WrongState);
    }
}
