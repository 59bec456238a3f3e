//! Reads an rpm package as Fedora and its kin make them.
//!
//! | part | bytes | what is taken of it |
//! |---|---|---|
//! | lead | 96 | that it is a binary package; the rest is a relic |
//! | signature | a header structure, padded to 8 | nothing: whose package it is, is for whoever fetched it |
//! | header | a header structure | the format and the digest of the payload |
//! | payload | the rest | the files: a compressed cpio archive |
//!
//! A header structure is an index of 16-byte entries (tag, type, offset, count) and a store of values, both as long as
//! its first 16 bytes say, in network order (rpm's docs/manual/format_header.md, format_lead.md).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::package::{self, PackageError, UNPACKED_MAX_BYTES, Unpacking};
use crate::image::newc::reader::Reader;
use crate::image::stream::{Bounded, Hashing, Watched, copy};
use crate::model::progress::Watcher;

/// What every rpm begins with.
pub(super) const LEAD_MAGIC: &[u8] = &[0xed, 0xab, 0xee, 0xdb];
const LEAD_BYTES: usize = 96;
const HEADER_MAGIC: &[u8] = &[0x8e, 0xad, 0xe8, 0x01];
const INDEX_ENTRY_BYTES: usize = 16;
/// Tags a header may have: rpm's own limit.
const INDEX_ENTRIES_MAX: u32 = 0xffff;
/// Bytes of values a header may have: names and digests of 5,000 files are 1 MB; rpm itself allows 256 MiB.
const STORE_MAX_BYTES: u32 = 64 << 20;

const TAG_PAYLOAD_FORMAT: u32 = 1124;
const TAG_PAYLOAD_DIGEST: u32 = 5092;
const TAG_PAYLOAD_DIGEST_ALGORITHM: u32 = 5093;
/// SHA-256 in rpm's numbers, which are OpenPGP's (RFC 9580, section 9.5).
const SHA256: u32 = 8;
const TYPE_INT32: u32 = 4;
const TYPE_STRING: u32 = 6;
const TYPE_STRING_ARRAY: u32 = 8;

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads exactly `bytes` of `part`, without believing that they are there before they are.
fn read_part(reader: &mut dyn Read, part: &str, bytes: usize) -> io::Result<Vec<u8>> {
    let mut got = Vec::new();
    reader.take(bytes as u64).read_to_end(&mut got)?;
    if got.len() < bytes {
        let why = format!("its {part} is cut short: {} of {bytes} bytes are there", got.len());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(got)
}

/// A header structure.
#[derive(Debug)]
pub(super) struct Header {
    index: Vec<u8>,
    store: Vec<u8>,
}

impl Header {
    /// Reads one; `part` is what an error calls it.
    fn read(reader: &mut dyn Read, part: &str) -> io::Result<Self> {
        let intro = read_part(reader, part, 16)?;
        if !intro.starts_with(HEADER_MAGIC) {
            return Err(invalid(format!("its {part} begins with {:02x?}, which is no header", &intro[..4])));
        }
        let (entries, bytes) = (u32_at(&intro, 8).unwrap_or(0), u32_at(&intro, 12).unwrap_or(0));
        if entries == 0 || entries > INDEX_ENTRIES_MAX || bytes > STORE_MAX_BYTES {
            return Err(invalid(format!("its {part} claims {entries} entries and {bytes} bytes of values")));
        }
        let index = read_part(reader, part, entries as usize * INDEX_ENTRY_BYTES)?;
        Ok(Self { index, store: read_part(reader, part, bytes as usize)? })
    }

    /// Type and value of a tag; nothing for one that has no value in the store.
    fn value(&self, tag: u32) -> Option<(u32, &[u8])> {
        let entry = self.index.chunks_exact(INDEX_ENTRY_BYTES).find(|entry| u32_at(entry, 0) == Some(tag))?;
        let at = usize::try_from(u32_at(entry, 8)?).ok()?;
        (u32_at(entry, 12)? > 0).then_some(())?;
        Some((u32_at(entry, 4)?, self.store.get(at..)?))
    }

    /// The text of a tag, or the first of several.
    fn text(&self, tag: u32) -> Option<&str> {
        let (_, value) = self.value(tag).filter(|(kind, _)| [TYPE_STRING, TYPE_STRING_ARRAY].contains(kind))?;
        std::str::from_utf8(&value[..memchr::memchr(0, value)?]).ok()
    }

    fn number(&self, tag: u32) -> Option<u32> {
        let (_, value) = self.value(tag).filter(|(kind, _)| *kind == TYPE_INT32)?;
        u32_at(value, 0)
    }
}

/// Reads everything before the payload.
pub(super) fn read_headers(reader: &mut dyn Read) -> io::Result<Header> {
    let lead = read_part(reader, "lead", LEAD_BYTES)?;
    if !lead.starts_with(LEAD_MAGIC) {
        return Err(invalid(format!("it begins with {:02x?}", &lead[..4])));
    }
    if !matches!(lead[4], 3 | 4) {
        return Err(invalid(format!("its format is {}.{}, neither 3 nor 4", lead[4], lead[5])));
    }
    if lead[6..8] != [0, 0] {
        return Err(invalid("it is a source package"));
    }
    let signature = Header::read(reader, "signature")?;
    read_part(reader, "signature", signature.store.len().next_multiple_of(8) - signature.store.len())?;
    let header = Header::read(reader, "header")?;
    match header.text(TAG_PAYLOAD_FORMAT) {
        Some("cpio") | None => Ok(header),
        Some(other) => Err(invalid(format!("its payload is of the format {other:?}, not cpio"))),
    }
}

/// Unpacks the kernel in `package` to `target/{boot,lib/modules}`.
///
/// # Errors
/// [`PackageError`], naming the package and the entry.
pub(super) fn unpack(package: &Path, target: &Path, watcher: Watcher<'_>) -> Result<(), PackageError> {
    let opened = |err| PackageError::Open { package: package.to_owned(), err };
    let file = File::open(package).map_err(opened)?;
    let length = file.metadata().map_err(opened)?.len();
    let damaged = |err| PackageError::Archive { package: package.to_owned(), format: "rpm", err };
    let mut reader = Watched::new(BufReader::new(file), watcher, Some(length));
    let header = read_headers(&mut reader).map_err(damaged)?;
    let mut payload = Hashing::new(reader);
    files(&Unpacking { package, member: "payload", target, watcher }, &mut payload)?;
    copy(&mut payload, &mut io::sink(), watcher).map_err(damaged)?;
    let (digest, _) = payload.finish();
    match (header.number(TAG_PAYLOAD_DIGEST_ALGORITHM), header.text(TAG_PAYLOAD_DIGEST)) {
        (Some(SHA256), Some(promised)) if promised != digest.to_string() => {
            Err(damaged(invalid(format!("the digest of its payload is {digest}, its header promises {promised}"))))
        }
        _ => Ok(()),
    }
}

/// Takes the files of a payload.
pub(super) fn files(unpacking: &Unpacking<'_>, payload: &mut dyn Read) -> Result<(), PackageError> {
    let plain = unpacking.decode(payload, true)?;
    let mut archive = Reader::new(Bounded::new(plain, UNPACKED_MAX_BYTES));
    let mut last: Option<String> = None;
    let mut count = 0;
    while let Some(entry) = archive.next_entry().map_err(|err| unpacking.damaged(last.as_deref(), err))? {
        // All names but the last have no content in the archive.
        if entry.is_file() && entry.links > 1 && package::wanted(&entry.path).is_some() {
            return Err(unpacking.refuse(&entry.path, "is one of several links to a file"));
        }
        unpacking.take(&entry.path, count, entry.is_file(), &mut archive)?;
        count += 1;
        last = Some(entry.path);
    }
    copy(&mut archive.into_inner(), &mut io::sink(), unpacking.watcher)
        .map_err(|err| unpacking.damaged(last.as_deref(), err))?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
