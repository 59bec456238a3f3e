//! Changing files. Every function says in its error what it was doing to which path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, seek};

/// Of the buffer for copies the kernel does not make by itself.
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} {}", path.display())]
pub struct FsError {
    /// What was being done: `create`, `rename to`.
    pub act: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn failed<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FsError + 'a {
    move |source| FsError { act, path: path.to_path_buf(), source }
}

/// Makes `path` and its missing parents, readable by their owner only.
///
/// # Errors
/// When a directory cannot be made.
pub fn create_private_dir(path: &Path) -> Result<(), FsError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

/// Makes `path` as a private directory or checks that it is one already: a real directory, of this user, closed to others.
/// For directories in shared places such as `/tmp`.
///
/// # Errors
/// When it cannot be made, or somebody else could have a hand in it.
pub fn claim_private_dir(path: &Path) -> Result<(), FsError> {
    if let Some(parent) = path.parent() {
        create_private_dir(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("create", path)(error)),
    }
    let meta = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let refused = |why: &str| Err(failed("use", path)(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())));
    if !meta.is_dir() {
        return refused("it is not a directory");
    }
    if meta.uid() != rustix::process::getuid().as_raw() {
        return refused("it belongs to another user");
    }
    if meta.mode() & 0o077 != 0 {
        return refused("it is open to other users");
    }
    Ok(())
}

/// Replaces `path` by a file of these bytes: whole or not at all, also over a crash of the machine.
///
/// # Errors
/// When any step fails; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let temporary = sibling(path);
    let written = (|| {
        let mut file = create_new(&temporary, mode)?;
        file.write_all(bytes).map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("sync", &temporary))
    })();
    match written {
        Ok(()) => rename(&temporary, path),
        Err(error) => {
            remove_file(&temporary)?;
            Err(error)
        }
    }
}

/// A name beside `path` that nothing else uses.
#[must_use]
pub fn sibling(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let unique = u64::from_ne_bytes(crate::rand::bytes());
    path.with_file_name(format!(".{name}.{unique:016x}"))
}

/// Makes a file that must not exist yet, open for reading and writing.
///
/// # Errors
/// When it exists or cannot be made.
pub fn create_new(path: &Path, mode: u32) -> Result<File, FsError> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path).map_err(failed("create", path))
}

/// Opens for reading.
///
/// # Errors
/// When it is not there or may not be read.
pub fn open(path: &Path) -> Result<File, FsError> {
    File::open(path).map_err(failed("open", path))
}

/// Opens a regular file that is there, for reading and writing: nothing that a link at `path` leads to, and nothing else that
/// has a name.
///
/// # Errors
/// When it is not there, is no regular file, or may not be opened.
pub fn open_itself(path: &Path) -> Result<File, FsError> {
    // A FIFO would be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("flags are an int");
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let opened = opened.and_then(|file| Ok((file.metadata()?.is_file(), file)));
    match opened.map_err(failed("open", path))? {
        (true, file) => Ok(file),
        (false, _) => Err(failed("open", path)(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))),
    }
}

/// Opens a file for appending, making it when missing.
///
/// # Errors
/// When it cannot be opened.
pub fn append(path: &Path, mode: u32) -> Result<File, FsError> {
    OpenOptions::new().append(true).create(true).mode(mode).open(path).map_err(failed("open", path))
}

/// Renames, replacing what is there, and makes the change durable.
///
/// # Errors
/// When the rename fails or the directory cannot be synced.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn rename(from: &Path, to: &Path) -> Result<(), FsError> {
    fs::rename(from, to).map_err(failed("rename to", to))?;
    sync_parent(to)
}

/// Makes what a file holds durable, before a rename publishes it.
///
/// # Errors
/// When it is not there or cannot be written.
pub fn sync(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

fn sync_parent(path: &Path) -> Result<(), FsError> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(());
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed("sync", parent))
}

/// Makes a symbolic link at `path` that leads to `target`.
///
/// # Errors
/// When something is there already or it cannot be made.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn symlink(target: &Path, path: &Path) -> Result<(), FsError> {
    std::os::unix::fs::symlink(target, path).map_err(failed("make the link", path))
}

/// Gives the file at `from` the name `to` too.
///
/// # Errors
/// When something is there already, it is on another filesystem, or it cannot be made.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn link(from: &Path, to: &Path) -> Result<(), FsError> {
    fs::hard_link(from, to).map_err(failed("make the name", to))
}

/// Removes a file; one that is not there is removed already.
///
/// # Errors
/// When it is there and cannot be removed.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn remove_file(path: &Path) -> Result<(), FsError> {
    absent_is_fine(fs::remove_file(path)).map_err(failed("remove", path))
}

/// Removes a directory and all in it, following no link; one that is not there is removed already.
///
/// # Errors
/// When something in it cannot be removed.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn remove_tree(path: &Path) -> Result<(), FsError> {
    absent_is_fine(fs::remove_dir_all(path)).map_err(failed("remove", path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Sets permission bits.
///
/// # Errors
/// When the file is not there or not ours.
#[expect(clippy::disallowed_methods, reason = "this is the gate")]
pub fn set_mode(path: &Path, mode: u32) -> Result<(), FsError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("change the mode of", path))
}

/// Sets a file's length; what is added is a hole.
///
/// # Errors
/// When the file cannot be opened, or the filesystem holds no file of that length.
pub fn set_len(path: &Path, bytes: u64) -> Result<(), FsError> {
    let file = OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
    file.set_len(bytes).map_err(failed("set the length of", path))
}

/// Copies `from` to a new file `to`: by reflink where the filesystem can (ioctl_ficlone(2)), else only its data,
/// leaving holes (lseek(2), `SEEK_DATA`).
///
/// # Errors
/// When `to` exists or anything fails; what was made of `to` is then removed.
pub fn copy_sparse(from: &Path, to: &Path, mode: u32) -> Result<(), FsError> {
    let source = File::open(from).map_err(failed("open", from))?;
    let length = source.metadata().map_err(failed("look at", from))?.len();
    let target = create_new(to, mode)?;
    match copy_into(&source, &target, length) {
        Ok(()) => Ok(()),
        Err(error) => {
            remove_file(to)?;
            Err(failed("copy to", to)(error))
        }
    }
}

/// Makes the empty file `target` share all that `source` holds, and says whether the filesystem can (ioctl_ficlone(2)).
#[must_use]
pub fn reflink(source: &File, target: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

/// Makes `target` a copy of the first `length` bytes of `source`, in the same way, for when somebody else may still write to
/// `source`: however long that is by now, `target` is as long as was asked.
///
/// # Errors
/// When anything fails.
pub fn copy_into(source: &File, target: &File, length: u64) -> io::Result<()> {
    target.set_len(0)?;
    if !reflink(source, target) {
        return copy_data(source, target, length);
    }
    target.set_len(length)
}

fn copy_data(source: &File, target: &File, length: u64) -> io::Result<()> {
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let data = match seek(source, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(source, SeekFrom::Hole(data))?.min(length);
        copy_extent(source, target, data, end)?;
        at = end;
    }
    Ok(())
}

/// Copies the bytes from `at` to `end`, inside the kernel where it can: not between filesystems of two kinds, and not on
/// every filesystem (copy_file_range(2), EXDEV, EOPNOTSUPP and EINVAL).
fn copy_extent(source: &File, target: &File, at: u64, end: u64) -> io::Result<()> {
    use rustix::io::Errno;
    let (mut from, mut to) = (at, at);
    while from < end {
        let want = usize::try_from(end - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_through_memory(source, target, from, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The same through a buffer of ours.
fn copy_through_memory(source: &File, target: &File, at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut from = at;
    while from < end {
        let want = usize::try_from(end - from).map_or(buffer.len(), |left| left.min(buffer.len()));
        source.read_exact_at(&mut buffer[..want], from)?;
        target.write_all_at(&buffer[..want], from)?;
        from += want as u64;
    }
    Ok(())
}

/// Bytes a file takes on its disk; 0 when it is not there.
#[must_use]
pub fn allocated_bytes(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512))
}

/// What the file called `file` takes on the disk in every directory below `dir`, by the directory's name: one look at
/// many files, the way to them walked once.
#[must_use]
pub fn allocated_bytes_below(dir: &Path, file: &str) -> Vec<(String, u64)> {
    let held = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (Ok(held), Ok(entries)) = (held, fs::read_dir(dir)) else {
        return Vec::new();
    };
    let allocated = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let stat = rustix::fs::statat(&held, format!("{name}/{file}"), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((name, u64::try_from(stat.st_blocks).ok()?.saturating_mul(512)))
    };
    entries.filter_map(allocated).collect()
}

/// Bytes an ordinary user may still write to the filesystem that holds `path`.
///
/// # Errors
/// When `path` is not there.
pub fn available_bytes(path: &Path) -> Result<u64, FsError> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| failed("ask for free space at", path)(errno.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_copy_does_not_need_one_filesystem() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let bytes: Vec<u8> = (0..COPY_BUFFER_BYTES + 4097).map(|n| u8::try_from(n % 251).unwrap()).collect();
        fs::write(&from, &bytes).unwrap();
        let (source, target) = (File::open(&from).unwrap(), create_new(&to, 0o600).unwrap());
        copy_through_memory(&source, &target, 10, bytes.len() as u64).unwrap();
        assert_eq!(fs::read(&to).unwrap()[10..], bytes[10..]);
        // Memory is a filesystem of another kind, where the host has one.
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            let to = memory.path().join("to");
            copy_sparse(&from, &to, 0o600).unwrap();
            assert_eq!(fs::read(&to).unwrap(), bytes);
        }
    }

    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = create_new(&from, 0o600).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        file.write_all_at(b"middle", 512 << 20).unwrap();
        copy_sparse(&from, &to, 0o600).unwrap();
        let copy = File::open(&to).unwrap();
        let mut middle = [0; 6];
        copy.read_exact_at(&mut middle, 512 << 20).unwrap();
        assert_eq!(&middle, b"middle");
        assert_eq!(copy.metadata().unwrap().len(), 1 << 30);
        assert!(allocated_bytes(&to) < 1 << 20);
        assert!(copy_sparse(&from, &to, 0o600).is_err(), "an existing target is kept");
    }

    #[test]
    fn a_copy_is_as_long_as_was_asked_whatever_becomes_of_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            open_itself(&path).unwrap()
        };
        let (source, target) = (file("from", &[7; 8192]), file("to", &[1; 20_000]));
        copy_into(&source, &target, 8192).unwrap();
        assert_eq!(fs::read(dir.path().join("to")).unwrap(), [7; 8192], "what was there is gone");
        // Grown since somebody looked: a petabyte of nothing, with something at its end.
        source.set_len(1 << 40).unwrap();
        source.write_all_at(b"end", (1 << 40) - 3).unwrap();
        copy_into(&source, &target, 8192).unwrap();
        assert_eq!(fs::read(dir.path().join("to")).unwrap(), [7; 8192]);
        source.set_len(4096).unwrap();
        copy_into(&source, &target, 8192).unwrap();
        assert_eq!(fs::read(dir.path().join("to")).unwrap(), [[7; 4096], [0; 4096]].concat());
    }

    #[test]
    fn only_a_file_itself_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        assert!(open_itself(&path("file")).is_ok());
        for other in [path("link"), path("fifo"), path("missing"), dir.path().to_path_buf()] {
            assert!(open_itself(&other).is_err(), "{}", other.display());
        }
    }

    #[test]
    fn a_directory_others_can_enter_is_not_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        claim_private_dir(&path).unwrap();
        claim_private_dir(&path).unwrap();
        set_mode(&path, 0o755).unwrap();
        assert!(claim_private_dir(&path).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(claim_private_dir(&link).is_err());
    }

    #[test]
    fn what_is_filled_up_takes_room_and_keeps_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"head").unwrap();
        crate::holes::fill_up(&path, 3 << 20).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((&bytes[..5], bytes.len()), (&b"head\0"[..], 3 << 20));
        assert!(allocated_bytes(&path) >= 3 << 20);
        let two = dir.path().join("two");
        create_private_dir(&two).unwrap();
        let below = |dir: &Path| allocated_bytes_below(dir, "x");
        assert_eq!(below(dir.path()), [], "neither a file nor an empty directory has one");
        fs::write(two.join("x"), b"some").unwrap();
        assert_eq!(below(dir.path()), [("two".to_owned(), allocated_bytes(&two.join("x")))]);
        assert_eq!(below(&dir.path().join("missing")), []);
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let dir = tempfile::tempdir().unwrap();
        remove_file(&dir.path().join("x")).unwrap();
        remove_tree(&dir.path().join("y")).unwrap();
    }
}
