//! Connections that end or begin in the middle of anything.

use std::io::Write;
use std::os::unix::net::UnixListener;

use wire::agent::frame::{Channel, FILLER_BYTES, Kind};
use wire::agent::message::{BootConfig, ExecRequest, Reply, Request, Stage};

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
fn what_an_agent_answered_to_its_configuration_it_answers_again() {
    let agent = Agent::dialing();
    let configure = |hostname: &str| {
        let config = BootConfig { channel_secret: Some(format!("of {hostname}")), ..BootConfig::default() };
        let listener = sys::socket::listen_at(&agent.socket()).unwrap();
        let mut host = Host::over(listener.accept().unwrap().0);
        host.open();
        let hello = host.hello.clone().unwrap();
        (hello.stage, hello.secret, host.ask(&Request::Configure(Box::new(config))))
    };
    let (unconfigured, nothing, first) = configure("one");
    let (serving, secret, again) = configure("another");
    assert_eq!((unconfigured, serving), (Stage::Unconfigured, Stage::Serving));
    assert_eq!((nothing, secret.as_deref()), (None, Some("of one")));
    assert!(matches!(first, Reply::Configured(_)), "{first:?}");
    assert_eq!(again, first, "and nothing is done a second time");
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

/// A host that holds the channel, a command's stream on it, and what the command has said.
struct Held {
    host: Host,
    stream: u32,
    said: Vec<u8>,
}

/// An agent with a command that answers each line, and its host.
fn held() -> (Agent, UnixListener, Held) {
    let agent = Agent::dialing();
    let listener = sys::socket::listen_at(&agent.socket()).unwrap();
    let mut host = Host::over(listener.accept().unwrap().0);
    host.open();
    host.ask(&Request::Configure(Box::default()));
    let stream = host.start(&ExecRequest { stdin: true, ..shell("while read -r line; do echo got $line; done") });
    host.send(Kind::Data, Channel::Input, stream, b"one\n");
    let hold = host.begin(&Request::Hold);
    let mut said = Vec::new();
    let done = loop {
        let frame = host.frame();
        if frame.head.stream == hold {
            break frame;
        }
        // A host that holds the channel says nothing, not even that it has room again.
        assert_eq!((frame.head.kind, frame.head.stream), (Kind::Data, stream));
        said.extend(frame.payload);
    };
    assert_eq!(serde_json::from_slice::<Reply>(&done.payload).unwrap(), Reply::Done { bytes: 0 });
    // What the command says to its first line comes before or behind that, and not twice.
    (agent, listener, Held { host, stream, said })
}

#[test]
fn what_is_held_goes_on_over_the_next_connection() {
    let (_agent, listener, Held { host, stream, mut said }) = held();
    let nonce = host.nonce;
    drop(host);
    let mut next = Host::over(listener.accept().unwrap().0);
    next.next = 100;
    next.open_as(nonce);
    next.send(Kind::Data, Channel::Input, stream, b"two\n");
    next.eof(stream);
    let outcome = next.finish(stream);
    said.extend(&outcome.out);
    assert_eq!((String::from_utf8(said).unwrap().as_str(), outcome.code()), ("got one\ngot two\n", 0));
    assert_eq!(next.sh("echo more").text(), "more\n");
}

#[test]
fn what_is_held_and_did_not_break_goes_on_when_the_host_speaks() {
    let (_agent, _listener, Held { mut host, stream, mut said }) = held();
    host.send(Kind::Data, Channel::Input, stream, b"two\n");
    host.eof(stream);
    said.extend(host.finish(stream).out);
    assert_eq!(String::from_utf8(said).unwrap(), "got one\ngot two\n");
}

#[test]
fn another_host_ends_what_is_held() {
    let (agent, listener, held) = held();
    drop(held);
    let mut next = Host::over(listener.accept().unwrap().0);
    next.open();
    until("the command is gone", || agent.children().is_empty().then_some(()));
    assert_eq!(next.sh("echo new").text(), "new\n");
}
