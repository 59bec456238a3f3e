//! Holes: found when a file is packed, kept when it is unpacked.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tar::{GnuExtSparseHeader, Header};

use crate::broken_off;

/// A run of data: offset and length.
pub type Run = (u64, u64);

/// Runs listed at most; a file in more pieces is sent whole.
const RUNS_MAX: usize = 100_000;
/// Bytes copied at once.
pub const CHUNK_BYTES: usize = 64 * 1024;
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

/// Writes the content of an entry to `file`, a new one: at `runs`, or all of it from the beginning, as much at once as
/// `buffer` takes. Gives its bytes.
///
/// # Errors
/// When reading or writing fails, or the content ends too early.
pub fn write_content(
    from: &mut impl Read,
    file: &File,
    length: u64,
    runs: Option<&[Run]>,
    buffer: &mut [u8],
) -> io::Result<u64> {
    let whole = [(0, length)];
    let mut written = 0;
    if runs.is_some() {
        file.set_len(length)?;
    }
    for (offset, bytes) in runs.unwrap_or(&whole) {
        let mut at = *offset;
        let end = offset.saturating_add(*bytes);
        while at < end {
            let want = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = from.read(&mut buffer[..want])?;
            if count == 0 {
                return Err(broken_off("its content ends too early"));
            }
            file.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
        written += bytes;
    }
    Ok(written)
}
