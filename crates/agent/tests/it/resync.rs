//! Connections that end or begin in the middle of anything.

use std::io::Write;

use wire::agent::frame::{Channel, FILLER_BYTES, Kind};
use wire::agent::message::{ExecRequest, Request};

use crate::host::{Agent, Host, exec, shell, until};

#[test]
fn a_new_preamble_ends_every_stream() {
    let agent = Agent::start();
    let mut host = agent.host();
    for _ in 0..3 {
        host.start(&exec(&["sleep", "1000"]));
    }
    host.open();
    until("all are told", || agent.children().is_empty().then_some(()));
    assert_eq!(host.sh("echo new").text(), "new\n");
}

#[test]
fn a_host_that_goes_away_ends_every_stream_and_the_next_is_served() {
    let agent = Agent::start();
    let mut first = agent.host();
    first.start(&ExecRequest { stdin: true, ..shell("yes") });
    let mut second = agent.connect();
    drop(first);
    second.open();
    assert_eq!(second.sh("echo next").text(), "next\n");
    until("the flood is gone", || agent.children().is_empty().then_some(()));
}

#[test]
fn half_a_frame_and_a_new_preamble() {
    let agent = Agent::start();
    let mut host = agent.host();
    let open = serde_json::to_vec(&Request::Exec(Box::new(shell("echo never")))).unwrap();
    let frame = host.frame_bytes(Kind::Open, Channel::Input, 9, &open);
    for cut in [1, 10, 16, 20, frame.len() - 1] {
        host.stream.write_all(&frame[..cut]).unwrap();
        // A host that got no answer sends filler, because the agent may wait for the rest of a frame.
        host.stream.write_all(&vec![0; FILLER_BYTES]).unwrap();
        host.open();
        assert_eq!(host.sh("echo here").text(), "here\n", "cut at {cut}");
    }
}

#[test]
fn garbage_is_hunted_through() {
    let agent = Agent::start();
    let mut host = agent.connect();
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    host.stream.write_all(&garbage).unwrap();
    host.open();
    host.stream.write_all(&garbage).unwrap();
    host.open();
    assert!(host.hello.is_some());
}

#[test]
fn an_agent_that_connects_by_itself_does_so_whenever_its_host_is_lost() {
    let agent = Agent::dialing();
    let next = || {
        let listener = sys::socket::listen_at(&agent.socket()).unwrap();
        let mut host = Host::over(listener.accept().unwrap().0);
        host.open();
        (host, listener)
    };
    let (mut first, listener) = next();
    first.ask(&Request::Configure(Box::default()));
    first.start(&ExecRequest { stdin: true, ..shell("yes") });
    // The host dies, and it takes a while until there is another one.
    drop((first, listener));
    until("its command is gone", || agent.children().is_empty().then_some(()));
    let (mut second, listener) = next();
    assert_eq!(second.sh("echo again").text(), "again\n");
    drop(second);
    let mut third = Host::over(listener.accept().unwrap().0);
    third.open();
    assert_eq!(third.sh("echo and again").text(), "and again\n");
}
