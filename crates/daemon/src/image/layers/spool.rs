//! A file without a name that a layer is unpacked into.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

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
        sys::holes::write_data(bytes, &self.file, self.at)?;
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
