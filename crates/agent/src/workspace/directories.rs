//! Names beneath a directory: resolved by the kernel without following a link, each directory opened once for the names in
//! it that come one after the other.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use wire::agent::workspace::FileMode;

/// Directories that are open at a time: one above the other, so that a tree as deep as this opens each of them once.
const OPEN_MAX: usize = 64;
/// Bytes of a file read at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// Largest file that is read whole: a git index of more entries than a guest's memory could compare.
const WHOLE_BYTES_MAX: u64 = 1 << 30;

/// What is beneath a directory.
#[derive(Debug)]
pub struct Directories {
    top: OwnedFd,
    /// Each beneath the one before it.
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    path: Vec<u8>,
    /// None when there is no such directory.
    directory: Option<OwnedFd>,
}

impl Directories {
    /// Those beneath `top`.
    #[must_use]
    pub fn new(top: OwnedFd) -> Directories {
        Directories { top, open: Vec::new() }
    }

    /// The same, with none open: what was open may be gone.
    #[must_use]
    pub fn afresh(self) -> Directories {
        Directories::new(self.top)
    }

    /// The directory `path`, which is clean and relative; empty for the top. None when there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn directory(&mut self, path: &[u8]) -> io::Result<Option<BorrowedFd<'_>>> {
        if path.is_empty() {
            return Ok(Some(self.top.as_fd()));
        }
        while self.open.last().is_some_and(|open| !is_within(path, &open.path)) {
            self.open.pop();
        }
        if self.open.last().is_none_or(|open| open.path.len() < path.len()) {
            self.open.truncate(OPEN_MAX - 1);
            let directory = match self.open.last() {
                None => opened(self.top.as_fd(), path)?,
                Some(Open { path: above, directory: Some(from) }) => opened(from.as_fd(), &path[above.len() + 1..])?,
                Some(Open { directory: None, .. }) => None,
            };
            self.open.push(Open { path: path.to_vec(), directory });
        }
        Ok(self.open.last().and_then(|open| open.directory.as_ref()).map(AsFd::as_fd))
    }

    /// The directory that `path` is in, and its name there; none when there is no such directory.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn place<'a>(&mut self, path: &'a [u8]) -> io::Result<Option<Place<'_, 'a>>> {
        let (parent, name) = split(path);
        Ok(self.directory(parent)?.map(|directory| Place { directory, name }))
    }

    /// What lstat(2) says of `path`; none when there is nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn look(&mut self, path: &[u8]) -> io::Result<Option<Stat>> {
        match self.place(path)? {
            Some(place) => place.look(),
            None => Ok(None),
        }
    }

    /// The content of the regular file `path`; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than any file that is read whole.
    pub fn read(&mut self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.place(path)?.map_or(Ok(None), |place| place.open())? else {
            return Ok(None);
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        if meta.len() > WHOLE_BYTES_MAX {
            return Err(io::Error::other("it has more than 1 GiB"));
        }
        let mut content = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0) + 1);
        file.take(WHOLE_BYTES_MAX).read_to_end(&mut content)?;
        Ok(Some(content))
    }
}

/// A name in a directory.
#[derive(Debug)]
pub struct Place<'d, 'p> {
    /// Where.
    pub directory: BorrowedFd<'d>,
    /// Which.
    pub name: &'p [u8],
}

impl Place<'_, '_> {
    /// What lstat(2) says; none when there is nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn look(&self) -> io::Result<Option<Stat>> {
        or_none(rustix::fs::statat(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Opens it for reading; none when there is nothing, or a link.
    fn open(&self) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(or_none(rustix::fs::openat(self.directory, self.name, flags, Mode::empty()))?.map(File::from))
    }

    /// SHA-256 of what is in a file of `mode`, or of a link's target; zeros for what is neither. None when it is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn hash(&self, mode: FileMode) -> io::Result<Option<[u8; 32]>> {
        match mode {
            FileMode::Other => Ok(Some([0; 32])),
            FileMode::Link => {
                // What is no link any more is gone, too.
                let target = match rustix::fs::readlinkat(self.directory, self.name, Vec::new()) {
                    Err(Errno::INVAL) => None,
                    other => or_none(other)?,
                };
                Ok(target.map(|target| Sha256::digest(target.as_bytes()).into()))
            }
            FileMode::Plain | FileMode::Executable => {
                let Some(mut file) = self.open()? else {
                    return Ok(None);
                };
                let mut hash = Sha256::new();
                let mut chunk = vec![0; CHUNK_BYTES];
                loop {
                    match file.read(&mut chunk) {
                        Ok(0) => return Ok(Some(hash.finalize().into())),
                        Ok(count) => hash.update(&chunk[..count]),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

/// What git would keep of a file's mode.
#[must_use]
pub fn mode_of(stat: &Stat) -> FileMode {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => FileMode::Executable,
        FileType::RegularFile => FileMode::Plain,
        FileType::Symlink => FileMode::Link,
        _ => FileMode::Other,
    }
}

/// Whether it is a directory.
#[must_use]
pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Opens a directory beneath another one.
fn opened(from: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    or_none(rustix::fs::openat2(from, path, flags, Mode::empty(), resolve))
}

/// None when there is nothing of that name, or something else on the way there.
pub fn or_none<T>(done: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn is_within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}

/// Directory and last component.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
