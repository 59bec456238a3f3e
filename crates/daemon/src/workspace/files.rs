//! The files of a work tree, opened one by one: never through a link, never outside of the tree. What is gone, or is no file
//! any more, is none; git sees the same.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wire::agent::workspace::FileMode;

use super::WorkspaceError;
use super::listing::Recorded;
use crate::model::digest::Digest;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// A file changed so shortly before it was looked at may change again without any sign: clocks of filesystems are coarse.
/// On the filesystems of Linux they tick every few milliseconds; elsewhere every second.
pub(super) const TICK_NS: u64 = 100_000_000;
pub(super) const COARSE_NS: u64 = 1_000_000_000;

/// What tells that a file is the same as before, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Stamp {
        let ns = |seconds: i64, fraction: u64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(fraction).unwrap_or(0))
        };
        Stamp {
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// Of a file that is nowhere yet.
    pub(super) fn unknown(bytes: u64) -> Stamp {
        Stamp { bytes, mtime_ns: 0, ctime_ns: 0, inode: 0 }
    }

    /// Whether it had been left alone for so long at a time, in nanoseconds since 1970.
    pub(super) fn is_settled(&self, now_ns: u64, for_ns: u64) -> bool {
        let limit = i64::try_from(now_ns.saturating_sub(for_ns)).unwrap_or(i64::MAX);
        self.ctime_ns < limit
    }

    /// Whether it is what an index recorded, which was written at a time, in nanoseconds since 1970, when the file had been
    /// left alone for a while: git's own doubt, which counts in seconds, is unfounded then.
    pub(super) fn is_recorded(&self, recorded: &Recorded, written_ns: u64) -> bool {
        let ns = |(seconds, ns): (u32, u32)| i64::from(seconds) * 1_000_000_000 + i64::from(ns);
        self.mtime_ns == ns(recorded.mtime)
            && self.ctime_ns == ns(recorded.ctime)
            && self.inode & u64::from(u32::MAX) == u64::from(recorded.inode)
            && self.bytes & u64::from(u32::MAX) == u64::from(recorded.bytes)
            && self.is_settled(written_ns, TICK_NS)
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A file or a link of a work tree, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// What it is.
    pub(super) mode: FileMode,
    /// Its state.
    pub(super) stamp: Stamp,
}

impl Seen {
    /// None: no file and no link.
    fn of(stat: &Stat) -> Option<Seen> {
        let mode = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_mode & 0o100 == 0 => FileMode::Plain,
            FileType::RegularFile => FileMode::Executable,
            FileType::Symlink => FileMode::Link,
            _ => return None,
        };
        Some(Seen { mode, stamp: Stamp::of(stat) })
    }
}

/// What is open of a file.
pub(super) enum Opened {
    /// A file, and what it was like before it was read.
    File(File, Stat),
    /// A link's target.
    Link(Vec<u8>, Stat),
}

impl Opened {
    /// What it is.
    pub(super) fn seen(&self) -> Option<Seen> {
        let (Opened::File(_, stat) | Opened::Link(_, stat)) = self;
        Seen::of(stat)
    }
}

/// The top directory of a work tree, held open.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    directory: OwnedFd,
}

impl Tree {
    /// Opens it.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn open(root: &Path) -> Result<Tree, WorkspaceError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, root, flags, Mode::empty());
        let directory = opened.map_err(|errno| WorkspaceError::Read { path: root.to_owned(), source: errno.into() })?;
        Ok(Tree { root: root.to_owned(), directory })
    }

    /// What is at a path.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(super) fn look(&self, path: &[u8]) -> Result<Option<Seen>, WorkspaceError> {
        let Some(handle) = self.open_below(path, OFlags::PATH)? else { return Ok(None) };
        let stat = fstat(&handle).map_err(|errno| self.unreadable(path, errno))?;
        Ok(Seen::of(&stat))
    }

    /// Whether a directory is there.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(super) fn is_directory(&self, path: &[u8]) -> Result<bool, WorkspaceError> {
        Ok(self.open_below(path, OFlags::PATH | OFlags::DIRECTORY)?.is_some())
    }

    /// Whether anything is there.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(super) fn is_there(&self, path: &[u8]) -> Result<bool, WorkspaceError> {
        Ok(self.open_below(path, OFlags::PATH)?.is_some())
    }

    /// Opens a file for reading, or reads a link; none when neither is there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) fn read(&self, path: &[u8]) -> Result<Option<Opened>, WorkspaceError> {
        // A pipe, should one be there now, is not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        if let Some(opened) = self.open_below(path, flags)? {
            let stat = fstat(opened.as_fd()).map_err(|errno| self.unreadable(path, errno))?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            return Ok(is_file.then(|| Opened::File(File::from(opened), stat)));
        }
        let Some(handle) = self.open_below(path, OFlags::PATH)? else { return Ok(None) };
        let stat = fstat(&handle).map_err(|errno| self.unreadable(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let target = readlinkat(&handle, "", Vec::new()).map_err(|errno| self.unreadable(path, errno))?;
        Ok(Some(Opened::Link(target.into_bytes(), stat)))
    }

    /// What is in a file now, and what it was like meanwhile; none when it is no file or link any more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn digest(&self, path: &[u8]) -> Result<Option<(Seen, Digest)>, WorkspaceError> {
        let Some(opened) = self.read(path)? else { return Ok(None) };
        let Some(seen) = opened.seen() else { return Ok(None) };
        let mut file = match opened {
            Opened::Link(target, _) => return Ok(Some((seen, Digest::of(&target)))),
            Opened::File(file, _) => file,
        };
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Some((seen, Digest::finish(hasher)))),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(WorkspaceError::Read { path: self.path(path), source }),
            }
        }
    }

    /// Opens `path` without following a link anywhere, and without leaving the tree (openat2(2)).
    fn open_below(&self, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, WorkspaceError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match openat2(&self.directory, path, flags, Mode::empty(), resolve) {
                Ok(handle) => return Ok(Some(handle)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
                // A rename elsewhere got between.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(self.unreadable(path, errno)),
            }
        }
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    fn unreadable(&self, path: &[u8], errno: Errno) -> WorkspaceError {
        WorkspaceError::Read { path: self.path(path), source: errno.into() }
    }
}
