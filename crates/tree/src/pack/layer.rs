//! What changed of a tree, as a layer of an image: each change by itself, and whiteouts for what is gone.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::{Fidelity, NAME_BYTES, Packer, copy_name};
use crate::{TreeError, split};

/// What stands before the name of something that is gone (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Packs changes of a tree, in whatever order they are told.
pub struct LayerPacker<W: Write>(Packer<W>);

impl<W: Write> LayerPacker<W> {
    /// One for the tree at `top`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn new(top: OwnedFd, to: W) -> Result<LayerPacker<W>, TreeError> {
        Ok(LayerPacker(Packer::new(top, Fidelity::Whole, to).map_err(TreeError::during("look at", b"."))?))
    }

    /// Packs what is at `path`, without what is in it when it is a directory. What is not there any more, what something is
    /// mounted over, and sockets are left out.
    ///
    /// # Errors
    /// When it cannot be read, or the stream not written.
    pub fn changed(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let place = match openat2(&self.0.base, path, flags, Mode::empty(), resolve) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(()),
            Err(errno) => return Err(TreeError::during("open", path)(errno)),
        };
        let stat = rustix::fs::fstat(&place).map_err(TreeError::during("look at", path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket | FileType::Unknown => Ok(()),
            FileType::Directory => self.0.append(path, &place, &stat, EntryType::Directory, None),
            _ => self.0.put(path, place, &mut Vec::new()),
        }
    }

    /// Says that what the image has at `path` is gone.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn gone(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let (above, name) = split(path);
        let slash: &[u8] = if above.is_empty() { b"" } else { b"/" };
        let path = [above, slash, WHITEOUT, name].concat();
        let builder = &mut self.0.builder;
        if path.len() >= NAME_BYTES {
            let records = [("path", path.as_slice())];
            builder.append_pax_extensions(records).map_err(TreeError::during("send", &path))?;
        }
        let mut header = Header::new_gnu();
        copy_name(&mut header.as_old_mut().name, &path);
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, io::empty()).map_err(TreeError::during("send", &path))
    }

    /// Ends the stream. Gives the bytes of file content in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<u64, TreeError> {
        Ok(self.0.finish(b".")?.bytes)
    }
}
