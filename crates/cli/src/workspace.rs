//! A project's files on their way into a guest: what git tracks, as the work tree has it now.
//!
//! [`Workspace::inspect`] answers before anything is made: the path is in a work tree, without submodules. Then
//! [`Workspace::stream`] packs the files as tar from a thread. A tracked file that is deleted in the work tree is left
//! out; a tracked path that now leads through a symbolic link is one of those, as for git itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, readlinkat};
use rustix::io::Errno;
use wire::api::ErrorCode;

use crate::client::Chunks;
use crate::error::{Failure, Io};
use crate::pipe::{self, Pipe};
use crate::process::{self, GitAnswer};

/// Where a workspace is in the guest.
pub(crate) const GUEST_PATH: &str = "/root/repo";

/// git's mode of a submodule's entry (gitformat-index(5)).
const GITLINK: &[u8] = b"160000";

/// A work tree, looked at.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Its top directory.
    pub(crate) root: PathBuf,
    /// The commit it is at, when it has one.
    pub(crate) head_commit: Option<String>,
    /// Tracked files that exist, by git's order.
    files: Vec<PathBuf>,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Why a path is no workspace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkspaceError {
    /// It is not there.
    #[error("cannot use {} as a workspace", path.display())]
    Path {
        /// As given.
        path: PathBuf,
        #[source]
        source: Io,
    },
    /// It is a file.
    #[error("cannot use {} as a workspace: not a directory", path.display())]
    NotDirectory {
        /// As given.
        path: PathBuf,
    },
    /// No repository around it.
    #[error("cannot use {} as a workspace: not inside a git work tree", path.display())]
    NotWorkTree {
        /// As given.
        path: PathBuf,
    },
    /// A repository without files.
    #[error("cannot use {} as a workspace: a bare repository, or its git directory", path.display())]
    Bare {
        /// As given.
        path: PathBuf,
    },
    /// It has submodules.
    #[error("cannot use {} as a workspace: it has submodules, which are not supported: {}", path.display(), names.join(", "))]
    Submodules {
        /// The work tree.
        path: PathBuf,
        /// Where they are.
        names: Vec<String>,
    },
    /// git is not there.
    #[error("cannot look at {}: cannot run git", path.display())]
    Git {
        /// As given.
        path: PathBuf,
        #[source]
        source: Io,
    },
    /// git failed.
    #[error("cannot look at {}: git: {said}", path.display())]
    GitSaid {
        /// As given.
        path: PathBuf,
        /// Its words.
        said: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        source: Io,
    },
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Failure {
        let failure = Failure::from_error(ErrorCode::BadRequest, &error);
        match error {
            WorkspaceError::NotWorkTree { .. } => failure
                .hint("make it one with: git init && git add . (only tracked files are copied), or leave the path out"),
            WorkspaceError::Bare { .. } => failure.hint("give the path of a checkout of it"),
            WorkspaceError::Git { .. } => failure.hint("install git: apt-get install git"),
            WorkspaceError::Path { .. }
            | WorkspaceError::NotDirectory { .. }
            | WorkspaceError::Submodules { .. }
            | WorkspaceError::GitSaid { .. }
            | WorkspaceError::Read { .. } => failure,
        }
    }
}

impl Workspace {
    /// Looks at the work tree around `path`.
    ///
    /// # Errors
    /// When there is none, it has submodules, or a file of it cannot be looked at.
    pub(crate) fn inspect(path: &Path) -> Result<Workspace, WorkspaceError> {
        let named = |source: io::Error| WorkspaceError::Path { path: path.to_owned(), source: Io(source) };
        let directory = std::fs::canonicalize(path).map_err(named)?;
        if !std::fs::metadata(&directory).map_err(named)?.is_dir() {
            return Err(WorkspaceError::NotDirectory { path: path.to_owned() });
        }
        let root = top_directory(path, &directory)?;
        let head = git(path, &root, &["rev-parse", "--verify", "--quiet", "HEAD"])?;
        let head_commit = head.status.success().then(|| String::from_utf8_lossy(head.stdout.trim_ascii()).into_owned());
        let listed = git(path, &root, &["ls-files", "-z", "--stage"])?;
        if !listed.status.success() {
            return Err(WorkspaceError::GitSaid { path: path.to_owned(), said: first_line(&listed.stderr) });
        }
        let (paths, submodules) = parse_listing(&listed.stdout);
        if !submodules.is_empty() {
            let names = submodules.iter().take(5).map(|path| path.display().to_string()).collect();
            return Err(WorkspaceError::Submodules { path: root, names });
        }
        let mut workspace = Workspace { root, head_commit, files: Vec::new(), bytes: 0 };
        let tree = Tree::open(&workspace.root)?;
        for path in paths {
            if let Some((_, stat)) = tree.look(&path)? {
                workspace.bytes += u64::try_from(stat.st_size).unwrap_or(0);
                workspace.files.push(path);
            }
        }
        Ok(workspace)
    }

    /// How many files travel.
    pub(crate) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Packs the files; `sent` counts bytes of content as they go.
    ///
    /// # Errors
    /// When the top directory cannot be opened.
    pub(crate) fn stream(self, sent: Arc<AtomicU64>) -> Result<Chunks, WorkspaceError> {
        let tree = Tree::open(&self.root)?;
        Ok(pipe::filled_by(move |pipe| pack(&tree, &self.files, pipe, &sent).map_err(io::Error::other)))
    }
}

fn git(asked: &Path, directory: &Path, args: &[&str]) -> Result<GitAnswer, WorkspaceError> {
    process::git(directory, args).map_err(|source| WorkspaceError::Git { path: asked.to_owned(), source: Io(source) })
}

fn top_directory(asked: &Path, directory: &Path) -> Result<PathBuf, WorkspaceError> {
    let top = git(asked, directory, &["rev-parse", "--show-toplevel"])?;
    if top.status.success() {
        let path = top.stdout.strip_suffix(b"\n").unwrap_or(&top.stdout);
        return Ok(PathBuf::from(OsStr::from_bytes(path)));
    }
    let path = asked.to_owned();
    if top.stderr.contains("not a git repository") {
        return Err(WorkspaceError::NotWorkTree { path });
    }
    if top.stderr.contains("must be run in a work tree") {
        return Err(WorkspaceError::Bare { path });
    }
    Err(WorkspaceError::GitSaid { path, said: first_line(&top.stderr) })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("no reason given").trim_start_matches("fatal: ").to_owned()
}

/// Reads `git ls-files -z --stage`: `<mode> <object> <stage>\t<path>\0`. A path in conflict is listed once a stage.
fn parse_listing(listing: &[u8]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut submodules): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for entry in listing.split(|byte| *byte == 0) {
        let Some(tab) = entry.iter().position(|byte| *byte == b'\t') else { continue };
        let path = PathBuf::from(OsStr::from_bytes(&entry[tab + 1..]));
        let list = if entry.starts_with(GITLINK) { &mut submodules } else { &mut files };
        if list.last() != Some(&path) {
            list.push(path);
        }
    }
    (files, submodules)
}

/// The work tree's top directory, held open.
#[derive(Debug)]
struct Tree {
    root: PathBuf,
    directory: OwnedFd,
}

impl Tree {
    fn open(root: &Path) -> Result<Tree, WorkspaceError> {
        let directory =
            rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| WorkspaceError::Read { path: root.to_owned(), source: errno.into() })?;
        Ok(Tree { root: root.to_owned(), directory })
    }

    /// A handle on `path` and what it is; none when it is not there, or no file or link.
    fn look(&self, path: &Path) -> Result<Option<(OwnedFd, Stat)>, WorkspaceError> {
        let Some(handle) = self.open_below(path, OFlags::PATH)? else { return Ok(None) };
        let stat = fstat(&handle).map_err(|errno| self.unreadable(path, errno))?;
        let wanted = matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink);
        Ok(wanted.then_some((handle, stat)))
    }

    /// Opens `path` without following a link anywhere, and without leaving the tree (openat2(2)).
    fn open_below(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, WorkspaceError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat2(&self.directory, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Ok(handle) => Ok(Some(handle)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.unreadable(path, errno)),
        }
    }

    fn unreadable(&self, path: &Path, errno: Errno) -> WorkspaceError {
        WorkspaceError::Read { path: self.root.join(path), source: errno.into() }
    }
}

/// Writes `files` as one tar stream, owned by root, with directories before what they hold.
fn pack(tree: &Tree, files: &[PathBuf], pipe: Pipe, sent: &AtomicU64) -> Result<(), WorkspaceError> {
    let mut tar = tar::Builder::new(pipe);
    let mut made: Vec<PathBuf> = Vec::new();
    for path in files {
        let Some((handle, stat)) = tree.look(path)? else { continue };
        let failed = |source: io::Error| WorkspaceError::Read { path: tree.root.join(path), source: Io(source) };
        make_parents(&mut tar, path, &mut made, &stat).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = readlinkat(&handle, "", Vec::new()).map_err(|errno| tree.unreadable(path, errno))?;
            let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
            let mut header = header(tar::EntryType::Symlink, 0o777, 0, &stat);
            tar.append_link(&mut header, path, &target).map_err(failed)?;
            continue;
        }
        let Some(opened) = tree.open_below(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)? else { continue };
        let stat = fstat(opened.as_fd()).map_err(|errno| tree.unreadable(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mode = if stat.st_mode & 0o111 == 0 { 0o644 } else { 0o755 };
        let mut header = header(tar::EntryType::Regular, mode, size, &stat);
        // A file that shrinks meanwhile is filled up with zeros: its size is in the header already.
        let content = File::from(opened).chain(io::repeat(0)).take(size);
        tar.append_data(&mut header, path, Counted { inner: content, sent }).map_err(failed)?;
    }
    let mut pipe =
        tar.into_inner().map_err(|source| WorkspaceError::Read { path: tree.root.clone(), source: Io(source) })?;
    pipe.flush().map_err(|source| WorkspaceError::Read { path: tree.root.clone(), source: Io(source) })
}

/// Writes the directories above `path` that were not written yet; files come sorted, so the last one's are enough to know.
fn make_parents(tar: &mut tar::Builder<Pipe>, path: &Path, made: &mut Vec<PathBuf>, stat: &Stat) -> io::Result<()> {
    made.retain(|directory| path.starts_with(directory));
    let Some(parent) = path.parent() else { return Ok(()) };
    let mut missing: Vec<&Path> = parent.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
    missing.retain(|directory| !made.iter().any(|known| known == directory));
    for directory in missing.into_iter().rev() {
        tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0, stat), directory, io::empty())?;
        made.push(directory.to_owned());
    }
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32, size: u64, stat: &Stat) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}

/// Counts what is read through it.
struct Counted<'a, R> {
    inner: R,
    sent: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.sent.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings() {
        let listing =
            b"100644 aa 0\ta b\n\x00120000 bb 0\tl\xff\x00100644 cc 1\tc\x00100644 cd 2\tc\x00160000 dd 0\tsub\0";
        let (files, submodules) = parse_listing(listing);
        let name = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        assert_eq!(files, [name(b"a b\n"), name(b"l\xff"), name(b"c")]);
        assert_eq!(submodules, [name(b"sub")]);
    }
}
