//! Requests to Firecracker's API: JSON over HTTP/1.1 on a Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The longest that a machine may take to be written or read.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Asks, and waits until it is done.
pub(super) fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> Result<()> {
    let stream = UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    ask_over(stream, method, path, body)
}

/// The same over a connection that is there.
pub(super) fn ask_over(mut stream: UnixStream, method: &str, path: &str, body: &Value) -> Result<()> {
    stream.set_read_timeout(Some(ANSWER_MAX)).context("cannot set a deadline")?;
    let body = body.to_string();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).with_context(|| format!("cannot ask for {method} {path}"))?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    // What refuses says why after the head; what is done has no body.
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let got = stream.read(&mut piece).with_context(|| format!("no answer to {method} {path}"))?;
        ensure!(got > 0, "Firecracker ended before it answered {method} {path}");
        answer.extend_from_slice(&piece[..got]);
    }
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
    Ok(())
}
