//! What git lists: the index, the state of the work tree against it, and the files of a commit.

use std::collections::HashSet;
use std::fmt;

use super::WorkspaceError;
use super::git::Git;

/// Modes of an index entry (gitformat-index(5)).
pub(super) const LINK: u32 = 0o120_000;
/// A submodule's.
pub(super) const GITLINK: u32 = 0o160_000;

/// Flags of an index entry as `git ls-files --debug` shows them.
const ASSUME_VALID: u32 = 0x8000;
const INTENT_TO_ADD: u32 = 1 << 29;
const SKIP_WORKTREE: u32 = 1 << 30;
/// Lines that `git ls-files --debug` adds to each entry.
const DEBUG_LINES: usize = 5;

/// The name of an object: SHA-1 or SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Oid {
    bytes: [u8; 32],
    length: u8,
}

impl Oid {
    /// Reads 40 or 64 hexadecimal digits.
    pub(super) fn parse(digits: &[u8]) -> Option<Oid> {
        if !matches!(digits.len(), 40 | 64) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Oid { bytes, length: u8::try_from(digits.len() / 2).ok()? })
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the top.
    pub(super) path: Vec<u8>,
    /// As git counts them.
    pub(super) mode: u32,
    /// Its content.
    pub(super) oid: Oid,
    /// 0; 1 to 3 in a conflict.
    pub(super) stage: u8,
    /// git is told not to look at the file.
    pub(super) assume_valid: bool,
    /// The file is not wanted in the work tree (git-sparse-checkout(1)).
    pub(super) skip_worktree: bool,
    /// Named by `git add -N`: it has no content yet.
    pub(super) intent_to_add: bool,
    /// What the file was like when git found it to be as here.
    pub(super) recorded: Recorded,
}

/// What an index keeps of a file's state; numbers are cut to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Recorded {
    /// Seconds and nanoseconds.
    pub(super) ctime: (u32, u32),
    /// The same.
    pub(super) mtime: (u32, u32),
    /// Its inode.
    pub(super) inode: u32,
    /// Its bytes.
    pub(super) bytes: u32,
}

/// Reads the index, in its order.
///
/// # Errors
/// When git fails or its answer is not understood.
pub(super) fn index(git: &Git) -> Result<Vec<Entry>, WorkspaceError> {
    let listed = git.tell(&["ls-files", "-z", "--stage", "--debug"])?;
    parse_index(&listed).ok_or_else(|| git.odd("the index"))
}

/// `<mode> <object> <stage>\t<path>\0`, then lines of which the last ends in the flags.
fn parse_index(mut listed: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !listed.is_empty() {
        let tab = memchr::memchr(b'\t', listed)?;
        let end = memchr::memchr(0, listed)?;
        let mut words = listed[..tab].split(|byte| *byte == b' ');
        let path = listed.get(tab + 1..end)?.to_vec();
        let mode = octal(words.next()?)?;
        let oid = Oid::parse(words.next()?)?;
        let stage = words.next().and_then(|stage| stage.first()?.checked_sub(b'0')).filter(|stage| *stage <= 3)?;
        listed = &listed[end + 1..];
        let debug = memchr::memchr_iter(b'\n', listed).nth(DEBUG_LINES - 1)?;
        let (recorded, flags) = parse_debug(std::str::from_utf8(&listed[..debug]).ok()?)?;
        listed = &listed[debug + 1..];
        entries.push(Entry {
            path,
            mode,
            oid,
            stage,
            assume_valid: flags & ASSUME_VALID != 0,
            skip_worktree: flags & SKIP_WORKTREE != 0,
            intent_to_add: flags & INTENT_TO_ADD != 0,
            recorded,
        });
    }
    Some(entries)
}

/// `ctime: 1:2  mtime: 1:2  dev: 1 ino: 2  uid: 1 gid: 2  size: 1 flags: 0`, on several lines.
fn parse_debug(text: &str) -> Option<(Recorded, u32)> {
    let mut recorded = Recorded::default();
    let mut flags = None;
    let mut words = text.split_ascii_whitespace();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        let time = || value.split_once(':').and_then(|(s, ns)| Some((s.parse().ok()?, ns.parse().ok()?)));
        match key {
            "ctime:" => recorded.ctime = time()?,
            "mtime:" => recorded.mtime = time()?,
            "ino:" => recorded.inode = value.parse().ok()?,
            "size:" => recorded.bytes = value.parse().ok()?,
            "flags:" => flags = Some(u32::from_str_radix(value, 16).ok()?),
            _ => {}
        }
    }
    Some((recorded, flags?))
}

fn octal(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// How the work tree stands to the index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Files that are not as in the index.
    pub(super) modified: HashSet<Vec<u8>>,
    /// Files that the index does not have, and that are not ignored.
    pub(super) untracked: Vec<Vec<u8>>,
}

/// Compares work tree and index. Submodules are not looked at.
///
/// # Errors
/// When git fails or its answer is not understood.
pub(super) fn standing(git: &Git, untracked: bool) -> Result<Standing, WorkspaceError> {
    let untracked = if untracked { "--untracked-files=all" } else { "--untracked-files=no" };
    let options = ["status", "--porcelain=v2", "-z", "--no-renames", "--ignore-submodules=all", untracked];
    let said = git.tell(&options)?;
    parse_standing(&said).ok_or_else(|| git.odd("the state of the work tree"))
}

fn parse_standing(said: &[u8]) -> Option<Standing> {
    let mut standing = Standing::default();
    for record in said.split(|byte| *byte == 0) {
        // The path is what is left behind so many words: it may hold spaces itself.
        let path = |words: usize| record.splitn(words + 1, |byte| *byte == b' ').nth(words).map(<[u8]>::to_vec);
        match record.first() {
            Some(b'1') if *record.get(3)? != b'.' => {
                standing.modified.insert(path(8)?);
            }
            Some(b'u') => {
                standing.modified.insert(path(10)?);
            }
            // A repository inside, which is not this one's matter, has a slash behind it.
            Some(b'?') if !record.ends_with(b"/") => standing.untracked.push(path(1)?),
            Some(b'1' | b'?' | b'!' | b'#') | None => {}
            Some(_) => return None,
        }
    }
    Some(standing)
}

/// A file or a directory of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Relative to the top.
    pub(super) path: Vec<u8>,
    /// As git counts them; 040000 is a directory.
    pub(super) mode: u32,
    /// Its content.
    pub(super) oid: Oid,
    /// A file's bytes in git; of others 0.
    pub(super) bytes: u64,
}

impl Node {
    /// Whether it is a directory.
    pub(super) fn is_tree(&self) -> bool {
        self.mode == 0o040_000
    }
}

/// Reads all files and directories of a commit, in git's order.
///
/// # Errors
/// When git fails or its answer is not understood.
pub(super) fn tree(git: &Git, commit: &Oid, sizes: bool) -> Result<Vec<Node>, WorkspaceError> {
    let commit = commit.to_string();
    let mut args = vec!["ls-tree", "-r", "-t", "-z", "--full-tree"];
    args.extend(sizes.then_some("-l"));
    args.push(&commit);
    let listed = git.tell(&args)?;
    parse_tree(&listed).ok_or_else(|| git.odd("the files of a commit"))
}

/// `<mode> <kind> <object>[ +<bytes>]\t<path>\0`
fn parse_tree(listed: &[u8]) -> Option<Vec<Node>> {
    let mut nodes = Vec::new();
    for record in listed.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let tab = memchr::memchr(b'\t', record)?;
        let mut words = record[..tab].split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let mode = octal(words.next()?)?;
        let oid = Oid::parse(words.nth(1)?)?;
        let bytes = words.next().and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0);
        nodes.push(Node { path: record[tab + 1..].to_vec(), mode, oid, bytes });
    }
    Some(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

    fn entry(path: &[u8], mode: u32, stage: u8) -> Entry {
        let oid = Oid::parse(A.as_bytes()).unwrap();
        let recorded = Recorded { ctime: (1, 2), mtime: (3, 4), inode: 2, bytes: 7 };
        let path = path.to_vec();
        Entry { path, mode, oid, stage, assume_valid: false, skip_worktree: false, intent_to_add: false, recorded }
    }

    #[test]
    fn entries_with_their_flags() {
        let lines = |flags: &str| {
            let stat = "  ctime: 1:2\n  mtime: 3:4\n  dev: 1\tino: 2\n  uid: 0\tgid: 0\n  size: 7\tflags: ";
            format!("{stat}{flags}\n")
        };
        let mut listed = format!("100644 {A} 0\ta \nb\0{}", lines("0")).into_bytes();
        listed.extend(format!("120000 {A} 2\tl\0{}", lines("2000")).into_bytes());
        listed.extend(format!("160000 {A} 0\ts\0{}", lines("6000c000")).into_bytes());
        let expected = [
            entry(b"a \nb", 0o100_644, 0),
            entry(b"l", LINK, 2),
            Entry { assume_valid: true, skip_worktree: true, intent_to_add: true, ..entry(b"s", GITLINK, 0) },
        ];
        assert_eq!(parse_index(&listed).unwrap(), expected);
        assert_eq!(parse_index(&listed[..listed.len() - 2]), None);
        assert_eq!(parse_index(b"nonsense"), None);
    }

    #[test]
    fn standings() {
        let said = format!(
            "1 .M N... 100644 100644 100644 {A} {A} a b\0\
             1 M. N... 100644 100644 100644 {A} {A} staged\0\
             1 .A N... 000000 000000 100644 {A} {A} later\0\
             u UU N... 100644 100644 100644 100644 {A} {A} {A} both\0? new file\0? inner/\0"
        );
        let standing = parse_standing(said.as_bytes()).unwrap();
        let modified: HashSet<Vec<u8>> = ["a b", "later", "both"].map(|path| path.as_bytes().to_vec()).into();
        assert_eq!(standing, Standing { modified, untracked: vec![b"new file".to_vec()] });
        assert_eq!(parse_standing(b"x"), None);
    }

    #[test]
    fn trees() {
        let listed =
            format!("040000 tree {A}       -\td\0100755 blob {A}      12\td/x \ty\0160000 commit {A}       -\ts\0");
        let nodes = parse_tree(listed.as_bytes()).unwrap();
        let told: Vec<_> = nodes.iter().map(|node| (node.path.as_slice(), node.mode, node.bytes)).collect();
        assert_eq!(told, [(&b"d"[..], 0o040_000, 0), (b"d/x \ty", 0o100_755, 12), (b"s", GITLINK, 0)]);
        assert!(nodes[0].is_tree());
    }
}
