//! The last bytes a session printed, in the order they arrived, with their streams.
//!
//! ```text
//! bytes  …│ l i s t e n i n g \n │ w a r n i n g \n │ G E T …     at most KEPT_BYTES, oldest dropped first
//! runs    │ Output, end 1010     │ Error, end 1018  │ Output …    at most RUNS_MAX, likewise
//! ```
//! Bytes are named by how many were printed before them, so a reader's place stays what it is when older ones are dropped.

use std::collections::VecDeque;

use wire::agent::session::{KEPT_BYTES, Source};

/// Changes of stream kept: a command that changes with every byte loses old output sooner instead of taking more memory.
const RUNS_MAX: usize = 8192;
/// How far behind the first kept byte a line end is looked for, to begin a replay with a whole line.
const LINE_BYTES: usize = 4096;

/// Bytes of one stream behind each other.
#[derive(Debug, Clone, Copy)]
struct Run {
    source: Source,
    /// The place behind its last byte.
    end: u64,
}

/// What is kept.
#[derive(Debug, Default)]
pub struct Ring {
    bytes: VecDeque<u8>,
    runs: VecDeque<Run>,
    end: u64,
}

impl Ring {
    /// The place of the first byte that is kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// The place behind the last byte: how many were ever printed.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds what was printed; at most [`KEPT_BYTES`] at once.
    pub fn push(&mut self, source: Source, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let over = (self.bytes.len() + bytes.len()).saturating_sub(KEPT_BYTES);
        self.bytes.drain(..over.min(self.bytes.len()));
        self.bytes.extend(bytes);
        self.end += bytes.len() as u64;
        match self.runs.back_mut() {
            Some(last) if last.source == source => last.end = self.end,
            _ => self.runs.push_back(Run { source, end: self.end }),
        }
        while self.runs.len() > RUNS_MAX {
            let end = self.runs.pop_front().map_or(0, |run| run.end);
            let dropped = usize::try_from(end.saturating_sub(self.start())).unwrap_or(usize::MAX);
            self.bytes.drain(..dropped.min(self.bytes.len()));
        }
        let start = self.start();
        while self.runs.front().is_some_and(|run| run.end <= start) {
            self.runs.pop_front();
        }
    }

    /// Bytes of one stream from `at` on, at most `most`; none when there are none there (any more, or yet).
    #[must_use]
    pub fn piece(&self, at: u64, most: usize) -> Option<(Source, &[u8])> {
        if at < self.start() || at >= self.end || most == 0 {
            return None;
        }
        let run = self.runs.get(self.runs.partition_point(|run| run.end <= at))?;
        let from = usize::try_from(at - self.start()).ok()?;
        let length = usize::try_from(run.end - at).unwrap_or(usize::MAX).min(most);
        let (front, back) = self.bytes.as_slices();
        let rest = if from < front.len() { &front[from..] } else { &back[from - front.len()..] };
        Some((run.source, &rest[..length.min(rest.len())]))
    }

    /// Where a replay of everything begins: with a whole line, where older ones were dropped.
    #[must_use]
    pub fn first_line(&self) -> u64 {
        let start = self.start();
        if start == 0 {
            return 0;
        }
        let end = self.bytes.iter().take(LINE_BYTES).position(|byte| *byte == b'\n');
        end.map_or(start, |at| start + at as u64 + 1)
    }

    /// Where the last `lines` lines begin; an unfinished last line counts as one.
    #[must_use]
    pub fn last_lines(&self, lines: u64) -> u64 {
        if lines == 0 {
            return self.end;
        }
        let mut left = lines;
        for (behind, byte) in self.bytes.iter().rev().enumerate() {
            if *byte == b'\n' && behind > 0 {
                left -= 1;
                if left == 0 {
                    return self.end - behind as u64;
                }
            }
        }
        self.first_line()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(ring: &Ring, mut at: u64) -> Vec<(Source, String)> {
        let mut all: Vec<(Source, String)> = Vec::new();
        while let Some((source, bytes)) = ring.piece(at, 3) {
            at += bytes.len() as u64;
            let bytes = String::from_utf8_lossy(bytes).into_owned();
            match all.last_mut() {
                Some((last, text)) if *last == source => text.push_str(&bytes),
                _ => all.push((source, bytes)),
            }
        }
        all
    }

    #[test]
    fn streams_stay_in_order_of_arrival() {
        let mut ring = Ring::default();
        ring.push(Source::Output, b"one ");
        ring.push(Source::Output, b"two\n");
        ring.push(Source::Error, b"bad\n");
        ring.push(Source::Output, b"three");
        let expected = [(Source::Output, "one two\n"), (Source::Error, "bad\n"), (Source::Output, "three")];
        assert_eq!(text(&ring, 0), expected.map(|(source, text)| (source, text.to_owned())));
        assert_eq!(
            text(&ring, 9),
            expected[1..].iter().map(|(s, t)| (*s, t.trim_start_matches('b').to_owned())).collect::<Vec<_>>()
        );
        assert_eq!((ring.piece(17, 9), ring.end()), (None, 17));
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let mut ring = Ring::default();
        ring.push(Source::Output, b"a\nbb\nccc\n");
        for (lines, at) in [(0, 9), (1, 5), (2, 2), (3, 0), (99, 0)] {
            assert_eq!(ring.last_lines(lines), at, "{lines}");
        }
        ring.push(Source::Error, b"half");
        assert_eq!((ring.last_lines(1), ring.last_lines(2)), (9, 5));
        assert_eq!(Ring::default().last_lines(5), 0);
    }

    #[test]
    fn the_oldest_is_dropped_and_a_replay_begins_with_a_line() {
        let mut ring = Ring::default();
        for n in 0..100_000 {
            ring.push(Source::Output, format!("line {n}\n").as_bytes());
        }
        assert!(ring.bytes.len() <= KEPT_BYTES && ring.bytes.capacity() <= 2 * KEPT_BYTES);
        let (_, first) = ring.piece(ring.first_line(), 5).unwrap();
        assert_eq!(first, b"line ");
        assert_eq!(ring.piece(0, 10), None, "it is gone");
        ring.push(Source::Error, &vec![b'x'; KEPT_BYTES]);
        assert_eq!((ring.end() - ring.start(), ring.runs.len()), (KEPT_BYTES as u64, 1));
        assert_eq!(ring.first_line(), ring.start(), "no line begins near");
    }

    #[test]
    fn streams_that_alternate_are_bounded_too() {
        let mut ring = Ring::default();
        for n in 0..100_000 {
            ring.push(if n % 2 == 0 { Source::Output } else { Source::Error }, b"x");
        }
        assert_eq!((ring.runs.len(), ring.bytes.len()), (RUNS_MAX, RUNS_MAX));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_what_was_printed(
            pieces in proptest::collection::vec((any::<bool>(), 1_usize..70_000), 1..20), most in 1_usize..100_000,
        ) {
            let mut ring = Ring::default();
            let mut all: Vec<(Source, u8)> = Vec::new();
            for (n, (is_error, length)) in pieces.iter().enumerate() {
                let source = if *is_error { Source::Error } else { Source::Output };
                let bytes: Vec<u8> = (0..*length).map(|i| ((i * 31 + n) % 251) as u8).collect();
                ring.push(source, &bytes);
                all.extend(bytes.iter().map(|byte| (source, *byte)));
            }
            prop_assert_eq!(ring.end(), all.len() as u64);
            prop_assert_eq!(ring.end() - ring.start(), all.len().min(KEPT_BYTES) as u64);
            let mut at = ring.start();
            while let Some((source, bytes)) = ring.piece(at, most) {
                for byte in bytes {
                    prop_assert_eq!(all[usize::try_from(at).unwrap()], (source, *byte));
                    at += 1;
                }
            }
            prop_assert_eq!(at, ring.end());
        }
    }
}
