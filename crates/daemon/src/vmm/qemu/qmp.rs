//! QEMU's own protocol, as far as it is needed: to be answered is to know that QEMU is up.
//!
//! The socket exists and greets (`{"QMP": …}`, docs/interop/qmp-spec) long before kernel, drives and memory are in place: a
//! thread of its own serves it. Commands are carried out by the main loop only, so the answer to the first one says that
//! everything was found and the guest runs.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The first command every client has to give; it changes nothing else.
const COMMAND: &[u8] = b"{\"execute\": \"qmp_capabilities\"}\n";
/// Bytes read until the answer came: the greeting and a few events.
const BYTES_MAX: u64 = 64 * 1024;

/// Whether a QEMU answers behind `socket`; waits for it once connected.
pub(super) async fn answers(socket: &Path) -> bool {
    let Ok(connection) = UnixStream::connect(socket).await else {
        return false;
    };
    let (from, mut to) = connection.into_split();
    let mut lines = BufReader::new(from.take(BYTES_MAX)).lines();
    let Ok(Some(_greeting)) = lines.next_line().await else {
        return false;
    };
    if to.write_all(COMMAND).await.is_err() {
        return false;
    }
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("{\"return\"") {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn only_an_answer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        assert!(!answers(&socket).await, "no socket");
        let greeting = "{\"QMP\": {\"version\": {}}}\r\n";
        let event = "{\"timestamp\": {}, \"event\": \"RESUME\"}\r\n";
        let error = "{\"error\": {\"class\": \"GenericError\"}}\r\n";
        for (said, expected) in [
            (greeting.to_owned() + "{\"return\": {}}\r\n", true),
            (greeting.to_owned() + event + "{\"return\": {}}\r\n", true),
            (greeting.to_owned(), false),
            (greeting.to_owned() + error, false),
            ("{\"Q".to_owned(), false),
            (greeting.to_owned() + &"x".repeat(100_000), false),
        ] {
            let listener = UnixListener::bind(&socket).unwrap();
            let (answered, ()) = tokio::join!(answers(&socket), async {
                let (mut peer, _) = listener.accept().await.unwrap();
                // A client that has heard enough hangs up.
                let _written: std::io::Result<()> = peer.write_all(said.as_bytes()).await;
                let mut heard = vec![0; COMMAND.len()];
                if said.starts_with(greeting) && peer.read_exact(&mut heard).await.is_ok() {
                    assert_eq!(heard, COMMAND);
                }
            });
            assert_eq!(answered, expected, "{said:.80}");
            sys::fs::remove_file(&socket).unwrap();
        }
    }
}
