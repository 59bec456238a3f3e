//! Packs a root filesystem as one layer: the tar archive of all that is in it.
//!
//! Entries stand in the order of the filesystem, directories before what is in them. What a header has no room for is in PAX
//! records before it (`path`, `linkpath`, `uid`, `gid`, `mtime` with its fraction, `SCHILY.xattr.*`); holes are GNU's sparse
//! files. Equal filesystems give equal archives.

use std::fs::File;
use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};
use tree::sparse::write_map;

use super::FilesystemError;
use super::collected::Contents;
use super::filesystem;
use super::tarball::{Content, Record, RecordKind};
use crate::model::progress::Watcher;

/// Bytes of a name in a header; longer ones go into a record.
const NAME_BYTES: usize = 100;
/// The largest number of seven octal digits: what a header has room for as the number of a user or a group.
const HEADER_ID_MAX: u32 = 0o7_777_777;
/// Runs of data of one file; one in more pieces is packed whole.
const RUNS_MAX: usize = 100_000;

/// Why a filesystem cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("cannot read the image's root filesystem")]
    Read(#[from] FilesystemError),
    /// The archive cannot be written.
    #[error("cannot write {path:?} of the image")]
    Write {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// Writes all that is in the filesystem `file` to `to`.
///
/// # Errors
/// [`ArchiveError`]
pub(crate) fn pack(file: &File, to: impl Write, watcher: Watcher<'_>) -> Result<(), ArchiveError> {
    let records = filesystem::records(file, watcher)?;
    let total = records.iter().map(data_bytes).sum();
    let mut done = 0;
    let mut builder = Builder::new(to);
    for record in &records {
        watcher.check().map_err(FilesystemError::from)?;
        append(&mut builder, file, record).map_err(|err| ArchiveError::Write { path: record.path.clone(), err })?;
        done += data_bytes(record);
        watcher.bytes(done, Some(total));
    }
    builder.finish().map_err(|err| ArchiveError::Write { path: "the end".to_owned(), err })
}

fn data_bytes(record: &Record) -> u64 {
    match &record.kind {
        RecordKind::File(content) => content.segments.iter().map(|segment| segment.len).sum(),
        _ => 0,
    }
}

fn append<W: Write>(builder: &mut Builder<W>, file: &File, record: &Record) -> io::Result<()> {
    let path = match &record.kind {
        // The root is an entry, too: its owner and permissions are the image's.
        RecordKind::Dir if record.path.is_empty() => "./".to_owned(),
        RecordKind::Dir => format!("{}/", record.path),
        _ => record.path.clone(),
    };
    let target = match &record.kind {
        RecordKind::HardLink(target) | RecordKind::Symlink(target) => target.as_str(),
        _ => "",
    };
    let extended = extensions(record, &path, target);
    if !extended.is_empty() {
        builder.append_pax_extensions(extended.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    }
    let mut header = header(record, &path, target)?;
    match &record.kind {
        RecordKind::File(content) => append_file(builder, header, file, content),
        _ => {
            header.set_cksum();
            builder.append(&header, io::empty())
        }
    }
}

fn append_file<W: Write>(
    builder: &mut Builder<W>,
    mut header: Header,
    file: &File,
    content: &Content,
) -> io::Result<()> {
    let mut ranges = content.ranges();
    let is_whole = ranges == [(0, content.size_bytes)] || content.size_bytes == 0 || ranges.len() > RUNS_MAX;
    if is_whole {
        header.set_size(content.size_bytes);
        header.set_cksum();
        return builder.append(&header, Contents::whole(file, content));
    }
    let data: u64 = ranges.iter().map(|(_, len)| len).sum();
    // The map ends where the file ends, so that a hole at the end is not lost.
    if ranges.last().is_none_or(|(offset, len)| offset + len < content.size_bytes) {
        ranges.push((content.size_bytes, 0));
    }
    header.set_entry_type(EntryType::GNUSparse);
    let map = write_map(&mut header, &ranges, content.size_bytes);
    header.set_size(data);
    header.set_cksum();
    builder.append(&header, map.as_slice().chain(Contents::new(file, content)))
}

fn header(record: &Record, path: &str, target: &str) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(match &record.kind {
        RecordKind::Dir => EntryType::Directory,
        RecordKind::File(_) => EntryType::Regular,
        RecordKind::HardLink(_) => EntryType::Link,
        RecordKind::Symlink(_) => EntryType::Symlink,
        RecordKind::CharDevice { .. } => EntryType::Char,
        RecordKind::BlockDevice { .. } => EntryType::Block,
        RecordKind::Fifo => EntryType::Fifo,
    });
    // What is longer stands in a record, and this is a hint for people.
    copy(&mut header.as_old_mut().name, path);
    copy(&mut header.as_old_mut().linkname, target);
    header.set_mode(u32::from(record.mode));
    header.set_uid(u64::from(record.uid.min(HEADER_ID_MAX)));
    header.set_gid(u64::from(record.gid.min(HEADER_ID_MAX)));
    header.set_mtime(u64::try_from(record.mtime.0).unwrap_or(0));
    header.set_size(0);
    if let RecordKind::CharDevice { major, minor } | RecordKind::BlockDevice { major, minor } = record.kind {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    Ok(header)
}

fn copy(slot: &mut [u8; NAME_BYTES], text: &str) {
    let count = text.len().min(NAME_BYTES);
    slot[..count].copy_from_slice(&text.as_bytes()[..count]);
}

fn extensions(record: &Record, path: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |key: &str, value: String| records.push((key.to_owned(), value.into_bytes()));
    if path.len() >= NAME_BYTES {
        add("path", path.to_owned());
    }
    if target.len() >= NAME_BYTES {
        add("linkpath", target.to_owned());
    }
    if record.uid > HEADER_ID_MAX {
        add("uid", record.uid.to_string());
    }
    if record.gid > HEADER_ID_MAX {
        add("gid", record.gid.to_string());
    }
    let (seconds, nanoseconds) = record.mtime;
    if nanoseconds != 0 || seconds < 0 {
        add("mtime", decimal_time(seconds, nanoseconds));
    }
    if !matches!(record.kind, RecordKind::HardLink(_)) {
        records.extend(record.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
    }
    records
}

/// Seconds with their fraction; before 1970 the fraction counts the other way round.
fn decimal_time(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}
