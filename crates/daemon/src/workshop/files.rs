//! Images of files that are there already: copied, or one more name of them.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci::Architecture;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use sys::fs::FsError;
use wire::api::ErrorCode;

use super::failed;
use crate::image::rootfs::filesystem::check_file;
use crate::image::rootfs::{FilesystemError, contents};
use crate::image::stream::{CHUNK_BYTES, Watched, hash_file};
use crate::model::digest::Digest;
use crate::model::image::{ExecSettings, ImageManifest, LinkedFile};
use crate::model::progress::{Cancelled, Watcher};
use crate::ops::failure::refused;
use crate::ops::maker::Keeping;
use crate::saga::Cause;

/// The file of a root filesystem in an image's directory.
const ROOTFS: &str = "rootfs.ext4";

/// Why a file does not become an image's.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// It cannot be opened or read, or is no file.
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        err: io::Error,
    },
    /// Somebody writes to it.
    #[error("{path} was written to while it was read")]
    Changed { path: String },
    /// No guest could mount it.
    #[error("cannot use {path}")]
    Unfit {
        path: String,
        #[source]
        err: FilesystemError,
    },
    /// A name cannot lead from one filesystem to another.
    #[error("{path} is on another filesystem than banger's images, and a link does not lead there")]
    Elsewhere { path: String },
    /// The kernel does not let everybody link everything (proc_sys_fs(5), protected_hardlinks).
    #[error("{path} belongs to somebody else, and only its owner can link it")]
    NotOurs { path: String },
    /// The copy, or the name, cannot be made.
    #[error(transparent)]
    Keep(#[from] FsError),
    /// It is not what it was.
    #[error("its file is not what it was when the image was made of it: it holds {found} and not {expected}")]
    Another { expected: Digest, found: Digest },
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

impl FileError {
    fn read(path: &Path) -> impl Fn(io::Error) -> FileError {
        let path = path.display().to_string();
        move |err| FileError::Read { path: path.clone(), err }
    }

    fn cause(&self) -> Cause {
        let (code, hint) = match self {
            Self::Read { err, .. } if err.kind() == io::ErrorKind::NotFound => (ErrorCode::NotFound, None),
            Self::Read { .. } => (ErrorCode::BadRequest, None),
            Self::Changed { .. } => (ErrorCode::WrongState, Some("end what uses it, and try again".to_owned())),
            Self::Unfit { err, .. } => (ErrorCode::Unsupported, err.hint().map(str::to_owned)),
            Self::Elsewhere { .. } | Self::NotOurs { .. } => {
                (ErrorCode::Unsupported, Some("without --link it is copied".to_owned()))
            }
            Self::Another { .. } => {
                (ErrorCode::WrongState, Some("put back what was in it, or register it as another image".to_owned()))
            }
            Self::Keep(_) | Self::Cancelled(_) => (ErrorCode::OperationFailed, None),
        };
        failed(code, self as &(dyn Error + 'static), hint.as_deref())
    }
}

/// Makes `rootfs.ext4` in `staging` of the file `path`.
pub(super) fn register(
    path: &Path,
    keeping: Keeping,
    staging: &Path,
    watcher: Watcher<'_>,
) -> Result<ImageManifest, Cause> {
    // A link is made to what a name leads to, not to the name.
    let path = std::fs::canonicalize(path).map_err(|err| FileError::read(path)(err).cause())?;
    let Some(shown) = path.to_str() else {
        let message = format!("cannot use {}: the path is not UTF-8", path.display());
        return Err(refused(ErrorCode::BadRequest, message));
    };
    let taken = take(&path, shown, keeping, &staging.join(ROOTFS), watcher);
    taken.map_err(|error| match watcher.check() {
        Ok(()) => error.cause(),
        Err(_) => Cause::cancelled(),
    })
}

fn take(
    path: &Path,
    shown: &str,
    keeping: Keeping,
    target: &Path,
    watcher: Watcher<'_>,
) -> Result<ImageManifest, FileError> {
    let unread = FileError::read(path);
    let changed = || FileError::Changed { path: shown.to_owned() };
    let unfit = |err| FileError::Unfit { path: shown.to_owned(), err };
    let file = open(path).map_err(&unread)?;
    // Before anything is copied, for most that is refused is refused here.
    check_file(&file).map_err(unfit)?;
    let before = LinkedFile::new(shown.to_owned(), &file.metadata().map_err(&unread)?);
    let digest = match keeping {
        Keeping::Copied => {
            watcher.stage("copy root filesystem");
            copy_hashed(&file, path, target, watcher)?
        }
        Keeping::Linked => {
            link(path, shown, target)?;
            if !before.is_unchanged(&std::fs::metadata(target).map_err(&unread)?) {
                return Err(changed());
            }
            watcher.stage("hash root filesystem");
            hash_file(target, watcher).map_err(&unread)?
        }
    };
    let found = contents(target, watcher).map_err(unfit)?;
    if !before.is_unchanged(&file.metadata().map_err(&unread)?) {
        return Err(changed());
    }
    Ok(ImageManifest {
        name: String::new(),
        variant: None,
        digest,
        bytes: before.bytes,
        content_bytes: found.content_bytes,
        entries: found.entries,
        packages: found.packages,
        recipe_sha256: None,
        source: format!("file {shown}"),
        init: found.init,
        arch: Architecture::host().name().to_owned(),
        exec: ExecSettings::default(),
        command: Vec::new(),
        origin: None,
        linked: (keeping == Keeping::Linked).then_some(before),
    })
}

/// Copies `from` to the new file `to`, if it is of this digest.
pub(super) fn copy_verified(from: &Path, to: &Path, digest: Digest, watcher: Watcher<'_>) -> Result<(), Cause> {
    let copied = || {
        watcher.stage("copy root filesystem");
        let file = open(from).map_err(FileError::read(from))?;
        let found = copy_hashed(&file, from, to, watcher)?;
        if found == digest {
            return Ok(());
        }
        Err(FileError::Another { expected: digest, found })
    };
    copied().map_err(|error| match watcher.check() {
        Ok(()) => error.cause(),
        Err(_) => Cause::cancelled(),
    })
}

/// Opens a regular file; whatever else is there makes nobody wait.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

fn link(path: &Path, shown: &str, target: &Path) -> Result<(), FileError> {
    sys::fs::link(path, target).map_err(|error| match error.source.kind() {
        io::ErrorKind::CrossesDevices => FileError::Elsewhere { path: shown.to_owned() },
        io::ErrorKind::PermissionDenied => FileError::NotOurs { path: shown.to_owned() },
        _ => error.into(),
    })
}

/// Makes `to` a copy of `file`, which is at `path`, with the holes that it can have, and gives the digest of the copy.
fn copy_hashed(file: &File, path: &Path, to: &Path, watcher: Watcher<'_>) -> Result<Digest, FileError> {
    let unread = FileError::read(path);
    let target = sys::fs::create_new(to, 0o600)?;
    if sys::fs::reflink(file, &target) {
        target.sync_all().map_err(|source| FsError { act: "sync", path: to.to_owned(), source })?;
        return hash_file(to, watcher).map_err(FileError::read(to));
    }
    let bytes = file.metadata().map_err(&unread)?.len();
    let failed = |source| FsError { act: "write", path: to.to_owned(), source };
    target.set_len(bytes).map_err(failed)?;
    let mut reader = Watched::new(file, watcher, Some(bytes));
    let (mut hasher, mut chunk, mut at) = (Sha256::new(), vec![0; CHUNK_BYTES], 0_u64);
    while at < bytes {
        // Whole blocks, for a hole is one: what is read may be less.
        let want = usize::try_from(bytes - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        reader.read_exact(&mut chunk[..want]).map_err(&unread)?;
        hasher.update(&chunk[..want]);
        sys::holes::write_data(&chunk[..want], &target, at).map_err(failed)?;
        at += want as u64;
    }
    target.sync_all().map_err(failed)?;
    Ok(Digest::finish(hasher))
}

#[cfg(test)]
mod tests;
