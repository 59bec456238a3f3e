//! How much of the history travels: from a commit, parent by parent, to a depth. What lies deeper stays on the host; the
//! last commits that travel are the boundary, which git calls shallow.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::WorkspaceError;
use super::git::Git;
use super::listing::Oid;

/// A part of a history.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Its commits, and the known ones.
    pub(super) commits: HashSet<Oid>,
    /// Those of them whose parents are not in it.
    pub(super) boundary: BTreeSet<Oid>,
    /// The tree of the commit it begins at.
    pub(super) tree: Option<Oid>,
}

/// The commits at which the host's own history is cut.
///
/// # Errors
/// When its list cannot be read.
pub(super) fn host_boundary(common_dir: &Path) -> Result<HashSet<Oid>, WorkspaceError> {
    let path = common_dir.join("shallow");
    match std::fs::read(&path) {
        Ok(listed) => Ok(listed.split(|byte| *byte == b'\n').filter_map(Oid::parse).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(source) => Err(WorkspaceError::Read { path, source }),
    }
}

/// Walks from `head`, `depth` commits deep; absent: to the end. A commit of `cut` has no parents. One of `known` is there
/// already, with all that belongs to it.
///
/// # Errors
/// When git fails, or a commit is missing.
pub(super) fn window(
    git: &Git,
    head: Oid,
    depth: Option<u32>,
    cut: &HashSet<Oid>,
    known: &HashSet<Oid>,
) -> Result<Option<Window>, WorkspaceError> {
    let mut window = Window::default();
    let mut level = vec![head];
    // The last commits of the walk, with their parents.
    let mut last: Vec<(Oid, Vec<Oid>)> = Vec::new();
    window.commits.insert(head);
    let mut objects = git.objects("--batch")?;
    let mut left = depth.map_or(u32::MAX, |depth| depth.max(1));
    while !level.is_empty() {
        left -= 1;
        let mut next = Vec::new();
        for (oid, object) in level.iter().zip(objects.read(&level)?) {
            let Some(commit) = object.filter(|object| object.kind == b"commit") else {
                return if *oid == head { Ok(None) } else { Err(git.failed(&format!("commit {oid} is missing"))) };
            };
            let (tree, parents) = parse(&commit.content).ok_or_else(|| git.odd("its history"))?;
            if *oid == head {
                window.tree = Some(tree);
            }
            if parents.is_empty() || known.contains(oid) {
                continue;
            }
            if cut.contains(oid) {
                window.boundary.insert(*oid);
            } else if left == 0 {
                last.push((*oid, parents));
            } else {
                next.extend(parents.into_iter().filter(|parent| window.commits.insert(*parent)));
            }
        }
        level = next;
    }
    let is_there = |oid: &Oid| window.commits.contains(oid) || known.contains(oid);
    window.boundary.extend(last.iter().filter(|(_, parents)| !parents.iter().all(is_there)).map(|(oid, _)| *oid));
    window.commits.extend(known);
    Ok(Some(window))
}

/// The tree of a commit, and its parents.
fn parse(commit: &[u8]) -> Option<(Oid, Vec<Oid>)> {
    let mut lines = commit.split(|byte| *byte == b'\n');
    let tree = Oid::parse(lines.next()?.strip_prefix(b"tree ")?)?;
    let parents = lines.map_while(|line| line.strip_prefix(b"parent ")).map(Oid::parse);
    Some((tree, parents.collect::<Option<Vec<Oid>>>()?))
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    /// `refs/tags/…`
    pub(super) name: Vec<u8>,
    /// The tag's own object, or the commit.
    pub(super) oid: Oid,
    /// The commit, of a tag that has an object of its own.
    pub(super) commit: Option<Oid>,
}

/// The tags of commits in the window; without one, of all commits that lead to `head`.
///
/// # Errors
/// When git fails or its answer is not understood.
pub(super) fn tags(git: &Git, head: &Oid, window: Option<&Window>) -> Result<Vec<Tag>, WorkspaceError> {
    const FORMAT: &str = "--format=%(objectname) %(objecttype) %(*objectname) %(*objecttype) %(refname)";
    let merged = format!("--merged={head}");
    let mut args = vec!["for-each-ref", FORMAT];
    args.extend(window.is_none().then_some(merged.as_str()));
    args.push("refs/tags");
    let listed = git.tell(&args)?;
    let mut tags = Vec::new();
    for line in listed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let words: Vec<&[u8]> = line.splitn(5, |byte| *byte == b' ').collect();
        let &[oid, kind, target, target_kind, name] = words.as_slice() else { return Err(git.odd("its tags")) };
        let oid = Oid::parse(oid).ok_or_else(|| git.odd("its tags"))?;
        let commit = if target_kind == b"commit" { Oid::parse(target) } else { None };
        let named = if kind == b"commit" { Some(oid) } else { commit };
        if named.is_some_and(|named| window.is_none_or(|window| window.commits.contains(&named))) {
            tags.push(Tag { name: name.to_vec(), oid, commit });
        }
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits() {
        let (tree, one, two) = ("11".repeat(20), "22".repeat(20), "33".repeat(20));
        let text = format!("tree {tree}\nparent {one}\nparent {two}\nauthor a <a> 1 +0\n\nparent {tree}\n");
        let (parsed, parents) = parse(text.as_bytes()).unwrap();
        assert_eq!((parsed.to_string(), parents.len()), (tree, 2));
        assert_eq!(parse(b"parent x\n"), None);
    }
}
