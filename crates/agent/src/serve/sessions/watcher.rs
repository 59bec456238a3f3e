//! A stream of the host that has to do with a session: it looks, sends, or waits for its end.
//!
//! A watcher has no bytes of its own: it has a place in the session's [`Ring`]. One that falls behind holds the command back
//! for [`PATIENCE`], so that a burst reaches it whole; if it has not caught up by then, the command goes on without it, and
//! the watcher is told how many bytes it missed once it takes some again.

use std::time::{Duration, Instant};

use wire::agent::WINDOW_BYTES;
use wire::agent::frame::{Channel, Kind};
use wire::agent::session::{KEPT_BYTES, RECORD_HEADER_BYTES, record_header, skipped_record};

use super::ring::Ring;
use crate::serve::job::Input;
use crate::serve::link::Outbound;

/// How long a command may be held back for a watcher that is behind.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// A watcher is behind when it has not taken this much: half of what is kept.
const BEHIND_BYTES: u64 = KEPT_BYTES as u64 / 2;
/// Most payload of one record.
const RECORD_MAX: usize = 32 * 1024;

/// What a watcher is there for.
#[derive(Debug)]
pub enum Role {
    /// It sees output, up to a place or until the command has ended.
    Looks {
        /// Its place in the ring.
        at: u64,
        /// Where it ends; none when it follows.
        until: Option<u64>,
    },
    /// It sends bytes.
    Sends {
        /// Whether the command's input ends with them.
        ends: bool,
        /// How many there were.
        bytes: u64,
    },
    /// It waits for the end.
    Waits,
}

/// One of them.
#[derive(Debug)]
pub struct Watcher {
    /// Its stream.
    pub stream: u32,
    /// What it is there for.
    pub role: Role,
    /// Bytes on their way to the command.
    pub input: Option<Input>,
    credit: u64,
    /// Since when it has not caught up.
    behind_since: Option<Instant>,
}

/// What became of a watcher's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It was given bytes.
    Some,
    /// It has all there is, or takes no more.
    Nothing,
}

impl Watcher {
    /// A watcher with a fresh window.
    #[must_use]
    pub fn new(stream: u32, role: Role, input: Option<Input>) -> Watcher {
        Watcher { stream, role, input, credit: u64::from(WINDOW_BYTES), behind_since: None }
    }

    /// The host takes so many more bytes.
    pub fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(u64::from(bytes));
    }

    /// Whether it could be given something.
    #[must_use]
    pub fn wants(&self, ring: &Ring) -> bool {
        let Role::Looks { at, until } = self.role else {
            return false;
        };
        let record = skipped_record(0).len() as u64;
        at < until.unwrap_or(u64::MAX).min(ring.end()) && self.credit >= record
    }

    /// Whether it has seen all it is to see, as far as output goes.
    #[must_use]
    pub fn is_done(&self, ring: &Ring) -> bool {
        match self.role {
            Role::Looks { at, until } => at >= until.unwrap_or_else(|| ring.end()),
            Role::Sends { .. } | Role::Waits => true,
        }
    }

    /// Notes how far behind it is.
    pub fn look(&mut self, ring: &Ring, now: Instant) {
        let Role::Looks { at, until: None } = self.role else {
            return;
        };
        if at == ring.end() {
            self.behind_since = None;
        } else if ring.end() - at > BEHIND_BYTES {
            self.behind_since.get_or_insert(now);
        }
    }

    /// Until when the command is held back for it; none when it is not, or not any more.
    #[must_use]
    pub fn holds_until(&self, ring: &Ring, now: Instant) -> Option<Instant> {
        let Role::Looks { at, until: None } = self.role else {
            return None;
        };
        let until = self.behind_since? + PATIENCE;
        (ring.end() - at > BEHIND_BYTES && now < until).then_some(until)
    }

    /// Gives it the next record.
    pub fn show(&mut self, ring: &Ring, outbound: &mut Outbound) -> Shown {
        if !self.wants(ring) {
            return Shown::Nothing;
        }
        let Role::Looks { at, until } = &mut self.role else {
            return Shown::Nothing;
        };
        if *at < ring.start() {
            let next = until.map_or(ring.start(), |until| until.min(ring.start()));
            let record = skipped_record(next - *at);
            *at = next;
            self.credit -= record.len() as u64;
            outbound.push(Kind::Data, Channel::Output, self.stream, &record);
            return Shown::Some;
        }
        let room = usize::try_from(self.credit).unwrap_or(usize::MAX) - RECORD_HEADER_BYTES;
        let left = until.map_or(usize::MAX, |until| usize::try_from(until - *at).unwrap_or(usize::MAX));
        let Some((source, bytes)) = ring.piece(*at, RECORD_MAX.min(room).min(left)) else {
            return Shown::Nothing;
        };
        let header = record_header(source, bytes.len());
        *at += bytes.len() as u64;
        self.credit -= (header.len() + bytes.len()) as u64;
        outbound.push_parts(Kind::Data, Channel::Output, self.stream, [&header, bytes]);
        Shown::Some
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::clock::monotonic;
    use wire::agent::frame::{Decoder, FROM_AGENT_MAX, PREAMBLE_BYTES, Tag};
    use wire::agent::session::{Piece, Records, Source};

    fn looks(at: u64, until: Option<u64>) -> Watcher {
        Watcher::new(1, Role::Looks { at, until }, None)
    }

    /// Everything the watcher is given: text, and how much it missed.
    fn shown(watcher: &mut Watcher, ring: &Ring) -> (Vec<u8>, u64) {
        let nonce = [7; 16];
        let mut outbound = Outbound::default();
        outbound.open(&nonce);
        while watcher.show(ring, &mut outbound) == Shown::Some {}
        let mut decoder = Decoder::new(Tag::of(&nonce), FROM_AGENT_MAX);
        decoder.push(&outbound.unsent()[PREAMBLE_BYTES..]);
        let (mut text, mut missed) = (Vec::new(), 0);
        let mut records = Records::default();
        while let Some(frame) = decoder.next_frame().unwrap() {
            let mut bytes = &frame.payload[..];
            while let Some(piece) = records.next(&mut bytes).unwrap() {
                match piece {
                    Piece::Bytes(_, bytes) => text.extend_from_slice(bytes),
                    Piece::Skipped(count) => missed += count,
                }
            }
        }
        (text, missed)
    }

    #[test]
    fn credit_is_kept_to_and_nothing_is_lost_for_want_of_it() {
        let mut ring = Ring::default();
        ring.push(Source::Output, &vec![b'x'; KEPT_BYTES]);
        let mut watcher = looks(0, None);
        let (text, _) = shown(&mut watcher, &ring);
        assert!(text.len() < WINDOW_BYTES as usize, "the headers are counted");
        assert!(!watcher.is_done(&ring));
        watcher.grant(WINDOW_BYTES);
        let (rest, _) = shown(&mut watcher, &ring);
        assert_eq!(text.len() + rest.len(), KEPT_BYTES);
        assert!(watcher.is_done(&ring) && !watcher.wants(&ring));
    }

    #[test]
    fn who_looks_at_what_is_kept_ends_there() {
        let mut ring = Ring::default();
        ring.push(Source::Output, b"0123456789");
        let mut watcher = looks(2, Some(6));
        assert_eq!(shown(&mut watcher, &ring), (b"2345".to_vec(), 0));
        assert!(watcher.is_done(&ring));
        let mut late = looks(0, Some(10));
        ring.push(Source::Output, &vec![b'x'; KEPT_BYTES]);
        assert_eq!(shown(&mut late, &ring), (Vec::new(), 10));
        assert!(late.is_done(&ring));
    }

    #[test]
    fn who_is_behind_holds_the_command_for_a_while_and_then_misses_some() {
        let mut ring = Ring::default();
        let mut watcher = looks(0, None);
        let begin = monotonic();
        ring.push(Source::Output, &vec![b'x'; KEPT_BYTES / 2 + 1]);
        watcher.look(&ring, begin);
        assert_eq!(watcher.holds_until(&ring, begin), Some(begin + PATIENCE));
        assert_eq!(watcher.holds_until(&ring, begin + PATIENCE), None);
        ring.push(Source::Output, &vec![b'y'; KEPT_BYTES]);
        watcher.look(&ring, begin + PATIENCE);
        assert_eq!(watcher.holds_until(&ring, begin + PATIENCE), None, "its time is used up until it has caught up");
        watcher.grant(WINDOW_BYTES);
        let (text, missed) = shown(&mut watcher, &ring);
        assert_eq!((text.len(), missed), (KEPT_BYTES, KEPT_BYTES as u64 / 2 + 1));
        assert!(text.iter().all(|byte| *byte == b'y'));
        watcher.look(&ring, begin + PATIENCE);
        ring.push(Source::Output, &vec![b'z'; KEPT_BYTES]);
        watcher.look(&ring, begin + 2 * PATIENCE);
        assert!(watcher.holds_until(&ring, begin + 2 * PATIENCE).is_some(), "it had caught up");
    }
}
