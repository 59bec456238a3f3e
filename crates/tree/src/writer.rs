//! A tar stream, entry by entry, by somebody who decides what is in it and how it is dressed. All of it is root's.
//!
//! A file is read once: whoever packs it sees every byte on its way, holes as the zeros they read as.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::Stat;
use tar::{EntryType, Header};

use crate::pack::{NAME_BYTES, copy_name};
use crate::sparse::{RunsReader, runs_of, write_map};
use crate::{TreeError, pax};

/// Bytes read, shown and written at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a tar stream counts in.
const BLOCK_BYTES: u64 = 512;

/// How an entry is called and dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dress<'a> {
    /// Its name in the stream, relative.
    pub path: &'a [u8],
    /// Its permission bits.
    pub mode: u32,
    /// Its time of change, seconds since 1970; earlier is 1970.
    pub mtime: i64,
}

/// Writes a stream. One that is dropped before its end has none, so that whoever reads it can tell.
pub struct Writer<W: Write> {
    to: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// A writer to `to`, in many small pieces.
    #[must_use]
    pub fn new(to: W) -> Writer<W> {
        Writer { to, buffer: vec![0; CHUNK_BYTES] }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn directory(&mut self, dress: Dress<'_>) -> Result<(), TreeError> {
        self.header(dress, EntryType::Directory, b"", 0)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn link(&mut self, dress: Dress<'_>, target: &[u8]) -> Result<(), TreeError> {
        self.header(dress, EntryType::Symlink, target, 0)
    }

    /// Adds a file of these bytes.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn bytes(&mut self, dress: Dress<'_>, content: &[u8]) -> Result<(), TreeError> {
        self.header(dress, EntryType::Regular, b"", content.len() as u64)?;
        self.body(content, content.len() as u64).map_err(TreeError::during("send", dress.path))
    }

    /// Adds an open file, sparse when it is, as long as `stat` says: what is cut off meanwhile is zeros, and what is added
    /// stays away. `seen` gets its content in order, holes included; what it refuses ends the stream.
    ///
    /// # Errors
    /// When the file cannot be read, the stream not written, or `seen` refuses.
    pub fn file(
        &mut self,
        dress: Dress<'_>,
        file: &File,
        stat: &Stat,
        seen: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let runs = runs_of(file, length, blocks).map_err(TreeError::during("find the holes of", dress.path))?;
        let Some(runs) = runs else { return self.whole(dress, file, length, seen) };
        let data: u64 = runs.iter().map(|(_, bytes)| bytes).sum();
        let mut header = plain(dress, EntryType::GNUSparse);
        let map = write_map(&mut header, &runs, length);
        header.set_size(data);
        header.set_cksum();
        self.records(dress.path, b"")?;
        let sent = self.to.write_all(header.as_bytes()).and_then(|()| self.to.write_all(&map));
        sent.map_err(TreeError::during("send", dress.path))?;
        let mut at = 0;
        for run in &runs {
            zeros(run.0 - at, seen).map_err(TreeError::during("send", dress.path))?;
            self.run(dress.path, &mut RunsReader::new(file, std::slice::from_ref(run)), run.1, seen)?;
            at = run.0 + run.1;
        }
        zeros(length - at, seen).map_err(TreeError::during("send", dress.path))?;
        self.pad(data).map_err(TreeError::during("send", dress.path))
    }

    /// Adds the first `length` bytes of an open file, holes as the zeros they read as: the stream depends on what the file
    /// says, and not on how it lies on its disk. For the rest as [`Writer::file`].
    ///
    /// # Errors
    /// When the file cannot be read, the stream not written, or `seen` refuses.
    pub fn whole(
        &mut self,
        dress: Dress<'_>,
        file: &File,
        length: u64,
        seen: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        self.header(dress, EntryType::Regular, b"", length)?;
        let whole = [(0, length)];
        self.run(dress.path, &mut RunsReader::new(file, &whole), length, seen)?;
        self.pad(length).map_err(TreeError::during("send", dress.path))
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(), TreeError> {
        let ended = self.to.write_all(&[0; 2 * BLOCK_BYTES as usize]).and_then(|()| self.to.flush());
        ended.map_err(TreeError::during("write the end of", b"the stream"))
    }

    /// Passes on one run of data.
    fn run(
        &mut self,
        path: &[u8],
        from: &mut impl Read,
        mut left: u64,
        seen: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let count = match from.read(&mut self.buffer[..want]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TreeError::during("read", path)(error)),
            };
            let chunk = &self.buffer[..count];
            seen(chunk).and_then(|()| self.to.write_all(chunk)).map_err(TreeError::during("send", path))?;
            left -= count as u64;
        }
        Ok(())
    }

    fn header(&mut self, dress: Dress<'_>, kind: EntryType, target: &[u8], size: u64) -> Result<(), TreeError> {
        self.records(dress.path, target)?;
        let mut header = plain(dress, kind);
        copy_name(&mut header.as_old_mut().linkname, target);
        header.set_size(size);
        header.set_cksum();
        self.to.write_all(header.as_bytes()).map_err(TreeError::during("send", dress.path))
    }

    /// What the header has no room for.
    fn records(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let names = [("path", path), ("linkpath", target)];
        let records: Vec<Vec<u8>> = names
            .iter()
            .filter(|(_, name)| name.len() >= NAME_BYTES)
            .map(|(key, name)| pax::record(key, name))
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        let records = records.concat();
        let mut header = plain(Dress { path: b"@", mode: 0o644, mtime: 0 }, EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        let sent = self.to.write_all(header.as_bytes()).and_then(|()| self.body(&records, records.len() as u64));
        sent.map_err(TreeError::during("send", path))
    }

    fn body(&mut self, content: &[u8], length: u64) -> io::Result<()> {
        self.to.write_all(content)?;
        self.pad(length)
    }

    /// Fills the last block of `length` bytes up.
    fn pad(&mut self, length: u64) -> io::Result<()> {
        let missing = length.next_multiple_of(BLOCK_BYTES) - length;
        let missing = usize::try_from(missing).unwrap_or(0);
        self.to.write_all(&[0; BLOCK_BYTES as usize][..missing])
    }
}

fn plain(dress: Dress<'_>, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    let mut name = dress.path.to_vec();
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    copy_name(&mut header.as_old_mut().name, &name);
    header.set_mode(dress.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(dress.mtime).unwrap_or(0));
    header.set_entry_type(kind);
    header
}

/// Shows a hole.
fn zeros(mut left: u64, seen: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while left > 0 {
        let count = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        seen(&ZEROS[..count])?;
        left -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::unpack::{Policy, unpack};

    #[test]
    fn what_is_written_is_unpacked_and_seen() {
        let dir = tempfile::tempdir().unwrap();
        let sparse = File::create_new(dir.path().join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        for at in 0..6 {
            sparse.write_all_at(b"data", at * (512 << 10)).unwrap();
        }
        let sparse = File::open(dir.path().join("sparse")).unwrap();
        let long = [b"d/".as_slice(), &[b'n'; 150]].concat();
        let dressed = |path, mode| Dress { path, mode, mtime: 1_600_000_000 };
        let mut stream = Vec::new();
        let mut seen = Vec::new();
        let mut writer = Writer::new(&mut stream);
        writer.directory(dressed(b"d", 0o755)).unwrap();
        writer.bytes(dressed(b"d/odd \n\xff", 0o644), b"content").unwrap();
        writer.bytes(dressed(b"empty", 0o755), b"").unwrap();
        writer.link(dressed(&long, 0o777), &[b't'; 120]).unwrap();
        let stat = rustix::fs::fstat(&sparse).unwrap();
        let mut see = |chunk: &[u8]| {
            seen.extend_from_slice(chunk);
            Ok(())
        };
        writer.file(dressed(b"sparse", 0o644), &sparse, &stat, &mut see).unwrap();
        writer.finish().unwrap();
        assert!(seen == std::fs::read(dir.path().join("sparse")).unwrap());
        assert!(stream.len() < 1 << 20, "holes stay away");

        let to = tempfile::tempdir().unwrap();
        let destination = File::open(to.path()).unwrap();
        unpack(destination.into(), Policy::hostile(true), stream.as_slice()).unwrap();
        use std::os::unix::ffi::OsStrExt;
        let odd = to.path().join(std::ffi::OsStr::from_bytes(b"d/odd \n\xff"));
        assert_eq!(std::fs::read(odd).unwrap(), b"content");
        assert!(std::fs::read(to.path().join("sparse")).unwrap() == seen);
        let link = to.path().join(std::ffi::OsStr::from_bytes(&long));
        assert_eq!(std::fs::read_link(link).unwrap().as_os_str().len(), 120);
    }

    #[test]
    fn what_is_written_whole_does_not_show_its_holes() {
        let dir = tempfile::tempdir().unwrap();
        let dress = Dress { path: b"f", mode: 0o644, mtime: 0 };
        let streams = ["holes", "zeros"].map(|name| {
            let path = dir.path().join(name);
            let file = File::create_new(&path).unwrap();
            if name == "zeros" {
                file.write_all_at(&[0; 1 << 20], 0).unwrap();
            }
            file.set_len(1 << 20).unwrap();
            file.write_all_at(b"data", 512 << 10).unwrap();
            let mut stream = Vec::new();
            let mut writer = Writer::new(&mut stream);
            writer.whole(dress, &File::open(path).unwrap(), 1 << 20, &mut |_| Ok(())).unwrap();
            writer.finish().unwrap();
            stream
        });
        assert!(streams[0] == streams[1] && streams[0].len() > 1 << 20);
    }

    #[test]
    fn a_file_that_shrinks_is_filled_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"short").unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        let mut stat = rustix::fs::fstat(&file).unwrap();
        stat.st_size = 1000;
        let mut stream = Vec::new();
        let mut length = 0;
        let mut writer = Writer::new(&mut stream);
        let dress = Dress { path: b"f", mode: 0o644, mtime: 0 };
        let mut count = |chunk: &[u8]| {
            length += chunk.len();
            Ok(())
        };
        writer.file(dress, &file, &stat, &mut count).unwrap();
        writer.finish().unwrap();
        assert_eq!((length, stream.len() % 512), (1000, 0));
    }

    #[test]
    fn who_looks_may_end_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"content").unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let mut writer = Writer::new(io::sink());
        let dress = Dress { path: b"f", mode: 0o644, mtime: 0 };
        let refused = writer.file(dress, &file, &stat, &mut |_| Err(io::Error::other("enough")));
        assert_eq!(refused.unwrap_err().source.to_string(), "enough");
    }
}
