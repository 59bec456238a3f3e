//! What a guest changed of its image.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures_util::{Stream, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use wire::api::{ApiError, Change, ERROR_TRAILER, ErrorBody};

use super::Api;
use super::error::{Refusal, guest_error, internal};
use super::guests::guest;
use super::trees::{trailers, wants_trailers};
use crate::guest::ChangeStream;

/// Lists the changes of the system layer against the image
#[utoipa::path(
    get, path = "/v1/vms/{vm}/changes", params(("vm" = String, Path)),
    responses(
        (status = 200, body = Change, content_type = "application/jsonl", description = "one change a line"),
        (status = "default", body = ErrorBody),
    )
)]
pub async fn list(State(api): State<Api>, Path(vm): Path<String>, headers: HeaderMap) -> Result<Response, Refusal> {
    let record = api.host.store.find_vm(&vm).await?;
    let mut changes = guest(&api, &record).await?.changes().await?;
    // What fails before there is anything to tell is an ordinary refusal.
    let first = changes.read().await?;
    let wants_trailers = wants_trailers(&headers);
    let outward = Outward { changes, first: Some(first), wants_trailers };
    let mut response = Response::new(Body::new(StreamBody::new(frames(outward))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    if wants_trailers {
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(ERROR_TRAILER));
    }
    Ok(response)
}

/// Changes on their way to a client.
struct Outward {
    changes: ChangeStream,
    first: Option<Option<Vec<Change>>>,
    wants_trailers: bool,
}

impl Outward {
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let changes = match self.first.take() {
            Some(first) => first,
            None => self.changes.read().await.map_err(|error| guest_error(&error))?,
        };
        let Some(changes) = changes else { return Ok(None) };
        let mut lines = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut lines, &change).map_err(|_| internal("a change has no form in JSON"))?;
            lines.push(b'\n');
        }
        Ok(Some(Bytes::from(lines)))
    }
}

/// The lines; an error at their end is told in a trailer, or breaks the answer off.
fn frames(outward: Outward) -> impl Stream<Item = Result<Frame<Bytes>, ApiError>> {
    stream::try_unfold(Some(outward), |outward| async move {
        let Some(mut outward) = outward else { return Ok(None) };
        match outward.next().await {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Ok(Some((Frame::data(bytes), Some(outward)))),
            Err(error) if outward.wants_trailers => Ok(Some((Frame::trailers(trailers(&error)?), None))),
            Err(error) => Err(error),
        }
    })
}
