//! A tree of names, as tar archives make one: entry by entry, a later one over an earlier, and whole layers of them.

use std::collections::BTreeMap;

use mkext4::Meta;

use super::Ext4Error;

/// Names in one tree: an image with everything installed has some 400,000.
pub(crate) const ENTRIES_MAX: usize = 4_000_000;
/// Longest path and deepest nesting (PATH_MAX of limits.h).
const PATH_MAX_BYTES: usize = 4096;
/// Symbolic links followed on the way to one entry, as many as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Owner, permissions and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits, setuid and the like included.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch and nanoseconds.
    pub(crate) mtime: (i64, u32),
}

impl Attributes {
    pub(super) fn meta(self) -> Meta {
        Meta::new(self.mode & 0o7777, self.uid, self.gid, self.mtime)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    /// A regular file.
    File {
        size_bytes: u64,
        /// Offset and length of the ranges that hold data, each beginning and ending at a block boundary or at the end
        /// of the file; `None` if all of it does.
        ranges: Option<Vec<(u64, u64)>>,
        /// Whatever the caller needs to find the bytes again.
        content: u64,
    },
    Symlink(String),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) attributes: Attributes,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    pub(super) children: BTreeMap<String, usize>,
}

/// What is done about a symbolic link on the way to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// The entry is refused: an archive of one tree has none beneath a link.
    Refused,
    /// It is followed and does not lead out of the tree: a layer may name a directory by a link of the layers below it.
    Followed,
}

/// A tree of names, each an entry that is not yet written.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// The root first. What was removed or replaced stays in it without a name.
    pub(super) nodes: Vec<Node>,
    links: Links,
    /// How many there ever were.
    names: usize,
}

/// Splits a path into its names; `.` and a trailing slash are allowed, leaving the tree is not.
fn names(path: &str) -> Result<Vec<&str>, Ext4Error> {
    let refuse = |why| Ext4Error::Name { path: path.chars().take(200).collect(), why };
    // Some call the root itself by its name.
    if path.starts_with('/') && path.bytes().any(|byte| byte != b'/') {
        return Err(refuse("its name is absolute"));
    }
    if path.len() >= PATH_MAX_BYTES {
        return Err(refuse("its path is too long"));
    }
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err(refuse("its name leads outside with ..")),
            name if name.len() > 255 => return Err(refuse("a name in it is longer than 255 bytes")),
            name if name.contains('\0') => return Err(refuse("its name holds a NUL byte")),
            name => names.push(name),
        }
    }
    Ok(names)
}

fn refuse(path: &str, why: &'static str) -> Ext4Error {
    Ext4Error::Name { path: path.chars().take(200).collect(), why }
}

impl Namespace {
    /// A tree with only its root directory.
    pub(crate) fn new(root: Attributes, links: Links) -> Self {
        let root = Node { kind: Kind::Dir, attributes: root, xattrs: Vec::new(), children: BTreeMap::new() };
        Self { nodes: vec![root], links, names: 0 }
    }

    /// The directory at `names`, through whatever links it may go; what is missing is made, as tar does, or with `make`
    /// false the answer.
    fn directory(&mut self, path: &str, names: &[&str], make: bool) -> Result<Option<usize>, Ext4Error> {
        let mut way = vec![0];
        let mut left: Vec<String> = names.iter().rev().map(|name| (*name).to_owned()).collect();
        let mut followed = 0;
        while let Some(name) = left.pop() {
            if name.is_empty() || name == "." {
                continue;
            }
            if name == ".." {
                // Out of a link's target; above the root is the root.
                way.truncate((way.len() - 1).max(1));
                continue;
            }
            let at = way[way.len() - 1];
            let child = self.nodes[at].children.get(&name).copied();
            match child.map(|child| (child, &self.nodes[child].kind)) {
                Some((child, Kind::Dir)) => way.push(child),
                Some((_, Kind::Symlink(target))) if self.links == Links::Followed => {
                    followed += 1;
                    if followed > LINKS_MAX || target.len() >= PATH_MAX_BYTES || left.len() > PATH_MAX_BYTES {
                        return Err(refuse(path, "it lies beneath too many symbolic links"));
                    }
                    if target.starts_with('/') {
                        way.truncate(1);
                    }
                    left.extend(target.split('/').rev().map(str::to_owned));
                }
                Some(_) if make => return Err(refuse(path, "it lies beneath something that is not a directory")),
                // Nothing is beneath it, either.
                Some(_) => return Ok(None),
                None if make => {
                    let attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: self.nodes[0].attributes.mtime };
                    let child = self.push(Kind::Dir, attributes, Vec::new())?;
                    self.nodes[at].children.insert(name, child);
                    way.push(child);
                }
                None => return Ok(None),
            }
        }
        Ok(way.last().copied())
    }

    fn parent(&mut self, path: &str, names: &[&str]) -> Result<usize, Ext4Error> {
        let parent = self.directory(path, names, true)?;
        Ok(parent.expect("what is missing is made"))
    }

    fn push(&mut self, kind: Kind, attributes: Attributes, xattrs: Vec<(String, Vec<u8>)>) -> Result<usize, Ext4Error> {
        self.count()?;
        self.nodes.push(Node { kind, attributes, xattrs, children: BTreeMap::new() });
        Ok(self.nodes.len() - 1)
    }

    fn count(&mut self) -> Result<(), Ext4Error> {
        self.names += 1;
        if self.names > ENTRIES_MAX { Err(Ext4Error::TooManyEntries) } else { Ok(()) }
    }

    /// Adds an entry; a later one of the same path takes the place of an earlier, and a directory keeps what is in it.
    pub(crate) fn add(
        &mut self,
        path: &str,
        kind: Kind,
        attributes: Attributes,
        xattrs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Ext4Error> {
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            if kind == Kind::Dir {
                self.nodes[0].attributes = attributes;
                self.nodes[0].xattrs = xattrs;
                return Ok(());
            }
            return Err(refuse(path, "the root can only be a directory"));
        };
        if parents.is_empty() && *name == "lost+found" {
            return Ok(()); // mkext4 makes its own, as mke2fs does
        }
        let parent = self.parent(path, parents)?;
        if kind == Kind::Dir
            && let Some(&there) = self.nodes[parent].children.get(*name)
            && self.nodes[there].kind == Kind::Dir
        {
            self.nodes[there].attributes = attributes;
            self.nodes[there].xattrs = xattrs;
            return Ok(());
        }
        let node = self.push(kind, attributes, xattrs)?;
        self.nodes[parent].children.insert((*name).to_owned(), node);
        Ok(())
    }

    /// Adds another name for an entry that is already there.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), Ext4Error> {
        let shown = format!("{path} -> {target}");
        let missing = || refuse(&shown, "the entry it is a hard link to is not there");
        let target_names = names(target).map_err(|_| refuse(&shown, "the entry it is a hard link to is outside"))?;
        let (target_name, above) = target_names.split_last().ok_or_else(missing)?;
        let above = self.directory(&shown, above, false)?.ok_or_else(missing)?;
        let node = self.nodes[above].children.get(*target_name).copied().ok_or_else(missing)?;
        if self.nodes[node].kind == Kind::Dir {
            return Err(refuse(&shown, "it is a hard link to a directory"));
        }
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            return Err(refuse(&shown, "the root can only be a directory"));
        };
        let parent = self.parent(path, parents)?;
        self.count()?;
        self.nodes[parent].children.insert((*name).to_owned(), node);
        Ok(())
    }

    /// Takes the entry `name` out of the directory at `path`, with all that is in it. What is not there is gone.
    pub(crate) fn remove(&mut self, path: &str, name: &str) -> Result<(), Ext4Error> {
        if let Some(directory) = self.directory(path, &names(path)?, false)? {
            self.nodes[directory].children.remove(name);
        }
        Ok(())
    }

    /// Takes everything out of the directory at `path`.
    pub(crate) fn clear(&mut self, path: &str) -> Result<(), Ext4Error> {
        if let Some(directory) = self.directory(path, &names(path)?, false)? {
            self.nodes[directory].children.clear();
        }
        Ok(())
    }

    /// What is at `path`, following no link.
    pub(crate) fn kind(&self, path: &str) -> Option<&Kind> {
        let names = names(path).ok()?;
        let node = names.iter().try_fold(0, |at, name| self.nodes[at].children.get(*name).copied())?;
        Some(&self.nodes[node].kind)
    }

    /// What has a name, each once, and how many names there are.
    pub(super) fn reachable(&self) -> (Vec<usize>, u64) {
        let mut seen = vec![false; self.nodes.len()];
        let (mut found, mut left, mut names) = (vec![0], vec![0], 0);
        while let Some(at) = left.pop() {
            for &child in self.nodes[at].children.values() {
                names += 1;
                if !std::mem::replace(&mut seen[child], true) {
                    found.push(child);
                    left.push(child);
                }
            }
        }
        (found, names)
    }
}
