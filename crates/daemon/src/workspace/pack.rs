//! The guest's objects as one pack, made by git beside the repository: in a directory of ours, where the repository's own
//! objects are only looked up. It is made while files are sent.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::WorkspaceError;
use super::git::{Git, input};
use super::listing::Oid;
use crate::model::progress::Watcher;

/// How often a wait looks whether it is still wanted.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// No search for deltas: those there are are kept, and what is loose is packed as fast as it can be.
const ARGUMENTS: [&str; 8] = [
    "pack-objects",
    "--quiet",
    "--revs",
    "--non-empty",
    "--window=0",
    "--compression=1",
    "--threads=1",
    "--delta-base-offset",
];

/// Settings that would make other packs of it.
const SETTINGS: [(&str, &str); 4] = [
    ("pack.packSizeLimit", "0"),
    ("pack.writeReverseIndex", "false"),
    ("pack.indexVersion", "2"),
    ("core.commitGraph", "false"),
];

/// What a pack is to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Objects, with all that they lead to.
    pub(super) tips: BTreeSet<Oid>,
    /// Commits that are there already, with all that they lead to.
    pub(super) known: Vec<Oid>,
    /// Commits without parents there.
    pub(super) boundary: BTreeSet<Oid>,
    /// What is missing here is no error: the remote has it.
    pub(super) is_promised: bool,
}

/// A pack in the making.
#[derive(Debug)]
pub(super) struct Pack {
    git: Git,
    directory: PathBuf,
    is_promised: bool,
    child: Option<(Child, ChildStdout)>,
}

/// A pack.
#[derive(Debug)]
pub(super) struct Made {
    /// `pack-<hash>`
    pub(super) name: String,
    /// Where it is; its index is beside it.
    pub(super) pack: PathBuf,
    /// Its index.
    pub(super) index: PathBuf,
}

impl Pack {
    /// Gets ready in `directory`, which is made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn new(git: &Git, objects: &Path, directory: &Path, wanted: &Wanted) -> Result<Pack, WorkspaceError> {
        let info = directory.join("objects/info");
        sys::fs::create_private_dir(&info)?;
        sys::fs::create_private_dir(&directory.join("objects/pack"))?;
        sys::fs::write_atomic(&info.join("alternates"), &quoted(objects.as_os_str().as_bytes()), 0o600)?;
        let mut revisions = String::new();
        revisions.extend(wanted.boundary.iter().map(|oid| format!("--shallow {oid}\n")));
        revisions.extend(wanted.tips.iter().map(|oid| format!("{oid}\n")));
        revisions.extend(wanted.known.iter().map(|oid| format!("^{oid}\n")));
        sys::fs::write_atomic(&directory.join("revisions"), revisions.as_bytes(), 0o600)?;
        let mut git = git.clone();
        git.with_objects(&directory.join("objects"));
        SETTINGS.iter().for_each(|(key, value)| git.with(key, value));
        Ok(Pack { git, directory: directory.to_owned(), is_promised: wanted.is_promised, child: None })
    }

    /// Begins, unless it has begun.
    ///
    /// # Errors
    /// When git cannot be run.
    pub(super) fn start(&mut self) -> Result<(), WorkspaceError> {
        if self.child.is_some() {
            return Ok(());
        }
        let base = self.directory.join("pack");
        let mut arguments: Vec<&OsStr> = ARGUMENTS.iter().map(OsStr::new).collect();
        arguments.extend(self.is_promised.then_some(OsStr::new("--missing=allow-promisor")));
        arguments.push(base.as_os_str());
        let errors = sys::fs::create_new(&self.directory.join("errors"), 0o600)?;
        let revisions = input(&self.directory.join("revisions"))?;
        let mut command = self.git.command(&arguments);
        let spawned = command.stdin(revisions).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned.map_err(|source| self.git.not_run(source))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(self.git.not_run(std::io::ErrorKind::BrokenPipe.into()));
        };
        self.child = Some((child, stdout));
        Ok(())
    }

    /// Waits until it is made; none when nothing is to be in it.
    ///
    /// # Errors
    /// When git fails, or the wait is cancelled.
    pub(super) fn wait(&mut self, watcher: &Watcher<'_>) -> Result<Option<Made>, WorkspaceError> {
        self.start()?;
        let Some((child, stdout)) = &mut self.child else { return Ok(None) };
        loop {
            watcher.check().map_err(|_| WorkspaceError::Cancelled)?;
            let ready = poll(&mut [PollFd::new(&*stdout, PollFlags::IN)], Some(&LOOK));
            match ready {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(self.git.not_run(errno.into())),
            }
        }
        let mut name = String::new();
        let ended = stdout.read_to_string(&mut name).and_then(|_| child.wait());
        let status = ended.map_err(|source| self.git.not_run(source))?;
        if !status.success() {
            let path = self.directory.join("errors");
            let said = std::fs::read(&path).map_err(|source| WorkspaceError::Read { path, source })?;
            return Err(self.git.failed(&String::from_utf8_lossy(&said)));
        }
        let hash = name.trim();
        if hash.is_empty() {
            return Ok(None);
        }
        let name = format!("pack-{hash}");
        let at = |end: &str| self.directory.join(format!("{name}.{end}"));
        Ok(Some(Made { pack: at("pack"), index: at("idx"), name }))
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.child.take()
            && let Err(error) = child.kill().and_then(|()| child.wait())
        {
            tracing::warn!(%error, "git pack-objects did not end well");
        }
    }
}

/// A line of `objects/info/alternates`, in the form that holds every letter (git(1), `GIT_ALTERNATE_OBJECT_DIRECTORIES`).
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut line = b"\"".to_vec();
    for byte in path {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', *byte]),
            b' '..=b'~' => line.push(*byte),
            byte => line.extend(format!("\\{byte:03o}").into_bytes()),
        }
    }
    line.extend(b"\"\n");
    line
}

/// What the guest's file of packed refs holds: ref, object, and the commit of a tag with an object of its own.
pub(super) fn packed_refs(refs: &[(Vec<u8>, Oid, Option<Oid>)]) -> Vec<u8> {
    let mut file = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    let mut refs: Vec<_> = refs.iter().collect();
    refs.sort();
    for (name, oid, commit) in refs {
        file.extend(format!("{oid} ").into_bytes());
        file.extend_from_slice(name);
        file.push(b'\n');
        file.extend(commit.map(|commit| format!("^{commit}\n").into_bytes()).unwrap_or_default());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_are_quoted() {
        assert_eq!(quoted(b"/a \"b\"\n\\\xff"), b"\"/a \\\"b\\\"\\012\\\\\\377\"\n");
    }
}
