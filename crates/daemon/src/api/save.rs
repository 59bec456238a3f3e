//! Images on their way out, as files for others.

use std::io::{self, Write};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures_util::{Stream, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use wire::api::{ApiError, ERROR_TRAILER, ErrorBody, SaveQuery};

use super::Api;
use super::error::Refusal;
use super::trees::{trailers, wants_trailers};
use crate::ops::parts::check_image;
use crate::saga::Cause;

/// Pieces that are made ahead of who takes them.
const AHEAD: usize = 8;
/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;

/// What the thread that makes the file says.
type Said = Result<Bytes, Cause>;

/// Gives an image as a file: a bundle, or an OCI archive
#[utoipa::path(
    get, path = "/v1/images/{image}/archive",
    params(("image" = String, Path), ("format" = Option<String>, Query, description = "bundle, or oci-archive")),
    responses((status = 200, content_type = "application/octet-stream"), (status = "default", body = ErrorBody))
)]
pub async fn archive(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<SaveQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let record = api.host.store.find_image(&name).await?;
    let (rootfs, puller) = (check_image(&api.host, &record)?, api.host.puller.clone());
    let (pieces, mut made) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut outlet = Outlet { pieces, piece: Vec::with_capacity(PIECE_BYTES) };
        let saved = puller.save(&record.manifest, &rootfs, query.format, &mut outlet);
        let rest =
            saved.and_then(|()| outlet.flush().map_err(|error| Cause::new("operation_failed", error.to_string())));
        if let Err(cause) = rest {
            // Whoever takes no more needs no cause.
            drop(outlet.pieces.blocking_send(Err(cause)));
        }
    });
    // What fails before there is anything to send is an ordinary refusal.
    let first = match made.recv().await {
        Some(Err(cause)) => return Err(cause.into()),
        Some(Ok(first)) => Some(first),
        None => None,
    };
    let wants_trailers = wants_trailers(&headers);
    let outward = Outward { made, first, wants_trailers };
    let mut response = Response::new(Body::new(StreamBody::new(frames(outward))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if wants_trailers {
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(ERROR_TRAILER));
    }
    Ok(response)
}

/// Takes what is written in pieces. Nobody at the other end is a broken pipe.
struct Outlet {
    pieces: mpsc::Sender<Said>,
    piece: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A file on its way to a client.
struct Outward {
    made: mpsc::Receiver<Said>,
    first: Option<Bytes>,
    wants_trailers: bool,
}

/// The bytes; an error at their end is told in a trailer, or breaks the answer off.
fn frames(outward: Outward) -> impl Stream<Item = Result<Frame<Bytes>, ApiError>> {
    stream::try_unfold(Some(outward), |outward| async move {
        let Some(mut outward) = outward else { return Ok(None) };
        let piece = match outward.first.take() {
            Some(first) => Some(Ok(first)),
            None => outward.made.recv().await,
        };
        match piece {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some((Frame::data(bytes), Some(outward)))),
            Some(Err(cause)) => {
                let error = ApiError::from(cause);
                if outward.wants_trailers { Ok(Some((Frame::trailers(trailers(&error)?), None))) } else { Err(error) }
            }
        }
    })
}
