//! Firecracker's API: JSON over HTTP/1.1 on a Unix socket, one connection for each request.
//!
//! Nothing is held, so nothing has to be found again. Firecracker serves one request after the other; what it answers is
//! read within limits, and its words are made harmless before they are passed on.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// How long Firecracker may take to do what takes it no time.
const WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to write or read a machine: a GiB is written in a second, a busy disk is slow.
const SAVED_WITHIN: Duration = Duration::from_secs(300);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most characters of Firecracker's words that are passed on.
const WORDS_MAX: usize = 300;

/// Why Firecracker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody listens.
    #[error("the VMM is not reached: {0}")]
    Unreached(String),
    /// It takes too long.
    #[error("the VMM did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The connection broke, or what came over it is no answer.
    #[error("the VMM's answer is no answer: {0}")]
    Broken(String),
    /// Its words.
    #[error("{0}")]
    Refused(String),
}

/// What Firecracker says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct InstanceInfo {
    /// `Not started`, `Running` or `Paused`.
    pub(super) state: String,
}

/// Its error's form.
#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

/// What the Firecracker behind `socket` is doing.
pub(super) async fn describe(socket: &Path) -> Result<InstanceInfo, ApiError> {
    let answer = ask(socket, Method::GET, "/", None).await?;
    serde_json::from_slice(&answer).map_err(|error| ApiError::Broken(error.to_string()))
}

/// Has it change something: `PATCH path` with `body`.
pub(super) async fn patch(socket: &Path, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
    let body = serde_json::to_vec(body).map_err(|error| ApiError::Broken(error.to_string()))?;
    ask(socket, Method::PATCH, path, Some(body)).await.map(|_answer| ())
}

/// Has it do something that may take as long as a machine is large: `PUT path` with `body`.
pub(super) async fn put(socket: &Path, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
    let body = serde_json::to_vec(body).map_err(|error| ApiError::Broken(error.to_string()))?;
    let asked = tokio::time::timeout(SAVED_WITHIN, exchange(socket, Method::PUT, path, Some(body))).await;
    asked.unwrap_or(Err(ApiError::Late(SAVED_WITHIN))).map(|_answer| ())
}

async fn ask(socket: &Path, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, ApiError> {
    let asked = tokio::time::timeout(WITHIN, exchange(socket, method, path, body)).await;
    asked.unwrap_or(Err(ApiError::Late(WITHIN)))
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, ApiError> {
    let unreached = |error: std::io::Error| ApiError::Unreached(wire::api::plain(&error.to_string()));
    let broken = |error: &dyn std::error::Error| ApiError::Broken(wire::api::plain(&wire::api::chain(error)));
    // A VMM may make links in the directory of its sockets.
    let place = sys::socket::place_of(socket).map_err(unreached)?;
    let stream = UnixStream::connect(sys::socket::path_of(&place)).await.map_err(unreached)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.header("accept", "application/json").header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|error| broken(&error))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| ApiError::Broken(error.to_string()))?.to_bytes()))
    };
    let mut answered = std::pin::pin!(answered);
    let mut connection = std::pin::pin!(connection);
    let (status, body) = tokio::select! {
        answered = &mut answered => answered?,
        // It may end with the answer's last byte.
        ended = &mut connection => match ended {
            Ok(()) => answered.await?,
            Err(error) => return Err(broken(&error)),
        },
    };
    judge(status, body)
}

fn judge(status: StatusCode, body: Bytes) -> Result<Bytes, ApiError> {
    if status.is_success() {
        return Ok(body);
    }
    let words = match serde_json::from_slice::<Fault>(&body) {
        Ok(fault) => fault.fault_message,
        Err(_) => format!("it answered {} without a word", status.as_u16()),
    };
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(ApiError::Refused(wire::api::plain(&words)))
}

#[cfg(test)]
mod tests;
