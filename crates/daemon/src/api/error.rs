//! Failures as HTTP answers: which status each kind has.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use wire::agent::message::Failure;
use wire::api::{ApiError, ErrorBody, ErrorCode};

use crate::guest::GuestError;
use crate::saga::Cause;
use crate::store::StoreError;

/// What a handler answers when it refuses.
#[derive(Debug)]
pub struct Refusal(pub ApiError);

impl Refusal {
    /// A request that makes no sense.
    pub(crate) fn bad(message: impl Into<String>) -> Refusal {
        Refusal(ApiError::new(ErrorCode::BadRequest, message))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (status(self.0.code), Json(ErrorBody { error: self.0 })).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal(error)
    }
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Refusal {
        Refusal(cause.into())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        let missing = match error {
            StoreError::NotFound { what, .. } => Some(what),
            _ => None,
        };
        let api = ApiError::from(Cause::from(error));
        Refusal(match missing {
            Some("VM") => api.with_hint("banger list shows the VMs there are"),
            Some(what @ ("image" | "kernel")) => {
                api.with_hint(format!("banger {what} list shows the {what}s there are"))
            }
            Some(_) | None => api,
        })
    }
}

impl From<GuestError> for Refusal {
    fn from(error: GuestError) -> Refusal {
        Refusal(guest_error(&error))
    }
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest | ErrorCode::Ambiguous => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists
        | ErrorCode::Busy
        | ErrorCode::WrongState
        | ErrorCode::InUse
        | ErrorCode::Cancelled => StatusCode::CONFLICT,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::GuestUnreachable | ErrorCode::DaemonUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::ProgramNotFound
        | ErrorCode::ProgramNotExecutable
        | ErrorCode::OperationFailed
        | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a failure of or in a guest is to whoever asked for a command or a tree.
pub(crate) fn guest_error(error: &GuestError) -> ApiError {
    let code = match error {
        GuestError::Failed(failure) => match failure {
            Failure::ProgramNotFound { .. } => ErrorCode::ProgramNotFound,
            Failure::ProgramNotExecutable { .. } => ErrorCode::ProgramNotExecutable,
            Failure::NoSuchUser { .. } | Failure::Directory { .. } | Failure::Refused { .. } => ErrorCode::BadRequest,
            Failure::NoSuchSession { .. } => ErrorCode::NotFound,
            Failure::SessionExists { .. } => ErrorCode::AlreadyExists,
            Failure::SessionOver { .. } => ErrorCode::WrongState,
            Failure::SessionRuns { .. } => ErrorCode::InUse,
            Failure::SessionsFull => ErrorCode::Exhausted,
            Failure::Os { .. } => ErrorCode::OperationFailed,
            Failure::Busy => ErrorCode::Busy,
            Failure::Unsupported => ErrorCode::Unsupported,
        },
        GuestError::TooLarge { .. } => ErrorCode::BadRequest,
        GuestError::Busy => ErrorCode::Busy,
        GuestError::Read(_) => ErrorCode::OperationFailed,
        GuestError::Connect { .. }
        | GuestError::Unanswered { .. }
        | GuestError::Stuck { .. }
        | GuestError::Closed
        | GuestError::Channel(_)
        | GuestError::CutOff(_)
        | GuestError::Records(_)
        | GuestError::Unexpected { .. }
        | GuestError::GaveUp
        | GuestError::Listen { .. }
        | GuestError::Secret { .. } => ErrorCode::GuestUnreachable,
    };
    let told = ApiError::from_chain(code, error);
    match error {
        GuestError::Failed(Failure::Directory { .. }) => told.with_hint("-w DIR runs it elsewhere, -u root as root"),
        _ => told,
    }
}

/// A defect of ours.
pub(crate) fn internal(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Internal, message).with_hint("this is a defect of banger; the daemon's log says more")
}
