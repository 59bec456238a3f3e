//! Takes one file out of a Python wheel, which is a zip archive (APPNOTE.TXT of PKWARE; PEP 427).
//!
//! Only what wheels use is read: stored and deflated files, no encryption, no archive of over 4 GiB. The directory at
//! the end is authoritative, and the file's CRC-32 and length are checked.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::image::stream::Bounded;

const END_MAGIC: &[u8] = b"PK\x05\x06";
const DIRECTORY_MAGIC: &[u8] = b"PK\x01\x02";
const LOCAL_MAGIC: &[u8] = b"PK\x03\x04";
/// The end record is 22 bytes and may be followed by a comment of up to 65,535.
const END_SEARCH_BYTES: u64 = 22 + 65_535;
const DIRECTORY_MAX_BYTES: u64 = 64 << 20;

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is not a whole zip archive: {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<usize> {
    let field = bytes.get(at..at + 2).ok_or_else(|| bad("a record is cut short"))?;
    Ok(usize::from(u16::from_le_bytes([field[0], field[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let field = bytes.get(at..at + 4).ok_or_else(|| bad("a record is cut short"))?;
    Ok(u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
}

fn read_at(file: &mut File, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(bad("it ends too early")) }
}

/// Writes the file `member` of the archive to `out`; says whether it is there.
pub(super) fn extract(mut file: File, member: &str, max_bytes: u64, out: &mut File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let tail_at = length.saturating_sub(END_SEARCH_BYTES);
    let tail = read_at(&mut file, tail_at, length - tail_at)?;
    let end = memchr::memmem::rfind(&tail, END_MAGIC).ok_or_else(|| bad("it has no directory"))?;
    let (size, at) = (u32_at(&tail, end + 12)?, u32_at(&tail, end + 16)?);
    if u64::from(size) > DIRECTORY_MAX_BYTES {
        return Err(bad("its directory is too large"));
    }
    let directory = read_at(&mut file, u64::from(at), u64::from(size))?;
    let mut entry = 0;
    while directory.get(entry..entry + 4) == Some(DIRECTORY_MAGIC) {
        let (name, extra, comment) =
            (u16_at(&directory, entry + 28)?, u16_at(&directory, entry + 30)?, u16_at(&directory, entry + 32)?);
        if directory.get(entry + 46..entry + 46 + name) == Some(member.as_bytes()) {
            return copy_entry(&mut file, &directory[entry..], max_bytes, out).map(|()| true);
        }
        entry += 46 + name + extra + comment;
    }
    Ok(false)
}

fn copy_entry(file: &mut File, entry: &[u8], max_bytes: u64, out: &mut File) -> io::Result<()> {
    let (flags, method, crc) = (u16_at(entry, 8)?, u16_at(entry, 10)?, u32_at(entry, 16)?);
    let (packed, size, at) = (u32_at(entry, 20)?, u32_at(entry, 24)?, u32_at(entry, 42)?);
    if flags & 1 != 0 {
        return Err(bad("the file is encrypted"));
    }
    let local = read_at(file, u64::from(at), 30)?;
    if !local.starts_with(LOCAL_MAGIC) {
        return Err(bad("its directory leads nowhere"));
    }
    let skip = (u16_at(&local, 26)? + u16_at(&local, 28)?) as u64;
    file.seek(SeekFrom::Start(u64::from(at) + 30 + skip))?;
    let packed = file.take(u64::from(packed));
    let plain: Box<dyn Read> = match method {
        0 => Box::new(packed),
        8 => Box::new(flate2::read::DeflateDecoder::new(packed)),
        _ => return Err(bad("the file is compressed in an unknown way")),
    };
    let mut checked = flate2::CrcReader::new(Bounded::new(plain, max_bytes.min(u64::from(size))));
    io::copy(&mut checked, out)?;
    if checked.crc().sum() != crc || u64::from(checked.crc().amount()) != u64::from(size) {
        return Err(bad("the file's checksum is wrong"));
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A zip archive with one file, deflated or stored.
    fn archive(name: &str, content: &[u8], method: u16) -> Vec<u8> {
        let packed = if method == 8 {
            let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(content).unwrap();
            out.finish().unwrap()
        } else {
            content.to_vec()
        };
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut facts = [20u16.to_le_bytes(), [0, 0], method.to_le_bytes(), [0, 0], [0, 0]].concat();
        facts.extend(crc.sum().to_le_bytes());
        facts.extend((packed.len() as u32).to_le_bytes());
        facts.extend((content.len() as u32).to_le_bytes());
        facts.extend((name.len() as u16).to_le_bytes());
        let mut zip = [LOCAL_MAGIC, &facts, &[0, 0], name.as_bytes(), &packed].concat();
        let at = zip.len() as u32;
        let directory = [DIRECTORY_MAGIC, &[20, 0], &facts, &[0; 16], name.as_bytes()].concat();
        zip.extend(&directory);
        zip.extend([END_MAGIC, &[0, 0, 0, 0, 1, 0, 1, 0]].concat());
        zip.extend((directory.len() as u32).to_le_bytes());
        zip.extend(at.to_le_bytes());
        zip.extend([0, 0]);
        zip
    }

    fn extracted(zip: &[u8], member: &str) -> io::Result<Option<Vec<u8>>> {
        let mut file = tempfile::tempfile()?;
        file.write_all(zip)?;
        let mut out = tempfile::tempfile()?;
        let found = extract(file, member, 1 << 20, &mut out)?;
        let mut content = Vec::new();
        out.rewind()?;
        out.read_to_end(&mut content)?;
        Ok(found.then_some(content))
    }

    #[test]
    fn files_come_out_whole() {
        for method in [0, 8] {
            let zip = archive("pkg/bin/tool", b"some tool", method);
            assert_eq!(extracted(&zip, "pkg/bin/tool").unwrap().unwrap(), b"some tool");
            assert_eq!(extracted(&zip, "pkg/bin/other").unwrap(), None);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let good = archive("t", b"some tool", 0);
        let mut flipped = good.clone();
        flipped[33] ^= 1;
        for bad in [&good[..20], &good[..good.len() - 10], &flipped, b""] {
            assert!(extracted(bad, "t").is_err());
        }
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(at in 0usize..200, with in any::<u8>()) {
            let mut zip = archive("t", b"some tool", 8);
            if let Some(byte) = zip.get_mut(at) {
                *byte = with;
            }
            let _outcome = extracted(&zip, "t");
        }
    }
}
