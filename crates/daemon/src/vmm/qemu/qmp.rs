//! QEMU's own protocol, as far as it is needed: to be greeted is to know that QEMU is up.
//!
//! The socket exists from early on, but QEMU greets (`{"QMP": …}`, docs/interop/qmp-spec) only from its main loop: with
//! kernel, drives and memory in place, and the guest running.

use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// What a greeting begins with.
const GREETING: &[u8] = b"{\"QMP\"";

/// Whether a QEMU greets behind `socket`; waits for it once connected.
pub(super) async fn greets(socket: &Path) -> bool {
    let Ok(mut connection) = UnixStream::connect(socket).await else {
        return false;
    };
    let mut begin = [0; GREETING.len()];
    connection.read_exact(&mut begin).await.is_ok() && begin == GREETING
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn only_a_greeting_counts() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        assert!(!greets(&socket).await, "no socket");
        for (said, expected) in [("{\"QMP\": {\"version\": {}}}\r\n", true), ("hello, world", false), ("{\"Q", false)] {
            let listener = UnixListener::bind(&socket).unwrap();
            let (greeted, ()) = tokio::join!(greets(&socket), async {
                let (mut peer, _) = listener.accept().await.unwrap();
                peer.write_all(said.as_bytes()).await.unwrap();
            });
            assert_eq!(greeted, expected, "{said}");
            sys::fs::remove_file(&socket).unwrap();
        }
    }
}
