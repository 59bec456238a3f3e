//! Agents that connect by themselves, and programs that are none.

use super::*;

#[tokio::test]
async fn an_agent_that_connects_is_met_whoever_came_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock_1024");
    let listener = UnixListener::bind(&path).unwrap();
    let met = async || Guest::meet(&listener, None, Instant::now() + SOON).await.unwrap();
    let _silent = UnixStream::connect(&path).await.unwrap();
    drop(UnixStream::connect(&path).await.unwrap());
    let agent = async || Peer::greet(UnixStream::connect(&path).await.unwrap()).await;
    let (guest, peer) = tokio::join!(met(), agent());
    assert_eq!(guest.hello().version, "scripted");
    drop(peer);
    assert!(matches!(guest.closed().await, GuestError::Closed));
    let (again, _peer) = tokio::join!(met(), agent());
    assert_eq!(again.hello().version, "scripted");
    let late = Guest::meet(&listener, None, Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(late, Err(GuestError::Unanswered { .. })), "{late:?}");
}

#[tokio::test]
async fn an_agent_that_connected_by_itself_is_greeted_once_however_slow_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock_1024");
    let listener = UnixListener::bind(&path).unwrap();
    let slow = async {
        let mut socket = UnixStream::connect(&path).await.unwrap();
        let mut bytes = [0; PREAMBLE_BYTES];
        socket.read_exact(&mut bytes).await.unwrap();
        // Longer than a host waits that may have left something behind.
        tokio::time::sleep(Duration::from_millis(800)).await;
        let mut more = [0; 1];
        let read = socket.try_read(&mut more);
        assert!(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "it was greeted again");
        let Hunt::Found { nonce, .. } = hunt_preamble(&bytes) else { panic!("no preamble") };
        let tag = Tag::of(&nonce);
        let mut peer = Peer { socket, tag, decoder: Decoder::new(tag, FROM_HOST_MAX) };
        peer.socket.write_all(&preamble_reply(&nonce)).await.unwrap();
        peer.send(Kind::Hello, Channel::Input, 0, HELLO).await;
        peer
    };
    let (guest, _peer) = tokio::join!(Guest::meet(&listener, None, Instant::now() + SOON), slow);
    assert_eq!(guest.unwrap().hello().version, "scripted");
}

/// A hello that says this.
fn hello_with(secret: &str) -> String {
    let plain = std::str::from_utf8(HELLO).unwrap().strip_suffix('}').unwrap();
    format!(r#"{plain},"secret":"{secret}"}}"#)
}

#[tokio::test]
async fn a_program_that_does_not_know_the_secret_is_not_taken_for_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock_1024");
    let listener = UnixListener::bind(&path).unwrap();
    let secret = Secret::fresh();
    let met = Guest::meet(&listener, Some(&secret), Instant::now() + SOON);
    let guest = async {
        let (short, wrong) = (&secret.text()[..63], Secret::fresh());
        for hello in [HELLO.to_vec(), hello_with("").into(), hello_with(short).into(), hello_with(wrong.text()).into()]
        {
            let mut impostor = Peer::greet_with(UnixStream::connect(&path).await.unwrap(), &hello).await;
            let heard = timeout(SOON, impostor.socket.read(&mut [0; 1])).await.expect("it is turned away");
            assert!(matches!(heard, Ok(0) | Err(_)), "and told nothing: {heard:?}");
        }
        let hello = hello_with(secret.text());
        Peer::greet_with(UnixStream::connect(&path).await.unwrap(), hello.as_bytes()).await
    };
    let (met, _agent) = tokio::join!(met, guest);
    assert!(secret.is_said_by(met.unwrap().hello()));
}

#[test]
fn a_secret_is_kept_for_its_owner_alone_until_there_is_another() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Secret::kept(dir.path()).unwrap(), None);
    let (first, second) = (Secret::fresh(), Secret::fresh());
    assert!(first != second, "each boot has its own");
    for secret in [&first, &second] {
        secret.keep(dir.path()).unwrap();
        assert_eq!(Secret::kept(dir.path()).unwrap().as_ref(), Some(secret));
    }
    assert_eq!(std::fs::metadata(Secret::path(dir.path())).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(format!("{first:?}"), "Secret", "it is in no log");
}
