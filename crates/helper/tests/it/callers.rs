//! Who may ask, and how.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use proptest::test_runner::{Config, TestRunner};
use sys::packet;
use wire::helper::*;

use crate::ground::{Client, Ground, OWNER, build, is_root};

fn answer(client: &Client, bytes: &[u8], fds: &[OwnedFd]) -> Option<Answer<Gone>> {
    let borrowed: Vec<_> = fs_of(fds);
    packet::send(&client.0, bytes, &borrowed).unwrap();
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let received = packet::receive(&client.0, &mut buffer).unwrap();
    (received.bytes > 0).then(|| serde_json::from_slice(&buffer[..received.bytes]).unwrap())
}

fn fs_of(fds: &[OwnedFd]) -> Vec<std::os::fd::BorrowedFd<'_>> {
    fds.iter().map(std::os::fd::AsFd::as_fd).collect()
}

fn is_closed(client: &Client) -> bool {
    packet::receive(&client.0, &mut [0; 16]).map_or(true, |received| received.bytes == 0)
}

/// A process of `uid` that connects to the helper and says how many bytes came back for a hello.
fn connect_as(ground: &Ground, uid: u32) -> String {
    let hello = serde_json::to_string(&Envelope { operation: None, request: Hello { build: build() }.into() }).unwrap();
    let script = "import socket,sys\n\
        s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET);s.settimeout(20);s.connect(sys.argv[1])\n\
        try:\n s.send(sys.argv[2].encode());print(s.recv(65536).decode())\n\
        except OSError: print('')\n";
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups"])
        .args(["/usr/bin/env", "python3", "-c", script])
        .arg(ground.socket())
        .arg(hello)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn only_the_owner_and_root_are_heard() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    // The socket's own mode would keep strangers out already; what is tested is what stands behind it.
    std::fs::set_permissions(ground.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(connect_as(&ground, OWNER.0).contains("welcome") || connect_as(&ground, OWNER.0).contains("done"));
    for foreign in [OWNER.0 + 1, OWNER.1, 65534, wire::naming::VM_UID_BASE] {
        assert_eq!(connect_as(&ground, foreign), "", "uid {foreign}");
    }
    ground.client();
}

#[test]
fn another_build_is_refused() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let stranger = ground.stranger();
    let refused = stranger.call(Hello { build: "0.0.0+other".into() }, &[]).unwrap_err();
    assert_eq!(refused, Failure::Build { helper: build() });
    let sweep = Sweep { live: Vec::new() };
    assert_eq!(stranger.call(sweep.clone(), &[]).unwrap_err(), Failure::Malformed, "it has not been greeted");
    assert_eq!(ground.stranger().call(sweep, &[]).unwrap_err(), Failure::Malformed);
    let (welcome, _) = stranger.call(Hello { build: build() }, &[]).unwrap();
    assert_eq!((welcome.build, welcome.unfit), (build(), None));
    assert_eq!(welcome.state, ground.state(), "its unit's");
}

#[test]
fn what_is_no_request_ends_the_connection() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let refused = Some(Answer::Refused(Failure::Malformed));
    for garbage in [&b"{"[..], b"\0", b"[]", &[b' '; PACKET_BYTES_MAX + 1], &[b'['; PACKET_BYTES_MAX]] {
        let client = ground.client();
        assert_eq!(answer(&client, garbage, &[]), refused);
        assert!(is_closed(&client));
    }
    let client = ground.client();
    let fds = vec![std::fs::File::open("/dev/null").unwrap().into()];
    let denied = client.call(Sweep { live: Vec::new() }, &fds).unwrap_err();
    assert_eq!(denied, Failure::Denied { rule: Rule::Descriptors }, "descriptors that nobody asked for");
    assert!(client.call(Sweep { live: Vec::new() }, &[]).is_ok(), "a refusal is not the end");
    assert_eq!(open_files(&ground), open_files_after(&ground), "no descriptor stays");
}

fn open_files(ground: &Ground) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", ground.pid())).unwrap().count()
}

fn open_files_after(ground: &Ground) -> usize {
    for _ in 0..50 {
        let client = ground.client();
        let fds: Vec<OwnedFd> = (0..16).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        client.call(Sweep { live: Vec::new() }, &fds).unwrap_err();
        drop(client);
    }
    // One more call: what was closed before it is collected by then.
    let client = ground.client();
    client.call(Sweep { live: Vec::new() }, &[]).unwrap();
    open_files(ground) - 1
}

#[test]
fn the_helper_survives_whatever_comes() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let valid = serde_json::to_vec(&Envelope {
        operation: None,
        request: EnsureTap { slot: wire::naming::Slot::try_from(9).unwrap() }.into(),
    })
    .unwrap();
    let strategy = (proptest::collection::vec(0_u8..=255, 0..200), 0..valid.len(), proptest::bool::ANY);
    runner
        .run(&strategy, |(noise, at, is_noise)| {
            let client = ground.client();
            let mut packet = if is_noise { noise.clone() } else { valid.clone() };
            if let (false, Some(byte)) = (is_noise, noise.first()) {
                packet[at] = *byte;
            }
            if packet.is_empty() {
                return Ok(());
            }
            let borrowed = [];
            packet::send(&client.0, &packet, &borrowed).unwrap();
            let mut buffer = vec![0; PACKET_BYTES_MAX];
            let received = packet::receive(&client.0, &mut buffer).unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&buffer[..received.bytes]).unwrap();
            proptest::prop_assert!(answer.get("refused").is_some() || answer.get("done").is_some(), "{}", answer);
            Ok(())
        })
        .unwrap();
    ground.client().call(Sweep { live: Vec::new() }, &[]).unwrap();
    ground.assert_clean();
}

#[test]
fn too_many_connections_cost_the_newest() {
    if !is_root() {
        return;
    }
    let ground = Ground::new();
    let kept: Vec<_> = (0..32).map(|_| ground.client()).collect();
    assert!(is_closed(&ground.stranger()));
    kept[0].call(Sweep { live: Vec::new() }, &[]).unwrap();
    drop(kept);
    let client = ground.client();
    client.call(Sweep { live: Vec::new() }, &[]).unwrap();
}
