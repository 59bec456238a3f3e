//! Random repositories on the host, of every kind that people have.

use std::path::{Path, PathBuf};

use super::edits::Edits;
use super::random::Random;
use super::state::{files_of, shell};

/// What is special about a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    Nothing,
    /// Settings and attributes by which git changes the ends of lines.
    Ends,
    Staged,
    Submodule,
    /// A second work tree of the same repository.
    Worktree,
    Merged,
    NoCommit,
    Sparse,
    Detached,
    Nested,
    Shallow,
    Conflict,
    Sha256,
    Deep,
    Borrowed,
    Index,
}

impl Special {
    /// One after the other: twenty cases in a row have all of them.
    const ALL: [Special; 16] = [
        Special::Nothing,
        Special::Ends,
        Special::Staged,
        Special::Submodule,
        Special::Worktree,
        Special::Merged,
        Special::NoCommit,
        Special::Sparse,
        Special::Detached,
        Special::Nested,
        Special::Shallow,
        Special::Conflict,
        Special::Sha256,
        Special::Deep,
        Special::Borrowed,
        Special::Index,
    ];

    pub(super) fn of(seed: u64) -> Special {
        Special::ALL[usize::try_from(seed % 16).unwrap()]
    }

    pub(super) fn has_submodules(self) -> bool {
        matches!(self, Special::Submodule | Special::Nested)
    }

    /// Files arrive in the guest byte for byte, and are made from a patch so too.
    pub(super) fn keeps_bytes(self) -> bool {
        self != Special::Ends
    }
}

/// A repository of the host's.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) special: Special,
    pub(super) root: PathBuf,
    /// Directories of the submodules that are checked out, those within others after them.
    pub(super) submodules: Vec<&'static str>,
    pub(super) includes_untracked: bool,
    pub(super) random: Random,
}

/// A file whose encoding git changes: what is not of that encoding cannot be added, so nothing else is ever in it.
pub(super) const ENCODED: &[u8] = b"enc.txt";
const MODULE: &str = "module one";
const WITHIN: &str = "module one/within";

impl Source {
    /// Makes one in `directory`, which is empty, in a state that nobody has tidied.
    pub(super) fn new(seed: u64, directory: &Path) -> Source {
        let mut random = Random::new(seed);
        let special = Special::of(seed);
        let includes_untracked = random.one_in(3) && !special.has_submodules();
        let submodules = match special {
            Special::Submodule => vec![MODULE],
            Special::Nested => vec![MODULE, WITHIN],
            _ => vec![],
        };
        let mut source = Source { special, root: directory.join("repo"), submodules, includes_untracked, random };
        source.begin(directory);
        source.untidy();
        source
    }

    /// One that is there.
    pub(super) fn at(root: PathBuf) -> Source {
        let (special, random) = (Special::Nothing, Random::new(0));
        Source { special, root, submodules: Vec::new(), includes_untracked: false, random }
    }

    /// History, and what is special.
    fn begin(&mut self, directory: &Path) {
        let random = &mut self.random;
        let mut edits = Edits::default();
        let kind: &[u8] = if self.special == Special::Sha256 { b"sha256" } else { b"sha1" };
        edits.line(&[b"git init -q -b trunk --object-format=", kind, b" repo; cd repo"]);
        edits.line(&[b"git config user.name Own; git remote add origin https://me:secret@example.com/x.git"]);
        if self.special == Special::Ends {
            ends(random, &mut edits);
        }
        if random.one_in(3) {
            edits.put(b".gitignore", b"*.o\nignored/\n");
        }
        if random.one_in(3) && self.special != Special::Ends {
            edits.put(b".gitattributes", b"*.lfs filter=lfs diff=lfs merge=lfs -text\n*.bin binary\n");
        }
        edits.change(random, 12);
        if self.special == Special::NoCommit {
            edits.stage(random);
            shell(directory, &edits.take_script());
            return;
        }
        edits.commit("first");
        let commits = if self.special == Special::Deep { 14 } else { random.between(0, 3) };
        for number in 0..commits {
            edits.change(random, 3);
            edits.commit(&format!("number {number}"));
            if random.one_in(3) {
                edits.line(&[format!("git tag v{number}; git tag -m 'with a message' a{number}").as_bytes()]);
            }
        }
        if self.special == Special::Merged || random.one_in(5) {
            merged(random, &mut edits);
        }
        edits.line(&[b"git tag elsewhere \"$(git commit-tree -m x 'HEAD^{tree}')\""]);
        shell(directory, &edits.take_script());
        let text = self.special_script();
        shell(directory, text.as_bytes());
        if matches!(self.special, Special::Worktree | Special::Shallow | Special::Borrowed) {
            self.root = directory.join("other");
        }
    }

    /// What makes it special, in the directory that it is in.
    fn special_script(&mut self) -> String {
        match self.special {
            Special::Worktree => "git -C repo worktree add -q -b beside ../other".to_owned(),
            Special::Shallow => {
                "git -C repo commit -q --allow-empty -m last; git clone -q --depth 2 \"file://$PWD/repo\" other"
                    .to_owned()
            }
            Special::Borrowed => "git clone -q -s repo other".to_owned(),
            Special::Detached => "git -C repo checkout -q --detach".to_owned(),
            Special::Submodule | Special::Nested => submodules(self.special == Special::Nested),
            Special::Sparse => {
                let cone = if self.random.one_in(2) { "--cone" } else { "--no-cone" };
                format!("cd repo; git sparse-checkout set {cone} --skip-checks src deep")
            }
            Special::Conflict => "cd repo; git checkout -q -b theirs; seq 20 >both; seq 9 >.hidden9; git add -A .;
                git commit -qm theirs; git checkout -q trunk; seq 30 50 >both; seq 3 >other9; git add -A .;
                git commit -qm ours; git merge -q theirs >/dev/null || :"
                .to_owned(),
            Special::Index => match self.random.below(3) {
                0 => "git -C repo update-index --index-version 4".to_owned(),
                1 => "git -C repo update-index --split-index; git -C repo config core.splitIndex true".to_owned(),
                _ => "cd repo; git update-index --untracked-cache; git pack-refs --all; git gc -q".to_owned(),
            },
            _ => ":".to_owned(),
        }
    }

    /// Changes that are not committed, some of them staged; files that are ignored, and files that nobody knows.
    pub(super) fn untidy(&mut self) {
        let mut edits = Edits::of(files_of(&self.root));
        let count = self.random.between(2, 8);
        edits.change(&mut self.random, count);
        if self.special == Special::Staged || self.random.one_in(2) {
            edits.stage(&mut self.random);
            edits.change(&mut self.random, 3);
        }
        if self.special == Special::Staged {
            edits.stage(&mut self.random);
            if let Some(path) = edits.pick(&mut self.random, None) {
                let path = [b"git update-index --assume-unchanged ", &super::edits::word(&path)[..]].concat();
                edits.line(&[&path, b" 2>/dev/null || :"]);
            }
            edits.change(&mut self.random, 2);
        }
        edits.line(&[b"mkdir -p ignored && echo x >ignored/x || :; echo x >object.o || :"]);
        shell(&self.root, &edits.take_script());
        for submodule in self.submodules.clone() {
            if self.random.one_in(2) {
                let root = self.root.join(submodule);
                let mut edits = Edits::of(files_of(&root));
                edits.change(&mut self.random, 2);
                if self.random.one_in(2) {
                    edits.commit("of the submodule");
                    edits.change(&mut self.random, 1);
                }
                shell(&root, &edits.take_script());
            }
        }
    }

    /// The host goes on working: commits perhaps, and changes again.
    pub(super) fn go_on(&mut self) {
        let is_free = !matches!(self.special, Special::Conflict | Special::NoCommit);
        if is_free && self.random.one_in(2) {
            let mut edits = Edits::of(files_of(&self.root));
            edits.change(&mut self.random, 2);
            // Outside of a sparse checkout git adds nothing.
            edits.line(&[b"git add -A . 2>/dev/null || :; git commit -q --allow-empty -m 'the host goes on'"]);
            shell(&self.root, &edits.take_script());
        }
        self.untidy();
    }
}

/// Settings and attributes by which git changes the ends of lines.
fn ends(random: &mut Random, edits: &mut Edits) {
    let setting = random.of(&["autocrlf true", "autocrlf input", "eol crlf", "autocrlf false"]);
    edits.line(&[b"git config core.", setting.as_bytes()]);
    let attributes: &[u8] = random.of(&[
        &b"* text=auto\n"[..],
        b"*.txt text eol=crlf\n*.bin binary\n*.c text eol=lf ident\n",
        b"* text=auto eol=crlf\n*.bin -text\n",
        b"*.txt text working-tree-encoding=UTF-16LE\n",
    ]);
    // What is not of this encoding cannot be added.
    let is_encoded = attributes.ends_with(b"UTF-16LE\n");
    let attributes = if is_encoded { &b"enc.txt text working-tree-encoding=UTF-16LE\n"[..] } else { attributes };
    edits.put(b".gitattributes", attributes);
    if is_encoded {
        edits.put(ENCODED, b"o\0n\0e\0\n\0");
        edits.files.remove(ENCODED);
    }
}

fn merged(random: &mut Random, edits: &mut Edits) {
    let trunk = edits.files.clone();
    edits.line(&[b"git checkout -q -b side"]);
    edits.put(b"of the side", b"only there\n");
    edits.commit("of the side");
    edits.files = trunk;
    edits.line(&[b"git checkout -q trunk"]);
    edits.change(random, 2);
    edits.commit("of the trunk");
    // Where both have a file in the other's place, there is no merge.
    edits.line(&[b"git merge -q -m merged side || git reset -q --hard; git branch -q unrelated HEAD~1"]);
    edits.line(&[b"[ ! -e 'of the side' ] || git tag merged"]);
    edits.files.insert(b"of the side".to_vec(), super::edits::Kind::File);
}

fn submodules(is_nested: bool) -> String {
    let make = "make() { git init -q -b main \"$1\"; cd \"$1\"; seq 5 >file; ln -s file link; seq 3 >\"odd
name\"; git add -A .; git commit -qm one; git tag t; seq 9 >>file; git commit -qam two; cd ..; }\n";
    let inner = if is_nested {
        "make inner; cd outer; git submodule --quiet add \"$PWD/../inner\" within; git commit -qm sub; cd ..\n"
    } else {
        ""
    };
    format!(
        "{make}make outer; make absent\n{inner}cd repo; git submodule --quiet add \"$PWD/../outer\" '{MODULE}'
        git submodule --quiet add \"$PWD/../absent\" absent; git commit -qm subs; git submodule --quiet update --init --recursive
        git submodule --quiet deinit -f absent"
    )
}
