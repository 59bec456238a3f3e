//! Which objects of a repository the guest needs: its commit with as much history as was asked for, the tags in it, and
//! what only the index has.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use super::WorkspaceError;
use super::history::{self, Tag, Window};
use super::listing::{self, GITLINK, Node, Oid};
use super::notes;
use super::pack::{Pack, Wanted};
use super::repository::Repository;
use super::shown;

/// What was sent before.
#[derive(Debug, Default)]
pub(super) struct Sent {
    head: Option<Oid>,
    boundary: BTreeSet<Oid>,
    tips: BTreeSet<Oid>,
}

impl Sent {
    /// As the notes have it.
    pub(super) fn of(note: &notes::Repo) -> Sent {
        let parsed = |names: &BTreeSet<String>| names.iter().filter_map(|name| Oid::parse(name.as_bytes())).collect();
        let head = note.head.as_ref().and_then(|head| Oid::parse(head.as_bytes()));
        Sent { head, boundary: parsed(&note.boundary), tips: parsed(&note.tips) }
    }
}

/// What of a history travels.
#[derive(Debug, Default)]
pub(super) struct Travelling {
    /// Tags of commits that travel, or did.
    pub(super) tags: Vec<Tag>,
    /// What the branch follows, when that commit travels too.
    pub(super) upstream: Option<(Vec<u8>, Oid)>,
    /// Where the guest's history is cut.
    pub(super) boundary: BTreeSet<Oid>,
    /// What the guest has, with all that it leads to.
    pub(super) tips: BTreeSet<Oid>,
    /// What makes up what it has not yet.
    pub(super) pack: Option<Pack>,
    root: Option<Oid>,
    nodes: Vec<Node>,
}

impl Travelling {
    /// Decides what travels, beside what was `sent`.
    ///
    /// # Errors
    /// When git fails, or an object is missing.
    pub(super) fn new(
        repository: &Repository,
        depth: Option<u32>,
        sent: Option<Sent>,
        scratch: &Path,
    ) -> Result<Travelling, WorkspaceError> {
        let mut travelling = Travelling::default();
        let mut sent = sent.unwrap_or_default();
        if let Some(base) = repository.base {
            travelling.commits(repository, base, depth, &mut sent)?;
        }
        let in_tree: HashSet<Oid> = travelling.nodes.iter().map(|node| node.oid).collect();
        let is_extra = |entry: &&listing::Entry| entry.mode != GITLINK && !in_tree.contains(&entry.oid);
        travelling.tips.extend(repository.entries.iter().filter(is_extra).map(|entry| entry.oid));
        let wanted = Wanted {
            tips: travelling.tips.difference(&sent.tips).copied().collect(),
            known: sent.head.into_iter().collect(),
            boundary: travelling.boundary.clone(),
            is_promised: repository.settings.promisor().is_some(),
        };
        if !wanted.tips.is_empty() {
            let objects = repository.common_dir.join("objects");
            travelling.pack = Some(Pack::new(&repository.git, &objects, scratch, &wanted)?);
        }
        Ok(travelling)
    }

    /// The commit's own tree, and all in it; none without a commit.
    pub(super) fn tree(&self) -> Option<(&Oid, &[Node])> {
        self.root.as_ref().map(|root| (root, self.nodes.as_slice()))
    }

    fn commits(
        &mut self,
        repository: &Repository,
        base: Oid,
        depth: Option<u32>,
        sent: &mut Sent,
    ) -> Result<(), WorkspaceError> {
        let git = &repository.git;
        let mut cut = history::host_boundary(&repository.common_dir)?;
        let is_limited = depth.is_some() || !cut.is_empty();
        let mut known = HashSet::new();
        if let Some(head) = sent.head {
            let old_cut: HashSet<Oid> = cut.union(&sent.boundary.iter().copied().collect()).copied().collect();
            // Without a limit it may be a long way, and git knows a shorter one.
            let far = if is_limited { None } else { Some(1) };
            match history::window(git, head, far, &old_cut, &HashSet::new())? {
                Some(window) => known = window.commits,
                // The host has forgotten what it had: nothing is known of what the guest has.
                None => *sent = Sent::default(),
            }
        }
        cut.extend(&sent.boundary);
        let far = if is_limited { depth } else { Some(1) };
        let window = history::window(git, base, far, &cut, &known)?;
        let window = window.ok_or_else(|| git.failed(&format!("commit {base} is missing")))?;
        self.boundary = sent.boundary.clone();
        if is_limited {
            self.boundary.extend(&window.boundary);
        }
        let limits = is_limited.then_some(&window);
        self.tags = history::tags(git, &base, limits)?;
        self.upstream = upstream(repository, &base, limits)?;
        self.tips.insert(base);
        self.tips.extend(self.tags.iter().map(|tag| tag.oid));
        self.nodes = listing::tree(git, &base, false)?;
        self.root = window.tree;
        Ok(())
    }
}

/// The ref that the checked out branch follows, and its commit, when that travels too.
fn upstream(
    repository: &Repository,
    base: &Oid,
    window: Option<&Window>,
) -> Result<Option<(Vec<u8>, Oid)>, WorkspaceError> {
    let git = &repository.git;
    let Some(branch) = repository.branch.as_ref().filter(|_| repository.branch == repository.host_branch) else {
        return Ok(None);
    };
    let name = [b"refs/heads/", branch.as_slice()].concat();
    let asked = [OsStr::new("for-each-ref"), OsStr::new("--format=%(upstream)"), shown::os(&name)];
    let answer = git.ask_os(&asked)?;
    let followed = answer.stdout.trim_ascii_end();
    if !followed.starts_with(b"refs/remotes/") {
        return Ok(None);
    }
    let asked = [OsStr::new("rev-parse"), OsStr::new("--verify"), OsStr::new("--quiet"), shown::os(followed)];
    let answer = git.ask_os(&asked)?;
    let Some(oid) = Oid::parse(answer.stdout.trim_ascii_end()) else { return Ok(None) };
    let travels = match window {
        Some(window) => window.commits.contains(&oid),
        None => git.ask(&["merge-base", "--is-ancestor", &oid.to_string(), &base.to_string()])?.status.success(),
    };
    Ok(travels.then(|| (followed.to_vec(), oid)))
}
