//! The state machine alone.

use proptest::prelude::*;
use wire::agent::frame::{encode, preamble_reply};

use super::*;

const NONCE: [u8; NONCE_BYTES] = [3; NONCE_BYTES];
const HELLO: &[u8] = br#"{"generation":1,"version":"","vm":"","boot":"","stage":"serving","uptime_ms":0}"#;

fn greeted() -> Link {
    let mut link = Link::new(NONCE);
    let mut bytes = preamble_reply(&NONCE).to_vec();
    encode(&mut bytes, Head { kind: Kind::Hello, channel: Channel::Input, stream: 0 }, HELLO, link.tag());
    let done = link.consume(&bytes, sys::clock::monotonic(), &mut |_| {}).unwrap();
    assert_eq!(done, bytes.len());
    link
}

fn say(link: &mut Link, kind: Kind, channel: Channel, stream: u32, payload: &[u8]) -> Result<(), Violation> {
    let mut bytes = Vec::new();
    encode(&mut bytes, Head { kind, channel, stream }, payload, link.tag());
    link.consume(&bytes, sys::clock::monotonic(), &mut |_| {}).map(|done| assert_eq!(done, bytes.len()))
}

#[test]
fn a_call_gets_no_bytes() {
    let mut link = greeted();
    link.open(1, Opening::Call);
    assert!(say(&mut link, Kind::Data, Channel::Output, 1, b"x").is_err());
    let mut link = greeted();
    link.open(1, Opening::Tree);
    say(&mut link, Kind::Data, Channel::Output, 1, b"x").unwrap();
    assert!(say(&mut link, Kind::Data, Channel::Error, 1, b"x").is_err());
}

#[test]
fn nothing_follows_an_eof_or_a_second_start() {
    let mut link = greeted();
    link.open(1, Opening::Exec);
    say(&mut link, Kind::Eof, Channel::Output, 1, b"").unwrap();
    assert!(say(&mut link, Kind::Data, Channel::Output, 1, b"x").is_err());
    let mut link = greeted();
    link.open(1, Opening::Exec);
    say(&mut link, Kind::Reply, Channel::Input, 1, br#"{"reply":"started","pid":1}"#).unwrap();
    assert!(say(&mut link, Kind::Reply, Channel::Input, 1, br#"{"reply":"started","pid":1}"#).is_err());
}

#[test]
fn what_crossed_a_reset_is_let_pass_and_no_more() {
    let mut link = greeted();
    link.open(1, Opening::Exec);
    link.sent(1, 1000);
    say(&mut link, Kind::Data, Channel::Output, 1, &[0; 1000]).unwrap();
    link.reset(1);
    for _ in 0..1000 {
        say(&mut link, Kind::Credit, Channel::Input, 1, &[1, 0, 0, 0]).unwrap();
    }
    let mut left = 2 * WINDOW_BYTES as usize - 1000;
    while left > 0 {
        let now = left.min(60_000);
        say(&mut link, Kind::Data, Channel::Error, 1, &vec![0; now]).unwrap();
        left -= now;
    }
    assert_eq!(say(&mut link, Kind::Data, Channel::Error, 1, b"x"), Err(Violation::Strays { stream: 1 }));
}

#[test]
fn events_come_at_a_rate() {
    let mut allowance = Allowance { left: EVENTS_AT_ONCE, filled_at: None };
    let start = sys::clock::monotonic();
    assert_eq!((0..1000).filter(|_| allowance.take(start)).count(), EVENTS_AT_ONCE as usize);
    let later = start + EVENT_EVERY * 3;
    assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 3);
    let much_later = start + EVENT_EVERY * 100_000;
    assert_eq!((0..1000).filter(|_| allowance.take(much_later)).count(), EVENTS_AT_ONCE as usize);
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..20),
        cuts in proptest::collection::vec(1_usize..90, 1..100),
    ) {
        let mut link = Link::new(NONCE);
        link.open(1, Opening::Exec);
        let mut bytes = vec![0xfe; 7];
        bytes.extend_from_slice(&preamble_reply(&NONCE));
        encode(&mut bytes, Head { kind: Kind::Hello, channel: Channel::Input, stream: 0 }, HELLO, link.tag());
        for payload in &payloads {
            encode(&mut bytes, Head { kind: Kind::Data, channel: Channel::Output, stream: 1 }, payload, link.tag());
        }
        let (mut pending, mut got, mut hellos) = (Vec::new(), Vec::new(), 0);
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            rest = later;
            pending.extend_from_slice(now);
            let done = link.consume(&pending, sys::clock::monotonic(), &mut |incoming| match incoming {
                Incoming::Hello(_) => hellos += 1,
                Incoming::Data { bytes, .. } => got.push(bytes.to_vec()),
                other => panic!("{other:?}"),
            }).unwrap();
            pending.drain(..done);
        }
        prop_assert_eq!(hellos, 1);
        prop_assert_eq!(got, payloads);
        prop_assert!(pending.is_empty());
    }
}
