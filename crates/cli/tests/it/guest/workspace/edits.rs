//! Random changes of a tree, as a script for any POSIX shell: the same on the host and in a guest.

use std::collections::BTreeMap;

use super::random::Random;

/// What names are made of: what a shell, git, a list of lines or a terminal may take for something else.
const NAMES: [&[u8]; 26] = [
    b"a",
    b"readme.txt",
    b"main.c",
    b"data.bin",
    b"large.lfs",
    b"two words",
    b"new\nline",
    b"\"quo\\ted\"",
    b"it's",
    b"-dash",
    b"--",
    b"tab\there",
    b"back\\slash",
    b"\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80",
    b"e\xcc\x81",
    b"raw\xff\xfe",
    b"\x1b[31mred",
    b"Case",
    b"case",
    b"*star?",
    b"$HOME `id`",
    b" spaces ",
    b".hidden",
    b":(top)",
    b"#hash!",
    b"con => b",
];

/// Names of directories.
const DIRECTORIES: [&[u8]; 8] = [b"src", b"a dir", b"-d", b"deep", b"\xff", b"n\nl", b"Src", b".config"];

/// Where links lead.
const TARGETS: [&[u8]; 9] =
    [b"a", b"nowhere", b"..", b"../../../etc/passwd", b"/etc/passwd", b"src", b"new\nline", b"\xff\xfe", b"."];

/// A file, as far as changes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Link,
}

/// A tree that is being changed, and the script that changes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Edits {
    pub(super) files: BTreeMap<Vec<u8>, Kind>,
    pub(super) script: Vec<u8>,
}

/// What a script begins with. It stops at the first thing that fails.
pub(super) const PREAMBLE: &str = "set -eu
export LC_ALL=C GIT_LITERAL_PATHSPECS=1 GIT_AUTHOR_NAME='A U' GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME='C O' \
    GIT_COMMITTER_EMAIL=c@example.com GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=protocol.file.allow \
    GIT_CONFIG_VALUE_0=always GIT_CONFIG_KEY_1=core.safecrlf GIT_CONFIG_VALUE_1=false
";

/// Bytes as one word of a shell.
pub(super) fn word(bytes: &[u8]) -> Vec<u8> {
    let mut word = b"'".to_vec();
    for byte in bytes {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

/// A path as one word that no program takes for an option.
fn at(path: &[u8]) -> Vec<u8> {
    word(&[b"./", path].concat())
}

/// `printf` of these bytes.
fn printed(bytes: &[u8]) -> Vec<u8> {
    let mut text = b"printf -- '".to_vec();
    for byte in bytes {
        match byte {
            b'%' => text.extend(b"%%"),
            b'\n' => text.extend(b"\\n"),
            b' '..=b'~' if !matches!(byte, b'\'' | b'\\') => text.push(*byte),
            byte => text.extend(format!("\\{byte:03o}").into_bytes()),
        }
    }
    text.push(b'\'');
    text
}

fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(move |(at, _)| &path[..at])
}

impl Edits {
    pub(super) fn of(files: BTreeMap<Vec<u8>, Kind>) -> Edits {
        Edits { files, script: Vec::new() }
    }

    pub(super) fn line(&mut self, parts: &[&[u8]]) {
        self.script.extend(parts.concat());
        self.script.push(b'\n');
    }

    /// The script so far, which begins anew.
    pub(super) fn take_script(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.script)
    }

    /// So many changes of any kind.
    pub(super) fn change(&mut self, random: &mut Random, count: usize) {
        for _ in 0..count {
            self.one(random);
        }
    }

    fn one(&mut self, random: &mut Random) {
        match random.below(16) {
            0..=3 => {
                let path = new_path(random);
                self.write(random, &path);
            }
            4..=6 => match self.pick(random, Some(Kind::File)) {
                Some(path) => self.modify(random, &path),
                None => self.write(random, b"first"),
            },
            7 | 8 => {
                if let Some(path) = self.pick(random, None) {
                    self.remove(&path);
                }
            }
            9 => self.rename(random),
            10 | 11 => {
                if let Some(path) = self.pick(random, Some(Kind::File)) {
                    let mode: &[u8] = if random.one_in(2) { b"+x " } else { b"-x " };
                    self.line(&[b"chmod ", mode, &at(&path)]);
                }
            }
            12 | 13 => {
                let path = new_path(random);
                self.link(&path, random.of(&TARGETS));
            }
            14 => {
                // A file becomes a directory.
                if let Some(path) = self.pick(random, None).filter(|path| path.len() < 200) {
                    let inner = [&path[..], &b"/"[..], random.of(&NAMES)].concat();
                    self.write(random, &inner);
                }
            }
            _ => {
                // A directory becomes a file, or a link.
                let path = self.pick(random, None).unwrap_or_default();
                let directories: Vec<&[u8]> = parents(&path).collect();
                if !directories.is_empty() {
                    let directory = random.of(&directories).to_vec();
                    if random.one_in(2) { self.write(random, &directory) } else { self.link(&directory, b"a") }
                }
            }
        }
    }

    /// A file that is there.
    pub(super) fn pick(&self, random: &mut Random, kind: Option<Kind>) -> Option<Vec<u8>> {
        // git's own stay files: in other forms it refuses them.
        let fits = |(path, of): &(&Vec<u8>, &Kind)| !path.starts_with(b".git") && kind.is_none_or(|kind| kind == **of);
        let paths: Vec<&Vec<u8>> = self.files.iter().filter(fits).map(|(path, _)| path).collect();
        (!paths.is_empty()).then(|| random.of(&paths).clone())
    }

    /// Makes room at a path, and its directories.
    fn clear(&mut self, path: &[u8]) {
        for parent in parents(path) {
            if self.files.remove(parent).is_some() {
                self.line(&[b"rm -f ", &at(parent)]);
            }
        }
        let below = [path, b"/"].concat();
        self.files.retain(|file, _| file != path && !file.starts_with(&below));
        self.line(&[b"rm -rf ", &at(path)]);
        if let Some(parent) = parents(path).last() {
            self.line(&[b"mkdir -p ", &at(parent)]);
        }
    }

    pub(super) fn write(&mut self, random: &mut Random, path: &[u8]) {
        self.clear(path);
        let content = content(random);
        self.line(&[&content, b" >>", &at(path)]);
        self.files.insert(path.to_vec(), Kind::File);
        if random.one_in(6) {
            self.line(&[b"chmod +x ", &at(path)]);
        }
    }

    /// A file of this text.
    pub(super) fn put(&mut self, path: &[u8], text: &[u8]) {
        self.clear(path);
        self.line(&[&printed(text), b" >", &at(path)]);
        self.files.insert(path.to_vec(), Kind::File);
    }

    fn link(&mut self, path: &[u8], target: &[u8]) {
        self.clear(path);
        self.line(&[b"ln -s ", &word(target), b" ", &at(path)]);
        self.files.insert(path.to_vec(), Kind::Link);
    }

    pub(super) fn remove(&mut self, path: &[u8]) {
        self.files.remove(path);
        self.line(&[b"rm -f ", &at(path)]);
    }

    fn rename(&mut self, random: &mut Random) {
        let Some(from) = self.pick(random, None) else { return };
        let to = new_path(random);
        let is_within = |inner: &[u8], outer: &[u8]| inner.starts_with(&[outer, b"/"].concat());
        if to == from || is_within(&to, &from) || is_within(&from, &to) {
            return;
        }
        self.clear(&to);
        let Some(kind) = self.files.remove(&from) else { return };
        self.line(&[b"mv -T ", &at(&from), b" ", &at(&to)]);
        self.files.insert(to, kind);
    }

    fn modify(&mut self, random: &mut Random, path: &[u8]) {
        match random.below(5) {
            0 => {
                let more = line_of(random);
                self.line(&[&printed(&more), b" >>", &at(path)]);
            }
            1 => self.line(&[b": >", &at(path)]),
            2 => {
                let bytes = random.between(0, 300).to_string();
                self.line(&[b"truncate -s ", bytes.as_bytes(), b" ", &at(path)]);
            }
            3 => {
                let number = random.between(1, 9).to_string();
                self.line(&[b"sed -i '", number.as_bytes(), b"d' ", &at(path)]);
            }
            _ => {
                let number = random.between(1, 40).to_string();
                self.line(&[b"sed -i '", number.as_bytes(), b"s/.*/changed here/' ", &at(path)]);
            }
        }
    }

    /// Tells git of some of it.
    pub(super) fn stage(&mut self, random: &mut Random) {
        for _ in 0..random.between(1, 3) {
            let path = self.pick(random, None);
            match (random.below(8), path) {
                (0 | 1, _) => self.line(&[b"git add --sparse -A ."]),
                // Outside of a sparse checkout git adds nothing.
                (2 | 3, Some(path)) => self.line(&[b"git add -f -- ", &at(&path), b" 2>/dev/null || :"]),
                (4, Some(path)) => self.line(&[b"git add -N -f -- ", &at(&path), b" 2>/dev/null || :"]),
                (5, Some(path)) => self.line(&[b"git rm -q --cached -- ", &at(&path), b" 2>/dev/null || :"]),
                (6, Some(path)) => self.line(&[b"git update-index --chmod=+x ", &at(&path), b" 2>/dev/null || :"]),
                _ => {}
            }
        }
    }

    /// Commits all of it.
    pub(super) fn commit(&mut self, message: &str) {
        self.line(&[b"git add --sparse -A . && git commit -q --allow-empty -m ", &word(message.as_bytes())]);
    }
}

fn new_path(random: &mut Random) -> Vec<u8> {
    let mut path = Vec::new();
    for _ in 0..random.below(3) {
        path.extend_from_slice(random.of(&DIRECTORIES));
        path.push(b'/');
    }
    if random.one_in(40) {
        path.extend(std::iter::repeat_n(b'l', 230));
    } else {
        path.extend_from_slice(random.of(&NAMES));
    }
    path
}

fn line_of(random: &mut Random) -> Vec<u8> {
    let end: &[u8] = random.of(&[&b"\n"[..], b"\r\n", b"", b"\n\n"]);
    [format!("line {}", random.below(1000)).as_bytes(), end].concat()
}

/// A command that prints a file's content.
fn content(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => b":".to_vec(),
        1 => {
            let count = random.between(1, 400);
            printed(&random.bytes(count))
        }
        2 => {
            // A hole, and something behind it.
            let kib = random.between(64, 4096);
            format!("{{ truncate -s {kib}K /dev/stdout; echo behind; }}").into_bytes()
        }
        3 => format!("seq {}", random.between(5000, 60000)).into_bytes(),
        4 => {
            let digest = random.next();
            let text = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{digest:064x}\nsize {}\n",
                random.below(100_000)
            );
            printed(text.as_bytes())
        }
        5 => printed(b"one\r\ntwo\r\nthree\r\n"),
        6 => printed(b"mixed\r\nends\nhere\r"),
        7 => printed(b"$Id$ and no end of line"),
        _ => {
            let lines: Vec<Vec<u8>> = (0..random.between(1, 30)).map(|_| line_of(random)).collect();
            printed(&lines.concat())
        }
    }
}
