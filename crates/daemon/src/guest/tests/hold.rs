//! Connections that break on purpose, and go on.

use super::*;

/// A command that runs in a guest whose connection is held.
async fn held() -> (Guest, Peer, ExecStream) {
    let (guest, mut peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    peer.next().await;
    peer.reply(1, &Reply::Started { pid: 7 }).await;
    assert!(!guest.is_held());
    let agent = async {
        let hold = peer.next().await;
        assert_eq!(serde_json::from_slice::<Request>(&hold.payload).unwrap(), Request::Hold);
        peer.data(1, b"before ").await;
        peer.reply(hold.head.stream, &Reply::Done { bytes: 0 }).await;
    };
    let (done, ()) = tokio::join!(guest.hold(), agent);
    done.unwrap();
    assert!(guest.is_held());
    assert!(exec.write(Bytes::from_static(b"typed meanwhile")).await.unwrap());
    (guest, peer, exec)
}

/// Another connection of the same agent, and what it sends right behind its hello.
async fn come_back(guest: &Guest, said: &[u8]) -> (Result<(), GuestError>, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = async {
        let mut peer = Peer::greet(theirs).await;
        peer.data(1, said).await;
        peer
    };
    tokio::join!(guest.go_on_over(ours, None, Instant::now() + SOON), agent)
}

#[tokio::test]
async fn everything_goes_on_over_the_connection_that_comes_next() {
    let (guest, old, exec) = held().await;
    let tag = old.tag;
    drop(old);
    let (done, mut peer) = come_back(&guest, b"and behind").await;
    done.unwrap();
    assert_eq!(peer.tag, tag, "the agent knows it by what it was opened with");
    assert_eq!(peer.next().await.payload, b"typed meanwhile");
    let mut said = Vec::new();
    while said.len() < b"before and behind".len() {
        said.extend(exec.read_output().await.unwrap().unwrap());
    }
    assert_eq!(said, b"before and behind");
    peer.reply(1, &Reply::Exited(ExitStatus::Code { code: 0 })).await;
    assert_eq!(exec.exited().await.unwrap(), ExitStatus::Code { code: 0 });
    assert!(!guest.is_held());
}

#[tokio::test]
async fn nothing_is_said_while_it_is_held_and_all_of_it_afterwards() {
    let (guest, mut peer, exec) = held().await;
    let early = timeout(Duration::from_millis(100), peer.socket.read(&mut [0; 1])).await;
    assert!(early.is_err(), "it would be lost");
    // It did not break.
    guest.release(Duration::ZERO);
    assert_eq!(peer.next().await.payload, b"typed meanwhile");
    peer.reply(1, &Reply::Exited(ExitStatus::Code { code: 4 })).await;
    assert_eq!(exec.exited().await.unwrap(), ExitStatus::Code { code: 4 });
}

#[tokio::test]
async fn one_that_broke_and_is_held_no_longer_is_over() {
    let (guest, old, exec) = held().await;
    drop(old);
    guest.release(Duration::from_millis(20));
    assert!(matches!(exec.exited().await.unwrap_err(), GuestError::Closed));
    assert!(matches!(guest.closed().await, GuestError::Closed));
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let late = guest.go_on_over(ours, None, Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(late.unwrap_err(), GuestError::Unanswered { .. }));
}

#[tokio::test]
async fn whoever_does_not_know_the_connection_is_not_gone_on_with() {
    let (guest, _old, exec) = held().await;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let stranger = async {
        theirs.write_all(&preamble_reply(&[9; 16])).await.unwrap();
        theirs.write_all(b"let me in").await.unwrap();
        drop(theirs);
    };
    let (done, ()) = tokio::join!(guest.go_on_over(ours, None, Instant::now() + SOON), stranger);
    assert!(matches!(done.unwrap_err(), GuestError::Closed));
    assert!(guest.is_held());
    let (done, mut peer) = come_back(&guest, b"x").await;
    done.unwrap();
    assert_eq!(peer.next().await.payload, b"typed meanwhile");
    drop(exec);
}

#[tokio::test]
async fn one_that_is_ended_is_over_for_everybody() {
    let (guest, _peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    guest.end();
    assert!(matches!(exec.exited().await.unwrap_err(), GuestError::Closed));
    assert!(matches!(guest.closed().await, GuestError::Closed));
    let (guest, _peer, exec) = held().await;
    guest.end();
    assert!(matches!(exec.exited().await.unwrap_err(), GuestError::Closed));
}

#[tokio::test]
async fn an_agent_that_cannot_is_not_asked() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let old = HELLO.to_vec().iter().map(|byte| if *byte == b'6' { b'5' } else { *byte }).collect::<Vec<u8>>();
    let (guest, _peer) = tokio::join!(Guest::over(ours, Instant::now() + SOON), Peer::greet_with(theirs, &old));
    let guest = guest.unwrap();
    assert!(matches!(guest.hold().await.unwrap_err(), GuestError::Failed(Failure::Unsupported)));
    assert!(!guest.is_held());
}
