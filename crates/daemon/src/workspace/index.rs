//! The guest's index, made from the host's: the same entries, without what the host knows of its own files. Where whole
//! directories are as in the commit, it says so (the extension `TREE`), so that git need not compare them one by one.

use std::collections::{BTreeMap, HashMap};

use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::listing::{Entry, Node, Oid};

/// gitformat-index(5): bytes of an entry's stat fields; what is true of a name that is longer than its field.
const STAT_BYTES: usize = 40;
const NAME_LENGTH_MAX: usize = 0xfff;
/// Where the mode is in the stat fields.
const MODE_AT: std::ops::Range<usize> = 24..28;
const ASSUME_VALID: u16 = 0x8000;
const EXTENDED: u16 = 0x4000;
const SKIP_WORKTREE: u16 = 0x4000;
const INTENT_TO_ADD: u16 = 0x2000;

/// The index with these entries, in git's order. `tree`: the files and directories of the commit, and its own tree.
pub(super) fn write(entries: &[Entry], tree: Option<(&Oid, &[Node])>, is_sha256: bool) -> Vec<u8> {
    let is_extended = |entry: &Entry| entry.skip_worktree || entry.intent_to_add;
    let version: u32 = if entries.iter().any(is_extended) { 3 } else { 2 };
    let mut bytes = b"DIRC".to_vec();
    bytes.extend(version.to_be_bytes());
    bytes.extend(u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    for entry in entries {
        let start = bytes.len();
        let mut stat = [0; STAT_BYTES];
        stat[MODE_AT].copy_from_slice(&entry.mode.to_be_bytes());
        bytes.extend(stat);
        bytes.extend_from_slice(entry.oid.bytes());
        let length = u16::try_from(entry.path.len().min(NAME_LENGTH_MAX)).unwrap_or(0);
        let mut flags = length | u16::from(entry.stage) << 12;
        flags |= if entry.assume_valid { ASSUME_VALID } else { 0 };
        flags |= if is_extended(entry) { EXTENDED } else { 0 };
        bytes.extend(flags.to_be_bytes());
        if is_extended(entry) {
            let skip = if entry.skip_worktree { SKIP_WORKTREE } else { 0 };
            let later = if entry.intent_to_add { INTENT_TO_ADD } else { 0 };
            bytes.extend((skip | later).to_be_bytes());
        }
        bytes.extend_from_slice(&entry.path);
        // One zero at least, and as many as it takes to a multiple of eight.
        let length = bytes.len() - start;
        bytes.resize(start + (length + 8) / 8 * 8, 0);
    }
    if let Some((root, nodes)) = tree {
        let extension = cache_tree(entries, root, nodes);
        bytes.extend(b"TREE");
        bytes.extend(u32::try_from(extension.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(extension);
    }
    if is_sha256 {
        bytes.extend(Sha256::digest(&bytes));
    } else {
        bytes.extend(Sha1::digest(&bytes));
    }
    bytes
}

/// A directory of the commit.
struct Directory<'a> {
    oid: Oid,
    /// Files below it, in the commit.
    files: usize,
    /// Those of them that the index has unchanged.
    same: usize,
    /// The index has something else below it.
    differs: bool,
    below: Vec<&'a [u8]>,
}

/// Directories as `<name>\0<entries> <directories>\n[object]`, each before those in it; -1 entries: not as in the commit.
fn cache_tree(entries: &[Entry], root: &Oid, nodes: &[Node]) -> Vec<u8> {
    let directory = |oid: Oid| Directory { oid, files: 0, same: 0, differs: false, below: Vec::new() };
    let mut directories: HashMap<&[u8], Directory<'_>> = HashMap::from([(&b""[..], directory(*root))]);
    let mut files: HashMap<&[u8], &Node> = HashMap::new();
    for node in nodes {
        if node.is_tree() {
            directories.insert(&node.path, directory(node.oid));
            if let Some(parent) = directories.get_mut(parent(&node.path)) {
                parent.below.push(&node.path);
            }
        } else {
            files.insert(&node.path, node);
            for_parents(&node.path, &mut directories, |directory| directory.files += 1);
        }
    }
    for entry in entries {
        let same = entry.stage == 0
            && !entry.intent_to_add
            && files.get(entry.path.as_slice()).is_some_and(|node| node.oid == entry.oid && node.mode == entry.mode);
        for_parents(&entry.path, &mut directories, |directory| {
            directory.same += usize::from(same);
            directory.differs |= !same;
        });
    }
    let mut written = Vec::new();
    let mut waiting: Vec<&[u8]> = vec![b""];
    while let Some(path) = waiting.pop() {
        let Some(directory) = directories.get(path) else { continue };
        let name = &path[path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)..];
        let is_there = |path: &&&[u8]| directories.get(**path).is_some_and(|below| below.same > 0 || below.differs);
        // By length first: git's order of them.
        let below: BTreeMap<(usize, &[u8]), ()> =
            directory.below.iter().filter(is_there).map(|path| ((path.len(), *path), ())).collect();
        let is_valid = !directory.differs && directory.same == directory.files;
        written.extend_from_slice(name);
        written.push(0);
        let count = if is_valid { directory.files.to_string() } else { "-1".to_owned() };
        written.extend(format!("{count} {}\n", below.len()).into_bytes());
        if is_valid {
            written.extend_from_slice(directory.oid.bytes());
        }
        waiting.extend(below.into_keys().rev().map(|(_, path)| path));
    }
    written
}

fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

/// Does something with each directory that the path is in, the top included.
fn for_parents<'a>(
    path: &[u8],
    directories: &mut HashMap<&'a [u8], Directory<'a>>,
    mut act: impl FnMut(&mut Directory<'a>),
) {
    let mut at = path;
    while !at.is_empty() {
        at = parent(at);
        if let Some(directory) = directories.get_mut(at) {
            act(directory);
        }
    }
}
