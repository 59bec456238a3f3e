//! Any bytes through everything that reads bytes of a guest.

use std::time::Duration;

use wire::agent::frame::{Channel, Head, Kind, Tag, encode, preamble_reply};
use wire::agent::session::Records;

use super::link::{Incoming, Link, Opening};
use super::workspace::Parser;

const NONCE: [u8; 16] = *b"fuzzed guest's n";

/// Reads `data` as what a guest sent; panics when a limit is not kept.
///
/// The first byte chooses the form: even, the bytes are taken as they are behind a valid opening; odd, they are cut into
/// frames with valid heads and trailers, so that what is behind the framing is reached too.
pub fn fuzz_agent_bytes(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    let mut bytes = preamble_reply(&NONCE).to_vec();
    if form & 1 == 0 {
        bytes.extend_from_slice(rest);
    } else {
        frames(rest, &mut bytes);
    }
    run(&bytes, usize::from(*form) + 1);
}

/// Cuts `data` into frames: two bytes of head, one of length, payload.
fn frames(mut data: &[u8], out: &mut Vec<u8>) {
    let hello = br#"{"generation":1,"version":"","vm":"","boot":"","stage":"serving","uptime_ms":0}"#;
    let tag = Tag::of(&NONCE);
    encode(out, Head { kind: Kind::Hello, channel: Channel::Input, stream: 0 }, hello, tag);
    while let [what, stream, length, rest @ ..] = data {
        let kinds = [
            Kind::Hello,
            Kind::Event,
            Kind::Open,
            Kind::Reply,
            Kind::Control,
            Kind::Data,
            Kind::Eof,
            Kind::Credit,
            Kind::Reset,
        ];
        let channels = [Channel::Input, Channel::Output, Channel::Error];
        let head = Head {
            kind: kinds[usize::from(what & 15) % kinds.len()],
            channel: channels[usize::from(what >> 4) % channels.len()],
            stream: u32::from(stream % 8),
        };
        let (payload, after) = rest.split_at(usize::from(*length).min(rest.len()));
        encode(out, head, payload, tag);
        data = after;
    }
}

/// Feeds `bytes` in pieces of `step` bytes to a link with streams of every kind, and checks what comes out.
fn run(bytes: &[u8], step: usize) {
    let mut link = Link::new(NONCE);
    for (stream, opening) in [(1, Opening::Call), (2, Opening::Tree), (3, Opening::Exec), (4, Opening::Exec)] {
        link.open(stream, opening);
    }
    link.reset(4);
    let mut now = sys::clock::monotonic();
    let mut pending: Vec<u8> = Vec::new();
    let mut delivered = 0_usize;
    // The tree's stream is read as a session's and as a survey's too: all have the same windows.
    let mut records = Some(Records::default());
    let mut survey = Some(Parser::default());
    for piece in bytes.chunks(step) {
        pending.extend_from_slice(piece);
        now += Duration::from_millis(1);
        let consumed = link.consume(&pending, now, &mut |incoming| {
            if let Incoming::Data { stream, channel, bytes } = incoming {
                assert!(matches!((stream, channel), (2, Channel::Output) | (3, Channel::Output | Channel::Error)));
                delivered += bytes.len();
                if stream == 2 {
                    read_records(&mut records, bytes);
                    survey = survey.take().and_then(|mut survey| survey.take(bytes).ok().map(|()| survey));
                }
            }
        });
        let Ok(done) = consumed else { break };
        pending.drain(..done);
    }
    let windows = 3 * usize::try_from(wire::agent::WINDOW_BYTES).expect("256 KiB fit");
    assert!(delivered <= windows, "{delivered} bytes were let pass");
}

/// Reads `bytes` as a session's output, until it is none.
fn read_records(reading: &mut Option<Records>, mut bytes: &[u8]) {
    while let Some(records) = reading {
        match records.next(&mut bytes) {
            Ok(Some(_piece)) => {}
            Ok(None) => {
                assert!(bytes.is_empty(), "records left bytes unread");
                return;
            }
            Err(_) => *reading = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_answered(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            fuzz_agent_bytes(&data);
        }
    }
}
