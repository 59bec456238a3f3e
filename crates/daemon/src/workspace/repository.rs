//! A repository on the host, looked at: what git says of it, and the files that would travel.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wire::agent::workspace::{FileMode, State};
use wire::api::{WorkspaceMode, WorkspaceSource};

use super::config::Settings;
use super::files::{Seen, Stamp, TICK_NS, Tree};
use super::git::{Git, first_line};
use super::listing::{self, Entry, GITLINK, LINK, Node, Oid, Recorded};
use super::secrets::looks_secret;
use super::{WorkspaceError, lfs, shown};
use crate::model::digest::Digest;

/// How deep submodules may be in each other.
const NESTED_MAX: usize = 16;

/// A work tree, looked at, with its submodules.
#[derive(Debug)]
pub struct Repository {
    pub(super) source: WorkspaceSource,
    /// Relative to the top; the top is empty.
    pub(super) path: Vec<u8>,
    pub(super) git: Git,
    pub(super) git_dir: PathBuf,
    pub(super) common_dir: PathBuf,
    pub(super) is_sha256: bool,
    pub(super) settings: Settings,
    pub(super) host_head: Option<Oid>,
    pub(super) host_branch: Option<Vec<u8>>,
    /// What the guest is put at.
    pub(super) base: Option<Oid>,
    pub(super) branch: Option<Vec<u8>>,
    /// The files are those of `base`, which is not what the host is at.
    pub(super) is_elsewhere: bool,
    /// What the guest's index is to hold.
    pub(super) entries: Vec<Entry>,
    /// What travels.
    pub(super) files: Vec<WorkFile>,
    /// Submodules that are not there: empty directories.
    pub(super) directories: Vec<Vec<u8>>,
    pub(super) untracked_left_out: u64,
    pub(super) secrets: Vec<Vec<u8>>,
    pub(super) submodules: Vec<Repository>,
}

/// A file that would travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkFile {
    /// Relative to the repository.
    pub(super) path: Vec<u8>,
    /// What it was like before git was asked about it.
    pub(super) seen: Seen,
    /// What git said.
    pub(super) state: State,
    /// With this content it is as in the index, whatever git said.
    pub(super) clean: Option<Digest>,
}

impl WorkFile {
    /// Whether the index does not have it.
    pub(super) fn is_untracked(&self) -> bool {
        self.state == State::Untracked
    }

    /// How it stands to the index with a content.
    pub(super) fn state_with(&self, digest: &Digest) -> State {
        if self.clean.as_ref() == Some(digest) { State::Clean } else { self.state }
    }

    /// How it stands to the index once it has changed.
    pub(super) fn changed(&self) -> State {
        if self.is_untracked() { State::Untracked } else { State::Modified }
    }
}

/// Which files of a repository are meant.
#[derive(Debug, Clone, Copy)]
enum Want {
    WorkTree,
    Commit(Oid),
}

impl Repository {
    /// Looks at the work tree around the source's path.
    ///
    /// # Errors
    /// When there is none, git refuses it, or it has no such commit.
    pub fn inspect(source: &WorkspaceSource) -> Result<Repository, WorkspaceError> {
        let path = Path::new(&source.host_path);
        let named = |source: std::io::Error| WorkspaceError::Path { path: path.to_owned(), source };
        let directory = std::fs::canonicalize(path).map_err(named)?;
        if !std::fs::metadata(&directory).map_err(named)?.is_dir() {
            return Err(WorkspaceError::NotDirectory { path: path.to_owned() });
        }
        let root = top_directory(path, &directory)?;
        let mut repository = Repository::open(source, &root, Vec::new())?;
        let want = repository.choose()?;
        repository.fill(want, 0)?;
        Ok(repository)
    }

    /// The top of the work tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.git.directory()
    }

    /// The commit the host is at, when there is one.
    #[must_use]
    pub fn head_commit(&self) -> Option<String> {
        self.host_head.map(|oid| oid.to_string())
    }

    /// The commit the guest is to be at, when there is one.
    #[must_use]
    pub fn base_commit(&self) -> Option<String> {
        self.base.map(|oid| oid.to_string())
    }

    /// The branch that is to be checked out in the guest; none: a detached head.
    #[must_use]
    pub fn branch(&self) -> Option<String> {
        self.branch.as_deref().map(shown::text)
    }

    /// What was asked for.
    #[must_use]
    pub fn source(&self) -> &WorkspaceSource {
        &self.source
    }

    /// It and all below it, each before those in it.
    pub(super) fn all(&self) -> Vec<&Repository> {
        let mut all = vec![self];
        let mut at = 0;
        while at < all.len() {
            let below: &[Repository] = &all[at].submodules;
            all.extend(below);
            at += 1;
        }
        all
    }

    /// What git says of a repository as a whole.
    fn open(source: &WorkspaceSource, root: &Path, path: Vec<u8>) -> Result<Repository, WorkspaceError> {
        let mut git = Git::at(root);
        let facts = git.tell(&["rev-parse", "--show-object-format", "--absolute-git-dir"])?;
        let facts = facts.strip_suffix(b"\n").unwrap_or(&facts);
        // The second line is a path, which may hold lines itself.
        let Some(line) = memchr::memchr(b'\n', facts) else { return Err(git.odd("its format")) };
        let git_dir = PathBuf::from(shown::os(&facts[line + 1..]));
        let common_dir = common_directory(&git_dir)?;
        let own = [common_dir.join("config"), git_dir.join("config.worktree")];
        let settings = Settings::read(&git, &own)?;
        let names: HashSet<Vec<u8>> = settings.filters().map(<[u8]>::to_vec).collect();
        git.without_filters(names.iter().map(Vec::as_slice));
        let head = git.line(&["rev-parse", "--verify", "--quiet", "HEAD"])?;
        let branch = git.line(&["symbolic-ref", "--quiet", "HEAD"])?;
        let host_head = head.as_deref().and_then(Oid::parse);
        let host_branch = branch.and_then(|name| name.strip_prefix(b"refs/heads/").map(<[u8]>::to_vec));
        Ok(Repository {
            source: source.clone(),
            path,
            git_dir,
            common_dir,
            is_sha256: &facts[..line] == b"sha256",
            settings,
            host_head,
            base: host_head,
            branch: host_branch.clone(),
            host_branch,
            is_elsewhere: false,
            entries: Vec::new(),
            files: Vec::new(),
            directories: Vec::new(),
            untracked_left_out: 0,
            secrets: Vec::new(),
            submodules: Vec::new(),
            git,
        })
    }

    /// What the guest is to be put at, as it was asked for.
    fn choose(&mut self) -> Result<Want, WorkspaceError> {
        if let Some(from) = &self.source.from {
            let name = format!("{from}^{{commit}}");
            let found = self.git.line(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name])?;
            let found = found.as_deref().and_then(Oid::parse);
            let no_commit = || WorkspaceError::NoCommit { path: self.root().to_owned(), from: from.clone() };
            self.base = Some(found.ok_or_else(no_commit)?);
        }
        if self.base != self.host_head {
            self.is_elsewhere = true;
            self.branch = None;
        }
        if let Some(branch) = &self.source.branch {
            let full = format!("refs/heads/{branch}");
            let is_name = self.git.ask(&["check-ref-format", &full])?.status.success();
            if !is_name || branch.starts_with('-') || branch == "HEAD" {
                return Err(WorkspaceError::BranchName { branch: branch.clone() });
            }
            self.branch = Some(branch.clone().into_bytes());
        }
        Ok(match self.base {
            Some(base) if self.is_elsewhere => Want::Commit(base),
            _ => Want::WorkTree,
        })
    }

    /// Lists what travels.
    fn fill(&mut self, want: Want, depth: usize) -> Result<(), WorkspaceError> {
        if depth > NESTED_MAX {
            return Err(WorkspaceError::TooDeep { path: self.root().to_owned(), max: NESTED_MAX });
        }
        let tree = Tree::open(self.root())?;
        match want {
            Want::WorkTree => {
                let written_ns = self.index_written()?;
                self.entries = listing::index(&self.git)?;
                if self.source.mode != WorkspaceMode::MetadataOnly {
                    self.fill_from_work_tree(&tree, written_ns)?;
                }
            }
            Want::Commit(commit) => {
                let nodes = listing::tree(&self.git, &commit, true)?;
                if self.source.mode != WorkspaceMode::MetadataOnly {
                    let files = nodes.iter().filter(|node| !node.is_tree() && node.mode != GITLINK);
                    self.files = files.map(of_commit).collect();
                }
                self.entries = nodes.into_iter().filter(|node| !node.is_tree()).map(entry_of).collect();
                // An index is in the order of its paths' bytes, as a tree's files are when it is read to its leaves.
                self.entries.sort_by(|one, other| one.path.cmp(&other.path));
            }
        }
        self.find_submodules(&tree, want, depth)
    }

    fn fill_from_work_tree(&mut self, tree: &Tree, written_ns: u64) -> Result<(), WorkspaceError> {
        let mut seen: Vec<(Vec<u8>, Seen, State)> = Vec::new();
        // Files of which git may say what it likes: without its filters it can be wrong.
        let mut unchanged: HashSet<&[u8]> = HashSet::new();
        let looked_ns = sys::clock::unix_ns();
        for entry in self.entries.iter().filter(|entry| entry.mode != GITLINK) {
            // In a conflict a path is there several times.
            if seen.last().is_none_or(|(path, _, _)| *path != entry.path)
                && let Some(file) = tree.look(&entry.path)?
            {
                seen.push((entry.path.clone(), file, State::Clean));
                let is_unchanged = entry.stage == 0 && file.stamp.is_recorded(&entry.recorded, written_ns);
                unchanged.extend(is_unchanged.then_some(entry.path.as_slice()));
            }
        }
        let standing = listing::standing(&self.git, true)?;
        if self.source.include_untracked {
            for path in &standing.untracked {
                if let Some(file) = tree.look(path)? {
                    seen.push((path.clone(), file, State::Untracked));
                    self.secrets.extend(looks_secret(path).then(|| path.clone()));
                }
            }
            seen.sort_by(|one, other| one.0.cmp(&other.0));
        } else {
            self.untracked_left_out = standing.untracked.len() as u64;
        }
        let of = |(path, seen, state): (Vec<u8>, Seen, State)| {
            let is_modified = standing.modified.contains(&path) && !unchanged.contains(path.as_slice());
            // What git says is of a file that may have changed once more, unseen, before git looked.
            let is_doubtful = state == State::Clean && !seen.stamp.is_settled(looked_ns, TICK_NS);
            let state = if is_modified || is_doubtful { State::Modified } else { state };
            WorkFile { path, seen, state, clean: None }
        };
        self.files = seen.into_iter().map(of).collect();
        self.find_pointers()
    }

    /// Files that differ from what git has only by the filter of git LFS.
    fn find_pointers(&mut self) -> Result<(), WorkspaceError> {
        if !self.settings.filters().any(|name| name == lfs::FILTER) {
            return Ok(());
        }
        let modified = self.files.iter_mut().filter(|file| file.state == State::Modified);
        let mut modified: HashMap<&[u8], &mut Option<Digest>> =
            modified.map(|file| (file.path.as_slice(), &mut file.clean)).collect();
        let entries: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.stage == 0 && entry.mode != LINK && modified.contains_key(entry.path.as_slice()))
            .collect();
        let oids: Vec<Oid> = entries.iter().map(|entry| entry.oid).collect();
        for (entry, pointer) in entries.iter().zip(lfs::pointers(&self.git, &oids)?) {
            if let Some(clean) = modified.get_mut(entry.path.as_slice()) {
                **clean = pointer;
            }
        }
        Ok(())
    }

    /// When the index was written, nanoseconds since 1970; 0 when there is none.
    fn index_written(&self) -> Result<u64, WorkspaceError> {
        let path = self.git_dir.join("index");
        let written = match std::fs::metadata(&path) {
            Ok(meta) => meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(source) => return Err(WorkspaceError::Read { path, source }),
        };
        Ok(u64::try_from(written).unwrap_or(0))
    }

    fn find_submodules(&mut self, tree: &Tree, want: Want, depth: usize) -> Result<(), WorkspaceError> {
        let mut last: &[u8] = b"";
        for entry in self.entries.iter().filter(|entry| entry.mode == GITLINK) {
            if entry.path == last {
                continue;
            }
            last = &entry.path;
            if !tree.is_there(&shown::below(&entry.path, b".git"))? {
                if matches!(want, Want::Commit(_)) || tree.is_directory(&entry.path)? {
                    self.directories.push(entry.path.clone());
                }
                continue;
            }
            let root = self.root().join(shown::os(&entry.path));
            // What was asked for is said of the top.
            let source = WorkspaceSource { branch: None, from: None, ..self.source.clone() };
            let mut submodule = Repository::open(&source, &root, shown::below(&self.path, &entry.path))?;
            let mut wanted = Want::WorkTree;
            if matches!(want, Want::Commit(_)) {
                let name = format!("{}^{{commit}}", entry.oid);
                if submodule.git.line(&["rev-parse", "--verify", "--quiet", &name])?.is_none() {
                    self.directories.push(entry.path.clone());
                    continue;
                }
                if submodule.host_head != Some(entry.oid) {
                    (submodule.base, submodule.branch, submodule.is_elsewhere) = (Some(entry.oid), None, true);
                }
                wanted = Want::Commit(entry.oid);
                submodule.is_elsewhere = true;
            }
            submodule.fill(wanted, depth + 1)?;
            self.submodules.push(submodule);
        }
        Ok(())
    }
}

fn of_commit(node: &Node) -> WorkFile {
    let mode = match node.mode {
        LINK => FileMode::Link,
        0o100_755 => FileMode::Executable,
        _ => FileMode::Plain,
    };
    WorkFile {
        path: node.path.clone(),
        seen: Seen { mode, stamp: Stamp::unknown(node.bytes) },
        state: State::Clean,
        clean: None,
    }
}

fn entry_of(node: Node) -> Entry {
    let (path, mode, oid, recorded) = (node.path, node.mode, node.oid, Recorded::default());
    Entry { path, mode, oid, stage: 0, assume_valid: false, skip_worktree: false, intent_to_add: false, recorded }
}

fn top_directory(asked: &Path, directory: &Path) -> Result<PathBuf, WorkspaceError> {
    let git = Git::at(directory);
    let top = git.ask(&["rev-parse", "--show-toplevel"])?;
    if top.status.success() {
        let path = top.stdout.strip_suffix(b"\n").unwrap_or(&top.stdout);
        return Ok(PathBuf::from(shown::os(path)));
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

/// Where what all work trees of a repository share is (gitrepository-layout(5), `commondir`).
fn common_directory(git_dir: &Path) -> Result<PathBuf, WorkspaceError> {
    let path = git_dir.join("commondir");
    match std::fs::read(&path) {
        Ok(bytes) => Ok(git_dir.join(shown::os(bytes.strip_suffix(b"\n").unwrap_or(&bytes)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(git_dir.to_owned()),
        Err(source) => Err(WorkspaceError::Read { path, source }),
    }
}
