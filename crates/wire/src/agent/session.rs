//! Sessions: commands of the guest that outlive whoever started them, and what is said about them.
//!
//! A session is kept by the guest's agent alone: its process, the last [`KEPT_BYTES`] of its output, and how it ended. The
//! host has no memory of its own of any, so there is nothing to lose with it.
//!
//! | request | input channel | output channel | final reply |
//! |---|---|---|---|
//! | [`SessionRequest::Start`] | – | – | [`SessionReply::Session`] |
//! | [`SessionRequest::List`] | – | – | [`SessionReply::Sessions`] |
//! | [`SessionRequest::Attach`] | bytes for the command | [`Records`] | `Exited` at the command's end, `Done` of one that does not follow |
//! | [`SessionRequest::Send`] | bytes for the command | – | `Done` when the command has them |
//! | [`SessionRequest::Stop`] | – | – | `Exited` |
//! | [`SessionRequest::Signal`], [`SessionRequest::Forget`] | – | – | [`SessionReply::Session`] |
//!
//! ```text
//! offset 0     1           4
//!        tag   length u24  payload …          a record of the output channel, little endian
//! ```
//! Both streams of a command go through one channel, in the order in which they arrived. A watcher that does not keep up
//! loses bytes, and is told how many: [`Piece::Skipped`].

use serde::{Deserialize, Serialize};

use super::message::{ExecRequest, ExitStatus, TerminalSize};

/// Sessions an agent keeps, running and ended; the one that ended first gives way to a new one.
pub const SESSIONS_MAX: usize = 32;
/// Most bytes of output an agent keeps of each.
pub const KEPT_BYTES: usize = 256 * 1024;
/// Longest name: one DNS label (RFC 1035, section 2.3.4).
pub const NAME_LEN_MAX: usize = 63;
/// Most bytes of [`SessionRecord::command`], so that all records fit into one reply.
pub const COMMAND_LEN_MAX: usize = 256;
/// Bytes before a record's payload.
pub const RECORD_HEADER_BYTES: usize = 4;
/// Longest time a stop may give a command.
pub const GRACE_MS_MAX: u64 = 3_600_000;

const TAG_OUTPUT: u8 = 1;
const TAG_ERROR: u8 = 2;
const TAG_SKIPPED: u8 = 3;
const SKIPPED_BYTES: usize = 8;

/// Whether `name` may name a session: `a-z`, `0-9` and `-`, neither first nor last, at most [`NAME_LEN_MAX`] long.
#[must_use]
pub fn is_session_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// What is asked about sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "session", rename_all = "snake_case")]
pub enum SessionRequest {
    /// Starts one.
    Start {
        /// What to call it; else the agent chooses. The name of one that has ended is free.
        name: Option<String>,
        /// What runs. Its input always stays open.
        command: ExecRequest,
    },
    /// Tells all there are.
    List,
    /// Shows what it prints, from what is kept on; passes input on.
    Attach(SessionAttach),
    /// Gives the input channel's bytes to the command.
    Send {
        /// Its name.
        name: String,
        /// Whether the command's input ends with them.
        ends: bool,
    },
    /// Sends a signal to the command's process group; SIGKILL to all it started.
    Signal {
        /// Its name.
        name: String,
        /// Linux x86-64 signal number, 1 to 64.
        signal: i32,
    },
    /// Asks the command to end, and kills it and all it started when it does not.
    Stop {
        /// Its name.
        name: String,
        /// How long it may take; at most [`GRACE_MS_MAX`].
        grace_ms: u64,
    },
    /// Forgets one that has ended.
    Forget {
        /// Its name.
        name: String,
    },
}

/// How to look at a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SessionAttach {
    /// Its name.
    pub name: String,
    /// Whether bytes come on the input channel. Their end is not the end of the command's input.
    #[serde(default)]
    pub input: bool,
    /// Whether to go on behind what is kept, until the command ends.
    #[serde(default)]
    pub follow: bool,
    /// Begin with so many lines; else with all that is kept.
    pub tail_lines: Option<u64>,
    /// A new size for its terminal, if it has one.
    pub terminal: Option<TerminalSize>,
}

/// What is answered about sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "session", rename_all = "snake_case")]
pub enum SessionReply {
    /// One as it is.
    Session(SessionRecord),
    /// All of them, in the order they were started.
    Sessions {
        /// At most [`SESSIONS_MAX`].
        sessions: Vec<SessionRecord>,
    },
}

/// A session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SessionRecord {
    /// Its name, unique in the guest.
    pub name: String,
    /// What runs, for people; cut to [`COMMAND_LEN_MAX`] bytes.
    pub command: String,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Its process id in the guest.
    pub pid: u32,
    /// How it ended; none while it runs.
    pub ended: Option<ExitStatus>,
    /// When it was started, by the guest's clock: milliseconds since 1970.
    pub started_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// Bytes it has printed so far.
    pub output_bytes: u64,
    /// Who looks at it.
    pub watchers: u32,
}

/// Which of a command's streams bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

/// The header of a record with `length` bytes of `source`.
///
/// # Panics
/// When `length` does not fit 24 bits; a record fits a frame.
#[must_use]
pub fn record_header(source: Source, length: usize) -> [u8; RECORD_HEADER_BYTES] {
    let tag = match source {
        Source::Output => TAG_OUTPUT,
        Source::Error => TAG_ERROR,
    };
    header(tag, length)
}

/// The record that says that `bytes` were skipped.
#[must_use]
pub fn skipped_record(bytes: u64) -> [u8; RECORD_HEADER_BYTES + SKIPPED_BYTES] {
    let mut record = [0; RECORD_HEADER_BYTES + SKIPPED_BYTES];
    record[..RECORD_HEADER_BYTES].copy_from_slice(&header(TAG_SKIPPED, SKIPPED_BYTES));
    record[RECORD_HEADER_BYTES..].copy_from_slice(&bytes.to_le_bytes());
    record
}

fn header(tag: u8, length: usize) -> [u8; RECORD_HEADER_BYTES] {
    let length = u32::try_from(length).expect("a record fits a frame").to_le_bytes();
    assert!(length[3] == 0, "a record fits a frame");
    [tag, length[0], length[1], length[2]]
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of kind {tag} with {length} bytes")]
pub struct RecordError {
    /// Its tag.
    pub tag: u8,
    /// Its announced length.
    pub length: usize,
}

/// What a session's output channel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes the command printed, never empty.
    Bytes(Source, &'a [u8]),
    /// So many bytes are missing here.
    Skipped(u64),
}

/// Reads records from bytes that come in any pieces. Keeps no payload, and never more than one header.
#[derive(Debug, Default)]
pub struct Records {
    /// The header, and a skipped record's payload.
    head: [u8; RECORD_HEADER_BYTES + SKIPPED_BYTES],
    filled: usize,
    /// Whose payload goes on, and how much of it.
    open: Option<(Source, usize)>,
}

impl Records {
    /// The next piece of `bytes`, which is advanced behind it; none when more are needed.
    ///
    /// # Errors
    /// When the bytes are no record; nothing behind them can be understood.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, RecordError> {
        loop {
            if let Some((source, left)) = self.open {
                let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                *bytes = rest;
                self.open = (left > piece.len()).then(|| (source, left - piece.len()));
                return Ok((!piece.is_empty()).then_some(Piece::Bytes(source, piece)));
            }
            if !self.fill(RECORD_HEADER_BYTES, bytes) {
                return Ok(None);
            }
            let [tag, low, middle, high, skipped @ ..] = &self.head;
            let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
            match (*tag, length) {
                (TAG_OUTPUT, 1..) => self.open = Some((Source::Output, length)),
                (TAG_ERROR, 1..) => self.open = Some((Source::Error, length)),
                (TAG_SKIPPED, SKIPPED_BYTES) => {
                    let skipped = u64::from_le_bytes(*skipped);
                    if self.filled == self.head.len() {
                        self.filled = 0;
                        return Ok(Some(Piece::Skipped(skipped)));
                    }
                    if !self.fill(RECORD_HEADER_BYTES + SKIPPED_BYTES, bytes) {
                        return Ok(None);
                    }
                    continue;
                }
                (tag, length) => return Err(RecordError { tag, length }),
            }
            self.filled = 0;
        }
    }

    /// Takes bytes until the head holds `wanted`; whether it does.
    fn fill(&mut self, wanted: usize, bytes: &mut &[u8]) -> bool {
        let missing = wanted.saturating_sub(self.filled).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        self.head[self.filled..self.filled + missing].copy_from_slice(taken);
        self.filled += missing;
        *bytes = rest;
        self.filled >= wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for good in ["dev", "s1", "a", "7", "web-2", &"x".repeat(63)] {
            assert!(is_session_name(good), "{good:?}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ü", "../x", &"x".repeat(64)] {
            assert!(!is_session_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn all_records_fit_into_one_reply() {
        let record = SessionRecord {
            name: "n".repeat(NAME_LEN_MAX),
            // A quote takes two bytes in JSON; nothing the agent says there takes more.
            command: "\"".repeat(COMMAND_LEN_MAX),
            terminal: false,
            pid: u32::MAX,
            ended: Some(ExitStatus::Signal { signal: i32::MIN }),
            started_at_ms: u64::MAX,
            ended_at_ms: Some(u64::MAX),
            output_bytes: u64::MAX,
            watchers: u32::MAX,
        };
        let reply =
            super::super::message::Reply::Session(SessionReply::Sessions { sessions: vec![record; SESSIONS_MAX] });
        let json = serde_json::to_vec(&reply).unwrap();
        assert!(json.len() <= super::super::frame::FROM_AGENT_MAX, "{} bytes", json.len());
        assert_eq!(serde_json::from_slice::<super::super::message::Reply>(&json).unwrap(), reply);
    }

    #[test]
    fn the_forms_on_the_wire() {
        use super::super::message::Request;
        let request =
            Request::Session(SessionRequest::Attach(SessionAttach { name: "dev".into(), ..Default::default() }));
        let json = serde_json::to_value(&request).unwrap();
        assert_eq!(
            (&json["request"], &json["session"], &json["name"]),
            (&"session".into(), &"attach".into(), &"dev".into())
        );
        assert_eq!(serde_json::from_value::<Request>(json).unwrap(), request);
    }

    /// Bytes and where they came from; without a source, how many were skipped.
    type Said = (Option<Source>, Vec<u8>);

    /// What the bytes say, runs of one source joined.
    fn read(bytes: &[u8], step: usize) -> Result<Vec<Said>, RecordError> {
        let mut records = Records::default();
        let mut said: Vec<Said> = Vec::new();
        for mut chunk in bytes.chunks(step) {
            while let Some(piece) = records.next(&mut chunk)? {
                match piece {
                    Piece::Bytes(source, bytes) => match said.last_mut() {
                        Some((last, all)) if *last == Some(source) => all.extend_from_slice(bytes),
                        _ => said.push((Some(source), bytes.to_vec())),
                    },
                    Piece::Skipped(count) => said.push((None, count.to_le_bytes().to_vec())),
                }
            }
            assert!(chunk.is_empty());
        }
        Ok(said)
    }

    #[test]
    fn records_come_in_any_pieces() {
        let mut bytes = Vec::new();
        for (source, text) in [(Source::Output, "one"), (Source::Error, "two"), (Source::Output, "three")] {
            bytes.extend_from_slice(&record_header(source, text.len()));
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&skipped_record(77));
        bytes.extend_from_slice(&record_header(Source::Error, 1));
        bytes.push(b'!');
        for step in 1..=bytes.len() {
            let said = read(&bytes, step).unwrap();
            let expected = [
                (Some(Source::Output), b"one".to_vec()),
                (Some(Source::Error), b"two".to_vec()),
                (Some(Source::Output), b"three".to_vec()),
                (None, 77_u64.to_le_bytes().to_vec()),
                (Some(Source::Error), b"!".to_vec()),
            ];
            assert_eq!(said, expected, "in steps of {step}");
        }
        for wrong in [&[0, 1, 0, 0][..], &[9, 0, 0, 0], &[1, 0, 0, 0], &[3, 7, 0, 0], &[3, 0, 0, 1]] {
            assert!(read(wrong, 1).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(0_u8..6, 0..200), step in 1_usize..20) {
            let length = |said: Vec<Said>| said.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            prop_assert!(read(&bytes, step).map_or(0, length) <= bytes.len());
        }
    }
}
