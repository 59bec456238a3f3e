//! A file on its way. It has no name until it is whole: whoever is killed in the middle leaves what was there before, and
//! nothing beside it. Only where the whole transfer is marked as one under way, a new file is seen before.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::unpack::refusal;

/// How many names are tried: others may have taken them, and left them behind when they were killed.
const TRIES: u32 = 64;
/// So that no two threads try the same.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    parent: &'a OwnedFd,
    file: File,
    called: Called,
}

/// What a file is called while it is being written.
#[derive(Debug)]
enum Called {
    Nothing,
    /// Something that nobody looks for, where it must be called something.
    Otherwise(String),
    /// What it will be called.
    Already(Vec<u8>),
}

impl<'a> Arrival<'a> {
    /// A new file, for `name` of the directory `parent`; its owner alone may read it.
    ///
    /// # Errors
    /// When a directory has the name, or none can be made.
    pub(crate) fn new(parent: &'a OwnedFd, name: &[u8]) -> io::Result<Arrival<'a>> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => return Err(in_place()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, ".", flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => Ok(Arrival { parent, file: file.into(), called: Called::Nothing }),
            // NFS has no files without names, nor have older overlays.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => Arrival::hidden(parent),
            Err(errno) => Err(refusal(parent, errno)),
        }
    }

    /// A new file with a name that nobody looks for.
    pub(crate) fn hidden(parent: &'a OwnedFd) -> io::Result<Arrival<'a>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = unused(|name| rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)));
        let (file, hidden) = made.map_err(|errno| refusal(parent, errno))?;
        Ok(Arrival { parent, file: file.into(), called: Called::Otherwise(hidden) })
    }

    /// A new file that has its name and its mode from the beginning, which is a third less work for the filesystem. Where
    /// something has the name, that stays until the file is whole. Whoever is killed in the middle leaves a part of it.
    ///
    /// # Errors
    /// When a directory has the name, or none can be made.
    pub(crate) fn in_sight(parent: &'a OwnedFd, name: &[u8], mode: u32) -> io::Result<Arrival<'a>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode & 0o777)) {
            Ok(file) => Ok(Arrival { parent, file: file.into(), called: Called::Already(name.to_vec()) }),
            Err(Errno::EXIST) => Arrival::new(parent, name),
            Err(errno) => Err(refusal(parent, errno)),
        }
    }

    /// To be written to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, in place of a file or a link that has it, at once.
    ///
    /// # Errors
    /// When a directory has the name, or the filesystem refuses.
    pub(crate) fn place(mut self, name: &[u8]) -> io::Result<()> {
        if matches!(self.called, Called::Nothing) {
            let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            match rustix::fs::linkat(CWD, &from, self.parent, name, AtFlags::SYMLINK_FOLLOW) {
                Err(Errno::EXIST) => {}
                other => return Ok(other?),
            }
            let link = |hidden: &str| rustix::fs::linkat(CWD, &from, self.parent, hidden, AtFlags::SYMLINK_FOLLOW);
            self.called = Called::Otherwise(unused(link)?.1);
        }
        if let Called::Otherwise(hidden) = &self.called {
            rustix::fs::renameat(self.parent, hidden.as_str(), self.parent, name).map_err(|errno| match errno {
                Errno::ISDIR => in_place(),
                errno => errno.into(),
            })?;
        }
        self.called = Called::Nothing;
        Ok(())
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let name = match &self.called {
            Called::Nothing => return,
            Called::Otherwise(hidden) => hidden.as_bytes(),
            Called::Already(name) => name,
        };
        // Why it did not arrive is told already, and a part of it is marked as one, or not found by its name.
        drop(rustix::fs::unlinkat(self.parent, name, AtFlags::empty()).map_err(io::Error::from));
    }
}

/// Makes something under a name that nothing has.
fn unused<T>(mut make: impl FnMut(&str) -> rustix::io::Result<T>) -> rustix::io::Result<(T, String)> {
    for _ in 0..TRIES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".banger-{}-{number}", rustix::process::getpid().as_raw_nonzero());
        match make(&name) {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
            Ok(made) => return Ok((made, name)),
        }
    }
    Err(Errno::EXIST)
}

/// The refusal to put a file in a directory's place.
pub(crate) fn in_place() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "there is a directory, and a file does not replace it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// Both ways there are, the one of filesystems that have no files without names forced.
    fn arrivals(parent: &OwnedFd) -> [Arrival<'_>; 2] {
        [Arrival::new(parent, b"x").unwrap(), Arrival::hidden(parent).unwrap()]
    }

    #[test]
    fn one_in_sight_is_there_at_once_and_goes_when_it_is_not_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let parent: OwnedFd = File::open(directory.path()).unwrap().into();
        let there = || fs::read_to_string(directory.path().join("x")).ok();
        let arrival = Arrival::in_sight(&parent, b"x", 0o4755).unwrap();
        arrival.file().write_all(b"par").unwrap();
        assert_eq!(there().as_deref(), Some("par"));
        drop(arrival);
        assert_eq!(there(), None);
        for content in ["first", "second"] {
            let before = there();
            let arrival = Arrival::in_sight(&parent, b"x", 0o600).unwrap();
            arrival.file().write_all(content.as_bytes()).unwrap();
            if before.is_some() {
                assert_eq!(there(), before, "what was there stays until it is whole");
            }
            arrival.place(b"x").unwrap();
            assert_eq!((there().as_deref(), names(directory.path())), (Some(content), vec!["x".to_owned()]));
        }
        fs::remove_file(directory.path().join("x")).unwrap();
        fs::create_dir(directory.path().join("x")).unwrap();
        assert_eq!(Arrival::in_sight(&parent, b"x", 0o600).unwrap_err().to_string(), in_place().to_string());
    }

    #[test]
    fn what_was_there_stays_until_it_is_whole() {
        for at in 0..2 {
            for was_there in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let parent: OwnedFd = File::open(directory.path()).unwrap().into();
                let old = was_there.then(|| fs::write(directory.path().join("x"), "old").unwrap()).map(|()| "old");
                let there = || fs::read_to_string(directory.path().join("x")).ok();
                let arrival = arrivals(&parent).into_iter().nth(at).unwrap();
                arrival.file().write_all(b"par").unwrap();
                assert_eq!(there().as_deref(), old);
                drop(arrival);
                assert_eq!((there().as_deref(), names(directory.path()).len()), (old, usize::from(was_there)));
                let arrival = arrivals(&parent).into_iter().nth(at).unwrap();
                arrival.file().write_all(b"whole").unwrap();
                arrival.place(b"x").unwrap();
                assert_eq!((there().as_deref(), names(directory.path())), (Some("whole"), vec!["x".to_owned()]));
            }
        }
    }

    #[test]
    fn a_directory_keeps_its_place_and_names_that_are_taken_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let parent: OwnedFd = File::open(directory.path()).unwrap().into();
        let late = arrivals(&parent);
        fs::create_dir(directory.path().join("x")).unwrap();
        assert_eq!(Arrival::new(&parent, b"x").unwrap_err().to_string(), in_place().to_string());
        for arrival in late {
            assert_eq!(arrival.place(b"x").unwrap_err().to_string(), in_place().to_string());
        }
        assert_eq!(names(directory.path()), ["x"]);
        let mut tried = Vec::new();
        let (made, name) = unused(|name| {
            tried.push(name.to_owned());
            if tried.len() < 5 { Err(Errno::EXIST) } else { Ok(tried.len()) }
        })
        .unwrap();
        assert_eq!((made, Some(&name)), (5, tried.last()));
        assert!(unused::<()>(|_| Err(Errno::EXIST)).is_err());
    }
}
