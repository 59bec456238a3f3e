//! Reading and writing inside a root directory whose content is hostile.
//!
//! Every path is resolved by openat2(2) with `RESOLVE_IN_ROOT`: a symbolic link of the image, absolute or with `..`, stays
//! inside. Files are replaced, never written through: what an image put in a file's place (a link, a device) is not opened.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

/// A root directory.
#[derive(Debug)]
pub struct RootDir {
    directory: OwnedFd,
}

/// How many times an openat2(2) that raced with a rename is tried.
const TRIES: u32 = 16;

impl RootDir {
    /// The directory at `path`.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &str) -> io::Result<RootDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RootDir { directory: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// A root directory that is open already.
    #[must_use]
    pub fn from_fd(directory: OwnedFd) -> RootDir {
        RootDir { directory }
    }

    /// The same directory once more.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn try_clone(&self) -> io::Result<RootDir> {
        Ok(RootDir { directory: self.directory.try_clone()? })
    }

    /// The descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens `path` inside.
    ///
    /// # Errors
    /// What openat2(2) says.
    pub fn open_at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens the directory `path`, making what is missing of it, owned by root.
    ///
    /// # Errors
    /// When something that is no directory is in the way.
    pub fn ensure_dir(&self, path: &str, mode: u32) -> io::Result<OwnedFd> {
        let path = path.trim_end_matches('/');
        match self.open_at(if path.is_empty() { "/" } else { path }, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {}
            other => return other,
        }
        let (parent, name) = split(path);
        let parent = self.ensure_dir(parent, 0o755)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            // A link to nowhere is in the way; it is not followed to make a directory elsewhere.
            Err(Errno::EXIST) => return Err(io::ErrorKind::NotADirectory.into()),
            other => other?,
        }
        let made = rustix::fs::openat(
            &parent,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // The process's umask had a word in mkdirat(2).
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
        Ok(made)
    }

    /// The first `max` bytes of a regular file; none when there is no such file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(fd) => File::from(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Like [`RootDir::read`], as text; bytes that are none are replaced.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_text(&self, path: &str, max: u64) -> io::Result<Option<String>> {
        Ok(self.read(path, max)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Puts a file of root's at `path`, in place of whatever file or link is there; missing directories are made.
    ///
    /// # Errors
    /// When a directory is in the file's place, or the disk is full.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let (parent, name) = split(path);
        let parent = self.ensure_dir(parent, 0o755)?;
        let temporary = format!(".{name}.{:016x}", u64::from_ne_bytes(sys::rand::bytes()));
        let written = write_new(&parent, &temporary, bytes, mode)
            .and_then(|()| Ok(rustix::fs::renameat(&parent, &temporary, &parent, name)?));
        if written.is_err() {
            // The cause is told; a name nobody knows is left only when the disk is broken altogether.
            let _: rustix::io::Result<()> = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
        }
        written
    }

    /// Puts a symbolic link at `path`, in place of whatever file or link is there.
    ///
    /// # Errors
    /// When a directory is in its place.
    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (parent, name) = split(path);
        let parent = self.ensure_dir(parent, 0o755)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(rustix::fs::symlinkat(target, &parent, name)?)
    }

    /// Whether `path` leads to a regular file that somebody may execute.
    #[must_use]
    pub fn is_program(&self, path: &str) -> bool {
        let stat = self.open_at(path, OFlags::PATH).and_then(|fd| Ok(rustix::fs::fstat(fd)?));
        stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_mode & 0o111 != 0)
    }

    /// Whether `path` leads to anything.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.open_at(path, OFlags::PATH).is_ok()
    }

    /// What the symbolic link `path` says; none when it is no link.
    #[must_use]
    pub fn read_link(&self, path: &str) -> Option<String> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = rustix::fs::readlinkat(fd, "", Vec::new()).ok()?;
        target.into_string().ok()
    }
}

fn write_new(parent: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(bytes)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}

/// Makes an open file or directory root's.
///
/// # Errors
/// When the filesystem refuses.
pub fn give_to_root(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fchown(fd, Some(Uid::ROOT), Some(Gid::ROOT))?)
}

/// A path that leads to exactly what is open, for calls that take no descriptor, such as mount(2).
#[must_use]
pub fn path_of(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Directory and last component.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn links_of_the_image_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = RootDir::open(inside.path().to_str().unwrap()).unwrap();
        symlink(outside.path(), inside.path().join("etc")).unwrap();
        symlink("../../../../../..", inside.path().join("up")).unwrap();
        symlink(outside.path().join("victim"), inside.path().join("file")).unwrap();
        assert!(root.write("/etc/passwd", b"x", 0o644).is_err(), "a link to nowhere is not made a directory");
        root.write("/up/a/b", b"x", 0o644).unwrap();
        assert_eq!(std::fs::read(inside.path().join("a/b")).unwrap(), b"x");
        root.write("/file", b"new", 0o600).unwrap();
        assert!(!std::fs::symlink_metadata(inside.path().join("file")).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_have_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path().to_str().unwrap()).unwrap();
        root.write("/x/key", b"secret", 0o600).unwrap();
        root.write("/x/key", b"second", 0o644).unwrap();
        let meta = std::fs::metadata(dir.path().join("x/key")).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.len()), (0o644, 6));
        assert_eq!(std::fs::metadata(dir.path().join("x")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read_dir(dir.path().join("x")).unwrap().count(), 1);
        assert_eq!(root.read("/x/key", 3).unwrap().unwrap(), b"sec");
        assert_eq!(root.read("/none", 3).unwrap(), None);
        root.ensure_dir("/tmp", 0o1777).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("tmp")).unwrap().mode() & 0o7777, 0o1777);
        assert!(!root.is_program("/x/key") && root.exists("/x/key"));
    }
}
