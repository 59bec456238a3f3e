//! The daemon's API as seen from here: one request, one connection to the Unix socket, one answer.
//!
//! [`Client::get`], [`Client::send`] and [`Client::delete`] answer with a record; [`Client::stream`] with bytes as they
//! come; [`Client::upgrade`] with the raw socket of an exec. The first connection starts the daemon when it is not there.
//!
//! A daemon that ends, idle or killed, may leave a connection that it accepted and never read. What was asked there is asked
//! once more, of the next daemon; what was read is not, unless it only reads.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, SERVER, TE, UPGRADE, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wire::api::{BASE, ERROR_TRAILER, ErrorBody, ErrorCode};

use crate::daemon::Daemon;
use crate::error::Failure;

/// Most bytes of one record. A list of ten thousand VMs takes a tenth of it.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Most bytes of one line of an event stream.
const LINE_BYTES_MAX: usize = 1 << 20;

/// This build's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A connection that was given away for an exec or a session.
#[derive(Debug)]
pub(crate) struct Upgraded {
    /// The raw socket.
    pub(crate) stream: UnixStream,
    /// What came on it already.
    pub(crate) early: Bytes,
    /// There is a workspace in the VM.
    pub(crate) has_workspace: bool,
}

/// Why the daemon gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The connection broke.
    #[error("cannot talk to the daemon")]
    Broken(#[source] hyper::Error),
    /// The body broke off, or is too long.
    #[error("cannot read the daemon's answer")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer that goes on was broken off. (The source says how HTTP noticed, which helps nobody.)
    #[error("the daemon broke off in the middle of its answer")]
    CutOff(hyper::Error),
    /// An answer that goes on ended without its last words.
    #[error("the daemon broke off in the middle of its answer")]
    Unfinished,
    /// Not the JSON the API promises.
    #[error("the daemon's answer makes no sense")]
    Malformed(#[source] serde_json::Error),
    /// It speaks another version.
    #[error("the daemon is banger {daemon}, this is banger {VERSION}")]
    Version {
        /// The daemon's version.
        daemon: String,
    },
    /// It did not agree to the attach protocol.
    #[error("the daemon does not speak {}", wire::attach::PROTOCOL)]
    Upgrade,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let failure = Failure::from_error(ErrorCode::DaemonUnavailable, &error);
        match error {
            ClientError::Version { .. } => {
                failure.hint("stop the other daemon with: banger daemon stop (running VMs keep running)")
            }
            ClientError::Broken(_) | ClientError::Answer(_) | ClientError::CutOff(_) | ClientError::Unfinished => {
                failure.hint("see its log: banger daemon status")
            }
            ClientError::Malformed(_) | ClientError::Upgrade => failure,
        }
    }
}

/// Speaks to the daemon of this user.
#[derive(Debug)]
pub(crate) struct Client {
    daemon: Daemon,
}

/// An answer whose body is read as it comes. Dropping it closes the connection.
pub(crate) struct Answer {
    body: Incoming,
    line: BytesMut,
    trailers: HeaderMap,
    _connection: JoinSet<()>,
}

impl Client {
    /// A client of `daemon`; nothing is connected yet.
    pub(crate) fn new(daemon: Daemon) -> Client {
        Client { daemon }
    }

    /// Which daemon.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Reads a record.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let ask = async || record(self.ask(&Whole::empty(Method::GET, path)).await?).await;
        match ask().await {
            Err(failure) if failure.code() == Some(ErrorCode::DaemonUnavailable) => ask().await,
            answer => answer,
        }
    }

    /// Posts a record.
    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        record(self.ask(&Whole::json(path, body)).await?).await
    }

    /// Posts a record, whatever the answer says beyond that it is good.
    pub(crate) async fn tell<B: Serialize>(&self, path: &str, body: &B) -> Result<(), Failure> {
        self.ask(&Whole::json(path, body)).await.map(drop)
    }

    /// Deletes.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        record(self.ask(&Whole::empty(Method::DELETE, path)).await?).await
    }

    /// Puts what the path says all about.
    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        record(self.ask(&Whole::empty(Method::PUT, path)).await?).await
    }

    /// Puts a tar stream.
    pub(crate) async fn put_tar<T: DeserializeOwned>(&self, path: &str, body: Chunks) -> Result<T, Failure> {
        self.feed(Method::PUT, path, body, "application/x-tar").await
    }

    /// Posts bytes as they come.
    pub(crate) async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Chunks) -> Result<T, Failure> {
        self.feed(Method::POST, path, body, "application/octet-stream").await
    }

    /// Asks the daemon to end, whatever its version.
    pub(crate) async fn shut_down(&self) -> Result<(), Failure> {
        let target = format!("{BASE}/shutdown");
        let (response, _connection) = self.ask_any(&Whole::empty(Method::POST, &target)).await?;
        if response.status().is_success() { Ok(()) } else { Err(told(response).await?) }
    }

    /// Opens an answer that goes on.
    pub(crate) async fn stream(&self, path: &str) -> Result<Answer, Failure> {
        let (response, connection) = self.ask(&Whole::empty(Method::GET, path)).await?;
        Ok(Answer::of(response, connection))
    }

    /// Opens the byte stream of `path`: when it breaks off, it says why.
    pub(crate) async fn tree(&self, path: &str) -> Result<Answer, Failure> {
        let whole = Whole { headers: vec![(TE, "trailers")], ..Whole::empty(Method::GET, path) };
        let (response, connection) = self.ask(&whole).await?;
        Ok(Answer::of(response, connection))
    }

    /// Posts `body` and turns the connection into an attach stream; bytes that came with the answer are given too.
    pub(crate) async fn upgrade<B: Serialize>(&self, path: &str, body: &B) -> Result<Upgraded, Failure> {
        let headers = vec![(CONNECTION, "upgrade"), (UPGRADE, wire::attach::PROTOCOL)];
        let whole = Whole { headers, ..Whole::json(path, body) };
        let (response, mut connection) = self.ask_any(&whole).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = refused(response).await?;
            drop(response);
            return Err(ClientError::Upgrade.into());
        }
        let has_workspace = response.headers().contains_key(wire::attach::WORKSPACE_HEADER);
        let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::Broken)?;
        while connection.join_next().await.is_some() {}
        match upgraded.downcast::<TokioIo<UnixStream>>() {
            Ok(parts) => Ok(Upgraded { stream: parts.io.into_inner(), early: parts.read_buf, has_workspace }),
            Err(_) => Err(ClientError::Upgrade.into()),
        }
    }

    /// Asks with a body that comes as it comes, and so only once.
    async fn feed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Chunks,
        content_type: &'static str,
    ) -> Result<T, Failure> {
        let (mut sender, connection) = self.connect().await?;
        let request = build(method, path, BodyExt::boxed_unsync(body), Some(content_type));
        let response = sender.send_request(request).await.map_err(ClientError::Broken)?;
        record((refused(response).await?, connection)).await
    }

    /// The good answer to `whole`.
    async fn ask(&self, whole: &Whole) -> Result<(Response<Incoming>, JoinSet<()>), Failure> {
        let (response, connection) = self.ask_any(whole).await?;
        Ok((refused(response).await?, connection))
    }

    /// The answer to `whole`, good or not.
    async fn ask_any(&self, whole: &Whole) -> Result<(Response<Incoming>, JoinSet<()>), Failure> {
        let mut may_ask_again = true;
        loop {
            let (mut sender, connection) = self.connect().await?;
            match sender.send_request(whole.request()).await {
                Ok(response) => return Ok((response, connection)),
                Err(error) if may_ask_again && is_unread(&error) => may_ask_again = false,
                Err(error) => return Err(ClientError::Broken(error).into()),
            }
        }
    }

    async fn connect(&self) -> Result<(http1::SendRequest<RequestBody>, JoinSet<()>), Failure> {
        let stream = self.daemon.connect().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Broken)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // What breaks here is told by the request that was waiting.
            drop(connection.with_upgrades().await);
        });
        Ok((sender, tasks))
    }
}

/// A request that can be asked again: its body is at hand.
struct Whole {
    method: Method,
    path: String,
    body: Bytes,
    content_type: Option<&'static str>,
    headers: Vec<(HeaderName, &'static str)>,
}

impl Whole {
    fn empty(method: Method, path: &str) -> Whole {
        Whole { method, path: path.to_owned(), body: Bytes::new(), content_type: None, headers: Vec::new() }
    }

    fn json<B: Serialize>(path: &str, body: &B) -> Whole {
        let body = Bytes::from(serde_json::to_vec(body).expect("records are plain data"));
        Whole { body, content_type: Some("application/json"), ..Whole::empty(Method::POST, path) }
    }

    fn request(&self) -> Request<RequestBody> {
        let body = Full::new(self.body.clone()).map_err(|never| match never {}).boxed_unsync();
        let mut request = build(self.method.clone(), &self.path, body, self.content_type);
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        request
    }
}

/// Whether the daemon cannot have acted on a request: its end was closed with bytes in it that nobody had read, or before
/// any could be written. One that had read all of it and then died closes as if nothing were wrong.
fn is_unread(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe);
        }
        source = cause.source();
    }
    error.is_canceled()
}

/// The record that an answer is.
async fn record<T: DeserializeOwned>((response, _connection): (Response<Incoming>, JoinSet<()>)) -> Result<T, Failure> {
    let bytes = collect(response).await?;
    // Text that is known to be text is not looked over again, word by word.
    let record = match std::str::from_utf8(&bytes) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(&bytes),
    };
    Ok(record.map_err(ClientError::Malformed)?)
}

impl Answer {
    fn of(response: Response<Incoming>, connection: JoinSet<()>) -> Answer {
        let trailers = HeaderMap::new();
        Answer { body: response.into_body(), line: BytesMut::new(), trailers, _connection: connection }
    }

    /// What the answer said of itself at its end, under `name`.
    pub(crate) fn trailer<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.trailers.get(name) else { return Ok(None) };
        Ok(Some(serde_json::from_slice(value.as_bytes()).map_err(ClientError::Malformed)?))
    }

    /// The next bytes; none at the end.
    pub(crate) async fn bytes(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(ClientError::CutOff)?;
            let frame = match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => frame,
            };
            if let Some(error) = frame.trailers_ref().and_then(|trailers| trailers.get(ERROR_TRAILER)) {
                let body: ErrorBody = serde_json::from_slice(error.as_bytes()).map_err(ClientError::Malformed)?;
                return Err(body.error.into());
            }
            if let Ok(trailers) = frame.into_trailers() {
                self.trailers = trailers;
            }
        }
        Ok(None)
    }

    /// The next line as a record; none at the end. A line without an end is not one.
    pub(crate) async fn record<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line = self.line.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line).map_err(ClientError::Malformed)?));
            }
            if self.line.len() > LINE_BYTES_MAX {
                return Err(ClientError::Answer("a line without an end".into()).into());
            }
            match self.bytes().await? {
                Some(bytes) => self.line.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

fn build(method: Method, path: &str, body: RequestBody, content_type: Option<&'static str>) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("paths are made of encoded segments");
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("bangerd"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("banger/", env!("CARGO_PKG_VERSION"))));
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    request
}

/// Passes a good answer on, and turns another into what it says.
async fn refused(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    check_version(&response)?;
    if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    Err(told(response).await?)
}

/// What an answer outside 2xx says.
async fn told(response: Response<Incoming>) -> Result<Failure, ClientError> {
    let status = response.status();
    let bytes = collect(response).await?;
    Ok(match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => body.error.into(),
        Err(_) => Failure::new(ErrorCode::Internal, format!("the daemon answered {status} without a reason")),
    })
}

/// The same major and minor version on both sides, where the daemon says its own (`server: bangerd/1.2.3`).
fn check_version(response: &Response<Incoming>) -> Result<(), ClientError> {
    let server = response.headers().get(SERVER).and_then(|value| value.to_str().ok());
    let Some(daemon) = server.and_then(|text| text.strip_prefix("bangerd/")) else { return Ok(()) };
    same_series(daemon)
}

/// Whether `daemon` has our major and minor version.
///
/// # Errors
/// When it has another.
pub(crate) fn same_series(daemon: &str) -> Result<(), ClientError> {
    let series = |version: &str| version.splitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if series(daemon) == series(VERSION) { Ok(()) } else { Err(ClientError::Version { daemon: daemon.to_owned() }) }
}

/// The whole body. A long one comes in many parts: each is let go of at once, as its memory serves the next.
async fn collect(response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
    let mut body = Limited::new(response.into_body(), RECORD_BYTES_MAX);
    let length = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length.min(RECORD_BYTES_MAX));
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(ClientError::Answer)?.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// A request body fed by another thread.
pub(crate) struct Chunks(pub(crate) mpsc::Receiver<std::io::Result<Bytes>>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

/// The path of a thing: `/v1/<kind>/<reference><tail>`, the reference percent-encoded (RFC 3986, section 2.3).
pub(crate) fn path(kind: &str, reference: &str, tail: &str) -> String {
    format!("{BASE}/{kind}/{}{tail}", encode(reference))
}

/// `text` as one segment or query value.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Runs `future` for at most `limit`; none when it took longer.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_cannot_leave_their_segment() {
        assert_eq!(path("vms", "web", "/start"), "/v1/vms/web/start");
        assert_eq!(path("vms", "../x?y#z %", ""), "/v1/vms/..%2Fx%3Fy%23z%20%25");
        assert_eq!(encode("ü"), "%C3%BC");
    }
}
