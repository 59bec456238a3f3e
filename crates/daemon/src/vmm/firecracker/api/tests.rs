//! The client against a scripted Firecracker.

use super::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

/// Has a Firecracker answer `answer` to whatever `ask` asks it; gives the outcome, and what it heard.
async fn told<T>(answer: &str, ask: impl AsyncFnOnce(&Path) -> T) -> (T, String) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let firecracker = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        // A request is small and comes at once: its head, then its body.
        while !(heard.ends_with(b"}") || heard.starts_with(b"GET") && heard.ends_with(b"\r\n\r\n")) {
            assert!(peer.read_buf(&mut heard).await.unwrap() > 0);
        }
        peer.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(heard).unwrap()
    };
    tokio::join!(ask(&socket), firecracker)
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn pause(socket: &Path) -> Result<(), ApiError> {
    patch(socket, "/vm", &json!({"state": "Paused"})).await
}

#[tokio::test]
async fn what_is_asked_is_done() {
    let (done, heard) = told("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", pause).await;
    done.unwrap();
    assert!(heard.starts_with("PATCH /vm HTTP/1.1\r\n"), "{heard}");
    assert!(heard.ends_with("\r\n\r\n{\"state\":\"Paused\"}"), "{heard}");
}

#[tokio::test]
async fn it_says_what_it_is_doing() {
    let body = r#"{"app_name": "Firecracker", "id": "a", "state": "Not started", "vmm_version": "1.12.1"}"#;
    let (info, heard) = told(&answer("200 OK", body), describe).await;
    assert_eq!(info.unwrap().state, "Not started");
    assert!(heard.starts_with("GET / HTTP/1.1\r\n"), "{heard}");
    let (info, _) = told(&answer("200 OK", "{}"), describe).await;
    assert!(matches!(info, Err(ApiError::Broken(_))));
}

#[tokio::test]
async fn its_words_are_passed_on_and_harmless() {
    let fault = json!({"fault_message": format!("The\u{1b}[1m disk\ncannot grow (os error 28) {}", "x".repeat(1000))});
    let (refused, _) = told(&answer("400 Bad Request", &fault.to_string()), pause).await;
    let words = refused.unwrap_err().to_string();
    assert!(words.starts_with("the [1m disk cannot grow xxx"), "{words}");
    assert!(words.len() <= WORDS_MAX, "{words}");
    let (silent, _) = told(&answer("500 Internal Server Error", "<html>"), pause).await;
    assert_eq!(silent.unwrap_err().to_string(), "it answered 500 without a word");
}

#[tokio::test]
async fn no_answer_is_told() {
    let gone = pause(Path::new("/nonexistent/api.sock")).await.unwrap_err();
    assert_eq!(gone.to_string(), "the VMM is not reached: no such file or directory");
    let (broken, _) = told("nonsense\r\n\r\n", pause).await;
    assert!(matches!(broken, Err(ApiError::Broken(_))), "{broken:?}");
    let (cut, _) = told("", pause).await;
    assert!(matches!(cut, Err(ApiError::Broken(_))), "{cut:?}");
    let flood = answer("200 OK", &"x".repeat(ANSWER_BYTES_MAX + 1));
    let (long, _) = told(&flood, describe).await;
    assert!(matches!(long, Err(ApiError::Broken(_))), "{long:?}");
}
