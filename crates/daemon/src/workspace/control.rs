//! The small files of the guest's git directory: where it is, what it is called, what it leaves out.

use std::collections::BTreeMap;
use std::path::Path;

use super::WorkspaceError;
use super::history::Tag;
use super::listing::Oid;
use super::pack::packed_refs;
use super::repository::Repository;

/// Files that say what git leaves out, or how it treats it: where they are on the host, and whether all work trees share
/// them.
const INFO: [(&str, bool); 3] = [("info/exclude", true), ("info/attributes", true), ("info/sparse-checkout", false)];
/// Directories without which git knows no repository.
pub(super) const DIRECTORIES: [&str; 6] =
    [".git", ".git/objects", ".git/objects/info", ".git/objects/pack", ".git/refs/heads", ".git/refs/tags"];
/// Where tags and what others have are packed, at first.
pub(super) const PACKED: &str = "packed-refs";

/// The small files of a git directory, by name.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// What is in them; refs as loose files.
    pub(super) files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The refs among them that nobody is at: they may be packed.
    refs: Vec<(Vec<u8>, Oid, Option<Oid>)>,
}

impl Control {
    /// Those of a repository, with its `tags`, what its upstream is at, and where its history is cut.
    ///
    /// # Errors
    /// When a file of it cannot be read.
    pub(super) fn new(
        repository: &Repository,
        tags: &[Tag],
        upstream: Option<(Vec<u8>, Oid)>,
        shallow: &[String],
        index: Vec<u8>,
    ) -> Result<Control, WorkspaceError> {
        let mut control = Control::default();
        let is_followed = repository.branch == repository.host_branch;
        let followed = repository.branch.as_deref().filter(|_| is_followed);
        control.put(b"config", repository.settings.render(repository.is_sha256, followed));
        control.put(b"index", index);
        let head = match (&repository.branch, repository.base) {
            (Some(branch), base) => {
                if let Some(base) = base {
                    control.put(&[b"refs/heads/", branch.as_slice()].concat(), format!("{base}\n").into_bytes());
                }
                [b"ref: refs/heads/", branch.as_slice(), b"\n"].concat()
            }
            (None, Some(base)) => format!("{base}\n").into_bytes(),
            // Only a branch can be without a commit.
            (None, None) => b"ref: refs/heads/main\n".to_vec(),
        };
        control.put(b"HEAD", head);
        if !shallow.is_empty() {
            control.put(b"shallow", shallow.iter().flat_map(|oid| [oid.as_bytes(), b"\n"].concat()).collect());
        }
        for (name, is_shared) in INFO {
            let directory = if is_shared { &repository.common_dir } else { &repository.git_dir };
            if let Some(content) = read(&directory.join(name))? {
                control.put(name.as_bytes(), content);
            }
        }
        control.refs = tags.iter().map(|tag| (tag.name.clone(), tag.oid, tag.commit)).collect();
        control.refs.extend(upstream.map(|(name, oid)| (name, oid, None)));
        for (name, oid, _) in control.refs.clone() {
            control.put(&name, format!("{oid}\n").into_bytes());
        }
        Ok(control)
    }

    /// All of them for a guest that has none, the refs packed.
    pub(super) fn whole(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is_packed = |name: &[u8]| self.refs.iter().any(|(packed, _, _)| packed == name);
        let loose = self.files.iter().filter(|(name, _)| self.refs.is_empty() || !is_packed(name));
        let mut files: Vec<_> = loose.map(|(name, content)| (name.clone(), content.clone())).collect();
        if !self.refs.is_empty() {
            files.push((PACKED.as_bytes().to_vec(), packed_refs(&self.refs)));
        }
        files.sort_by_key(|(name, _)| rank(name));
        files
    }

    fn put(&mut self, name: &[u8], content: Vec<u8>) {
        self.files.insert(name.to_vec(), content);
    }
}

/// In which order they travel: nothing refers to what is not there yet.
pub(super) fn rank(name: &[u8]) -> u8 {
    match name {
        b"HEAD" => 3,
        b"index" => 2,
        name if name.starts_with(b"refs/") || name == PACKED.as_bytes() => 1,
        _ => 0,
    }
}

/// Whether both sides change it as they work: the host's is not put over the guest's unasked.
pub(super) fn is_work(name: &[u8]) -> bool {
    name == b"HEAD" || name == b"index" || name.starts_with(b"refs/heads/")
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, WorkspaceError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WorkspaceError::Read { path: path.to_owned(), source }),
    }
}
