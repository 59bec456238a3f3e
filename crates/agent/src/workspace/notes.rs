//! What was sent to a workspace, as a file: `.git/banger/sent`.
//!
//! ```text
//! "banger sent 1\n"   digest of the index 32   then for each file, in the order of their paths, little endian:
//! mode 1   state 1   young 1   hash 32   size 8   mtime 8+4   ctime 8+4   dev 8   ino 8   uid 4   gid 4   length 2   path
//! ```
//! A file that is not as this says is no notes: the workspace is sent again.

use rustix::fs::Stat;
use wire::agent::workspace::{FileMode, State, is_path};

/// Where they are, below the workspace.
pub const SENT: &[u8] = b".git/banger/sent";
/// Its first line, with the version of the format.
const MAGIC: &[u8; 14] = b"banger sent 1\n";

/// A point in time: seconds since 1970, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

/// What lstat(2) said of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes.
    pub size: u64,
    /// The last change of its content.
    pub mtime: Time,
    /// The last change of anything of it.
    pub ctime: Time,
    /// Its filesystem, which has another number at each boot.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Stats {
    /// Those of `stat`.
    #[must_use]
    pub fn of(stat: &Stat) -> Stats {
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) };
        Stats {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            dev: stat.st_dev,
            ino: stat.st_ino,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    /// Whether a file that is like this now is the one that was like `then`.
    #[must_use]
    pub fn is_same_file(&self, then: &Stats) -> bool {
        (self.size, self.mtime, self.ctime, self.ino) == (then.size, then.mtime, then.ctime, then.ino)
    }
}

/// What was sent of one file, and what it was like when it had arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    /// Relative to the workspace.
    pub path: &'a [u8],
    /// [`FileMode::Other`] of a file that nobody knows anything of.
    pub mode: FileMode,
    /// Against the index that was sent.
    pub state: State,
    /// Its content is of the second in which it was looked at, or of a later one by the clock: it may have changed again
    /// in that second.
    pub is_young: bool,
    /// SHA-256 of what was sent.
    pub hash: [u8; 32],
    /// As it was then.
    pub stats: Stats,
}

impl Note<'_> {
    fn write(&self, to: &mut Vec<u8>) {
        to.push(match self.mode {
            FileMode::Plain => b'-',
            FileMode::Executable => b'x',
            FileMode::Link => b'l',
            FileMode::Other => b'o',
        });
        to.push(match self.state {
            State::Clean => b'c',
            State::Modified => b'm',
            State::Untracked => b'u',
        });
        to.push(u8::from(self.is_young));
        to.extend(self.hash);
        let Stats { size, mtime, ctime, dev, ino, uid, gid } = self.stats;
        to.extend(size.to_le_bytes());
        for time in [mtime, ctime] {
            to.extend(time.seconds.to_le_bytes());
            to.extend(time.nanoseconds.to_le_bytes());
        }
        to.extend(dev.to_le_bytes());
        to.extend(ino.to_le_bytes());
        to.extend(uid.to_le_bytes());
        to.extend(gid.to_le_bytes());
        let length = u16::try_from(self.path.len()).expect("a path is shorter than 64 KiB");
        to.extend(length.to_le_bytes());
        to.extend(self.path);
    }
}

/// All notes of a workspace, as they are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notes {
    bytes: Vec<u8>,
}

impl Default for Notes {
    fn default() -> Notes {
        Notes::new([0; 32])
    }
}

impl Notes {
    /// None yet, of a workspace whose index has that digest.
    #[must_use]
    pub fn new(index: [u8; 32]) -> Notes {
        Notes { bytes: [&MAGIC[..], &index].concat() }
    }

    /// Adds one, which sorts behind those that are there.
    ///
    /// # Panics
    /// When its path is longer than any path.
    pub fn push(&mut self, note: &Note<'_>) {
        note.write(&mut self.bytes);
    }

    /// What is in the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Those that are in the file; none when it is malformed.
    #[must_use]
    pub fn parse(bytes: Vec<u8>) -> Option<Notes> {
        let notes = Notes { bytes };
        let mut rest = notes.bytes.strip_prefix(MAGIC)?.get(32..)?;
        let mut last: &[u8] = b"";
        while !rest.is_empty() {
            let note = take(&mut rest)?;
            if note.path <= last || !is_path(note.path) {
                return None;
            }
            last = note.path;
        }
        Some(notes)
    }

    /// The digest of the index, see [`super::index::digest`].
    #[must_use]
    pub fn index(&self) -> [u8; 32] {
        let at = MAGIC.len();
        self.bytes.get(at..at + 32).and_then(|digest| digest.try_into().ok()).unwrap_or_default()
    }

    /// Each of them, in the order of the paths.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: self.bytes.get(MAGIC.len() + 32..).unwrap_or_default(), at: None }
    }
}

/// Notes one after the other.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    rest: &'a [u8],
    /// Looked at, and not behind what was asked for.
    at: Option<Note<'a>>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        self.at.take().or_else(|| take(&mut self.rest))
    }
}

impl<'a> Iter<'a> {
    /// The note about `path`; paths are asked for in their order.
    pub fn of(&mut self, path: &[u8]) -> Option<Note<'a>> {
        loop {
            let note = self.next()?;
            if note.path >= path {
                self.at = Some(note);
                return Some(note).filter(|note| note.path == path);
            }
        }
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<Note<'a>> {
    let [mode, state, young] = bytes(rest)?;
    let mode = match mode {
        b'-' => FileMode::Plain,
        b'x' => FileMode::Executable,
        b'l' => FileMode::Link,
        b'o' => FileMode::Other,
        _ => return None,
    };
    let state = match state {
        b'c' => State::Clean,
        b'm' => State::Modified,
        b'u' => State::Untracked,
        _ => return None,
    };
    let hash = bytes(rest)?;
    let stats = Stats {
        size: u64::from_le_bytes(bytes(rest)?),
        mtime: time(rest)?,
        ctime: time(rest)?,
        dev: u64::from_le_bytes(bytes(rest)?),
        ino: u64::from_le_bytes(bytes(rest)?),
        uid: u32::from_le_bytes(bytes(rest)?),
        gid: u32::from_le_bytes(bytes(rest)?),
    };
    let length = u16::from_le_bytes(bytes(rest)?);
    let (path, behind) = rest.split_at_checked(usize::from(length))?;
    *rest = behind;
    Some(Note { path, mode, state, is_young: young != 0, hash, stats })
}

fn time(rest: &mut &[u8]) -> Option<Time> {
    Some(Time { seconds: i64::from_le_bytes(bytes(rest)?), nanoseconds: u32::from_le_bytes(bytes(rest)?) })
}

fn bytes<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(path: &[u8], number: u64) -> Note<'_> {
        let time = |seconds: i64| Time { seconds, nanoseconds: 999_999_999 };
        let stats = Stats {
            size: number,
            mtime: time(-1),
            ctime: time(i64::MAX),
            dev: u64::MAX,
            ino: number << 40,
            uid: 7,
            gid: u32::MAX,
        };
        let mode = if number.is_multiple_of(2) { FileMode::Link } else { FileMode::Executable };
        Note { path, mode, state: State::Modified, is_young: number > 2, hash: [9; 32], stats }
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let all = [note(b"a", 1), note(b"a/b", 2), note(b"a\xff\n", 3)];
        let mut notes = Notes::new([5; 32]);
        for note in &all {
            notes.push(note);
        }
        let read = Notes::parse(notes.bytes().to_vec()).unwrap();
        assert_eq!(read.index(), [5; 32]);
        assert_eq!(read.iter().collect::<Vec<_>>(), all);
        let mut iter = read.iter();
        let found = [&b"a"[..], b"a", b"a/a", b"a/b", b"z", b"z"].map(|path| iter.of(path).map(|note| note.stats.size));
        assert_eq!(found, [Some(1), Some(1), None, Some(2), None, None]);
    }

    #[test]
    fn what_is_no_notes_is_none() {
        let mut whole = Notes::new([0; 32]);
        whole.push(&note(b"b", 1));
        for end in 0..whole.bytes().len() {
            let cut = Notes::parse(whole.bytes()[..end].to_vec());
            assert_eq!(cut.is_some(), end == MAGIC.len() + 32, "cut at {end}");
        }
        for path in [&b"b"[..], b"a", b"/c", b"c/../d"] {
            let mut notes = whole.clone();
            notes.push(&note(path, 2));
            assert_eq!(Notes::parse(notes.bytes().to_vec()), None, "{path:?}");
        }
        assert_eq!(Notes::parse(whole.bytes().iter().map(|_| 0).collect()), None, "a disk that lost them");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(tail in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(notes) = Notes::parse([&MAGIC[..], &tail].concat()) {
                prop_assert!(notes.iter().all(|note| is_path(note.path)));
            }
        }
    }
}
