//! A header structure of an rpm: its tags, and the files they tell of.
//!
//! An index of 16-byte entries (tag, type, offset, count) and a store of values, both as long as its first 16 bytes say, in
//! network order (rpm's docs/manual/format_header.md).

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::{invalid, read_part};
use crate::image::newc::reader::Entry;

pub(super) const MAGIC: &[u8] = &[0x8e, 0xad, 0xe8, 0x01];
const INDEX_ENTRY_BYTES: usize = 16;
/// Tags a header may have: rpm's own limit.
const INDEX_ENTRIES_MAX: u32 = 0xffff;
/// Bytes of values a header may have: names and digests of 5,000 files are 1 MB; rpm itself allows 256 MiB.
const STORE_MAX_BYTES: u32 = 64 << 20;

const TAG_FILE_MODES: u32 = 1030;
const TAG_FILE_INODES: u32 = 1096;
const TAG_DIRECTORY_INDEXES: u32 = 1116;
const TAG_BASENAMES: u32 = 1117;
const TAG_DIRECTORY_NAMES: u32 = 1118;
const TAG_LONG_FILE_SIZES: u32 = 5008;

const TYPE_INT16: u32 = 3;
pub(super) const TYPE_INT32: u32 = 4;
const TYPE_INT64: u32 = 5;
pub(super) const TYPE_STRING: u32 = 6;
pub(super) const TYPE_STRING_ARRAY: u32 = 8;

/// `S_IFMT`, and the two kinds whose size is that of something in the archive.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A header structure.
#[derive(Debug)]
pub(in crate::image::kernel) struct Header {
    index: Vec<u8>,
    store: Vec<u8>,
}

/// A tag: what its values are, how many there are, and the store from the first of them on.
struct Values<'a> {
    kind: u32,
    count: usize,
    bytes: &'a [u8],
}

impl Header {
    /// Reads one; `part` is what an error calls it.
    pub(super) fn read(reader: &mut dyn Read, part: &str) -> io::Result<Self> {
        let intro = read_part(reader, part, 16)?;
        if !intro.starts_with(MAGIC) {
            return Err(invalid(format!("its {part} begins with {:02x?}, which is no header", &intro[..4])));
        }
        let (entries, bytes) = (u32_at(&intro, 8).unwrap_or(0), u32_at(&intro, 12).unwrap_or(0));
        if entries == 0 || entries > INDEX_ENTRIES_MAX || bytes > STORE_MAX_BYTES {
            return Err(invalid(format!("its {part} claims {entries} entries and {bytes} bytes of values")));
        }
        let index = read_part(reader, part, entries as usize * INDEX_ENTRY_BYTES)?;
        Ok(Self { index, store: read_part(reader, part, bytes as usize)? })
    }

    /// Bytes behind a signature's header, which ends at a multiple of 8.
    pub(super) fn padding(&self) -> usize {
        self.store.len().next_multiple_of(8) - self.store.len()
    }

    fn values(&self, tag: u32) -> Option<Values<'_>> {
        let entry = self.index.chunks_exact(INDEX_ENTRY_BYTES).find(|entry| u32_at(entry, 0) == Some(tag))?;
        let at = usize::try_from(u32_at(entry, 8)?).ok()?;
        let count = usize::try_from(u32_at(entry, 12)?).ok()?;
        Some(Values { kind: u32_at(entry, 4)?, count, bytes: self.store.get(at..)? })
    }

    fn texts(&self, tag: u32) -> Option<Vec<&str>> {
        let mut values = self.values(tag).filter(|values| [TYPE_STRING, TYPE_STRING_ARRAY].contains(&values.kind))?;
        let mut texts = Vec::new();
        for _ in 0..values.count {
            let end = memchr::memchr(0, values.bytes)?;
            texts.push(std::str::from_utf8(&values.bytes[..end]).ok()?);
            values.bytes = &values.bytes[end + 1..];
        }
        Some(texts)
    }

    /// The text of a tag, or the first of several.
    pub(in crate::image::kernel) fn text(&self, tag: u32) -> Option<&str> {
        self.texts(tag)?.first().copied()
    }

    fn numbers(&self, tag: u32) -> Option<Vec<u64>> {
        let values = self.values(tag)?;
        let width = match values.kind {
            TYPE_INT16 => 2,
            TYPE_INT32 => 4,
            TYPE_INT64 => 8,
            _ => return None,
        };
        let bytes = values.bytes.get(..values.count.checked_mul(width)?)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Some(bytes.chunks_exact(width).map(number).collect())
    }

    pub(in crate::image::kernel) fn number(&self, tag: u32) -> Option<u32> {
        self.numbers(tag)?.first().and_then(|number| u32::try_from(*number).ok())
    }

    /// The files of a package whose archive has only their numbers; none for one whose archive says all itself.
    pub(in crate::image::kernel) fn files(&self) -> io::Result<Vec<Entry>> {
        let Some(sizes) = self.numbers(TAG_LONG_FILE_SIZES) else {
            return Ok(Vec::new());
        };
        let read = || -> Option<Vec<Entry>> {
            let (names, directories) = (self.texts(TAG_BASENAMES)?, self.texts(TAG_DIRECTORY_NAMES)?);
            let (indexes, modes) = (self.numbers(TAG_DIRECTORY_INDEXES)?, self.numbers(TAG_FILE_MODES)?);
            let inodes = self.numbers(TAG_FILE_INODES)?;
            let whole = [names.len(), indexes.len(), modes.len(), inodes.len()].iter().all(|len| *len == sizes.len());
            whole.then_some(())?;
            let mut links = BTreeMap::<u64, u32>::new();
            for inode in &inodes {
                *links.entry(*inode).or_default() += 1;
            }
            let mut path_bytes = 0;
            let file = |index: usize| {
                let directory = directories.get(usize::try_from(indexes[index]).ok()?)?;
                let mode = u32::try_from(modes[index]).ok()?;
                // A long directory of many files is long many times.
                path_bytes += directory.len() + names[index].len();
                (path_bytes <= STORE_MAX_BYTES as usize).then_some(())?;
                let has_content = [REGULAR, SYMLINK].contains(&(mode & KIND));
                Some(Entry {
                    path: format!(".{directory}{}", names[index]),
                    mode,
                    links: if mode & KIND == REGULAR { links[&inodes[index]] } else { 1 },
                    size_bytes: if has_content { sizes[index] } else { 0 },
                })
            };
            (0..sizes.len()).map(file).collect()
        };
        read().ok_or_else(|| invalid("its header contradicts itself about its files"))
    }
}
