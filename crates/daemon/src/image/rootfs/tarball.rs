//! Reads a tar archive entry by entry, without unpacking it.
//!
//! Understood are ustar, GNU tar's long names and sparse files (tar(5) of libarchive describes them all), and pax
//! headers, whose values may hold any byte: capabilities and ACLs do. A reader gets the records in order; contents stay
//! where they are and are named by their place in the file.

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK_BYTES: u64 = 512;
/// A pax header or a long name; the largest real ones hold a few extended attributes of 64 KiB.
const EXTENSION_MAX_BYTES: u64 = 1 << 20;
/// Pieces of one sparse file.
const SEGMENTS_MAX: usize = 100_000;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The file cannot be read.
    #[error("cannot read the archive at {}", place(.entry.as_ref()))]
    Read {
        /// The last entry read.
        entry: Option<String>,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The archive ends too early.
    #[error("the archive is cut short: it ends {}", place(.entry.as_ref()))]
    Truncated {
        /// The last entry read.
        entry: Option<String>,
    },
    /// A header is damaged.
    #[error("the archive is damaged: {what} {}", place(.entry.as_ref()))]
    Damaged {
        /// The last entry read.
        entry: Option<String>,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry that cannot be taken over.
    #[error("entry {entry:?} is refused: {why}")]
    Refused {
        /// The entry.
        entry: String,
        /// Why.
        why: &'static str,
    },
}

fn place(entry: Option<&String>) -> String {
    entry.map_or_else(|| "at its first entry".to_owned(), |entry| format!("at or after {entry:?}"))
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: String,
    pub(crate) kind: RecordKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Dir,
    File(Content),
    HardLink(String),
    Symlink(String),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) size_bytes: u64,
    /// In order, without overlap; what is between them is zeros.
    pub(crate) segments: Vec<Segment>,
}

/// The unit in which a filesystem can leave a hole.
const HOLE_BYTES: u64 = 4096;

impl Content {
    /// Offset and length of what is not a hole, widened to whole filesystem blocks.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.len > 0) {
            let start = segment.offset / HOLE_BYTES * HOLE_BYTES;
            let end = (segment.offset + segment.len).next_multiple_of(HOLE_BYTES).min(self.size_bytes);
            match ranges.last_mut() {
                Some((offset, len)) if *offset + *len >= start => *len = end - *offset,
                _ => ranges.push((start, end - start)),
            }
        }
        ranges
    }
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where in the file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Where in the archive.
    pub(crate) at: u64,
}

/// What extension headers say about the next entry.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_size: Option<u64>,
    sparse_path: Option<Vec<u8>>,
}

/// An archive being read.
pub(crate) struct Tarball<R> {
    inner: R,
    at: u64,
    last: Option<String>,
    /// Whether the archive may end where a header could begin, without the blocks of zeros.
    may_just_end: bool,
}

impl<R: Read> Tarball<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, at: 0, last: None, may_just_end: false }
    }

    /// The same, which may end without blocks of zeros: some writers of layers leave them out, and what is cut short is
    /// found by its digest.
    pub(crate) fn that_may_just_end(inner: R) -> Self {
        Self { may_just_end: true, ..Self::new(inner) }
    }

    /// Gives the reader back, to read what follows the archive.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    fn unread(&self, err: io::Error) -> TarError {
        let entry = self.last.clone();
        if err.kind() == io::ErrorKind::UnexpectedEof {
            TarError::Truncated { entry }
        } else {
            TarError::Read { entry, err }
        }
    }

    fn damaged(&self, what: &'static str) -> TarError {
        TarError::Damaged { entry: self.last.clone(), what }
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), TarError> {
        self.inner.read_exact(buf).map_err(|err| self.unread(err))?;
        self.at += buf.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut self.inner.by_ref().take(bytes), &mut io::sink())
            .map_err(|err| TarError::Read { entry: self.last.clone(), err })?;
        self.at += skipped;
        if skipped < bytes {
            return Err(TarError::Truncated { entry: self.last.clone() });
        }
        Ok(())
    }

    /// Reads `size` bytes and the padding after them.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_MAX_BYTES {
            return Err(self.damaged("it has an extension header of more than 1 MiB"));
        }
        let mut bytes = vec![0; size.next_multiple_of(BLOCK_BYTES) as usize];
        self.read_exact(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// The next header; `None` at the block of zeros that ends an archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let first = &mut header.as_mut_bytes()[..1];
        if self.may_just_end && self.inner.read(first).map_err(|err| self.unread(err))? == 0 {
            return Ok(None);
        }
        let begun = usize::from(self.may_just_end);
        self.at += begun as u64;
        self.read_exact(&mut header.as_mut_bytes()[begun..])?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        // The checksum field itself counts as eight spaces.
        let computed = sum(&bytes[..148]) + 8 * 32 + sum(&bytes[156..]);
        if header.cksum().ok() != Some(computed) {
            return Err(self.damaged("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header.entry_size().map_err(|_| self.damaged("a size cannot be read"))?;
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() {
                let bytes = self.extension(size)?;
                pax(&bytes, &mut extensions).map_err(|what| self.damaged(what))?;
            } else if kind.is_pax_global_extensions() {
                self.extension(size)?;
            } else if kind.is_gnu_longname() {
                extensions.path = Some(without_nul(self.extension(size)?));
            } else if kind.is_gnu_longlink() {
                extensions.link = Some(without_nul(self.extension(size)?));
            } else {
                return self.record(&header, extensions).map(Some);
            }
        }
    }

    fn record(&mut self, header: &Header, extensions: Extensions) -> Result<Record, TarError> {
        let path = extensions.sparse_path.clone().or_else(|| extensions.path.clone());
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |why| TarError::Refused { entry: String::from_utf8_lossy(&path).chars().take(200).collect(), why };
        let name = String::from_utf8(path.clone()).map_err(|_| refuse("its name is not UTF-8"))?;
        let link = || {
            let bytes = extensions.link.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
            let text = String::from_utf8(bytes.unwrap_or_default()).map_err(|_| refuse("its target is not UTF-8"))?;
            if text.is_empty() { Err(refuse("it is a link to nothing")) } else { Ok(text) }
        };
        let number = |value: Option<u32>| value.ok_or_else(|| refuse("a number in its header cannot be read"));
        let device = || -> Result<(u32, u32), TarError> {
            let major = header.device_major().ok().flatten();
            Ok((number(major)?, number(header.device_minor().ok().flatten())?))
        };
        let id = |value: io::Result<u64>| value.ok().and_then(|id| u32::try_from(id).ok());
        let (uid, gid) = (extensions.uid.or_else(|| id(header.uid())), extensions.gid.or_else(|| id(header.gid())));
        let (uid, gid, mode) = (number(uid)?, number(gid)?, number(header.mode().ok())?);
        let mtime = extensions.mtime.or_else(|| Some((i64::try_from(header.mtime().ok()?).ok()?, 0)));
        let mtime = mtime.ok_or_else(|| refuse("its time cannot be read"))?;
        #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else a tar may hold has no place in a filesystem")]
        let kind = match header.entry_type() {
            EntryType::Directory => RecordKind::Dir,
            EntryType::Symlink => RecordKind::Symlink(link()?),
            EntryType::Link => RecordKind::HardLink(link()?),
            EntryType::Char => device().map(|(major, minor)| RecordKind::CharDevice { major, minor })?,
            EntryType::Block => device().map(|(major, minor)| RecordKind::BlockDevice { major, minor })?,
            EntryType::Fifo => RecordKind::Fifo,
            // A name with a trailing slash is how tar of the 1970s wrote directories.
            EntryType::Regular if name.ends_with('/') => RecordKind::Dir,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.last = Some(name.clone());
                RecordKind::File(self.content(header, &extensions)?)
            }
            _ => return Err(refuse("it is of an unknown kind")),
        };
        if !matches!(kind, RecordKind::File(_)) {
            // Only some old archives give other kinds a content.
            let size = extensions.size.or_else(|| header.entry_size().ok()).unwrap_or(0);
            let has_content = !matches!(kind, RecordKind::HardLink(_)) && size > 0;
            if has_content {
                self.skip_padded(size)?;
            }
        }
        self.last = Some(name.clone());
        Ok(Record { path: name, kind, mode: (mode & 0o7777) as u16, uid, gid, mtime, xattrs: extensions.xattrs })
    }

    fn skip_padded(&mut self, bytes: u64) -> Result<(), TarError> {
        let padded = bytes.checked_next_multiple_of(BLOCK_BYTES);
        let padded = padded.ok_or_else(|| self.damaged("a size cannot be read"))?;
        self.skip(bytes)?;
        match self.skip(padded - bytes) {
            // The padding of the last entry is left out with the end.
            Err(TarError::Truncated { .. }) if self.may_just_end => Ok(()),
            skipped => skipped,
        }
    }

    /// Notes where a file's bytes are and passes over them.
    fn content(&mut self, header: &Header, extensions: &Extensions) -> Result<Content, TarError> {
        let stored = extensions.size.or_else(|| header.entry_size().ok());
        let stored = stored.ok_or_else(|| self.damaged("a size cannot be read"))?;
        let (size_bytes, mut map) = match (header.entry_type(), extensions.sparse_major) {
            (EntryType::GNUSparse, _) => self.old_sparse_map(header)?,
            (_, Some(1)) => {
                let start = self.at;
                let map = self.pax_sparse_map()?;
                let (size, used) = (extensions.sparse_size, self.at - start);
                let size = size.ok_or_else(|| self.damaged("a sparse file has no size"))?;
                let left =
                    stored.checked_sub(used).ok_or_else(|| self.damaged("a sparse file's map is longer than it"))?;
                return self.segments(size, left, map);
            }
            (_, Some(_)) => return Err(self.damaged("a sparse file is in a format of before GNU tar 1.16")),
            (_, None) if stored == 0 => (0, Vec::new()),
            (_, None) => (stored, vec![(0, stored)]),
        };
        map.retain(|(_, len)| *len > 0);
        self.segments(size_bytes, stored, map)
    }

    /// Turns a map of offsets and lengths into segments, and passes over the `stored` bytes they are in.
    fn segments(&mut self, size_bytes: u64, stored: u64, map: Vec<(u64, u64)>) -> Result<Content, TarError> {
        let (mut at, mut covered, mut total) = (self.at, 0, 0u64);
        let mut segments = Vec::with_capacity(map.len());
        for (offset, len) in map {
            let end = offset.checked_add(len).filter(|end| *end <= size_bytes && offset >= covered);
            covered = end.ok_or_else(|| self.damaged("a sparse file's map is out of order"))?;
            segments.push(Segment { offset, len, at });
            at += len;
            total += len;
        }
        if total != stored {
            return Err(self.damaged("a sparse file's map does not add up"));
        }
        self.skip_padded(stored)?;
        Ok(Content { size_bytes, segments })
    }

    /// GNU tar's own format: four pieces in the header, more in blocks after it.
    fn old_sparse_map(&mut self, header: &Header) -> Result<(u64, Vec<(u64, u64)>), TarError> {
        let gnu = header.as_gnu().ok_or_else(|| self.damaged("a sparse file has no GNU header"))?;
        let size = gnu.real_size().map_err(|_| self.damaged("a size cannot be read"))?;
        let pair = |piece: &tar::GnuSparseHeader| Some((piece.offset().ok()?, piece.length().ok()?));
        let unreadable = "a sparse file's map cannot be read";
        let mut map = Vec::new();
        for piece in gnu.sparse.iter().filter(|piece| !piece.is_empty()) {
            map.push(pair(piece).ok_or_else(|| self.damaged(unreadable))?);
        }
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.read_exact(block.as_mut_bytes())?;
            for piece in block.sparse().iter().filter(|piece| !piece.is_empty()) {
                map.push(pair(piece).ok_or_else(|| self.damaged(unreadable))?);
            }
            if map.len() > SEGMENTS_MAX {
                return Err(self.damaged("a sparse file has too many pieces"));
            }
            more = block.is_extended();
        }
        Ok((size, map))
    }

    /// pax format 1.0: decimal numbers, one a line, at the start of the content, padded to a block.
    fn pax_sparse_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut block = [0; BLOCK_BYTES as usize];
        let mut used = block.len();
        let mut number = |tar: &mut Self| -> Result<u64, TarError> {
            let mut value = 0u64;
            loop {
                if used == block.len() {
                    tar.read_exact(&mut block)?;
                    used = 0;
                }
                let byte = block[used];
                used += 1;
                let digit = match byte {
                    b'\n' => return Ok(value),
                    b'0'..=b'9' => u64::from(byte - b'0'),
                    _ => return Err(tar.damaged("a sparse file's map cannot be read")),
                };
                let longer = value.checked_mul(10).and_then(|value| value.checked_add(digit));
                value = longer.ok_or_else(|| tar.damaged("a sparse file's map cannot be read"))?;
            }
        };
        let count = number(self)?;
        if count > SEGMENTS_MAX as u64 {
            return Err(self.damaged("a sparse file has too many pieces"));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            let pair = (number(self)?, number(self)?);
            if pair.1 > 0 {
                map.push(pair);
            }
        }
        Ok(map)
    }
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Reads pax records, "<length> <key>=<value>\n", by their lengths: a value may hold newlines.
fn pax(mut bytes: &[u8], extensions: &mut Extensions) -> Result<(), &'static str> {
    const BAD: &str = "a pax header cannot be read";
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
        let len: usize = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or(BAD)?;
        let record = bytes.get(space + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or(BAD)?;
        bytes = &bytes[len..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let (key, value) = (std::str::from_utf8(&record[..equals]).map_err(|_| BAD)?, &record[equals + 1..]);
        let text = std::str::from_utf8(value).ok();
        let number = || text.and_then(|text| text.parse::<u64>().ok()).ok_or(BAD);
        let id = || number().and_then(|id| u32::try_from(id).map_err(|_| BAD));
        match key {
            "path" => extensions.path = Some(value.to_vec()),
            "linkpath" => extensions.link = Some(value.to_vec()),
            "size" => extensions.size = Some(number()?),
            "uid" => extensions.uid = Some(id()?),
            "gid" => extensions.gid = Some(id()?),
            "mtime" => extensions.mtime = Some(text.and_then(timestamp).ok_or(BAD)?),
            "GNU.sparse.major" => extensions.sparse_major = Some(number()?),
            "GNU.sparse.name" => extensions.sparse_path = Some(value.to_vec()),
            "GNU.sparse.realsize" => extensions.sparse_size = Some(number()?),
            // Versions 0.0 and 0.1 begin with this key and have no major version.
            "GNU.sparse.size" | "GNU.sparse.numblocks" => {
                extensions.sparse_major.get_or_insert(0);
            }
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    extensions.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// Seconds with an optional fraction, possibly before 1970.
fn timestamp(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests;
