//! Frames, word by word.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn v4(to: &str) -> Vec<u8> {
    let mut frame = vec![0; 54];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[30..34].copy_from_slice(&to.parse::<Ipv4Addr>().unwrap().octets());
    frame
}

fn v6(to: &str) -> Vec<u8> {
    let mut frame = vec![0; 74];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[38..54].copy_from_slice(&to.parse::<Ipv6Addr>().unwrap().octets());
    frame
}

/// The gate of a NIC that needs none.
fn open() -> Gate {
    Gate::of("/nowhere".as_ref(), Handover::Stream)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

#[test]
fn nothing_for_the_hosts_loopback_passes() {
    for to in ["127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3"] {
        assert!(!may_pass(&v4(to), &Reach::Outside), "{to}");
    }
    for to in ["::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:192.0.2.1"] {
        assert!(!may_pass(&v6(to), &Reach::Outside), "{to}");
    }
    for to in ["10.0.2.2", "192.0.2.1", "255.255.255.255", "224.0.0.1", "1.0.0.0", "126.1.1.1", "128.0.0.1"] {
        assert!(may_pass(&v4(to), &Reach::Outside), "{to}");
    }
    for to in ["fe80::1", "ff02::1", "2001:db8::1", "fd00::1", "64:ff9b::1", "0:0:0:0:0:1::"] {
        assert!(may_pass(&v6(to), &Reach::Outside), "{to}");
    }
}

#[test]
fn only_arp_and_ip_pass() {
    let mut tagged = v4("192.0.2.1");
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert!(!may_pass(&tagged, &Reach::Outside), "what is behind a VLAN tag is not looked at, so it does not pass");
    assert!(may_pass(&[&[0; 12][..], &[8, 6], &[0; 28]].concat(), &Reach::Outside));
    for length in 0..34 {
        assert!(!may_pass(&v4("192.0.2.1")[..length], &Reach::Outside));
    }
}

/// A TCP segment from `port` with these flags.
fn segment(port: u16, flags: u8) -> Vec<u8> {
    let mut frame = v4("192.0.2.1");
    (frame[14], frame[23]) = (0x45, 6);
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[47] = flags;
    frame
}

#[test]
fn a_closed_guest_answers_on_its_published_ports_alone() {
    let reach = Reach::Answers(vec![80, 8443]);
    for flags in [0x12, 0x10, 0x18, 0x11, 0x04, 0x14] {
        assert!(may_pass(&segment(80, flags), &reach) && may_pass(&segment(8443, flags), &reach), "{flags:#x}");
        assert!(!may_pass(&segment(81, flags), &reach), "{flags:#x}");
    }
    assert!(!may_pass(&segment(80, 0x02), &reach), "it begins no connection");
    assert!(!may_pass(&segment(80, 0xc2), &reach), "nor with other flags beside");
    assert!(may_pass(&[&[0; 12][..], &[8, 6], &[0; 28]].concat(), &reach), "it is found");
    for (at, value) in [(14, 0x65), (14, 0x44), (20, 0x20), (21, 1), (23, 17), (23, 1), (12, 0x86), (30, 127)] {
        let mut other = segment(80, 0x10);
        other[at] = value;
        assert!(!may_pass(&other, &reach), "{value:#x} at {at}");
    }
    assert!(!may_pass(&v6("2001:db8::1"), &reach));
    for length in 0..54 {
        assert!(!may_pass(&segment(80, 0x10)[..length], &reach), "{length}");
    }
}

#[test]
fn a_frame_too_long_ends_it() {
    assert!(sift(&mut (FRAME_MAX as u32 + 1).to_be_bytes(), &Reach::Outside).is_err());
}

#[test]
fn arguments_survive() {
    for speech in [Speech::Stream, Speech::Packets(Vec::new()), Speech::Packets(vec![(8080, 80), (2222, 22)])] {
        let carrier = vec!["passt".into(), "--no-map-gw".into()];
        for (handover, reach) in [
            (Handover::Stream, Reach::Outside),
            (Handover::Tap, Reach::Outside),
            (Handover::Tap, Reach::Answers(vec![80, 22])),
            (Handover::Tap, Reach::Answers(Vec::new())),
        ] {
            let (speech, carrier) = (speech.clone(), carrier.clone());
            let filter = Filter {
                socket: "/a b".into(),
                carrier_pid: "/p".into(),
                mac: "52:54:00:aa:bb:cc".into(),
                handover,
                reach,
                speech,
                carrier,
            };
            let words = filter.arguments().into_iter().skip(1).map(OsString::from);
            assert_eq!(Filter::parse(words), Some(filter));
        }
    }
    for bad in [
        &["a", "b"][..],
        &["a", "b", "52:54:00:aa:bb:cc", "tap", "stream"],
        &["a", "b", "52:54:00:aa:bb:cc", "tap", "packets,80", "c"],
        &["a", "b", "52:54:00:aa:bb:cc", "tap", "packets,8:99999", "c"],
        &["a", "b", "52:54:00:aa:bb:cc", "tap,80", "stream", "c"],
        &["a", "b", "52:54:00:aa:bb:cc", "tap,answers,99999", "stream", "c"],
        &["a", "b", "52:54:00:aa:bb:cc", "bridge", "stream", "c"],
        &["a", "b", "52:54:00:aa:bb", "tap", "stream", "c"],
    ] {
        assert_eq!(Filter::parse(bad.iter().map(OsString::from)), None, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn the_rest_of_the_stream_is_untouched(
        kinds in proptest::collection::vec(0_u8..4, 0..50),
        cuts in proptest::collection::vec(1_usize..300, 1..50),
    ) {
        struct Pieces<'a>(&'a [u8], Vec<usize>, usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let count = self.1[self.2 % self.1.len()].min(self.0.len()).min(into.len());
                self.2 += 1;
                into[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        let frames: Vec<Vec<u8>> = kinds.iter().enumerate().map(|(number, kind)| {
            let mut frame = match kind {
                0 => v4("127.0.0.1"),
                1 => v6("::1"),
                2 => v4("192.0.2.7"),
                _ => v6("2001:db8::7"),
            };
            frame.extend_from_slice(&vec![number as u8; number * 7]);
            frame
        }).collect();
        let sent: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        let expected: Vec<u8> = frames.iter().zip(&kinds).filter(|(_, kind)| **kind > 1).flat_map(|(f, _)| framed(f)).collect();
        let mut got = Vec::new();
        let unasked = |_: &[u8]| panic!("none of these is answered");
        from_guest(Pieces(&sent, cuts.clone(), 0), &mut got, &Reach::Outside, &open(), unasked).unwrap();
        prop_assert_eq!(got, expected);
        let back = std::cell::RefCell::new(Vec::new());
        let tell = |frames: &[u8]| {
            let mut rest = frames;
            while let Some(frame) = first_frame(rest)? {
                rest = &rest[LENGTH_BYTES + frame.len()..];
            }
            assert!(rest.is_empty(), "only whole frames");
            back.borrow_mut().extend_from_slice(frames);
            Ok(())
        };
        to_guest(Pieces(&sent, cuts, 0), &open(), tell).unwrap();
        prop_assert_eq!(back.into_inner(), sent);
    }

    #[test]
    fn any_bytes_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        if let Ok(Sifted { passed, whole, .. }) = sift(&mut bytes, &Reach::Outside) {
            prop_assert!(passed <= whole && whole <= bytes.len());
        }
    }
}
