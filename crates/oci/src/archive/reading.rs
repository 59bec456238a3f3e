//! The stream an archive comes through.

use std::io::{self, BufReader, Chain, Cursor, Read};

use bytes::{Buf, Bytes};
use tokio::sync::{mpsc, watch};

use crate::manifest::Compression;

/// Bytes between two reports.
const REPORT_BYTES: u64 = 256 << 10;
/// Bytes that are read at once from a pipe or a file.
const BUFFER_BYTES: usize = 256 << 10;
/// Pieces between who sends and who reads.
const PIPE_PIECES: usize = 16;
/// zstd's window: what its own program takes without being asked for more.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Counts what is read, and ends the reading when nobody looks at the count any more.
#[derive(Debug)]
pub(crate) struct Gauge {
    bytes: u64,
    reported: u64,
    to: watch::Sender<u64>,
}

impl Gauge {
    pub(crate) fn new() -> (Gauge, watch::Receiver<u64>) {
        let (to, from) = watch::channel(0);
        (Gauge { bytes: 0, reported: 0, to }, from)
    }

    /// So much more was read.
    pub(crate) fn add(&mut self, count: usize) -> io::Result<()> {
        if self.to.is_closed() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody waits for it any more"));
        }
        self.bytes += count as u64;
        if self.bytes - self.reported >= REPORT_BYTES {
            self.reported = self.bytes;
            self.to.send_replace(self.bytes);
        }
        Ok(())
    }
}

/// A stream with a gauge.
#[derive(Debug)]
pub(crate) struct Gauged<R> {
    pub(crate) inner: R,
    pub(crate) gauge: Gauge,
}

impl<R: Read> Read for Gauged<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.gauge.add(count)?;
        Ok(count)
    }
}

/// A stream whose beginning was looked at.
type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// An archive, plain again if somebody packed it.
pub(crate) enum Plain<R: Read> {
    Tar(Whole<R>),
    Gzip(Box<flate2::read::MultiGzDecoder<Whole<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Whole<R>>>),
}

impl<R: Read> Plain<R> {
    pub(crate) fn new(mut stream: R) -> io::Result<Plain<R>> {
        let mut head = Vec::new();
        stream.by_ref().take(Compression::HEAD_BYTES as u64).read_to_end(&mut head)?;
        // What cannot be read is named by whoever reads tars.
        let compression = Compression::sniff(&head).unwrap_or(Compression::None);
        let whole = BufReader::with_capacity(BUFFER_BYTES, Read::chain(Cursor::new(head), stream));
        Ok(match compression {
            Compression::None => Plain::Tar(whole),
            Compression::Gzip => Plain::Gzip(Box::new(flate2::read::MultiGzDecoder::new(whole))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(whole)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Plain::Zstd(decoder)
            }
        })
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Plain::Tar(tar) => tar.read(buffer),
            Plain::Gzip(gzip) => gzip.read(buffer),
            Plain::Zstd(zstd) => zstd.read(buffer),
        }
    }
}

/// Where an archive that arrives in pieces is put in.
#[derive(Debug)]
pub struct Inlet {
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

/// Where it is read; by a thread, not by a task, since it waits.
#[derive(Debug)]
pub struct Outlet {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

/// A pipe from a task to a thread, for an archive that arrives through an asynchronous stream.
#[must_use]
pub fn pipe() -> (Inlet, Outlet) {
    let (sender, receiver) = mpsc::channel(PIPE_PIECES);
    (Inlet { pieces: sender }, Outlet { pieces: receiver, piece: Bytes::new() })
}

impl Inlet {
    /// Puts in the next piece, or why there is none; waits while there are enough. Dropping the inlet ends the archive.
    /// Says whether anybody still reads.
    pub async fn put(&self, piece: io::Result<Bytes>) -> bool {
        self.pieces.send(piece).await.is_ok()
    }
}

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
