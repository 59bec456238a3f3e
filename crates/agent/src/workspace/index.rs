//! git's index (gitformat-index(5)), versions 2 to 4: what it names, and its stat fields filled in.
//!
//! git takes a file for unchanged without reading it when the stat fields of its entry are what lstat(2) says. An index that
//! was made elsewhere has none; they are filled in where the file is known to be as the entry says. An index that cannot be
//! read to its end, or that is split over several files, is left alone: git fills it in by reading the files.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use wire::agent::workspace::{FileMode, State};

use super::notes::{Note, Notes, Stats};

/// Where it is, below the workspace.
pub const INDEX: &[u8] = b".git/index";
/// Stat fields, of 32 bits each: ctime, mtime (both with nanoseconds), dev, ino, mode, uid, gid, size.
const STAT_BYTES: usize = 40;
/// Flags of an entry: assumed unchanged, has further flags, stage, length of the path as far as it fits.
const ASSUME_UNCHANGED: u16 = 0x8000;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
const LENGTH: u16 = 0x0fff;
/// Further flags: no file in the work tree, nothing but the intent to add.
const SKIP_WORKTREE: u16 = 0x4000;
const INTENT_TO_ADD: u16 = 0x2000;
/// What begins every index.
const SIGNATURE: &[u8; 4] = b"DIRC";
/// The extension of an index whose entries are in another file.
const SPLIT: &[u8; 4] = b"link";
/// `S_IFMT` of an entry's mode, and what has a file of that kind.
const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The object names of a repository, and the checksum of its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn bytes(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    fn of(self, content: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(content).to_vec(),
            Hash::Sha256 => Sha256::digest(content).to_vec(),
        }
    }
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    /// Where its stat fields begin.
    at: usize,
    mode: u32,
    object: &'a [u8],
    flags: u16,
    further: u16,
    path: &'a [u8],
}

/// A digest of what an index names: paths, modes, objects, stages and the flags that people set. It does not change when git
/// only looked at files. Zeros when there is no index.
#[must_use]
pub fn digest(index: Option<&[u8]>) -> [u8; 32] {
    let Some(index) = index else {
        return [0; 32];
    };
    let mut digest = Sha256::new();
    let read = read(index, &mut |entry| {
        digest.update(entry.mode.to_be_bytes());
        digest.update((entry.flags & (ASSUME_UNCHANGED | STAGE)).to_be_bytes());
        digest.update((entry.further & (SKIP_WORKTREE | INTENT_TO_ADD)).to_be_bytes());
        digest.update(entry.object);
        digest.update(entry.path);
        digest.update([0]);
    });
    match read {
        Some(_) => digest.finalize().into(),
        None => Sha256::digest(index).into(),
    }
}

/// Fills in the stat fields of the entries whose files are as in the index, from their notes; `is_believed` says of a note
/// whether git may take the file for unchanged when only that is as noted. Gives how many; none when the index is to be left
/// alone.
pub fn fill(index: &mut [u8], notes: &Notes, mut is_believed: impl FnMut(&Note<'_>) -> bool) -> Option<u64> {
    let mut notes = notes.iter();
    let mut found: Vec<(usize, Stats)> = Vec::new();
    let hash = read(index, &mut |entry| {
        let has_file = matches!(entry.mode & KIND, FILE | LINK) && entry.further & (SKIP_WORKTREE | INTENT_TO_ADD) == 0;
        if entry.flags & STAGE != 0 || !has_file {
            return;
        }
        if let Some(note) = notes.of(entry.path)
            && note.state == State::Clean
            && note.mode != FileMode::Other
            && is_believed(&note)
        {
            found.push((entry.at, note.stats));
        }
    })?;
    let (content, trailer) = index.split_at_mut(index.len() - hash.bytes());
    for (at, stats) in &found {
        if let Some(fields) = content.get_mut(*at..).and_then(|rest| rest.first_chunk_mut::<STAT_BYTES>()) {
            write(stats, fields);
        }
    }
    // A null one says that this repository wants none.
    if trailer.iter().any(|byte| *byte != 0) {
        trailer.copy_from_slice(&hash.of(content));
    }
    Some(found.len() as u64)
}

/// As git keeps them.
fn write(stats: &Stats, fields: &mut [u8; STAT_BYTES]) {
    let mut put = |at: usize, value: u32| fields[at..at + 4].copy_from_slice(&value.to_be_bytes());
    for (at, time) in [(0, stats.ctime), (8, stats.mtime)] {
        put(at, lower(time.seconds.cast_unsigned()));
        put(at + 4, time.nanoseconds);
    }
    put(16, lower(stats.dev));
    put(20, lower(stats.ino));
    put(28, stats.uid);
    put(32, stats.gid);
    // A size of nothing marks an entry whose file is to be read.
    let size = lower(stats.size);
    put(36, if size == 0 && stats.size != 0 { 1 << 31 } else { size });
}

#[expect(clippy::cast_possible_truncation, reason = "git keeps the lower 32 bits")]
fn lower(value: u64) -> u32 {
    value as u32
}

/// Reads an index and hands out its entries, also when it turns out later that it cannot be read. Gives what its trailer is
/// made with; none when it is none, is split, or its trailer is wrong.
fn read(index: &[u8], see: &mut dyn FnMut(&Entry<'_>)) -> Option<Hash> {
    let hash = [Hash::Sha1, Hash::Sha256].into_iter().find(|hash| {
        index.len().checked_sub(hash.bytes()).is_some_and(|end| {
            let (content, trailer) = index.split_at(end);
            let is_right = trailer.iter().all(|byte| *byte == 0) || hash.of(content) == trailer;
            is_right && walk(content, hash.bytes(), &mut |_| {}).is_some()
        })
    })?;
    walk(&index[..index.len() - hash.bytes()], hash.bytes(), see)?;
    Some(hash)
}

/// Hands out the entries of an index without its trailer; none when it is malformed.
fn walk(content: &[u8], object_bytes: usize, see: &mut dyn FnMut(&Entry<'_>)) -> Option<()> {
    let mut rest = content;
    if take(&mut rest, 4)? != SIGNATURE {
        return None;
    }
    let version = number(&mut rest)?;
    let count = number(&mut rest)?;
    if !(2..=4).contains(&version) {
        return None;
    }
    let mut path = Vec::new();
    for _ in 0..count {
        let at = content.len() - rest.len();
        let fields = take(&mut rest, STAT_BYTES)?;
        let mode = u32::from_be_bytes(*fields[24..].first_chunk()?);
        let object = take(&mut rest, object_bytes)?;
        let flags = short(&mut rest)?;
        let further = if flags & EXTENDED == 0 { 0 } else { short(&mut rest)? };
        if version == 4 {
            let cut = varint(&mut rest)?;
            path.truncate(path.len().checked_sub(cut)?);
            path.extend_from_slice(until_zero(&mut rest)?);
        } else {
            path.clear();
            path.extend_from_slice(until_zero(&mut rest)?);
            // One to eight zeros, one of which is taken already.
            let length = content.len() - rest.len() - at;
            take(&mut rest, length.next_multiple_of(8) - length)?;
        }
        if path.len().min(usize::from(LENGTH)) != usize::from(flags & LENGTH) {
            return None;
        }
        see(&Entry { at, mode, object, flags, further, path: &path });
    }
    while !rest.is_empty() {
        let signature = take(&mut rest, 4)?;
        let length = number(&mut rest)?;
        take(&mut rest, usize::try_from(length).ok()?)?;
        if signature == SPLIT {
            return None;
        }
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(count)?;
    *rest = behind;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn short(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// What stands before the next zero, which is taken as well.
fn until_zero<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let taken = take(rest, end)?;
    take(rest, 1)?;
    Some(taken)
}

/// A number of any length, as offsets are written in packs: seven bits a byte, each further byte one more.
fn varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value: usize = 0;
    loop {
        let byte = *take(rest, 1)?.first()?;
        value = value.checked_shl(7)?.checked_add(usize::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        value = value.checked_add(1).filter(|value| *value <= usize::MAX >> 7)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workspace::notes::Time;

    fn note(path: &[u8]) -> Note<'_> {
        let time = Time { seconds: 5_000_000_000, nanoseconds: 7 };
        let stats = Stats { size: 1 << 32, mtime: time, ctime: time, dev: 3, ino: (9 << 32) | 4, uid: 1, gid: 2 };
        Note { path, mode: FileMode::Plain, state: State::Clean, is_young: false, hash: [0; 32], stats }
    }

    /// An index of version 2 with one entry of each path, and a right trailer.
    fn made(entries: &[(&[u8], u32, u16)], hash: Hash) -> Vec<u8> {
        let mut index =
            [&SIGNATURE[..], &2_u32.to_be_bytes(), &u32::try_from(entries.len()).unwrap().to_be_bytes()].concat();
        for (path, mode, flags) in entries {
            let begin = index.len();
            index.extend([0; STAT_BYTES]);
            index[begin + 24..begin + 28].copy_from_slice(&mode.to_be_bytes());
            index.resize(index.len() + hash.bytes(), 0xaa);
            index.extend((flags | u16::try_from(path.len()).unwrap()).to_be_bytes());
            index.extend(*path);
            let length = index.len() - begin;
            index.resize(begin + (length + 8) / 8 * 8, 0);
        }
        index.extend(b"TREE\0\0\0\x02ab");
        let trailer = hash.of(&index);
        [index, trailer].concat()
    }

    #[test]
    fn stat_fields_are_filled_as_git_keeps_them() {
        for hash in [Hash::Sha1, Hash::Sha256] {
            let empty = made(&[(b"a", 0o100_644, 0), (b"b", 0o100_644, 0x2000), (b"c", 0o160_000, 0)], hash);
            let mut notes = Notes::default();
            for path in [&b"a"[..], b"b", b"c"] {
                notes.push(&note(path));
            }
            let mut index = empty.clone();
            assert_eq!(
                fill(&mut index, &notes, |_| true),
                Some(1),
                "a conflict and a submodule have no file of theirs"
            );
            let numbers: Vec<u32> =
                index[12..12 + STAT_BYTES].chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect();
            let seconds = 5_000_000_000_u64 as u32;
            assert_eq!(numbers, [seconds, 7, seconds, 7, 3, 4, 0o100_644, 1, 2, 1 << 31]);
            assert_eq!(digest(Some(&index)), digest(Some(&empty)), "which names the same as before");
            assert_eq!(fill(&mut empty.clone(), &notes, |_| false), Some(0));
        }
    }

    #[test]
    fn a_null_trailer_stays_one() {
        for hash in [Hash::Sha1, Hash::Sha256] {
            let mut index = made(&[(b"a", 0o100_755, 0)], hash);
            let end = index.len() - hash.bytes();
            index[end..].fill(0);
            let mut notes = Notes::default();
            notes.push(&note(b"a"));
            assert_eq!(fill(&mut index, &notes, |_| true), Some(1));
            assert!(index[end..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let right = made(&[(b"a", 0o100_644, 0)], Hash::Sha1);
        let mut notes = Notes::default();
        notes.push(&note(b"a"));
        for at in 0..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            let before = wrong.clone();
            assert_eq!(fill(&mut wrong, &notes, |_| true), None, "a byte is wrong at {at}");
            assert_eq!(wrong, before);
            assert_ne!(digest(Some(&wrong)), digest(Some(&right)));
        }
        let content = &right[..right.len() - 20];
        let split = [content, b"link\0\0\0\0"].concat();
        let split = [split.clone(), Hash::Sha1.of(&split)].concat();
        assert_eq!(fill(&mut split.clone(), &notes, |_| true), None);
        assert_eq!(digest(None), [0; 32]);
    }

    /// Bytes much like an index, with a trailer that is right.
    fn like_an_index() -> impl Strategy<Value = Vec<u8>> {
        let entry = (any::<[u8; 62]>(), 0_u8..6, prop::collection::vec(0_u8..4, 0..12));
        (0_u8..6, 0_u8..4, prop::collection::vec(entry, 0..4), any::<bool>()).prop_map(
            |(version, count, entries, is_null)| {
                let mut index = [&SIGNATURE[..], &[0, 0, 0, version, 0, 0, 0, count]].concat();
                for (mut fields, length, tail) in entries {
                    fields[60] &= 0xf0;
                    fields[61] = length;
                    index.extend(fields);
                    index.extend(tail);
                }
                let trailer = if is_null { vec![0; 20] } else { Hash::Sha1.of(&index) };
                [index, trailer].concat()
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), like_an_index()]) {
            let mut notes = Notes::default();
            notes.push(&note(b"\x01"));
            let mut index = bytes.clone();
            let filled = fill(&mut index, &notes, |_| true);
            prop_assert_eq!(index.len(), bytes.len());
            prop_assert_eq!(digest(Some(&index)) == digest(Some(&bytes)), true);
            prop_assert!(filled.is_some() || index == bytes);
        }
    }
}
