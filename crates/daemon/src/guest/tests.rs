//! The client against a scripted agent: one that keeps the protocol, and ones that do not.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use wire::agent::WINDOW_BYTES;
use wire::agent::frame::{
    Channel, DATA_MAX, Decoder, FILLER_BYTES, FROM_HOST_MAX, Frame, Head, Hunt, Kind, PREAMBLE_BYTES, Tag, encode,
    hunt_preamble, preamble_reply,
};
use wire::agent::message::{Control, ExitStatus, Stage};

use super::answering::Patience;
use super::*;

mod hold;
mod meeting;
mod workspace;

const SOON: Duration = Duration::from_secs(20);

/// The agent's end of a connection, by hand.
pub(crate) struct Peer {
    socket: UnixStream,
    tag: Tag,
    decoder: Decoder,
}

const HELLO: &[u8] = br#"{"generation":6,"version":"scripted","vm":"v","boot":"b","stage":"serving","uptime_ms":5}"#;

impl Peer {
    /// Answers the first preamble.
    async fn greet(socket: UnixStream) -> Peer {
        Peer::greet_with(socket, HELLO).await
    }

    async fn greet_with(mut socket: UnixStream, hello: &[u8]) -> Peer {
        let mut bytes = [0; PREAMBLE_BYTES];
        socket.read_exact(&mut bytes).await.unwrap();
        let Hunt::Found { nonce, .. } = hunt_preamble(&bytes) else { panic!("no preamble") };
        let tag = Tag::of(&nonce);
        let mut peer = Peer { socket, tag, decoder: Decoder::new(tag, FROM_HOST_MAX) };
        peer.socket.write_all(&preamble_reply(&nonce)).await.unwrap();
        peer.send(Kind::Hello, Channel::Input, 0, hello).await;
        peer
    }

    async fn send(&mut self, kind: Kind, channel: Channel, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode(&mut bytes, Head { kind, channel, stream }, payload, self.tag);
        // A host that cut us off takes no more; the test sees that on the other side.
        let _sent: std::io::Result<()> = self.socket.write_all(&bytes).await;
    }

    pub(crate) async fn reply(&mut self, stream: u32, reply: &Reply) {
        self.send(Kind::Reply, Channel::Input, stream, &serde_json::to_vec(reply).unwrap()).await;
    }

    async fn data(&mut self, stream: u32, bytes: &[u8]) {
        self.send(Kind::Data, Channel::Output, stream, bytes).await;
    }

    pub(crate) async fn next(&mut self) -> Frame {
        let mut buffer = vec![0; DATA_MAX];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let count = timeout(SOON, self.socket.read(&mut buffer)).await.expect("no frame came").unwrap();
            assert!(count > 0, "the host hung up");
            self.decoder.push(&buffer[..count]);
        }
    }
}

pub(crate) async fn pair() -> (Guest, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (guest, peer) = tokio::join!(Guest::over(ours, Instant::now() + SOON), Peer::greet(theirs));
    (guest.unwrap(), peer)
}

fn command() -> ExecRequest {
    ExecRequest { argv: vec!["x".into()], stdin: true, ..ExecRequest::default() }
}

#[tokio::test]
async fn a_command_from_start_to_end() {
    let (guest, mut peer) = pair().await;
    assert_eq!((guest.hello().version.as_str(), guest.hello().stage), ("scripted", Stage::Serving));
    let exec = guest.exec(command()).await.unwrap();
    let open = peer.next().await;
    assert_eq!((open.head.kind, open.head.stream), (Kind::Open, 1));
    assert!(matches!(serde_json::from_slice(&open.payload).unwrap(), Request::Exec(_)));
    peer.reply(1, &Reply::Started { pid: 42 }).await;
    assert_eq!(exec.started().await.unwrap(), 42);
    assert!(exec.write(Bytes::from_static(b"in")).await.unwrap());
    exec.control(Control::Signal { signal: 15 }).await.unwrap();
    exec.close_input();
    assert_eq!(peer.next().await.payload, b"in");
    assert_eq!(peer.next().await.head.kind, Kind::Control);
    assert_eq!(peer.next().await.head.kind, Kind::Eof);
    peer.data(1, b"out").await;
    peer.send(Kind::Data, Channel::Error, 1, b"err").await;
    peer.reply(1, &Reply::Exited(ExitStatus::Code { code: 3 })).await;
    assert_eq!(exec.exited().await.unwrap(), ExitStatus::Code { code: 3 });
    assert_eq!(exec.read_output().await.unwrap().unwrap(), "out");
    assert_eq!(exec.read_output().await.unwrap(), None);
    assert_eq!(exec.read_error().await.unwrap().unwrap(), "err");
    assert_eq!(exec.read_error().await.unwrap(), None);
    assert!(!exec.write(Bytes::from_static(b"late")).await.unwrap(), "it takes no more input");
}

#[tokio::test]
async fn frames_may_come_in_any_pieces() {
    let (guest, mut peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    peer.next().await;
    let mut bytes = Vec::new();
    encode(&mut bytes, Head { kind: Kind::Data, channel: Channel::Output, stream: 1 }, b"hello, world", peer.tag);
    for byte in bytes {
        peer.socket.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(exec.read_output().await.unwrap().unwrap(), "hello, world");
}

#[tokio::test]
async fn an_answer_is_found_behind_what_an_older_connection_left() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&[0xfe; 100_000]).await.unwrap();
    theirs.write_all(&preamble_reply(&[9; 16])).await.unwrap();
    let (guest, _peer) = tokio::join!(Guest::over(ours, Instant::now() + SOON), Peer::greet(theirs));
    guest.unwrap();
}

#[tokio::test]
async fn a_guest_that_is_silent_is_given_up_at_the_deadline() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = Guest::over(ours, Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, GuestError::Unanswered { .. }), "{error:?}");
    let absent = Path::new("/nonexistent/agent.sock");
    let error = Guest::connect(absent, Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to the guest's channel at /nonexistent/agent.sock");
}

#[tokio::test]
async fn an_agent_in_the_middle_of_a_frame_is_helped_out() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = async {
        // The first preamble is swallowed as a part of whatever it was reading.
        theirs.read_exact(&mut [0; PREAMBLE_BYTES]).await.unwrap();
        let mut filler = vec![1; FILLER_BYTES];
        theirs.read_exact(&mut filler).await.unwrap();
        assert!(filler.iter().all(|b| *b == 0));
        Peer::greet(theirs).await
    };
    let (guest, _peer) = tokio::join!(Guest::over(ours, Instant::now() + SOON), agent);
    guest.unwrap();
}

#[tokio::test]
async fn a_channel_that_takes_and_never_gives_is_connected_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let agent = async {
        let (mut stuck, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        stuck.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen.len(), PREAMBLE_BYTES);
        let (mut busy, _) = listener.accept().await.unwrap();
        let mut filled = vec![0; FILLER_BYTES];
        busy.read_exact(&mut filled).await.unwrap();
        Peer::greet(busy).await
    };
    let (guest, _peer) = tokio::join!(Guest::connect(&path, Instant::now() + SOON), agent);
    guest.unwrap();
}

#[tokio::test]
async fn what_the_guest_has_not_read_is_not_sent_again() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let error = Guest::over(ours, Instant::now() + Duration::from_millis(2500)).await.unwrap_err();
    assert!(matches!(error, GuestError::Unanswered { .. }), "{error:?}");
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), PREAMBLE_BYTES);
}

#[tokio::test]
async fn a_guest_that_breaks_the_protocol_is_cut_off_and_named() {
    type Script = fn(&mut Vec<u8>, Tag);
    let table: [(&str, Script); 10] = [
        ("bytes that are no frame", |out, _| out.extend_from_slice(&[0xaa; 64])),
        ("bytes that are no frame", |out, _| {
            encode(out, Head { kind: Kind::Event, channel: Channel::Input, stream: 0 }, b"{}", Tag::of(&[1; 16]));
        }),
        ("a frame of 65537 bytes where at most 65536", |out, tag| {
            let head = Head { kind: Kind::Data, channel: Channel::Output, stream: 1 };
            out.extend_from_slice(&wire::agent::frame::header(head, 65537, tag));
        }),
        ("sent 65536 bytes on the Output channel of stream 1, whose window had 0 left", |out, tag| {
            for _ in 0..5 {
                encode(out, Head { kind: Kind::Data, channel: Channel::Output, stream: 1 }, &[0; DATA_MAX], tag);
            }
        }),
        ("a second one", |out, tag| {
            encode(out, Head { kind: Kind::Hello, channel: Channel::Input, stream: 0 }, HELLO, tag);
        }),
        ("flooded the host with events", |out, tag| {
            let event = br#"{"event":"warning","message":"x"}"#;
            for _ in 0..1000 {
                encode(out, Head { kind: Kind::Event, channel: Channel::Input, stream: 0 }, event, tag);
            }
        }),
        ("frames of streams that are over (the last one of stream 77)", |out, tag| {
            for _ in 0..1000 {
                encode(out, Head { kind: Kind::Reply, channel: Channel::Input, stream: 77 }, b"", tag);
            }
        }),
        ("it granted 4294967295 bytes on stream 1", |out, tag| {
            encode(out, Head { kind: Kind::Credit, channel: Channel::Input, stream: 1 }, &[255; 4], tag);
        }),
        ("a Reply frame that cannot be read", |out, tag| {
            encode(out, Head { kind: Kind::Reply, channel: Channel::Input, stream: 1 }, b"{nonsense", tag);
        }),
        ("a Data frame, without a byte in it", |out, tag| {
            encode(out, Head { kind: Kind::Data, channel: Channel::Output, stream: 1 }, b"", tag);
        }),
    ];
    for (expected, script) in table {
        let (guest, mut peer) = pair().await;
        let exec = guest.exec(command()).await.unwrap();
        peer.next().await;
        let mut bytes = Vec::new();
        script(&mut bytes, peer.tag);
        let _sent: std::io::Result<()> = peer.socket.write_all(&bytes).await;
        let GuestError::CutOff(what) = timeout(SOON, guest.closed()).await.expect(expected) else {
            panic!("{expected}")
        };
        assert!(what.to_string().contains(expected), "{what} for {expected}");
        assert!(matches!(exec.exited().await, Err(GuestError::CutOff(_))));
        assert!(matches!(guest.health().await, Err(GuestError::CutOff(_))), "later calls say why");
    }
}

#[tokio::test]
async fn an_agent_that_vanishes_ends_its_streams() {
    let (guest, mut peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    peer.next().await;
    peer.reply(1, &Reply::Started { pid: 1 }).await;
    peer.data(1, b"some").await;
    assert_eq!(exec.read_output().await.unwrap().unwrap(), "some");
    peer.data(1, b"more").await;
    drop(peer);
    assert!(matches!(timeout(SOON, exec.exited()).await.unwrap(), Err(GuestError::Closed)));
    assert_eq!(exec.read_output().await.unwrap().unwrap(), "more", "what came is not lost");
    assert!(matches!(exec.read_output().await, Err(GuestError::Closed)));
    assert!(matches!(exec.write(Bytes::from_static(b"x")).await, Err(GuestError::Closed)));
    assert!(matches!(guest.closed().await, GuestError::Closed));
}

#[tokio::test]
async fn a_stalled_stream_blocks_nobody() {
    let (guest, mut peer) = pair().await;
    let stalled = guest.exec(command()).await.unwrap();
    peer.next().await;
    for _ in 0..4 {
        peer.data(1, &[1; DATA_MAX]).await;
    }
    // Its input is not taken either.
    let mut writing = Box::pin(stalled.write(Bytes::from(vec![0; 1 << 20])));
    assert!(timeout(Duration::from_millis(50), &mut writing).await.is_err());
    let sent = async {
        let mut bytes = 0;
        while bytes < WINDOW_BYTES as usize {
            bytes += peer.next().await.payload.len();
        }
        assert_eq!(bytes, WINDOW_BYTES as usize, "exactly the window");
        let open = peer.next().await;
        assert_eq!(open.head, Head { kind: Kind::Open, channel: Channel::Input, stream: 2 });
        peer.reply(2, &Reply::Done { bytes: 0 }).await;
    };
    let (synced, ()) = timeout(SOON, async { tokio::join!(guest.sync(), sent) }).await.unwrap();
    synced.unwrap();
    // Credit lets the writer go on by as much.
    peer.send(Kind::Credit, Channel::Input, 1, &10_u32.to_le_bytes()).await;
    assert!(timeout(Duration::from_millis(50), &mut writing).await.is_err());
    let frame = peer.next().await;
    assert_eq!((frame.head.kind, frame.payload.len()), (Kind::Data, 10));
}

#[tokio::test]
async fn credit_is_granted_for_what_was_taken() {
    let (guest, mut peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    peer.next().await;
    for _ in 0..4 {
        peer.data(1, &[1; DATA_MAX]).await;
    }
    let mut taken = 0;
    let mut granted = 0;
    while taken < WINDOW_BYTES as usize {
        taken += exec.read_output().await.unwrap().unwrap().len();
        let frame = peer.next().await;
        assert_eq!(frame.head, Head { kind: Kind::Credit, channel: Channel::Output, stream: 1 });
        granted += u32::from_le_bytes(frame.payload.try_into().unwrap()) as usize;
        assert!(granted <= taken, "{granted} granted, {taken} taken");
    }
    assert_eq!(granted, taken);
}

#[tokio::test]
async fn a_dropped_stream_is_reset_and_its_late_frames_are_let_pass() {
    let (guest, mut peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    peer.next().await;
    drop(exec);
    assert_eq!(peer.next().await.head, Head { kind: Kind::Reset, channel: Channel::Input, stream: 1 });
    for _ in 0..4 {
        peer.data(1, &[1; DATA_MAX]).await;
    }
    peer.reply(1, &Reply::Exited(ExitStatus::Signal { signal: 9 })).await;
    let answered = async {
        let open = peer.next().await;
        peer.reply(open.head.stream, &Reply::Done { bytes: 0 }).await;
    };
    let (synced, ()) = tokio::join!(guest.sync(), answered);
    synced.unwrap();
}

#[tokio::test]
async fn a_request_the_guest_gives_up_says_so() {
    let (guest, mut peer) = pair().await;
    let answers = async {
        peer.next().await;
        peer.send(Kind::Reset, Channel::Input, 1, b"").await;
        peer.next().await;
        peer.reply(2, &Reply::Failed(Failure::Unsupported)).await;
        peer.next().await;
        peer.reply(3, &Reply::Started { pid: 1 }).await;
    };
    let calls = async {
        assert!(matches!(guest.sync().await, Err(GuestError::GaveUp)));
        assert!(matches!(guest.sync().await, Err(GuestError::Failed(Failure::Unsupported))));
        assert!(matches!(guest.sync().await, Err(GuestError::Unexpected { .. })));
    };
    tokio::join!(answers, calls);
}

#[tokio::test]
async fn events_before_the_first_listener_are_kept() {
    let (guest, mut peer) = pair().await;
    peer.send(Kind::Event, Channel::Input, 0, br#"{"event":"ending","how":"reboot"}"#).await;
    let mut events = guest.events();
    let event = timeout(SOON, events.recv()).await.unwrap().unwrap();
    assert_eq!(event, Event::Ending { how: Ending::Reboot });
}

#[tokio::test]
async fn limits_of_the_host_itself() {
    let (guest, mut peer) = pair().await;
    let huge = ExecRequest { argv: vec!["x".repeat(FROM_HOST_MAX)], ..ExecRequest::default() };
    assert!(matches!(guest.exec(huge).await, Err(GuestError::TooLarge { .. })));
    let mut open = Vec::new();
    for _ in 0..wire::agent::STREAMS_MAX {
        open.push(guest.exec(command()).await.unwrap());
        peer.next().await;
    }
    assert!(matches!(guest.exec(command()).await, Err(GuestError::Busy)));
    open.pop();
    peer.next().await;
    guest.exec(command()).await.expect("there is room again");
}

#[tokio::test]
async fn the_connection_ends_with_its_last_handle() {
    let (guest, mut peer) = pair().await;
    let exec = guest.exec(command()).await.unwrap();
    drop(guest);
    peer.next().await;
    peer.data(1, b"still here").await;
    assert_eq!(exec.read_output().await.unwrap().unwrap(), "still here");
    drop(exec);
    assert_eq!(peer.next().await.head.kind, Kind::Reset);
    assert_eq!(timeout(SOON, peer.socket.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn trees_go_in_and_out() {
    let (guest, mut peer) = pair().await;
    let sent = vec![7_u8; 200_000];
    let script = async {
        assert_eq!(peer.next().await.head.kind, Kind::Open);
        let mut got = 0;
        loop {
            let frame = peer.next().await;
            if frame.head.kind == Kind::Eof {
                break;
            }
            got += frame.payload.len();
        }
        peer.reply(1, &Reply::Done { bytes: got as u64 }).await;
        assert_eq!(peer.next().await.head.kind, Kind::Open);
        peer.data(2, b"tar").await;
        peer.send(Kind::Eof, Channel::Output, 2, b"").await;
        peer.reply(2, &Reply::Done { bytes: 3 }).await;
    };
    let calls = async {
        assert_eq!(guest.put_tree("/x", sent.as_slice()).await.unwrap(), 200_000);
        let tree = guest.get_tree("/x", false).await.unwrap();
        assert_eq!(tree.read().await.unwrap().unwrap(), "tar");
        assert_eq!(tree.read().await.unwrap(), None);
        assert_eq!(tree.done().await.unwrap(), 3);
    };
    tokio::join!(script, calls);
}

#[tokio::test]
async fn slow_work_of_a_guest_that_answers_is_waited_for() {
    let (guest, mut peer) = pair().await;
    let patience = Patience { ask_every: Duration::from_millis(1), answer_within: SOON };
    let (over, work) = tokio::sync::oneshot::channel();
    let answers = async {
        for _ in 0..3 {
            let open = peer.next().await;
            assert_eq!(serde_json::from_slice::<Request>(&open.payload).unwrap(), Request::Health);
            // Whatever it answers.
            peer.reply(open.head.stream, &Reply::Failed(Failure::Unsupported)).await;
        }
        over.send("done").unwrap();
    };
    let work = async { Ok::<_, GuestError>(work.await.unwrap()) };
    let (done, ()) = tokio::join!(guest.while_answering(patience, work), answers);
    assert_eq!(done.unwrap(), "done");
}

#[tokio::test]
async fn work_of_a_guest_that_stands_still_is_given_up() {
    let (guest, _peer) = pair().await;
    let patience = Patience { ask_every: Duration::ZERO, answer_within: Duration::from_millis(20) };
    let error = timeout(SOON, guest.while_answering(patience, guest.sync())).await.unwrap().unwrap_err();
    assert!(matches!(error, GuestError::Stuck { .. }), "{error:?}");
}
