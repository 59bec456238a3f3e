//! Holes: found when a file is packed, kept when it is unpacked.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tar::{GnuExtSparseHeader, Header};

/// A run of data: offset and length.
pub type Run = (u64, u64);

/// Runs listed at most; a file in more pieces is sent whole.
const RUNS_MAX: usize = 100_000;
/// Bytes copied at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Runs in a GNU header, and in each of its extensions.
const RUNS_IN_HEADER: usize = 4;
const RUNS_IN_EXTENSION: usize = 21;

/// The runs of data of a file, when leaving its holes out is worth a map: `blocks` are the 512-byte units it occupies.
///
/// # Errors
/// When the file cannot be sought in.
pub fn runs_of(file: &File, length: u64, blocks: u64) -> io::Result<Option<Vec<Run>>> {
    if blocks.saturating_mul(512) >= length {
        return Ok(None);
    }
    let mut runs = Vec::new();
    let mut at = 0;
    while at < length {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(length),
            Err(Errno::NXIO) => break,
            // A filesystem without the question has no holes to tell of.
            Err(Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(file, SeekFrom::Hole(data))?.min(length);
        if end > data {
            runs.push((data, end - data));
        }
        if runs.len() > RUNS_MAX || end <= at {
            return Ok(None);
        }
        at = end;
    }
    // The map ends where the file ends, so that a hole at the end is not lost.
    if runs.last().is_none_or(|(offset, bytes)| offset + bytes < length) {
        runs.push((length, 0));
    }
    Ok(Some(runs))
}

/// Writes the map of `runs` into a GNU header; what does not fit is returned as the blocks that follow it.
pub fn write_map(header: &mut Header, runs: &[Run], length: u64) -> Vec<u8> {
    let Some(gnu) = header.as_gnu_mut() else {
        return Vec::new();
    };
    gnu.set_real_size(length);
    let (first, rest) = runs.split_at(runs.len().min(RUNS_IN_HEADER));
    for (slot, (offset, bytes)) in gnu.sparse.iter_mut().zip(first) {
        slot.set_offset(*offset);
        slot.set_length(*bytes);
    }
    gnu.set_is_extended(!rest.is_empty());
    let mut blocks = Vec::new();
    let mut chunks = rest.chunks(RUNS_IN_EXTENSION).peekable();
    while let Some(chunk) = chunks.next() {
        let mut extension = GnuExtSparseHeader::new();
        for (slot, (offset, bytes)) in extension.sparse_mut().iter_mut().zip(chunk) {
            slot.set_offset(*offset);
            slot.set_length(*bytes);
        }
        extension.set_is_extended(chunks.peek().is_some());
        blocks.extend_from_slice(extension.as_bytes());
    }
    blocks
}

/// Reads exactly the listed runs of a file; what has been cut off it meanwhile reads as zeros, so that the archive stays
/// well-formed while the guest goes on writing.
#[derive(Debug)]
pub struct RunsReader<'a> {
    file: &'a File,
    runs: std::slice::Iter<'a, Run>,
    at: u64,
    left: u64,
}

impl<'a> RunsReader<'a> {
    /// A reader of `runs`.
    #[must_use]
    pub fn new(file: &'a File, runs: &'a [Run]) -> RunsReader<'a> {
        RunsReader { file, runs: runs.iter(), at: 0, left: 0 }
    }
}

impl Read for RunsReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            match self.runs.next() {
                Some((offset, bytes)) => (self.at, self.left) = (*offset, *bytes),
                None => return Ok(0),
            }
        }
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = match self.file.read_at(&mut buffer[..want], self.at)? {
            0 => {
                buffer[..want].fill(0);
                want
            }
            count => count,
        };
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Writes all of `from` to `file`. With `holes`, whole blocks of zeros are left out.
///
/// # Errors
/// When reading or writing fails.
pub fn write_data(from: &mut impl Read, file: &File, holes: bool) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let count = read_full(from, &mut buffer)?;
        if count == 0 {
            break;
        }
        for block in buffer[..count].chunks(4096) {
            if !holes || block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
    }
    if holes {
        file.set_len(at)?;
    }
    Ok(at)
}

/// Fills as much of `buffer` as there is, so that blocks stay aligned.
fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A sparse file of PAX: its map (`GNU.sparse.map` in version 0.1, at the head of the data in 1.0) and its real length.
#[derive(Debug, Default)]
pub struct PaxSparse {
    /// The real name.
    pub name: Option<Vec<u8>>,
    /// `GNU.sparse.realsize` or `GNU.sparse.size`.
    pub length: Option<u64>,
    /// `GNU.sparse.map`.
    pub map: Option<Vec<Run>>,
    /// `GNU.sparse.major`.
    pub major: Option<u64>,
}

impl PaxSparse {
    /// Takes one record; whether it was about sparseness.
    pub fn take(&mut self, key: &str, value: &[u8]) -> bool {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match key {
            "GNU.sparse.name" => self.name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.length = text.parse().ok(),
            "GNU.sparse.major" => self.major = text.parse().ok(),
            "GNU.sparse.map" => self.map = parse_map(text),
            _ => return false,
        }
        true
    }

    /// Writes the data that `from` holds to its places.
    ///
    /// # Errors
    /// When the map makes no sense or the file cannot be written.
    pub fn write(&self, from: &mut impl Read, file: &File) -> io::Result<u64> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a malformed map of a sparse file");
        let length = self.length.ok_or_else(malformed)?;
        let read_map;
        let runs = match &self.map {
            Some(map) => map,
            None => {
                read_map = read_map_of(from)?;
                &read_map
            }
        };
        file.set_len(length)?;
        let mut written = 0;
        for (offset, bytes) in runs {
            if offset.checked_add(*bytes).is_none_or(|end| end > length) {
                return Err(malformed());
            }
            let mut place = Placed { file, at: *offset };
            if io::copy(&mut from.by_ref().take(*bytes), &mut place)? != *bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            written += bytes;
        }
        Ok(written)
    }
}

/// Writes from an offset on.
struct Placed<'a> {
    file: &'a File,
    at: u64,
}

impl Write for Placed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `offset,length,offset,length…`
fn parse_map(text: &str) -> Option<Vec<Run>> {
    let numbers: Vec<u64> = text.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.len().is_multiple_of(2).then(|| numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The map of version 1.0: decimal numbers, one a line, their count first, padded to whole blocks.
fn read_map_of(from: &mut impl Read) -> io::Result<Vec<Run>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a malformed map of a sparse file");
    let mut text = Vec::new();
    let mut block = [0; 512];
    loop {
        from.read_exact(&mut block)?;
        text.extend_from_slice(&block);
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let first: &[u8] = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let count: usize = std::str::from_utf8(first).ok().and_then(|t| t.parse().ok()).ok_or_else(malformed)?;
        if count > RUNS_MAX * 10 {
            return Err(malformed());
        }
        if lines > 2 * count {
            let numbers: Vec<u64> = text
                .split(|byte| *byte == b'\n')
                .skip(1)
                .take(2 * count)
                .map(|line| std::str::from_utf8(line).ok()?.parse().ok())
                .collect::<Option<_>>()
                .ok_or_else(malformed)?;
            return Ok(numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect());
        }
    }
}
