//! What host and agent say about a workspace: the files that were sent, and how the guest's differ from them now.
//!
//! The agent keeps what it was told of each file that was sent, with what the file was like when it had arrived, in
//! [`STATE_DIR`] of the workspace's git directory. It needs no git for that, and the host need not trust it: a guest that
//! lies about its files loses its own work only.
//!
//! Both kinds of records are text up to the path, which ends in a zero, as no path contains one:
//!
//! ```text
//! settle   how state hash path\0     how: s sent now, k kept from before      state: c as in the index, m another, u not in it
//! survey   kind mode hash path\0     kind: A added, M modified, D deleted     mode: - plain, x executable, l link, o other
//! ```
//! `hash`: 64 hexadecimal digits, SHA-256 of the content or of the link's target; zeros where there is none to tell. Behind
//! the last record of what is settled stands an empty one, a zero alone: a stream that is given up ends without it.

use serde::{Deserialize, Serialize};

/// Where the agent keeps its notes, below the top of a workspace. Never sent back.
pub const STATE_DIR: &str = ".git/banger";
/// A workspace with this file and no notes was being sent when that broke off: it is the host's to send again.
pub const SENDING: &str = ".git/banger/sending";
/// Longest path in a record: `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;
/// Digits of a hash.
const HASH_DIGITS: usize = 64;
/// Longest record, with the zero at its end.
pub const RECORD_BYTES_MAX: usize = 2 + HASH_DIGITS + PATH_BYTES_MAX + 1;
/// Most bytes of all paths of one request for files, with their zeros: the agent keeps them while it packs.
pub const NAMES_BYTES_MAX: u64 = 64 << 20;

/// What became of the request to look at a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveyed {
    /// What is there.
    pub found: Found,
    /// Whether the index names other files, modes or contents than the one that was sent.
    pub index_changed: bool,
}

/// What is where a workspace should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// Files that no host sent.
    Foreign,
    /// What is left of a transfer that broke off.
    Unfinished,
    /// A workspace, whose differences were told.
    Workspace,
}

/// What is told of files that were not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Added {
    /// Nothing.
    #[default]
    Not,
    /// That they are there; their hashes are zeros. Nothing is read for it.
    Named,
    /// What is in them, too.
    Hashed,
}

/// How a file came to be as it is, for the agent's notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was sent just now: what is there is what was sent.
    Sent,
    /// It was sent earlier: what the notes say of it stays.
    Kept,
}

/// How a file that was sent stands to the index that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// git need not read it to know that it is as in the index.
    Clean,
    /// It is not, or nobody knows.
    Modified,
    /// The index does not have it.
    Untracked,
}

/// One file of a workspace, as the host tells it after it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Sent now or before.
    pub how: How,
    /// Against the index.
    pub state: State,
    /// SHA-256 of what was sent; of no meaning for a kept one.
    pub hash: [u8; 32],
    /// Relative to the workspace.
    pub path: Vec<u8>,
}

/// What became of a file in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Difference {
    /// It was not sent.
    Added,
    /// It is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// What a file is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileMode {
    /// A file.
    Plain,
    /// A file that its owner may execute.
    Executable,
    /// A symbolic link.
    Link,
    /// Nothing that git could keep, or nothing any more.
    Other,
}

/// One file that is not as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Surveyable {
    /// Relative to the workspace.
    pub path: Vec<u8>,
    /// What became of it.
    pub difference: Difference,
    /// What it is now.
    pub mode: FileMode,
    /// SHA-256 of what is in it now.
    pub hash: [u8; 32],
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record about a workspace is malformed")]
pub struct RecordError;

impl Settled {
    /// Adds its form to `to`.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.push(match self.how {
            How::Sent => b's',
            How::Kept => b'k',
        });
        to.push(match self.state {
            State::Clean => b'c',
            State::Modified => b'm',
            State::Untracked => b'u',
        });
        write_rest(self.hash, &self.path, to);
    }

    /// Reads a record, without the zero at its end.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(record: &[u8]) -> Result<Settled, RecordError> {
        let ([how, state], hash, path) = split(record)?;
        let how = match how {
            b's' => How::Sent,
            b'k' => How::Kept,
            _ => return Err(RecordError),
        };
        let state = match state {
            b'c' => State::Clean,
            b'm' => State::Modified,
            b'u' => State::Untracked,
            _ => return Err(RecordError),
        };
        Ok(Settled { how, state, hash, path: path.to_vec() })
    }
}

impl Surveyable {
    /// Adds its form to `to`.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.push(match self.difference {
            Difference::Added => b'A',
            Difference::Modified => b'M',
            Difference::Deleted => b'D',
        });
        to.push(match self.mode {
            FileMode::Plain => b'-',
            FileMode::Executable => b'x',
            FileMode::Link => b'l',
            FileMode::Other => b'o',
        });
        write_rest(self.hash, &self.path, to);
    }

    /// Reads a record, without the zero at its end.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(record: &[u8]) -> Result<Surveyable, RecordError> {
        let ([difference, mode], hash, path) = split(record)?;
        let difference = match difference {
            b'A' => Difference::Added,
            b'M' => Difference::Modified,
            b'D' => Difference::Deleted,
            _ => return Err(RecordError),
        };
        let mode = match mode {
            b'-' => FileMode::Plain,
            b'x' => FileMode::Executable,
            b'l' => FileMode::Link,
            b'o' => FileMode::Other,
            _ => return Err(RecordError),
        };
        Ok(Surveyable { path: path.to_vec(), difference, mode, hash })
    }
}

fn write_rest(hash: [u8; 32], path: &[u8], to: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in hash {
        to.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    to.extend_from_slice(path);
    to.push(0);
}

/// The letters, the hash and the path of a record.
type Parts<'a> = ([u8; 2], [u8; 32], &'a [u8]);

fn split(record: &[u8]) -> Result<Parts<'_>, RecordError> {
    let (letters, rest) = record.split_first_chunk::<2>().ok_or(RecordError)?;
    let (digits, path) = rest.split_at_checked(HASH_DIGITS).ok_or(RecordError)?;
    if !is_path(path) {
        return Err(RecordError);
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0]).ok_or(RecordError)? << 4 | digit(pair[1]).ok_or(RecordError)?;
    }
    Ok((*letters, hash, path))
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

/// Whether it can name a file of a workspace: relative, clean, and leading nowhere else.
#[must_use]
pub fn is_path(path: &[u8]) -> bool {
    (1..=PATH_BYTES_MAX).contains(&path.len())
        && !path.contains(&0)
        && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let settled =
            Settled { how: How::Kept, state: State::Untracked, hash: [0xa7; 32], path: b"a \n\xff/b".to_vec() };
        let surveyed = Surveyable {
            path: b"-x".to_vec(),
            difference: Difference::Modified,
            mode: FileMode::Executable,
            hash: [1; 32],
        };
        let mut bytes = Vec::new();
        settled.write(&mut bytes);
        surveyed.write(&mut bytes);
        let records: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
        assert_eq!(Settled::parse(records[0]), Ok(settled));
        assert_eq!(Surveyable::parse(records[1]), Ok(surveyed));
        assert_eq!(records[2], b"");
    }

    #[test]
    fn nonsense_is_refused() {
        let hash = "0".repeat(64);
        for bad in ["", "sc", "sc00", &format!("xc{hash}a"), &format!("sx{hash}a"), &format!("sc{hash}")] {
            assert_eq!(Settled::parse(bad.as_bytes()), Err(RecordError), "{bad}");
        }
        for bad in ["/a", "a/", "../a", "a/../b", "a//b", ".", "a/./b"] {
            assert_eq!(Settled::parse(format!("sc{hash}{bad}").as_bytes()), Err(RecordError), "{bad}");
        }
        assert!(Settled::parse(format!("sc{hash}..a/...").as_bytes()).is_ok());
    }
}
