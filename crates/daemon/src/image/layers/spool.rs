//! A file without a name that a layer is unpacked into.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// What a filesystem can leave out of a file.
const BLOCK_BYTES: usize = 4096;

/// Takes bytes one after the other; blocks of zeros take no room.
pub(super) struct Spool {
    file: File,
    at: u64,
}

impl Spool {
    /// A new file in the filesystem of the directory `beside`; it goes with its descriptor.
    pub(super) fn new(beside: &Path) -> io::Result<Spool> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(beside, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => File::from(file),
            // Not every filesystem has files without a name, open(2).
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => tempfile::tempfile_in(beside)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Spool { file, at: 0 })
    }

    /// Appends `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        let mut start = 0;
        for at in (0..bytes.len()).step_by(BLOCK_BYTES) {
            let end = bytes.len().min(at + BLOCK_BYTES);
            if bytes[at..end] == ZEROS[..end - at] {
                self.file.write_all_at(&bytes[start..at], self.at + start as u64)?;
                start = end;
            }
        }
        self.file.write_all_at(&bytes[start..], self.at + start as u64)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.at
    }

    /// The file, whole.
    pub(super) fn finish(self) -> io::Result<File> {
        self.file.set_len(self.at)?;
        Ok(self.file)
    }
}
