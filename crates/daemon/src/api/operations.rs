//! Operations: list, show, watch, cancel.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use futures_util::{StreamExt, stream};
use wire::api::{ApiError, ErrorBody, ErrorCode, Operation, OperationEvent, OperationList};
use wire::id::OpId;

use super::Api;
use super::error::Refusal;
use crate::saga::Cause;

/// Where to look for an operation.
const LIST: &str = "banger op list shows the latest operations";

fn id(text: &str) -> Result<OpId, Refusal> {
    text.parse().map_err(|error: wire::id::ParseIdError| Refusal(Refusal::bad(error.to_string()).0.with_hint(LIST)))
}

/// A failure to find or to cancel an operation.
fn refusal(cause: Cause) -> Refusal {
    match ApiError::from(cause) {
        error if error.code == ErrorCode::NotFound => Refusal(error.with_hint(LIST)),
        error => Refusal(error),
    }
}

/// Operations, newest first
#[utoipa::path(get, path = "/v1/operations", responses((status = 200, body = OperationList), (status = "default", body = ErrorBody)))]
pub async fn list(State(api): State<Api>) -> Result<Json<OperationList>, Refusal> {
    Ok(Json(OperationList { operations: api.engine.operations().await? }))
}

/// One operation
#[utoipa::path(
    get, path = "/v1/operations/{op}", params(("op" = String, Path)),
    responses((status = 200, body = Operation), (status = "default", body = ErrorBody))
)]
pub async fn show(State(api): State<Api>, Path(op): Path<String>) -> Result<Json<Operation>, Refusal> {
    Ok(Json(api.engine.operation(&id(&op)?).await.map_err(refusal)?))
}

/// Asks an operation to stop at its next edge and to take its steps back
#[utoipa::path(
    delete, path = "/v1/operations/{op}", params(("op" = String, Path)),
    responses((status = 200, body = Operation), (status = "default", body = ErrorBody))
)]
pub async fn cancel(State(api): State<Api>, Path(op): Path<String>) -> Result<Json<Operation>, Refusal> {
    Ok(Json(api.engine.cancel(&id(&op)?).await.map_err(refusal)?))
}

/// What happens to an operation, one event a line, until it has ended
#[utoipa::path(
    get, path = "/v1/operations/{op}/events", params(("op" = String, Path)),
    responses((status = 200, body = OperationEvent, content_type = "application/x-ndjson"), (status = "default", body = ErrorBody))
)]
pub async fn events(State(api): State<Api>, Path(op): Path<String>) -> Result<Body, Refusal> {
    let watch = api.engine.watch(&id(&op)?).await.map_err(refusal)?;
    let events = stream::unfold(watch, |mut watch| async move { watch.next().await.map(|event| (event, watch)) });
    Ok(Body::from_stream(events.map(|event| line(&event))))
}

fn line(event: &OperationEvent) -> Result<Bytes, serde_json::Error> {
    let mut json = serde_json::to_vec(event)?;
    json.push(b'\n');
    Ok(Bytes::from(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_for_an_operation_is_told_where_they_are() {
        let hint = |Refusal(error): Refusal| error.hint;
        assert_eq!(hint(id("nope").unwrap_err()).as_deref(), Some(LIST));
        let missing = crate::store::StoreError::NotFound { what: "operation", key: "op-1".to_owned() };
        assert_eq!(hint(refusal(Cause::from(missing))).as_deref(), Some(LIST));
        assert_eq!(hint(refusal(Cause::new("wrong_state", "it has ended"))), None);
    }
}
