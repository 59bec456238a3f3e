//! Reads an rpm package as Fedora and its kin make them.
//!
//! | part | bytes | what is taken of it |
//! |---|---|---|
//! | lead | 96 | that it is a binary package; the rest is a relic |
//! | signature | a header structure, padded to 8 | nothing: whose package it is, is for whoever fetched it |
//! | header | a header structure (`header.rs`) | the format and the digest of the payload; in rpm's sixth format, the files |
//! | payload | the rest | the files: a compressed cpio archive |
//!
//! The parts are described in rpm's docs/manual: format_lead.md, format_header.md, format_payload.md.

mod header;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use self::header::Header;
use super::package::{self, PackageError, UNPACKED_MAX_BYTES, Unpacking};
use crate::image::newc::reader::{Entry, Reader};
use crate::image::stream::{Bounded, Hashing, Watched, copy};
use crate::model::progress::Watcher;

/// What every rpm begins with.
pub(super) const LEAD_MAGIC: &[u8] = &[0xed, 0xab, 0xee, 0xdb];
const LEAD_BYTES: usize = 96;
const TAG_PAYLOAD_FORMAT: u32 = 1124;
const TAG_PAYLOAD_DIGEST: u32 = 5092;
const TAG_PAYLOAD_DIGEST_ALGORITHM: u32 = 5093;
/// SHA-256 in rpm's numbers, which are OpenPGP's (RFC 9580, section 9.5).
const SHA256: u32 = 8;

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
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
    read_part(reader, "signature", signature.padding())?;
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
    let named = header.files().map_err(damaged)?;
    let mut payload = Hashing::new(reader);
    files(&Unpacking { package, member: "payload", target, watcher }, named, &mut payload)?;
    copy(&mut payload, &mut io::sink(), watcher).map_err(damaged)?;
    let (digest, _) = payload.finish();
    match (header.number(TAG_PAYLOAD_DIGEST_ALGORITHM), header.text(TAG_PAYLOAD_DIGEST)) {
        // The sixth format does not say which: it has one.
        (Some(SHA256) | None, Some(promised)) if promised != digest.to_string() => {
            Err(damaged(invalid(format!("the digest of its payload is {digest}, its header promises {promised}"))))
        }
        _ => Ok(()),
    }
}

/// Takes the files of a payload; `named` are those that it may call by their numbers.
fn files(unpacking: &Unpacking<'_>, named: Vec<Entry>, payload: &mut dyn Read) -> Result<(), PackageError> {
    let plain = unpacking.decode(payload, true)?;
    let mut archive = Reader::with_files(Bounded::new(plain, UNPACKED_MAX_BYTES), named);
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
