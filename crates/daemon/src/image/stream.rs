//! Readers and writers that bound, watch and hash what passes through them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::model::digest::Digest;
use crate::model::progress::Watcher;

/// Bytes handled between two looks at the watcher: small enough to cancel at once, large enough to cost nothing.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// A stream went over its limit: a decompression bomb, or something that is not what its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than the {limit_bytes} bytes allowed")]
pub(crate) struct TooLarge {
    /// The limit.
    pub limit_bytes: u64,
}

/// A reader that fails once more than its limit has been read.
pub(crate) struct Bounded<R> {
    inner: R,
    limit_bytes: u64,
    left_bytes: u64,
}

impl<R: Read> Bounded<R> {
    pub(crate) fn new(inner: R, limit_bytes: u64) -> Self {
        Self { inner, limit_bytes, left_bytes: limit_bytes }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        match self.left_bytes.checked_sub(got as u64) {
            Some(left) => {
                self.left_bytes = left;
                Ok(got)
            }
            None => Err(io::Error::other(TooLarge { limit_bytes: self.limit_bytes })),
        }
    }
}

/// A reader that reports how far it is and stops when cancelled.
pub(crate) struct Watched<'a, R> {
    inner: R,
    watcher: Watcher<'a>,
    done_bytes: u64,
    reported_bytes: u64,
    total_bytes: Option<u64>,
}

impl<'a, R: Read> Watched<'a, R> {
    pub(crate) fn new(inner: R, watcher: Watcher<'a>, total_bytes: Option<u64>) -> Self {
        Self { inner, watcher, done_bytes: 0, reported_bytes: 0, total_bytes }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.watcher.check().map_err(io::Error::other)?;
        let got = self.inner.read(buf)?;
        self.done_bytes += got as u64;
        if got == 0 || self.done_bytes - self.reported_bytes >= CHUNK_BYTES as u64 {
            self.reported_bytes = self.done_bytes;
            self.watcher.bytes(self.done_bytes, self.total_bytes);
        }
        Ok(got)
    }
}

/// A reader or writer that hashes what passes.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// The reader or writer, and the digest of what has passed.
    pub(crate) fn into_parts(self) -> (T, Digest) {
        (self.inner, Digest::finish(self.hasher))
    }

    /// The digest and count of what has passed.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::finish(self.hasher), self.bytes)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.hasher.update(&buf[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let put = self.inner.write(buf)?;
        self.hasher.update(&buf[..put]);
        self.bytes += put as u64;
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of a file, told as bytes of a stage.
///
/// # Errors
/// When it cannot be read, or the cancellation wrapped in an I/O error.
pub(crate) fn hash_file(path: &Path, watcher: Watcher<'_>) -> io::Result<Digest> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut hashing = Hashing::new(Watched::new(file, watcher, Some(bytes)));
    copy(&mut hashing, &mut io::sink(), watcher)?;
    Ok(hashing.finish().0)
}

/// Copies everything from `reader` to `writer` in chunks, stopping between two when cancelled.
///
/// # Errors
/// Whatever either side fails with, or the cancellation wrapped in an I/O error.
pub(crate) fn copy(reader: &mut dyn Read, writer: &mut dyn Write, watcher: Watcher<'_>) -> io::Result<u64> {
    let mut buf = vec![0; CHUNK_BYTES];
    let mut copied = 0;
    loop {
        watcher.check().map_err(io::Error::other)?;
        let got = match reader.read(&mut buf) {
            Ok(0) => return Ok(copied),
            Ok(got) => got,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        };
        writer.write_all(&buf[..got])?;
        copied += got as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::progress::{Watcher, is_cancelled};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_bound_allows_its_last_byte_and_no_more() {
        for (len, fits) in [(0, true), (9, true), (10, true), (11, false), (4000, false)] {
            let data = vec![7; len];
            let result = Bounded::new(data.as_slice(), 10).read_to_end(&mut Vec::new());
            assert_eq!(result.is_ok(), fits, "{len}");
        }
    }

    #[test]
    fn a_cancelled_copy_stops() {
        let stop = AtomicBool::new(true);
        let watcher = Watcher::new(&|_| {}, &stop);
        let err = copy(&mut io::repeat(1), &mut io::sink(), watcher).expect_err("endless input");
        assert!(is_cancelled(&err));
    }

    #[test]
    fn hashing_both_ways_agrees() {
        let mut reader = Hashing::new(b"abc".as_slice());
        let mut writer = Hashing::new(Vec::new());
        copy(&mut reader, &mut writer, Watcher::none()).expect("memory");
        assert_eq!(reader.finish(), (Digest::of(b"abc"), 3));
        assert_eq!(writer.finish(), (Digest::of(b"abc"), 3));
    }
}
