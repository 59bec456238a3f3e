//! What of a repository travels: all of it to a guest that has none, else what has changed since, unless the guest has
//! changed the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use wire::agent::workspace::{Difference, Found, State, Surveyable};
use wire::api::{WORKSPACE_DEPTH, WorkspaceMode};

use super::control::{self, Control};
use super::files::{COARSE_NS, Tree};
use super::listing::Oid;
use super::notes::{self, Name, Notes};
use super::objects::{Sent, Travelling};
use super::repository::{Repository, WorkFile};
use super::transfer::{Act, Part, Planned, Transfer};
use super::{WorkspaceError, index, shown};
use crate::model::digest::Digest;

/// What is in the guest where a repository of the workspace should be.
#[derive(Debug, Clone)]
pub struct GuestFound {
    /// What is there.
    pub found: Found,
    /// Its index names other files, modes or contents than the one that was sent.
    pub index_changed: bool,
    /// The commit it is at; none where nobody can tell.
    pub head: Option<String>,
    /// How its files differ from those that were sent; with the added ones, none of them is overwritten unasked.
    pub differences: Vec<Surveyable>,
}

/// What both sides have changed.
#[derive(Debug, Default)]
struct Conflicts {
    paths: Vec<String>,
    reasons: Vec<String>,
}

impl Repository {
    /// Decides what travels. `notes` are those of what was sent before, `found` what is in the guest, by each repository's
    /// path. `scratch` is an empty directory, absolute, which outlives the transfer.
    ///
    /// # Errors
    /// When both sides have changed the same and not `force`, or something of the repository cannot be read.
    pub fn plan(
        self,
        notes: Option<&Notes>,
        found: &BTreeMap<Vec<u8>, GuestFound>,
        force: bool,
        scratch: &Path,
    ) -> Result<Transfer, WorkspaceError> {
        let mut conflicts = Conflicts::default();
        let mut parts = Vec::new();
        let mut remove = Vec::new();
        for (number, repository) in self.all().into_iter().enumerate() {
            let guest = found.get(&repository.path);
            let old = notes.and_then(|notes| notes.repo(&repository.path));
            let is_foreign = match guest.map(|guest| guest.found) {
                Some(Found::Foreign) => true,
                // Nothing is known of what was sent there.
                Some(Found::Workspace) => old.is_none(),
                Some(Found::Nothing | Found::Unfinished) | None => false,
            };
            if !force && is_foreign {
                return Err(WorkspaceError::Foreign { at: shown::text(&repository.path) });
            }
            let scratch = scratch.join(format!("repository-{number}"));
            let planner = Planner { repository, guest, old, notes, force, scratch: &scratch };
            parts.push(planner.part(&mut conflicts, &mut remove)?);
        }
        let is_there = |path: &[u8]| parts.iter().any(|part: &Part| part.path == path);
        for old in notes.iter().flat_map(|notes| &notes.repositories).filter(|old| !is_there(&old.path.0)) {
            forget(old, found.get(&old.path.0), &mut conflicts, &mut remove);
        }
        let is_clear = conflicts.paths.is_empty() && conflicts.reasons.is_empty();
        if !force && !is_clear {
            return Err(WorkspaceError::Conflict { paths: conflicts.paths, reasons: conflicts.reasons });
        }
        let blank = Notes::new(self.source.mode, self.source.depth, self.source.include_untracked);
        Transfer::new(parts, remove, blank)
    }

    /// How many commits deep the history goes.
    fn depth(&self) -> Option<u32> {
        match self.source.mode {
            WorkspaceMode::FullCopy => None,
            WorkspaceMode::Overlay | WorkspaceMode::MetadataOnly => Some(self.source.depth.unwrap_or(WORKSPACE_DEPTH)),
        }
    }
}

/// Plans one repository.
struct Planner<'a> {
    repository: &'a Repository,
    guest: Option<&'a GuestFound>,
    old: Option<&'a notes::Repo>,
    notes: Option<&'a Notes>,
    force: bool,
    scratch: &'a Path,
}

impl Planner<'_> {
    fn part(self, conflicts: &mut Conflicts, remove: &mut Vec<Vec<u8>>) -> Result<Part, WorkspaceError> {
        let repository = self.repository;
        let is_there = self.guest.is_some_and(|guest| guest.found == Found::Workspace);
        let history = self.travelling(is_there)?;
        let index = index::write(&repository.entries, history.tree(), repository.is_sha256);
        let shallow: Vec<String> = history.boundary.iter().map(Oid::to_string).collect();
        let control = Control::new(repository, &history.tags, history.upstream.clone(), &shallow, index)?;
        let sent = self.old.filter(|_| is_there).map(|old| &old.control);
        let control_sent = self.control(&control, sent, conflicts);
        // Where the guest's index is its own, nothing is said about how files stand to it.
        let knows_index = control_sent.iter().any(|(name, _)| name == b"index")
            || self.guest.is_none_or(|guest| !guest.index_changed && !self.has_moved(guest));
        let (tree, mut files) = self.files(is_there, conflicts, remove)?;
        if !knows_index {
            for planned in files.iter_mut().filter(|planned| planned.file.state == State::Clean) {
                planned.file.state = State::Modified;
            }
            files.iter_mut().for_each(|planned| planned.file.clean = None);
        }
        let tips: BTreeSet<String> = history.tips.iter().map(Oid::to_string).collect();
        let note = notes::Repo {
            path: Name(repository.path.clone()),
            head: repository.base_commit(),
            host_head: repository.head_commit(),
            is_elsewhere: repository.is_elsewhere,
            tips,
            boundary: shallow.into_iter().collect(),
            control: control.files.iter().map(|(name, content)| (Name(name.clone()), Digest::of(content))).collect(),
            files: Vec::new(),
        };
        Ok(Part {
            path: repository.path.clone(),
            tree,
            is_whole: sent.is_none(),
            has_removals: self.old.is_some_and(|old| old.files.len() > files.len()),
            control: control_sent,
            files,
            directories: repository.directories.clone(),
            pack: history.pack,
            is_promised: repository.settings.promisor().is_some(),
            note,
            done: Vec::new(),
            settled: Vec::new(),
        })
    }

    /// What of the history travels.
    fn travelling(&self, is_there: bool) -> Result<Travelling, WorkspaceError> {
        let depth = self.repository.depth();
        let is_as_before = self.notes.is_some_and(|notes| {
            notes.mode == self.repository.source.mode && notes.depth == self.repository.source.depth
        });
        let sent = self.old.filter(|_| is_there && is_as_before).map(Sent::of);
        Travelling::new(self.repository, depth, sent, self.scratch)
    }

    fn has_moved(&self, guest: &GuestFound) -> bool {
        let sent = self.old.and_then(|old| old.head.as_ref());
        guest.found == Found::Workspace && guest.head.is_some() && guest.head.as_ref() != sent
    }

    /// The small files that travel.
    fn control(
        &self,
        control: &Control,
        sent: Option<&BTreeMap<Name, Digest>>,
        conflicts: &mut Conflicts,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let Some(sent) = sent else { return control.whole() };
        let is_new = |name: &[u8], content: &[u8]| sent.get(&Name(name.to_vec())) != Some(&Digest::of(content));
        let changed = control.files.iter().filter(|(name, content)| is_new(name, content));
        let mut changed: Vec<_> = changed.map(|(name, content)| (name.clone(), content.clone())).collect();
        // What says what is left out, and is not there any more, says nothing.
        let gone = sent.keys().filter(|name| name.0.starts_with(b"info/") && !control.files.contains_key(&name.0));
        changed.extend(gone.map(|name| (name.0.clone(), Vec::new())));
        changed.sort_by_key(|(name, _)| control::rank(name));
        if changed.iter().any(|(name, _)| control::is_work(name))
            && let Some(guest) = self.guest
        {
            let at = shown::text(&self.repository.path);
            let of = if at.is_empty() { String::new() } else { format!(" in {at}") };
            if self.has_moved(guest) {
                let what = "the host's commit or index has changed, and the guest has commits of its own";
                conflicts.reasons.push(format!("{what}{of}"));
            } else if guest.index_changed {
                let what = "the host's commit or index has changed, and so has the guest's index";
                conflicts.reasons.push(format!("{what}{of}"));
            }
        }
        changed
    }

    /// The files that travel, and those that stay. Paths that are to go first are added to `remove`.
    fn files(
        &self,
        is_there: bool,
        conflicts: &mut Conflicts,
        remove: &mut Vec<Vec<u8>>,
    ) -> Result<(Tree, Vec<Planned>), WorkspaceError> {
        let repository = self.repository;
        let (tree, files) = self.sources()?;
        let mut old: HashMap<&[u8], &notes::File> =
            self.old.iter().flat_map(|old| &old.files).map(|file| (file.path.0.as_slice(), file)).collect();
        let differences: HashMap<&[u8], &Surveyable> = match self.guest {
            Some(guest) if is_there => guest.differences.iter().map(|one| (one.path.as_slice(), one)).collect(),
            _ => HashMap::new(),
        };
        let now = sys::clock::unix_ns();
        let mut planned = Vec::with_capacity(files.len());
        for file in files {
            let note = old.remove(file.path.as_slice());
            let difference = differences.get(file.path.as_slice()).copied();
            let act = self.act(&tree, &file, note.filter(|_| is_there), difference, now, conflicts)?;
            planned.push(Planned { act, before: note.cloned(), file });
        }
        if repository.source.mode == WorkspaceMode::MetadataOnly {
            return Ok((tree, planned));
        }
        if is_there || self.guest.is_some_and(|guest| guest.found == Found::Unfinished) {
            self.removals(&old, &differences, conflicts, remove);
            blocked(repository, &planned, &differences, conflicts, remove);
        }
        Ok((tree, planned))
    }

    /// Where the files are read.
    fn sources(&self) -> Result<(Tree, Vec<WorkFile>), WorkspaceError> {
        let repository = self.repository;
        let (Some(base), true) = (repository.base, repository.is_elsewhere && !repository.files.is_empty()) else {
            return Ok((Tree::open(repository.root())?, repository.files.clone()));
        };
        // git writes the files of another commit as it would check them out, into a directory of ours.
        let tree = self.scratch.join("tree");
        sys::fs::create_private_dir(&tree)?;
        let mut git = repository.git.elsewhere(&repository.git_dir, &self.scratch.join("index"), &tree);
        git.with("core.sparseCheckout", "false");
        git.tell(&["read-tree", "--reset", "-u", &base.to_string()])?;
        let tree = Tree::open(&tree)?;
        let mut files = Vec::with_capacity(repository.files.len());
        for file in &repository.files {
            if let Some(seen) = tree.look(&file.path)? {
                files.push(WorkFile { seen, ..file.clone() });
            }
        }
        Ok((tree, files))
    }

    /// What becomes of one file.
    fn act(
        &self,
        tree: &Tree,
        file: &WorkFile,
        note: Option<&notes::File>,
        difference: Option<&Surveyable>,
        now: u64,
        conflicts: &mut Conflicts,
    ) -> Result<Act, WorkspaceError> {
        let keep = |note: &notes::File| Act::Keep(notes::File { is_untracked: file.is_untracked(), ..note.clone() });
        if let Some(note) = note.filter(|note| note.is_known(&file.seen)) {
            return Ok(if difference.is_some() && self.force { Act::Send } else { keep(note) });
        }
        // Only a file that may be the same, or that the guest has changed too, is read before it is sent.
        let may_be_same = note.is_some_and(|note| note.mode == file.seen.mode && note.may_be(&file.seen));
        if !may_be_same && difference.is_none() {
            return Ok(Act::Send);
        }
        let Some((seen, digest)) = tree.digest(&file.path)? else { return Ok(Act::Send) };
        if let Some(note) = note.filter(|note| note.digest == digest && note.mode == seen.mode) {
            if difference.is_some() && self.force {
                return Ok(Act::Send);
            }
            let stamp = Some(seen.stamp).filter(|stamp| stamp.is_settled(now, COARSE_NS));
            return Ok(keep(&notes::File { stamp: stamp.filter(|_| seen == file.seen), ..note.clone() }));
        }
        if let Some(difference) = difference {
            let is_same = difference.difference != Difference::Deleted
                && difference.mode == seen.mode
                && difference.hash == *digest.as_bytes();
            if !is_same {
                conflicts.paths.push(shown::text(&shown::below(&self.repository.path, &file.path)));
            }
        }
        Ok(Act::Send)
    }

    /// Files that were sent and are not there on the host any more.
    fn removals(
        &self,
        old: &HashMap<&[u8], &notes::File>,
        differences: &HashMap<&[u8], &Surveyable>,
        conflicts: &mut Conflicts,
        remove: &mut Vec<Vec<u8>>,
    ) {
        let mut gone: Vec<&[u8]> = old.keys().copied().collect();
        gone.sort_unstable();
        for path in gone {
            let path_there = shown::below(&self.repository.path, path);
            match differences.get(path).map(|one| one.difference) {
                Some(Difference::Deleted) => continue,
                Some(Difference::Modified | Difference::Added) => conflicts.paths.push(shown::text(&path_there)),
                None => {}
            }
            remove.push(path_there);
        }
    }
}

/// A repository that was sent and is none on the host any more: its files go, and what makes it one.
fn forget(old: &notes::Repo, guest: Option<&GuestFound>, conflicts: &mut Conflicts, remove: &mut Vec<Vec<u8>>) {
    let Some(guest) = guest.filter(|guest| guest.found == Found::Workspace) else { return };
    let top = &old.path.0;
    if guest.head.is_some() && guest.head != old.head {
        conflicts
            .reasons
            .push(format!("{} is no repository any more, and the guest has commits in it", shown::text(top)));
    }
    let differences: HashMap<&[u8], &Surveyable> =
        guest.differences.iter().map(|one| (one.path.as_slice(), one)).collect();
    for file in &old.files {
        let path = shown::below(top, &file.path.0);
        if differences.get(file.path.0.as_slice()).is_some_and(|one| one.difference == Difference::Modified) {
            conflicts.paths.push(shown::text(&path));
        }
        remove.push(path);
    }
    remove.extend([&b".git/index"[..], b".git/HEAD"].map(|name| shown::below(top, name)));
}

/// Files that the guest has added where the host has a directory now, or below what is a file now.
fn blocked(
    repository: &Repository,
    planned: &[Planned],
    differences: &HashMap<&[u8], &Surveyable>,
    conflicts: &mut Conflicts,
    remove: &mut Vec<Vec<u8>>,
) {
    let added: Vec<&[u8]> =
        differences.iter().filter(|(_, one)| one.difference == Difference::Added).map(|(path, _)| *path).collect();
    if added.is_empty() {
        return;
    }
    let sent = planned.iter().filter(|planned| matches!(planned.act, Act::Send));
    let files: HashSet<&[u8]> = sent.map(|planned| planned.file.path.as_slice()).collect();
    let directories: HashSet<&[u8]> = files.iter().flat_map(|path| above(path)).collect();
    let mut found: Vec<&[u8]> = added
        .into_iter()
        .filter(|path| directories.contains(path) || above(path).any(|directory| files.contains(directory)))
        .collect();
    found.sort_unstable();
    for path in found {
        let path = shown::below(&repository.path, path);
        conflicts.paths.push(shown::text(&path));
        remove.push(path);
    }
}

/// The directories that a path is in.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(move |(at, _)| &path[..at])
}
