//! Many streams on one connection: nobody blocks anybody, and memory stays bounded.

use std::io::Read;

use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{ExecRequest, Failure, Reply, Request};
use wire::agent::{STREAMS_MAX, WINDOW_BYTES};

use crate::host::{Agent, Host, Outcome, content, exec, is_alive, shell, until};

/// Memory an agent may ever have, whatever is thrown at it: its binary, one inbound frame and what waits to be sent.
const PEAK_KIB_MAX: u64 = 24 * 1024;

/// A reader of so many bytes that differ from place to place.
struct Pattern {
    at: u64,
    length: u64,
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(usize::try_from(self.length - self.at).unwrap());
        for (offset, byte) in buffer[..count].iter_mut().enumerate() {
            *byte = pattern(self.at + offset as u64);
        }
        self.at += count as u64;
        Ok(count)
    }
}

fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8
}

#[test]
fn a_large_input_comes_back_whole() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mib = std::env::var("AGENT_TEST_MIB").map_or(64, |mib| mib.parse().unwrap());
    let length = mib << 20;
    let stream = host.start(&ExecRequest { stdin: true, ..exec(&["cat"]) });
    let mut at = 0;
    let outcome = host.pump(stream, &mut Pattern { at: 0, length }, &mut |bytes| {
        for byte in bytes {
            assert_eq!(*byte, pattern(at), "at {at}");
            at += 1;
        }
    });
    assert_eq!((outcome.code(), at), (0, length));
    assert!(agent.peak_kib() < PEAK_KIB_MAX, "{} KiB", agent.peak_kib());
}

#[test]
fn a_flood_nobody_reads_stops_at_its_window_and_blocks_nobody() {
    let agent = Agent::start();
    let mut host = agent.host();
    let flood = host.start(&shell("yes & yes >&2"));
    let mut got = Outcome::default();
    let mut counts = [0_usize; 2];
    // Not a byte is granted: both channels end at their windows, exactly.
    while counts != [WINDOW_BYTES as usize; 2] {
        let frame = host.frame();
        assert_eq!((frame.head.kind, frame.head.stream), (Kind::Data, flood));
        counts[usize::from(frame.head.channel == Channel::Error)] += frame.payload.len();
    }
    for n in 0..20 {
        assert_eq!(host.sh(&format!("echo {n}")).text(), format!("{n}\n"));
    }
    host.grant(Channel::Output, flood, 10);
    let frame = host.frame();
    host.take(&frame, &mut got);
    assert_eq!(got.out.len(), 10, "credit is used to the byte");
    host.reset(flood);
    until("the flood is gone", || agent.children().is_empty().then_some(()));
    assert!(agent.peak_kib() < PEAK_KIB_MAX, "{} KiB", agent.peak_kib());
}

#[test]
fn input_nobody_takes_is_not_granted() {
    let agent = Agent::start();
    let mut host = agent.host();
    let stream = host.start(&ExecRequest { stdin: true, ..shell("exec sleep 1000") });
    let chunk = vec![b'x'; 65536];
    for _ in 0..WINDOW_BYTES / 65536 {
        host.send(Kind::Data, Channel::Input, stream, &chunk);
    }
    // What the pipe took may be granted again, and no more than that.
    assert_eq!(host.sh("echo works").text(), "works\n");
    for _ in 0..16 {
        host.send(Kind::Data, Channel::Input, stream, &chunk);
    }
    until("the overrun ends the stream", || {
        let frame = host.frame();
        (frame.head.stream == stream && frame.head.kind == Kind::Reset).then_some(())
    });
    assert_eq!(host.sh("echo works").text(), "works\n");
    assert!(agent.peak_kib() < PEAK_KIB_MAX, "{} KiB", agent.peak_kib());
}

#[test]
fn input_of_a_command_that_reads_none_is_swallowed() {
    let agent = Agent::start();
    let mut host = agent.host();
    let stream = host.start(&ExecRequest { stdin: true, ..shell("exec 0<&-; sleep 0.2; echo done") });
    let outcome = host.pump(stream, &mut Pattern { at: 0, length: 4 << 20 }, &mut |_| {});
    assert_eq!(outcome.code(), 0);
}

#[test]
fn there_is_a_limit_to_streams_and_it_is_told() {
    let agent = Agent::start();
    let mut host = agent.host();
    let request = Request::Exec(Box::new(ExecRequest { stdin: true, ..exec(&["cat"]) }));
    let streams: Vec<u32> = (0..STREAMS_MAX).map(|_| host.begin(&request)).collect();
    let refused = host.begin(&request);
    assert_eq!(host.finish(refused).reply, Some(Reply::Failed(Failure::Busy)));
    let open = agent.descriptors();
    host.reset(streams[0]);
    until("a place is free", || {
        let stream = host.begin(&Request::Health);
        matches!(host.finish(stream).reply, Some(Reply::Health(_))).then_some(())
    });
    for stream in &streams[1..] {
        host.eof(*stream);
    }
    until("all have ended", || agent.children().is_empty().then_some(()));
    until("their descriptors are closed", || (agent.descriptors() < open / 10).then_some(()));
}

/// The next output of any stream.
fn first_data(host: &mut Host) -> String {
    loop {
        let frame = host.frame();
        if frame.head.kind == Kind::Data {
            return String::from_utf8(frame.payload).unwrap();
        }
    }
}

#[test]
fn a_reset_hangs_up_and_then_kills() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mark = agent.root().join("mark");
    let polite = host.start(&ExecRequest {
        cwd: Some("/".into()),
        ..shell("exec 2>/dev/null; trap 'echo hung > mark; exit' HUP; echo up; while :; do sleep 0.01; done")
    });
    assert_eq!(first_data(&mut host), "up\n");
    host.reset(polite);
    assert_eq!(content(&mark), "hung\n");
    let stubborn = host.start(&shell("exec 2>/dev/null; trap '' HUP; echo $$; while :; do sleep 0.01; done"));
    let pid: u32 = first_data(&mut host).trim().parse().unwrap();
    host.reset(stubborn);
    assert!(is_alive(pid));
    until("it is killed", || (!is_alive(pid)).then_some(()));
}

#[test]
fn two_requests_on_one_stream_are_a_mistake() {
    let agent = Agent::start();
    let mut host = agent.host();
    let stream = host.start(&exec(&["sleep", "1000"]));
    host.send(Kind::Open, Channel::Input, stream, &serde_json::to_vec(&Request::Health).unwrap());
    assert_eq!(host.frame().head.kind, Kind::Reset);
    until("the first is gone", || agent.children().is_empty().then_some(()));
}
