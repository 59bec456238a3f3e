//! What a repository is: its files, and what git says of it. Gathered by the same commands on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::edits::{Kind, PREAMBLE, word};
use super::repository::{ENCODED, Source};

/// What git says of the repository in the directory; each answer with its length before it.
const SAYS: &str = r#"
out=$(mktemp -d) prefix=
export GIT_OPTIONAL_LOCKS=0
unset GIT_CONFIG_COUNT
say() {
    name=$1; shift
    "$@" >"$out/said" 2>&1 || echo "ended with $?" >>"$out/said"
    printf '%s%s %s\n' "$prefix" "$name" "$(wc -c <"$out/said")"
    cat "$out/said"
}
says() {
    say head git rev-parse -q --verify HEAD
    say branch git symbolic-ref -q HEAD
    say status git status --porcelain=v2 -z --untracked-files="$1"
    say index git ls-files -s -z
    say flags git ls-files -v -z
}
"#;

/// The history; of the guest's all of it, of the host's the same commits.
const GUEST: &str = r"
say log git log --format=%H
say tags git for-each-ref refs/tags
say fsck sh -c 'git fsck --no-dangling --no-progress 2>&1 | grep -v ^notice: || :'
say refs git for-each-ref --format='%(refname)'
say config cat .git/config
say files find . -name .git -prune -o ! -type d -printf '%P\0%y%m\0%l\0'
say digests sh -c 'find . -name .git -prune -o -type f -print0 | xargs -0r sha256sum -z'
";

const HOST: &str = r"
say log git log --format=%H
say tags git for-each-ref --merged HEAD refs/tags
";

/// The tree that the guest's files make: tracked ones, and others that are not ignored. The repository stays as it is.
const RESULT: &str = r#"
result() {
    cp .git/index "$out/index" 2>/dev/null || :
    GIT_INDEX_FILE=$out/index git -c core.splitIndex=false add -A --sparse . 2>/dev/null && GIT_INDEX_FILE=$out/index git write-tree
}
say result result
say kept git ls-files -z -co --exclude-standard
say flags git ls-files -v -z
"#;

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Permissions, and the SHA-256 of what is in it.
    File(u32, String),
    Link(Vec<u8>),
}

pub(super) type Items = BTreeMap<Vec<u8>, Item>;
pub(super) type Said = BTreeMap<String, Vec<u8>>;

/// Runs a script on the host in a directory, and gives what it printed.
#[track_caller]
pub(super) fn shell(directory: &Path, script: &[u8]) -> Vec<u8> {
    let script = [PREAMBLE.as_bytes(), script].concat();
    let ran = Command::new("sh")
        .arg("-c")
        .arg(OsStr::from_bytes(&script))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, script) = (String::from_utf8_lossy(&ran.stderr), String::from_utf8_lossy(&script));
    assert!(ran.status.success(), "{said}\n--- in {}\n{script}", directory.display());
    ran.stdout
}

/// Files and links of a work tree, but for those of repositories within it.
pub(super) fn files_of(root: &Path) -> BTreeMap<Vec<u8>, Kind> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if entry.file_name() == ".git" || entry.file_name().as_bytes() == ENCODED {
                continue;
            }
            if kind.is_dir() {
                if fs::symlink_metadata(path.join(".git")).is_err() {
                    waiting.push(path);
                }
                continue;
            }
            let kind = if kind.is_symlink() { Kind::Link } else { Kind::File };
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), kind);
        }
    }
    found
}

/// What is at these paths; nothing where a link leads there, as git sees it.
pub(super) fn items(root: &Path, paths: &[u8]) -> Items {
    let mut items = Items::new();
    for path in paths.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        let name = OsStr::from_bytes(path);
        let is_through_link = Path::new(name).ancestors().skip(1).any(|above| root.join(above).is_symlink());
        let Ok(found) = fs::symlink_metadata(root.join(name)) else { continue };
        if found.is_dir() || (is_through_link && !path.is_empty()) {
            continue;
        }
        let item = if found.is_symlink() {
            Item::Link(fs::read_link(root.join(name)).unwrap().into_os_string().into_vec())
        } else {
            let mode = if found.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            Item::File(mode, digest(&root.join(name)))
        };
        items.insert(path.to_vec(), item);
    }
    items
}

fn digest(path: &Path) -> String {
    let ran = Command::new("sha256sum").stdin(fs::File::open(path).unwrap()).output().unwrap();
    String::from_utf8(ran.stdout).unwrap()[..64].to_owned()
}

/// Takes answers apart.
#[track_caller]
pub(super) fn parse(mut text: &[u8]) -> Said {
    let mut said = Said::new();
    while !text.is_empty() {
        let end = text.iter().position(|byte| *byte == b'\n').unwrap();
        let line = std::str::from_utf8(&text[..end]).unwrap();
        let (name, length) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let length: usize = length.parse().unwrap();
        said.insert(name.to_owned(), text[end + 1..end + 1 + length].to_vec());
        text = &text[end + 1 + length..];
    }
    said
}

/// The guest's files, as it told of them.
pub(super) fn items_told(said: &Said) -> Items {
    let mut digests: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for record in said["digests"].split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        digests.insert(record[66..].strip_prefix(b"./").unwrap(), &record[..64]);
    }
    let fields: Vec<&[u8]> = said["files"].split(|byte| *byte == 0).collect();
    let mut items = Items::new();
    for file in fields.chunks_exact(3) {
        let item = match file[1].split_first() {
            Some((b'l', _)) => Item::Link(file[2].to_vec()),
            Some((b'f', mode)) => {
                let mode = u32::from_str_radix(std::str::from_utf8(mode).unwrap(), 8).unwrap();
                Item::File(mode, String::from_utf8(digests[file[0]].to_vec()).unwrap())
            }
            _ => panic!("{} is {:?}", file[0].escape_ascii(), file[1].escape_ascii().to_string()),
        };
        items.insert(file[0].to_vec(), item);
    }
    items
}

impl Source {
    /// What arrives where everything goes well.
    pub(super) fn expected(&self) -> (Said, Items) {
        let mut script = format!("{SAYS}says {}\n{HOST}\n", self.untracked());
        for submodule in &self.submodules {
            script += &format!("(cd '{submodule}'; prefix='in {submodule} '; says no)\n");
        }
        script += if self.includes_untracked {
            "say paths git ls-files -z -co --exclude-standard\n"
        } else {
            "say paths git ls-files -z -c --recurse-submodules\n"
        };
        let said = parse(&shell(&self.root, script.as_bytes()));
        let items = items(&self.root, &said["paths"]);
        (said, items)
    }

    /// A script that tells what is in the guest.
    pub(super) fn look(&self, place: &str) -> Vec<u8> {
        let mut script = format!("cd {place}\n{SAYS}says {}\n{GUEST}\n", self.untracked());
        for submodule in &self.submodules {
            script += &format!("(cd '{submodule}'; prefix='in {submodule} '; says no)\n");
        }
        script.into_bytes()
    }

    /// A script that tells what the work in the guest comes to.
    pub(super) fn look_at_result(place: &str) -> Vec<u8> {
        format!("cd {place}\n{SAYS}{GUEST}{RESULT}\n").into_bytes()
    }

    fn untracked(&self) -> &'static str {
        if self.includes_untracked { "all" } else { "no" }
    }
}

/// Says in which answers two sides differ.
#[track_caller]
pub(super) fn same(what: &str, host: &Said, guest: &Said, names: &[&str]) {
    for (name, told) in host.iter().filter(|(name, _)| names.contains(&name.as_str()) || name.starts_with("in ")) {
        let there = &guest[name];
        assert!(told == there, "{what}: {name}\nhost:  {}\nguest: {}", told.escape_ascii(), there.escape_ascii());
    }
}

/// Says which files differ.
#[track_caller]
pub(super) fn same_items(what: &str, host: &Items, guest: &Items) {
    let mut different = Vec::new();
    let paths: BTreeSet<&Vec<u8>> = host.keys().chain(guest.keys()).collect();
    for path in paths {
        let (one, other) = (host.get(path), guest.get(path));
        if one != other {
            different.push(format!("{}: {one:?} here, {other:?} in the guest", path.escape_ascii()));
        }
    }
    assert!(different.is_empty(), "{what}:\n{}", different.join("\n"));
}

/// A script that runs `script` in a directory of the guest, its own variables and place kept to itself.
pub(super) fn within(place: &str, script: &[u8]) -> Vec<u8> {
    // Its own shell, and no part of a condition: it ends at the first thing that fails.
    [b"( cd ", &word(place.as_bytes())[..], b"\n", script, b"\n) >/dev/null\n"].concat()
}
