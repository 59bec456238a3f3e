//! Sessions, with the real agent serving a directory of the host: they outlive the connection, and nobody who looks at
//! one holds up it, its other watchers or anybody else.

use std::time::{Duration, Instant};

use bytes::Bytes;
use daemon::guest::session::{SessionStream, Shown};
use daemon::guest::{Guest, GuestError};
use tokio::time::timeout;
use wire::agent::message::{ExitStatus, Failure};
use wire::agent::session::{KEPT_BYTES, SessionAttach, Source};

use crate::agent::{Running, SOON, output, running, sh};

/// How long a command may take beside a flood; it takes milliseconds when nothing holds it up.
const RESPONSIVE: Duration = Duration::from_secs(10);

fn follow(name: &str) -> SessionAttach {
    SessionAttach { name: name.to_owned(), input: true, follow: true, ..SessionAttach::default() }
}

/// Reads until `text` was shown or the end; what was shown, and how much was missed.
async fn read_until(stream: &SessionStream, text: &str) -> (String, u64) {
    let (mut seen, mut missed) = (String::new(), 0);
    while text.is_empty() || !seen.contains(text) {
        match timeout(SOON, stream.read()).await.expect("output comes").unwrap() {
            Some(Shown::Bytes(Source::Output, bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Shown::Bytes(Source::Error, bytes)) => {
                seen.push_str(&format!("[{}]", String::from_utf8_lossy(&bytes)))
            }
            Some(Shown::Skipped(count)) => missed += count,
            None => break,
        }
    }
    (seen, missed)
}

async fn send(guest: &Guest, name: &str, text: &'static str, ends: bool) -> Result<u64, GuestError> {
    let input = guest.send_session(name, ends).await?;
    input.write(Bytes::from_static(text.as_bytes())).await?;
    input.finish().await
}

#[tokio::test]
async fn a_session_is_found_again_by_the_next_daemon() {
    let running = running().await;
    let script = "echo up; echo bad >&2; while read x; do echo got $x; done; exit 7";
    let started = running.guest.start_session(Some("dev".into()), sh(script)).await.unwrap();
    assert_eq!((started.name.as_str(), started.ended), ("dev", None));
    let watcher = running.guest.attach_session(follow("dev")).await.unwrap();
    read_until(&watcher, "[bad\n]").await;
    drop(watcher);
    let running = running.reconnect().await;

    let sessions = running.guest.sessions().await.unwrap();
    assert_eq!((sessions.len(), sessions[0].pid), (1, started.pid));
    let one = running.guest.attach_session(follow("dev")).await.unwrap();
    let two = running.guest.attach_session(follow("dev")).await.unwrap();
    for watcher in [&one, &two] {
        assert_eq!(read_until(watcher, "[bad\n]").await, ("up\n[bad\n]".to_owned(), 0));
    }
    assert!(one.input().write(Bytes::from_static(b"one\n")).await.unwrap());
    read_until(&one, "got one\n").await;
    assert_eq!(send(&running.guest, "dev", "two\n", true).await.unwrap(), 4);
    for watcher in [&one, &two] {
        assert!(read_until(watcher, "").await.0.ends_with("got two\n"));
        assert_eq!(watcher.ended().await.unwrap(), Some(ExitStatus::Code { code: 7 }));
    }
    assert_eq!(running.guest.health().await.unwrap().sessions, 0);
    let kept = running.guest.attach_session(SessionAttach { follow: false, tail_lines: Some(1), ..follow("dev") });
    let kept = kept.await.unwrap();
    assert_eq!(read_until(&kept, "").await.0, "got two\n");
    assert_eq!(kept.ended().await.unwrap(), None);
    running.guest.forget_session("dev").await.unwrap();
    assert!(running.guest.sessions().await.unwrap().is_empty());
    running.end().await;
}

#[tokio::test]
async fn a_watcher_that_stalls_holds_up_nobody() {
    let running = running().await;
    let guest = &running.guest;
    guest.start_session(Some("flood".into()), sh("exec yes flooded")).await.unwrap();
    let stalled = guest.attach_session(follow("flood")).await.unwrap();
    let watching = guest.attach_session(follow("flood")).await.unwrap();
    let began = Instant::now();
    let (mut seen, mut asked) = (0, 0);
    while seen < 64 * KEPT_BYTES as u64 {
        match timeout(SOON, watching.read()).await.expect("it goes on").unwrap() {
            Some(Shown::Bytes(_, bytes)) => seen += bytes.len() as u64,
            Some(Shown::Skipped(count)) => seen += count,
            None => panic!("it ended"),
        }
        if seen > asked * 2 * KEPT_BYTES as u64 {
            asked += 1;
            let began = Instant::now();
            assert_eq!(output(&running.sh("echo hello").await).await, b"hello\n");
            assert!(began.elapsed() < RESPONSIVE, "{:?}", began.elapsed());
        }
    }
    assert!(began.elapsed() < SOON);
    // The one that stalled lost the middle, is told so, and follows again.
    let (_, missed) = read_until(&stalled, &"flooded\n".repeat(KEPT_BYTES / 8)).await;
    assert!(missed > 0);
    guest.stop_session("flood", 60_000).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn sessions_are_stopped_and_refused() {
    let running = running().await;
    let guest = &running.guest;
    let polite = "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done";
    guest.start_session(Some("polite".into()), sh(polite)).await.unwrap();
    read_until(&guest.attach_session(follow("polite")).await.unwrap(), "up\n").await;
    assert_eq!(guest.stop_session("polite", 60_000).await.unwrap(), ExitStatus::Code { code: 3 });
    let over = Failure::SessionOver { name: "polite".into() };
    assert!(matches!(guest.signal_session("polite", 15).await, Err(GuestError::Failed(f)) if f == over));
    assert!(matches!(send(guest, "polite", "x", false).await, Err(GuestError::Failed(f)) if f == over));
    let missing = guest.attach_session(follow("none")).await.unwrap();
    assert!(matches!(missing.ended().await, Err(GuestError::Failed(Failure::NoSuchSession { .. }))));
    guest.start_session(Some("killed".into()), sh("sleep 1000 & wait")).await.unwrap();
    let watcher = guest.attach_session(follow("killed")).await.unwrap();
    guest.signal_session("killed", 9).await.unwrap();
    assert_eq!(timeout(SOON, watcher.ended()).await.unwrap().unwrap(), Some(ExitStatus::Signal { signal: 9 }));
    running.end().await;
}

impl Running {
    /// The same guest, as another daemon finds it.
    async fn reconnect(self) -> Running {
        let Running { _dir, sim, launch, vmm, guest } = self;
        drop(guest);
        let guest = Guest::connect(&launch.agent_socket(), tokio::time::Instant::now() + SOON).await.unwrap();
        Running { _dir, sim, launch, vmm, guest }
    }
}
