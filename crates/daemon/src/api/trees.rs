//! Files into a running guest and out of it.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use wire::api::{ApiError, ERROR_TRAILER, ErrorBody, ErrorCode, FileQuery, GuestFile, TreeDone, TreeQuery};

use super::Api;
use super::error::{Refusal, guest_error};
use super::guests::guest;
use crate::guest::TreeStream;
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::spawn;

/// How much longer than all it could hold a stream out of a guest may be: headers of small files take more room there
/// than on a disk.
const OVERHEAD: u64 = 2;

/// How long a client may go on sending what nobody takes, until it reads why.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes what a client still sends of what was refused: it would find its connection broken, and not the answer.
pub(super) fn take_the_rest<T, E>(what: &str, rest: impl Stream<Item = Result<T, E>> + Send + 'static)
where
    T: Send,
    E: Send,
{
    let rest = async move {
        let mut rest = Box::pin(rest);
        while let Some(Ok(_)) = rest.next().await {}
    };
    spawn(what.to_owned(), async move { drop(tokio::time::timeout(REST_TIMEOUT, rest).await) });
}

fn check_path(path: &str) -> Result<(), Refusal> {
    let is_fine = path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == "..");
    if is_fine { Ok(()) } else { Err(Refusal::bad(format!("{path:?} is not an absolute path without .."))) }
}

/// Says what is at a path of a guest
#[utoipa::path(
    get, path = "/v1/vms/{vm}/file",
    params(
        ("vm" = String, Path), ("path" = String, Query, description = "absolute, in the guest"),
        ("follow" = Option<bool>, Query, description = "look at what a symbolic link leads to"),
    ),
    responses((status = 200, body = GuestFile), (status = "default", body = ErrorBody))
)]
pub async fn file(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<FileQuery>,
) -> Result<Json<GuestFile>, Refusal> {
    check_path(&query.path)?;
    let record = api.host.store.find_vm(&vm).await?;
    let stat = guest(&api, &record).await?.stat(&query.path, query.follow).await?;
    Ok(Json(GuestFile { kind: stat.kind, bytes: stat.bytes, path: stat.path }))
}

/// Unpacks a tar stream in a guest
#[utoipa::path(
    put, path = "/v1/vms/{vm}/tree", params(("vm" = String, Path), ("path" = String, Query, description = "absolute, in the guest")),
    request_body(content_type = "application/x-tar"),
    responses((status = 200, body = TreeDone), (status = "default", body = ErrorBody))
)]
pub async fn put_tree(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<TreeQuery>,
    body: Body,
) -> Result<Json<TreeDone>, Refusal> {
    let mut tar = Box::pin(tokio_util::io::StreamReader::new(body.into_data_stream().map_err(std::io::Error::other)));
    let put = async {
        check_path(&query.path)?;
        let record = api.host.store.find_vm(&vm).await?;
        Ok(guest(&api, &record).await?.put_tree(&query.path, &mut tar).await?)
    };
    let put: Result<u64, Refusal> = put.await;
    if put.is_err() {
        let rest = tokio_util::io::ReaderStream::new(tar);
        take_the_rest("the rest of a tree that is refused", rest);
    }
    Ok(Json(TreeDone { bytes: put? }))
}

/// Packs a file or a tree of a guest as a tar stream
#[utoipa::path(
    get, path = "/v1/vms/{vm}/tree",
    params(
        ("vm" = String, Path), ("path" = String, Query, description = "absolute, in the guest"),
        ("follow" = Option<bool>, Query, description = "pack what a symbolic link leads to"),
    ),
    responses((status = 200, content_type = "application/x-tar"), (status = "default", body = ErrorBody))
)]
pub async fn get_tree(
    State(api): State<Api>,
    Path(vm): Path<String>,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    check_path(&query.path)?;
    let record = api.host.store.find_vm(&vm).await?;
    let bytes_max = bytes_max(&api, &record).await?;
    let tree = guest(&api, &record).await?.get_tree(&query.path, query.follow).await?;
    // What fails before there is anything to send is an ordinary refusal.
    let first = tree.read().await?;
    if first.is_none() {
        tree.done().await?;
    }
    let wants_trailers = wants_trailers(&headers);
    let outward = Outward { tree, first, sent: 0, bytes_max, wants_trailers };
    let mut response = Response::new(Body::new(StreamBody::new(frames(outward))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    if wants_trailers {
        response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(ERROR_TRAILER));
    }
    Ok(response)
}

/// Most bytes that a tree of this VM can honestly have.
async fn bytes_max(api: &Api, record: &VmRecord) -> Result<u64, StoreError> {
    let image = api.host.store.find_image(record.image_id.as_str()).await?;
    let held = record.spec.disk_bytes.saturating_add(image.manifest.bytes).saturating_add(record.spec.memory_mib << 20);
    Ok(held.saturating_mul(OVERHEAD))
}

/// A tree on its way to a client.
struct Outward {
    tree: TreeStream,
    first: Option<Bytes>,
    sent: u64,
    bytes_max: u64,
    wants_trailers: bool,
}

impl Outward {
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let read = match self.first.take() {
            Some(first) => Some(first),
            None => self.tree.read().await.map_err(|error| guest_error(&error))?,
        };
        let Some(bytes) = read else {
            return self.tree.done().await.map(|_bytes| None).map_err(|error| guest_error(&error));
        };
        self.sent += bytes.len() as u64;
        if self.sent > self.bytes_max {
            let message = format!("the guest sent over {} bytes, more than it can hold", self.bytes_max);
            return Err(ApiError::new(ErrorCode::OperationFailed, message));
        }
        Ok(Some(bytes))
    }
}

/// The bytes of a tree. An error at its end is told in a trailer, or breaks the answer off, so that nobody takes a part
/// for the whole.
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

/// Whether a client reads trailers.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| value == "trailers")
}

/// The trailer that tells an error.
pub(super) fn trailers(error: &ApiError) -> Result<HeaderMap, ApiError> {
    let body = ErrorBody { error: error.clone() };
    // JSON has no control characters but DEL, which HTTP has no place for either.
    let json = serde_json::to_string(&body).map(|json| json.replace('\x7f', ""));
    let value = json.ok().and_then(|json| HeaderValue::from_bytes(json.as_bytes()).ok());
    let value = value.ok_or_else(|| error.clone())?;
    Ok(HeaderMap::from_iter([(HeaderName::from_static(ERROR_TRAILER), value)]))
}
