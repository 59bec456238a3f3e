//! A tar stream, entry by entry, in one pass. Whoever wrote it is hostile: what is kept of an entry is bounded, and no
//! number in it makes anything be read, allocated or counted beyond the bytes that really come.

use std::io::{self, Read};

use rustix::fs::Timespec;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::pax::{Records, number, owner};
use crate::sparse::Run;
use crate::{LeftOut, broken_off, fill, malformed};

const BLOCK_BYTES: usize = 512;
/// PAX headers and long names of one entry, together; the largest real ones hold a few extended attributes of 64 KiB.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// What is wrong with a stream that is over too early.
const BREAKS_OFF: &str = "it ends too early";
/// How what people take for tar streams begins, and what it is.
const PACKED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"\x04\x22\x4d\x18", "lz4"),
];
/// Pieces of one sparse file.
const RUNS_MAX: usize = 1_000_000;

/// What a stream says of a file.
#[derive(Debug)]
pub struct Entry {
    /// As it stands there: nothing is made of it yet.
    pub path: Vec<u8>,
    /// What a link leads to.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// Mode, owner, time, attributes.
    pub attributes: Attributes,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Bytes of the file, holes counted.
    pub length: u64,
    /// Where the bytes that follow belong; none: one behind the other.
    pub runs: Option<Vec<Run>>,
}

/// What an entry says of its file, apart from its content.
#[derive(Debug, Clone)]
pub struct Attributes {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The time of its last change.
    pub mtime: Timespec,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Reads a stream.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// A header was read.
    is_begun: bool,
    /// Bytes of the entry's content that were not read.
    data: u64,
    /// Bytes that fill up its last block.
    padding: u64,
    left_out: LeftOut,
}

impl<R: Read> Reader<R> {
    /// A reader of `inner`, from its beginning.
    pub fn new(inner: R) -> Reader<R> {
        Reader { inner, is_begun: false, data: 0, padding: 0, left_out: LeftOut::default() }
    }

    /// The next entry; none at the end mark. What was not read of the one before is skipped.
    ///
    /// # Errors
    /// When the stream is malformed or ends without its end mark.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut records = Records::default();
        let mut extended = 0;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.expect(field("size", header.entry_size())?)?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.extension(&mut extended)?;
                    records.read(&bytes)?;
                }
                EntryType::GNULongName => records.path = Some(self.extension(&mut extended)?),
                EntryType::GNULongLink => records.link = Some(self.extension(&mut extended)?),
                EntryType::XGlobalHeader => self.global()?,
                _ => return self.entry(&header, records).map(Some),
            }
        }
    }

    /// What the sender says that it left out, as far as the stream was read; whoever unpacks adds what he leaves out.
    pub fn left_out(&mut self) -> &mut LeftOut {
        &mut self.left_out
    }

    /// The content of the entry that was read last.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    /// Reads what follows the end mark: padding, which a sender wants to get rid of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn drain(mut self) -> io::Result<()> {
        io::copy(&mut self.inner, &mut io::sink()).map(drop)
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let filled = fill(&mut self.inner, header.as_mut_bytes())?;
        let bytes = header.as_bytes();
        if filled < bytes.len() {
            let is_tar = self.is_begun || filled == 0;
            let why = if self.is_begun { BREAKS_OFF } else { "it is empty" };
            return Err(if is_tar { broken_off(why) } else { broken_off(&no_tar(bytes)) });
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        // The checksum field itself counts as eight spaces.
        let is_right = header.cksum().is_ok_and(|said| said == sum(&bytes[..148]) + 8 * 32 + sum(&bytes[156..]));
        if !is_right {
            let why = if self.is_begun { "a header's checksum is wrong".to_owned() } else { no_tar(bytes) };
            return Err(malformed(&why));
        }
        self.is_begun = true;
        Ok(Some(header))
    }

    /// Content of `bytes` follows.
    fn expect(&mut self, bytes: u64) -> io::Result<()> {
        let whole = bytes.checked_next_multiple_of(BLOCK_BYTES as u64);
        self.padding = whole.ok_or_else(|| malformed("a size without end"))? - bytes;
        self.data = bytes;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        let left = self.data.saturating_add(self.padding);
        if io::copy(&mut self.inner.by_ref().take(left), &mut io::sink())? < left {
            return Err(broken_off(BREAKS_OFF));
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    /// Records for all that follows. What archivers put there is not about files; it may also be no records at all.
    fn global(&mut self) -> io::Result<()> {
        if self.data <= EXTENSION_BYTES_MAX {
            let mut records = Records::default();
            let bytes = self.extension(&mut 0)?;
            if records.read(&bytes).is_ok()
                && let Some(path) = records.socket
            {
                self.left_out.add(&path);
            }
        }
        Ok(())
    }

    /// The content of a header that describes another, whose headers had `extended` bytes so far.
    fn extension(&mut self, extended: &mut u64) -> io::Result<Vec<u8>> {
        *extended = extended.saturating_add(self.data);
        if *extended > EXTENSION_BYTES_MAX {
            return Err(malformed("extension headers of more than 1 MiB for one entry"));
        }
        let mut bytes = Vec::new();
        match self.content().read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(broken_off(BREAKS_OFF)),
            read => read.map(|_| bytes),
        }
    }

    fn entry(&mut self, header: &Header, records: Records) -> io::Result<Entry> {
        let seconds = field("time", header.mtime())?;
        let mtime = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
        let attributes = Attributes {
            mode: field("mode", header.mode())? & 0o7777,
            uid: records.uid.map_or_else(|| field("owner", header.uid()).map(owner), Ok)?,
            gid: records.gid.map_or_else(|| field("group", header.gid()).map(owner), Ok)?,
            mtime: records.mtime.unwrap_or(mtime),
            xattrs: records.xattrs,
        };
        let path = records.sparse.name.or(records.path).map_or_else(|| header.path_bytes().into_owned(), until_nul);
        let link = records.link.map_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned(), until_nul);
        let mut kind = header.entry_type();
        if kind == EntryType::Regular && path.ends_with(b"/") {
            // As archives were before there were types.
            kind = EntryType::Directory;
        }
        let device = match kind {
            EntryType::Char | EntryType::Block => {
                let half = |number| field("device number", number).map(Option::unwrap_or_default);
                (half(header.device_major())?, half(header.device_minor())?)
            }
            _ => (0, 0),
        };
        let size = records.size.map_or_else(|| field("size", header.entry_size()), Ok)?;
        let (length, runs) = if kind == EntryType::GNUSparse {
            // The rest of the map stands before the content and is not counted in it.
            let (length, runs) = self.gnu_map(header)?;
            self.expect(size)?;
            (length, Some(runs))
        } else {
            self.expect(size)?;
            match (records.sparse.map, records.sparse.major) {
                (None, None) => (size, None),
                (Some(map), None | Some(0)) => (needed(records.sparse.length)?, Some(map)),
                (_, Some(_)) => (needed(records.sparse.length)?, Some(self.pax_map()?)),
            }
        };
        if let Some(runs) = &runs {
            check(runs, length, self.data)?;
        }
        Ok(Entry { path, link, kind, attributes, device, length, runs })
    }

    /// The map of GNU's type `S`: four runs in the header, then blocks of 21 as long as each says that there is another.
    fn gnu_map(&mut self, header: &Header) -> io::Result<(u64, Vec<Run>)> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file without GNU's header"))?;
        let mut runs = Vec::new();
        let mut take = |slots: &[GnuSparseHeader]| -> io::Result<()> {
            for slot in slots.iter().filter(|slot| !slot.is_empty()) {
                runs.push((field("map", slot.offset())?, field("map", slot.length())?));
            }
            if runs.len() > RUNS_MAX { Err(malformed("a sparse file in too many pieces")) } else { Ok(()) }
        };
        take(&gnu.sparse)?;
        let mut is_extended = gnu.is_extended();
        let mut block = GnuExtSparseHeader::new();
        // Empty blocks add no run, and each costs its sender as many bytes as it costs us.
        while is_extended {
            if fill(&mut self.inner, block.as_mut_bytes())? < BLOCK_BYTES {
                return Err(broken_off(BREAKS_OFF));
            }
            take(block.sparse())?;
            is_extended = block.is_extended();
        }
        Ok((field("size", gnu.real_size())?, runs))
    }

    /// The map of PAX version 1.0: decimal numbers, one a line, their count first, padded to whole blocks.
    fn pax_map(&mut self) -> io::Result<Vec<Run>> {
        let wrong = || malformed("a malformed map of a sparse file");
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = None;
        let mut block = [0; BLOCK_BYTES];
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if fill(&mut self.content(), &mut block)? < BLOCK_BYTES {
                return Err(wrong());
            }
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 && wanted.is_none_or(|wanted| numbers.len() < wanted) {
                        return Err(wrong());
                    }
                    continue;
                }
                let value = number(&std::mem::take(&mut line)).ok_or_else(wrong)?;
                match wanted {
                    None if value > RUNS_MAX as u64 => return Err(wrong()),
                    None => wanted = Some(2 * usize::try_from(value).map_err(|_| wrong())?),
                    Some(wanted) if numbers.len() < wanted => numbers.push(value),
                    Some(_) => return Err(wrong()),
                }
            }
        }
        Ok(numbers.as_chunks::<2>().0.iter().map(|[offset, bytes]| (*offset, *bytes)).collect())
    }
}

/// What a header says in `name`; an error does not repeat what stands there instead of a number.
fn field<T>(name: &str, value: io::Result<T>) -> io::Result<T> {
    value.map_err(|_| malformed(&format!("the {name} in a header is no number")))
}

/// What a stream is that does not begin as a tar stream does.
fn no_tar(begin: &[u8]) -> String {
    match PACKED.iter().find(|(magic, _)| begin.starts_with(magic)) {
        Some((_, name)) => format!("it is compressed ({name}): decompress it first"),
        None => "it is no tar stream".to_owned(),
    }
}

/// Runs lie in the file, one behind the other, and are the content.
fn check(runs: &[Run], length: u64, data: u64) -> io::Result<()> {
    let wrong = || malformed("a malformed map of a sparse file");
    let (mut at, mut sum) = (0, 0_u64);
    for (offset, bytes) in runs {
        if *offset < at {
            return Err(wrong());
        }
        at = offset.checked_add(*bytes).filter(|end| *end <= length).ok_or_else(wrong)?;
        sum = sum.checked_add(*bytes).ok_or_else(wrong)?;
    }
    if sum == data { Ok(()) } else { Err(wrong()) }
}

fn needed(length: Option<u64>) -> io::Result<u64> {
    length.ok_or_else(|| malformed("a sparse file without a length"))
}

/// Long names of GNU end in a zero.
fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

/// The bytes of one entry. The end of the stream before the end of the content is an error.
#[derive(Debug)]
pub struct Content<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.reader.data).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        match self.reader.inner.read(&mut buffer[..want])? {
            0 => Err(broken_off("the stream ends in the middle of it")),
            count => {
                self.reader.data -= count as u64;
                Ok(count)
            }
        }
    }
}
