//! One layer: unpacked, hashed, spooled and read for its entries, in one pass.
//!
//! ```text
//! this thread's helper:  file ──gzip, zstd──► pieces ─┐
//! this thread:                                        └─► bounds ─► hash ─► spool ─► tarball ──► records
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use oci::{Compression, Layer};
use sha2::{Digest as _, Sha256};

use super::spool::Spool;
use super::{LayersError, Limits};
use crate::image::ext4::ENTRIES_MAX;
use crate::image::rootfs::tarball::{Record, RecordKind, Tarball};
use crate::image::rootfs::{CONTENT_MAX_BYTES, TarError};
use crate::image::stream::CHUNK_BYTES;
use crate::model::progress::{Cancelled, Watcher};

/// Pieces that are unpacked ahead of who hashes them.
const AHEAD: usize = 4;

/// A layer whose entries are known.
pub(super) struct Unpacked {
    /// Where the contents are.
    pub(super) file: File,
    /// Its entries, in its order.
    pub(super) records: Vec<Record>,
}

/// What all layers of an image share.
pub(super) struct Shared<'a> {
    limits: Limits,
    watcher: Watcher<'a>,
    has_failed: &'a AtomicBool,
    read_bytes: AtomicU64,
    total_bytes: u64,
    unpacked_bytes: AtomicU64,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        limits: Limits,
        total_bytes: u64,
        watcher: Watcher<'a>,
        has_failed: &'a AtomicBool,
    ) -> Shared<'a> {
        let (read_bytes, unpacked_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Shared { limits, watcher, has_failed, read_bytes, total_bytes, unpacked_bytes }
    }

    /// Fails once somebody has cancelled all of it, or another layer failed.
    fn check(&self) -> Result<(), Cancelled> {
        self.watcher.check()?;
        if self.has_failed.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }
}

/// Counts what is read of a layer's file, and ends when nobody waits.
struct Counted<'a> {
    file: File,
    shared: &'a Shared<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.shared.check().map_err(io::Error::other)?;
        let got = self.file.read(buf)?;
        let read = self.shared.read_bytes.fetch_add(got as u64, Ordering::Relaxed) + got as u64;
        self.shared.watcher.bytes(read.min(self.shared.total_bytes), Some(self.shared.total_bytes));
        Ok(got)
    }
}

/// Which limit a layer went over.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Over(String);

/// What comes out of the unpacking: hashed and spooled as it is read.
struct Stream<'a> {
    pieces: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    hasher: Sha256,
    spool: Spool,
    layer_bytes: u64,
    shared: &'a Shared<'a>,
}

impl Stream<'_> {
    /// Takes the next piece; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Ok(piece) = self.pieces.recv() else {
            return Ok(false);
        };
        let piece = piece?;
        self.shared.check().map_err(io::Error::other)?;
        let all = self.shared.unpacked_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
        let (limits, own) = (self.shared.limits, self.spool.bytes() + piece.len() as u64);
        if all > limits.unpacked_bytes {
            let limit = wire::size::human(limits.unpacked_bytes);
            return Err(io::Error::other(Over(format!("the image unpacks to more than {limit}"))));
        }
        if own > limits.suspicious_bytes && own / limits.ratio > self.layer_bytes {
            let (file, so_far) = (wire::size::human(self.layer_bytes), wire::size::human(own));
            return Err(io::Error::other(Over(format!("its file of {file} unpacks to {so_far} and more"))));
        }
        self.hasher.update(&piece);
        self.spool.write(&piece)?;
        // One that nobody unpacks into any more is dropped.
        drop(self.used.send(std::mem::replace(&mut self.piece, piece)));
        self.at = 0;
        Ok(true)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let got = buf.len().min(self.piece.len() - self.at);
        buf[..got].copy_from_slice(&self.piece[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

/// Unpacks `layer` into a file in the filesystem of `spools`, and reads its entries.
pub(super) fn unpack(layer: &Layer, spools: &Path, shared: &Shared<'_>) -> Result<Unpacked, LayersError> {
    let failed = |err| LayersError::Unpack { layer: layer.digest, err };
    let file = File::open(&layer.path).map_err(failed)?;
    if layer.compression == Compression::None {
        // Its digest is that of the file, which whoever fetched it has compared.
        let again = File::open(&layer.path).map_err(failed)?;
        let mut tarball = Tarball::that_may_just_end(BufReader::with_capacity(CHUNK_BYTES, Counted { file, shared }));
        return Ok(Unpacked { file: again, records: records(layer, &mut tarball, shared)? });
    }
    std::thread::scope(|scope| {
        let (pieces, unpacked) = sync_channel(AHEAD);
        let (used, empty) = channel();
        let compression = layer.compression;
        let input = BufReader::with_capacity(CHUNK_BYTES, Counted { file, shared });
        scope.spawn(move || feed(compression, input, &pieces, &empty));
        let stream = Stream {
            pieces: unpacked,
            used,
            piece: Vec::new(),
            at: 0,
            hasher: Sha256::new(),
            spool: Spool::new(spools).map_err(failed)?,
            layer_bytes: layer.size,
            shared,
        };
        let mut tarball = Tarball::that_may_just_end(stream);
        let records = records(layer, &mut tarball, shared)?;
        let mut stream = tarball.into_inner();
        while stream.next().map_err(|err| told(layer, "its end", err))? {}
        let found = oci::Digest::finish(stream.hasher);
        if found != layer.diff_id {
            return Err(LayersError::DiffId { layer: layer.digest, diff_id: layer.diff_id, found });
        }
        Ok(Unpacked { file: stream.spool.finish().map_err(failed)?, records })
    })
}

/// Unpacks into pieces until the end, a failure, or until nobody takes them.
fn feed(
    compression: Compression,
    input: BufReader<Counted<'_>>,
    pieces: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    let mut decoder: Box<dyn Read> = match compression {
        Compression::Zstd => match zstd::stream::read::Decoder::with_buffer(input) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => return drop(pieces.send(Err(error))),
        },
        // Some writers compress each file by itself: a stream of several members.
        Compression::Gzip | Compression::None => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
    };
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(CHUNK_BYTES, 0);
        let (filled, failure) = fill(&mut decoder, &mut piece);
        piece.truncate(filled);
        let is_last = filled == 0 || failure.is_some();
        if filled > 0 && pieces.send(Ok(piece)).is_err() {
            return;
        }
        if let Some(error) = failure {
            // Whoever takes it no more has failed before.
            drop(pieces.send(Err(damaged(compression, error))));
        }
        if is_last {
            return;
        }
    }
}

/// Reads until `buf` is full, the end, or a failure.
fn fill(reader: &mut dyn Read, buf: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < buf.len() {
        match reader.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

/// A decoder's failure: an early end of what is packed is none of the archive in it.
fn damaged(compression: Compression, error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()) {
        return error;
    }
    let format = if compression == Compression::Zstd { "zstd" } else { "gzip" };
    io::Error::new(io::ErrorKind::InvalidData, format!("its {format} stream is damaged: {error}"))
}

/// All entries of a layer.
fn records<R: Read>(layer: &Layer, tarball: &mut Tarball<R>, shared: &Shared<'_>) -> Result<Vec<Record>, LayersError> {
    let mut records: Vec<Record> = Vec::new();
    let (mut metadata_bytes, mut last) = (0u64, String::new());
    let over = |entry: String, why: &str| LayersError::TooLarge { layer: layer.digest, entry, why: why.to_owned() };
    loop {
        let record = match tarball.next() {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(records),
            Err(TarError::Read { err, .. }) => return Err(told(layer, &last, err)),
            Err(_) if shared.check().is_err() => return Err(Cancelled.into()),
            Err(err) => return Err(LayersError::Tar { layer: layer.digest, err }),
        };
        let attributes: usize = record.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let pieces = match &record.kind {
            RecordKind::File(content) if content.size_bytes > CONTENT_MAX_BYTES => {
                return Err(over(record.path, "a file in it is too large"));
            }
            RecordKind::File(content) => content.segments.len() * size_of::<(u64, u64, u64)>(),
            RecordKind::HardLink(target) | RecordKind::Symlink(target) => target.len(),
            RecordKind::Dir | RecordKind::CharDevice { .. } | RecordKind::BlockDevice { .. } | RecordKind::Fifo => 0,
        };
        metadata_bytes += (record.path.len() + attributes + pieces) as u64;
        if metadata_bytes > shared.limits.metadata_bytes {
            return Err(over(record.path, "its names and attributes take too much room"));
        }
        if records.len() >= ENTRIES_MAX {
            return Err(over(record.path, "it has too many entries"));
        }
        last.clone_from(&record.path);
        records.push(record);
    }
}

/// A failure to read, as what it is.
fn told(layer: &Layer, entry: &str, err: io::Error) -> LayersError {
    let inner = err.get_ref();
    if let Some(over) = inner.and_then(|inner| inner.downcast_ref::<Over>()) {
        return LayersError::TooLarge { layer: layer.digest, entry: entry.to_owned(), why: over.0.clone() };
    }
    if inner.is_some_and(|inner| inner.is::<Cancelled>()) {
        return Cancelled.into();
    }
    LayersError::Unpack { layer: layer.digest, err }
}
