//! What the host remembers of what it sent, so that the next time only changes travel, and so that it can tell which side
//! has changed a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire::agent::workspace::FileMode;
use wire::api::{Change, ChangeKind, HostSide, PATHS_TOLD_MAX, WorkspaceMode};

use super::files::{Seen, Stamp, Tree};
use super::git::Git;
use super::{WorkspaceError, shown};
use crate::model::digest::Digest;

/// The form of the notes; of another one nothing is understood, and everything is sent again.
const FORMAT: u32 = 1;

/// What was sent of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    pub(super) format: u32,
    pub(super) mode: WorkspaceMode,
    pub(super) depth: Option<u32>,
    pub(super) include_untracked: bool,
    /// By path, the top first.
    pub(super) repositories: Vec<Repo>,
}

/// What was sent of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Repo {
    /// Relative to the top; the top is empty.
    pub(super) path: Name,
    /// The commit that is checked out in the guest.
    pub(super) head: Option<String>,
    /// The commit the host was at.
    pub(super) host_head: Option<String>,
    /// The files are those of another commit than the host's.
    pub(super) is_elsewhere: bool,
    /// Commits and tags that were sent with what they lead to, and objects of the index.
    pub(super) tips: BTreeSet<String>,
    /// Where the guest's history is cut.
    pub(super) boundary: BTreeSet<String>,
    /// Small files of the git directory, refs among them: what was in them.
    pub(super) control: BTreeMap<Name, Digest>,
    /// Files of the work tree.
    pub(super) files: Vec<File>,
}

/// A file that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    /// Relative to the repository.
    #[serde(rename = "p")]
    pub(super) path: Name,
    /// What it was.
    #[serde(rename = "m", with = "mode")]
    pub(super) mode: FileMode,
    /// What was in it.
    #[serde(rename = "h")]
    pub(super) digest: Digest,
    /// How long it was.
    #[serde(rename = "b")]
    pub(super) bytes: u64,
    /// By what the host's file is known to be the same; absent when it may have changed while it was read.
    #[serde(rename = "s")]
    pub(super) stamp: Option<Stamp>,
    /// The index does not have it.
    #[serde(rename = "u", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_untracked: bool,
}

impl File {
    /// Whether the host's file is known to be the same.
    pub(super) fn is_known(&self, seen: &Seen) -> bool {
        self.stamp == Some(seen.stamp) && self.mode == seen.mode
    }

    /// Whether the host's file may be the same, as far as can be told without reading it.
    pub(super) fn may_be(&self, seen: &Seen) -> bool {
        self.mode == seen.mode && self.bytes == seen.stamp.bytes()
    }
}

mod mode {
    //! A file's mode as one letter, as in the records of a survey.

    use super::{Deserialize, Deserializer, FileMode, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(mode: &FileMode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_char(match mode {
            FileMode::Plain => '-',
            FileMode::Executable => 'x',
            FileMode::Link => 'l',
            FileMode::Other => 'o',
        })
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<FileMode, D::Error> {
        match char::deserialize(from)? {
            '-' => Ok(FileMode::Plain),
            'x' => Ok(FileMode::Executable),
            'l' => Ok(FileMode::Link),
            'o' => Ok(FileMode::Other),
            _ => Err(serde::de::Error::custom("a mode is one of - x l o")),
        }
    }
}

/// A path: as text where it is some, else as a list of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Name(pub(super) Vec<u8>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => to.collect_seq(&self.0),
        }
    }
}

impl<'a> Deserialize<'a> for Name {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Name, D::Error> {
        struct Either;
        impl<'a> Visitor<'a> for Either {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.as_bytes().to_vec()))
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut bytes: A) -> Result<Name, A::Error> {
                let mut name = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    name.push(byte);
                }
                Ok(Name(name))
            }
        }
        from.deserialize_any(Either)
    }
}

impl Notes {
    pub(super) fn new(mode: WorkspaceMode, depth: Option<u32>, include_untracked: bool) -> Notes {
        Notes { format: FORMAT, mode, depth, include_untracked, repositories: Vec::new() }
    }

    /// Reads them; none when there are none, or they are of another form.
    ///
    /// # Errors
    /// When they cannot be read or understood.
    pub fn load(path: &Path) -> Result<Option<Notes>, WorkspaceError> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(WorkspaceError::Read { path: path.to_owned(), source }),
        };
        let odd = |source| WorkspaceError::Notes { path: path.to_owned(), source };
        let form: Form = serde_json::from_slice(&bytes).map_err(odd)?;
        if form.format != FORMAT {
            return Ok(None);
        }
        serde_json::from_slice(&bytes).map(Some).map_err(odd)
    }

    /// Writes them, whole or not at all.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), WorkspaceError> {
        let bytes =
            serde_json::to_vec(self).map_err(|source| WorkspaceError::Notes { path: path.to_owned(), source })?;
        Ok(sys::fs::write_atomic(path, &bytes, 0o600)?)
    }

    /// The repositories that were sent, the top first: where below it, and the commit of each.
    #[must_use]
    pub fn repositories(&self) -> Vec<(Vec<u8>, Option<String>)> {
        self.repositories.iter().map(|repo| (repo.path.0.clone(), repo.head.clone())).collect()
    }

    /// The files that were sent of the repository at this path, relative to it.
    pub fn files(&self, path: &[u8]) -> impl Iterator<Item = (&[u8], FileMode, Digest)> {
        let files = self.repo(path).map(|repo| repo.files.as_slice()).unwrap_or_default();
        files.iter().map(|file| (file.path.0.as_slice(), file.mode, file.digest))
    }

    pub(super) fn repo(&self, path: &[u8]) -> Option<&Repo> {
        self.repositories.iter().find(|repo| repo.path.0 == path)
    }

    /// What has become of the host's files since they were sent: those whose state differs are read. `root`: the top of
    /// the work tree.
    #[must_use]
    pub fn host_side(&self, root: &Path) -> HostSide {
        let mut side = HostSide::default();
        if let Err(error) = self.look(root, &mut side) {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            side.problem = Some(format!("{error}{cause}"));
        }
        side
    }

    fn look(&self, root: &Path, side: &mut HostSide) -> Result<(), WorkspaceError> {
        for repo in &self.repositories {
            let directory = if repo.path.0.is_empty() { root.to_owned() } else { root.join(shown::os(&repo.path.0)) };
            let git = Git::at(&directory);
            let head = git.line(&["rev-parse", "--verify", "--quiet", "HEAD"])?;
            let head = head.map(|head| String::from_utf8_lossy(&head).into_owned());
            side.head_moved |= head != repo.host_head;
            if repo.path.0.is_empty() {
                side.head_commit = head;
            }
            if !repo.is_elsewhere && self.mode != WorkspaceMode::MetadataOnly {
                self.look_at_files(&git, repo, side)?;
            }
        }
        Ok(())
    }

    fn look_at_files(&self, git: &Git, repo: &Repo, side: &mut HostSide) -> Result<(), WorkspaceError> {
        let tree = Tree::open(git.directory())?;
        let mut told = |change, path: &[u8]| {
            side.changes += 1;
            if side.changed.len() < PATHS_TOLD_MAX {
                side.changed.push(Change { change, path: shown::text(&shown::below(&repo.path.0, path)) });
            }
        };
        let mut noted: HashMap<&[u8], &File> = repo.files.iter().map(|file| (file.path.0.as_slice(), file)).collect();
        let mut args = vec!["ls-files", "-z", "--cached"];
        args.extend(self.include_untracked.then_some(["--others", "--exclude-standard"]).into_iter().flatten());
        let listed = git.tell(&args)?;
        // A path in conflict is listed several times.
        let listed: BTreeSet<&[u8]> = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        for path in listed {
            let Some(seen) = tree.look(path)? else { continue };
            let Some(file) = noted.remove(path) else {
                told(ChangeKind::Added, path);
                continue;
            };
            let is_same = file.is_known(&seen)
                || file.mode == seen.mode && tree.digest(path)?.is_some_and(|(_, digest)| digest == file.digest);
            if !is_same {
                told(ChangeKind::Modified, path);
            }
        }
        let mut gone: Vec<&[u8]> = noted.into_keys().collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|path| told(ChangeKind::Deleted, path));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_all_kinds_are_kept() {
        for path in [&b""[..], b"a \"b\"\n", b"\xff\x00x", "ä".as_bytes()] {
            let text = serde_json::to_string(&Name(path.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&text).unwrap().0, path, "{text}");
        }
    }

    #[test]
    fn notes_are_stored_and_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.json");
        assert!(Notes::load(&path).unwrap().is_none());
        let file = File {
            path: Name(b"\xff".to_vec()),
            mode: FileMode::Link,
            digest: Digest::of(b"x"),
            bytes: 1,
            stamp: None,
            is_untracked: true,
        };
        let repo = Repo {
            path: Name::default(),
            head: Some("ab".to_owned()),
            host_head: None,
            is_elsewhere: false,
            tips: BTreeSet::new(),
            boundary: BTreeSet::new(),
            control: BTreeMap::from([(Name(b"HEAD".to_vec()), Digest::of(b""))]),
            files: vec![file],
        };
        let mut notes = Notes::new(WorkspaceMode::Overlay, Some(3), true);
        notes.repositories.push(repo);
        notes.store(&path).unwrap();
        assert_eq!(Notes::load(&path).unwrap(), Some(notes));
        std::fs::write(&path, "{\"format\": 99}").unwrap();
        assert!(Notes::load(&path).unwrap().is_none());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Notes::load(&path), Err(WorkspaceError::Notes { .. })));
    }
}
