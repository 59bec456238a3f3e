//! A file that appears whole or not at all: written beside its place under another name, made durable, then renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, fchmod, fsync, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use wire::api::ErrorCode;

use crate::error::{Failure, Io};

/// Names that are tried for what is not whole yet.
const TRIES: u32 = 100;

/// What of a mode a file keeps that is replaced.
const PERMISSIONS: u32 = 0o777;

/// A file on its way; dropped before it is kept, it leaves nothing.
#[derive(Debug)]
pub(crate) struct NewFile {
    /// As asked for, for messages.
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    temporary: OsString,
    file: File,
    /// What was there may be replaced.
    replaces: bool,
    is_kept: bool,
}

impl NewFile {
    /// Begins the file `path`, in the place of one that may be there; a link to one stays a link.
    ///
    /// # Errors
    /// When something else than a file is there, or nothing can be made beside it.
    pub(crate) fn over(path: &Path) -> Result<NewFile, Failure> {
        let refused =
            |why: &str| Failure::new(ErrorCode::BadRequest, format!("cannot write {}: {why}", path.display()));
        let meta = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return NewFile::begin(path, path, 0o666, true),
            Err(error) => return Err(failed(path, error)),
            Ok(_) => match std::fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(refused("it is a symbolic link to nowhere"));
                }
                found => found.map_err(|error| failed(path, error))?,
            },
        };
        if meta.is_dir() {
            return Err(refused("it is a directory"));
        }
        if !meta.is_file() {
            return Err(refused("it is a device, a pipe or a socket").hint("lead standard output there instead"));
        }
        let place = std::fs::canonicalize(path).map_err(|error| failed(path, error))?;
        let new = NewFile::begin(path, &place, 0o600, true)?;
        let mode = std::os::unix::fs::MetadataExt::mode(&meta) & PERMISSIONS;
        fchmod(&new.file, Mode::from_raw_mode(mode)).map_err(|errno| failed(path, errno.into()))?;
        Ok(new)
    }

    /// Begins the file `path`, for this user only and where none is yet.
    ///
    /// # Errors
    /// When nothing can be made there.
    pub(crate) fn private(path: &Path) -> Result<NewFile, Failure> {
        NewFile::begin(path, path, 0o600, false)
    }

    fn begin(path: &Path, place: &Path, mode: u32, replaces: bool) -> Result<NewFile, Failure> {
        let Some(name) = place.file_name() else {
            let message = format!("cannot write {}: it is a directory", path.display());
            return Err(Failure::new(ErrorCode::BadRequest, message));
        };
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => failed(path, io::Error::other(format!("there is no directory {}", parent.display()))),
            errno => failed(path, errno.into()),
        })?;
        let (temporary, file) = temporary(&directory, mode).map_err(|errno| failed(path, errno.into()))?;
        let (path, name) = (path.to_owned(), name.to_owned());
        Ok(NewFile { path, directory, name, temporary, file, replaces, is_kept: false })
    }

    /// Adds `bytes`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, error))
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// When that fails; nothing is left then.
    pub(crate) fn keep(mut self) -> Result<(), Failure> {
        self.rename().map_err(|errno| failed(&self.path, errno.into()))
    }

    fn rename(&mut self) -> Result<(), Errno> {
        fsync(&self.file)?;
        let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        if self.replaces {
            // What came to be there meanwhile is not replaced when it is no file.
            match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => return Err(Errno::EXIST),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        renameat_with(&self.directory, &self.temporary, &self.directory, &self.name, flags)?;
        self.is_kept = true;
        fsync(&self.directory)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed is found under a name that says whose it is.
            let _ = unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

/// A new file in `directory`, under a name that nobody else chose.
fn temporary(directory: &OwnedFd, mode: u32) -> Result<(OsString, File), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pid = rustix::process::getpid();
    for number in 0..TRIES {
        let name = OsString::from(format!(".banger-{pid}-{number}.part"));
        match openat(directory, OsStr::new(&name), flags, Mode::from_raw_mode(mode)) {
            Ok(file) => return Ok((name, File::from(file))),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

fn failed(path: &Path, error: io::Error) -> Failure {
    let code =
        if error.kind() == io::ErrorKind::StorageFull { ErrorCode::Exhausted } else { ErrorCode::OperationFailed };
    Failure::new(code, format!("cannot write {}: {}", path.display(), Io(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<OsString> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut new = NewFile::over(&path).unwrap();
        new.write(b"one").unwrap();
        assert!(!path.exists());
        drop(new);
        assert!(names(dir.path()).is_empty());
        let mut new = NewFile::over(&path).unwrap();
        new.write(b"two").unwrap();
        new.keep().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn what_is_there_is_replaced_through_links_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::File::create(&file).unwrap().set_permissions(std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        let mut new = NewFile::over(&link).unwrap();
        new.write(b"new").unwrap();
        new.keep().unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        let private = NewFile::private(&file).unwrap();
        private.keep().unwrap_err();
        assert_eq!(std::fs::read(&file).unwrap(), b"new", "a private file replaces nothing");
        assert_eq!(names(dir.path()), ["file", "link"]);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("nowhere", dir.path().join("link")).unwrap();
        let message = |path: &Path| match NewFile::over(path) {
            Err(Failure::Told(error)) => error.message,
            other => panic!("{other:?}"),
        };
        for (path, why) in [
            (dir.path().to_owned(), "a directory"),
            (dir.path().join("link"), "link to nowhere"),
            (PathBuf::from("/dev/null"), "a device"),
            (dir.path().join("none/x"), "there is no directory"),
            (PathBuf::from("/"), "a directory"),
        ] {
            assert!(message(&path).contains(why), "{}", message(&path));
        }
        assert_eq!(names(dir.path()), ["link"]);
    }
}
