//! What a person does with a workspace, with anything in it: it goes in, is worked on there, and the work comes back.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::edits::{Edits, Kind, PREAMBLE};
use super::random::Random;
use super::repository::{Source, Special};
use super::state::{Item, Items, Said, items, items_told, parse, same, same_items, shell, within};
use crate::guest::host::{Host, Ran, soak};

/// Cases of every day.
const CASES: u64 = 20;
/// Names a seed, or several with commas between them: only those are run.
const SEEDS: &str = "BANGER_WORKSPACE_SEED";
/// What both sides say alike.
const ALIKE: [&str; 7] = ["head", "branch", "status", "index", "flags", "log", "tags"];

#[test]
fn what_goes_in_arrives_as_it_is_and_what_is_done_there_comes_back() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    let chosen = std::env::var(SEEDS).ok().filter(|text| !text.is_empty());
    let seeds: Vec<u64> = match (chosen, soak()) {
        (Some(text), _) => text.split(',').map(|seed| seed.trim().parse().unwrap()).collect(),
        (None, None) => (0..CASES).collect(),
        (None, Some(count)) => (0..u64::try_from(count).unwrap()).collect(),
    };
    let mut failed = Vec::new();
    for seed in seeds {
        // Each one is told, and the others are tried all the same.
        if std::panic::catch_unwind(|| Case::new(&host, seed).run()).is_err() {
            failed.push(seed);
        }
        fs::remove_dir_all(host.home().join(format!("case-{seed}"))).unwrap();
    }
    assert!(failed.is_empty(), "these failed; {SEEDS} runs them alone: {failed:?}");
    host.ok(&["delete", "--discard", "web"]);
    host.ends_clean();
}

/// One repository, there and back.
pub(super) struct Case<'a> {
    host: &'a Host,
    seed: u64,
    directory: PathBuf,
    place: String,
    source: Source,
    random: Random,
}

impl Case<'_> {
    fn new(host: &Host, seed: u64) -> Case<'_> {
        let directory = host.home().join(format!("case-{seed}"));
        fs::create_dir(&directory).unwrap();
        let source = Source::new(seed, &directory);
        Case::of(host, seed, directory, source)
    }

    /// With a repository that is there, in a directory where more can be made.
    pub(super) fn of(host: &Host, seed: u64, directory: PathBuf, source: Source) -> Case<'_> {
        let random = Random::new(seed ^ 0x5eed);
        Case { host, seed, directory, place: format!("/root/case-{seed}"), source, random }
    }

    pub(super) fn run(mut self) {
        self.goes_in("the first time");
        if self.random.one_in(2) {
            self.source.go_on();
            self.goes_in("once more");
        }
        let (sent, there) = self.comes_back();
        if self.random.one_in(2) {
            self.source.go_on();
            self.meets(&sent, &there);
        }
    }

    fn what(&self, when: &str) -> String {
        format!("{SEEDS}={} ({:?}), {when}", self.seed, self.source.special)
    }

    fn prepare(&self, more: &[&str]) -> Ran {
        let root = self.source.root.to_str().unwrap();
        let mut args = vec!["workspace", "prepare", "web", root, "--guest-path", &self.place];
        args.extend(self.source.includes_untracked.then_some("--include-untracked"));
        self.host.run(&[&args[..], more].concat())
    }

    /// Prepares, and compares all that arrived.
    fn goes_in(&mut self, when: &str) {
        let what = self.what(when);
        let ran = self.prepare(&[]);
        assert_eq!(ran.code, 0, "{what}: {}", ran.stderr);
        let (said, here) = self.expected();
        let mut guest = self.in_guest(&self.source.look(&self.place));
        if self.source.special == Special::Deep && guest["log"].starts_with(&said["log"]) {
            // What is there of the history stays when more of it comes.
            guest.insert("log".to_owned(), said["log"].clone());
        }
        same(&what, &said, &guest, &ALIKE);
        same_items(&what, &here, &items_told(&guest));
        assert_eq!(guest["fsck"].escape_ascii().to_string(), "", "{what}");
        let config = String::from_utf8_lossy(&guest["config"]);
        assert!(!config.contains("secret"), "{what}: {config}");
        let refs = String::from_utf8_lossy(&guest["refs"]);
        assert!(!refs.contains("elsewhere") && !refs.contains("unrelated"), "{what}: {refs}");
    }

    /// What is to arrive: of a long history, what a shallow clone has.
    fn expected(&self) -> (Said, Items) {
        let (mut said, items) = self.source.expected();
        if self.source.special == Special::Deep {
            let script = "rm -rf ../shallow; git clone -q --depth 10 \"file://$PWD\" ../shallow; cd ../shallow
                git log --format=%H";
            said.insert("log".to_owned(), shell(&self.source.root, script.as_bytes()));
            said.remove("tags");
        }
        if self.source.special == Special::NoCommit {
            said.remove("tags");
        }
        (said, items)
    }

    /// Runs a script in the guest, and takes its answers apart.
    #[track_caller]
    fn in_guest(&self, script: &[u8]) -> Said {
        let run = "cat >/tmp/script; sh /tmp/script </dev/null";
        let script = [PREAMBLE.as_bytes(), script].concat();
        let ran = self.host.pipe(&["exec", "-i", "--workdir", "/", "web", "--", "sh", "-c", run], &script);
        assert_eq!(ran.code, 0, "{}: {}\n{}", self.what("in the guest"), ran.stderr, String::from_utf8_lossy(&script));
        parse(&ran.stdout)
    }

    /// Works in the guest, exports, and applies that to what the host had committed.
    /// Gives the files that were sent, and what the guest has made of them.
    fn comes_back(&mut self) -> (Items, Items) {
        let (_, here) = self.source.expected();
        let script = self.work(&here);
        let script = [within(&self.place, &script), Source::look_at_result(&self.place)].concat();
        let guest = self.in_guest(&script);
        let what = self.what("the way back");
        let base = shell(&self.source.root, b"git rev-parse -q --verify HEAD || :");
        let base = String::from_utf8(base).unwrap().trim().to_owned();
        let patch = self.directory.join("patch");
        let mut args = vec!["workspace", "export", "web", "-o", patch.to_str().unwrap()];
        if !base.is_empty() {
            args.extend(["--base-commit", &base]);
        }
        let ran = self.host.run(&args);
        assert_eq!(ran.code, 0, "{what}: {}", ran.stderr);
        let fresh = self.directory.join("fresh");
        self.apply(&patch, &base, &fresh, &what);
        let tree = shell(&fresh, b"git write-tree");
        assert_eq!(tree.escape_ascii().to_string(), guest["result"].escape_ascii().to_string(), "{what}: the tree");
        if self.source.special.keeps_bytes() && self.source.special != Special::Sparse {
            let kept: BTreeSet<&[u8]> = guest["kept"].split(|byte| *byte == 0).collect();
            // Where git is told not to look, the patch has what git believes.
            let flags = guest["flags"].split(|byte| *byte == 0).filter_map(|record| record.split_at_checked(2));
            let unseen: BTreeSet<&[u8]> =
                flags.filter(|(flag, _)| flag[0].is_ascii_lowercase()).map(|(_, path)| path).collect();
            let is_compared = |path: &Vec<u8>| kept.contains(&path[..]) && !unseen.contains(&path[..]);
            let mut there = items_told(&guest);
            there.retain(|path, _| is_compared(path));
            let mut back = items(&fresh, &shell(&fresh, b"git ls-files -z"));
            back.retain(|path, _| !unseen.contains(&path[..]));
            same_items(&what, &back, &there);
        }
        (here, items_told(&guest))
    }

    /// Both sides have worked on. Nothing of the guest's is overwritten unasked: what only the host has changed arrives, or
    /// nothing does. Asked for, all of the host's arrives.
    fn meets(&self, sent: &Items, before: &Items) {
        let here = self.source.expected().1;
        let ran = self.prepare(&[]);
        let after = items_told(&self.in_guest(&Source::look_at_result(&self.place)));
        let what = self.what("both have worked on");
        if ran.code == 0 {
            let paths: BTreeSet<&Vec<u8>> = sent.keys().chain(before.keys()).chain(here.keys()).collect();
            let of_whom = |path: &&Vec<u8>| if sent.get(*path) == before.get(*path) { &here } else { before };
            let expected = paths.into_iter().filter_map(|path| Some((path.clone(), of_whom(&path).get(path)?.clone())));
            same_items(&what, &expected.collect(), &after);
            return;
        }
        assert!(ran.code == 1 && ran.stderr.contains("--force"), "{what}: {}", ran.stderr);
        same_items(&format!("{what}, refused: {}", ran.stderr), before, &after);
        let forced = self.prepare(&["--force"]);
        assert_eq!(forced.code, 0, "{what}: {}", forced.stderr);
        let mut after = items_told(&self.in_guest(&Source::look_at_result(&self.place)));
        after.retain(|path, _| here.contains_key(path));
        same_items(&format!("{what}, forced"), &here, &after);
    }

    /// Changes in the guest, as a script: some of them staged, some committed.
    fn work(&mut self, here: &Items) -> Vec<u8> {
        let kind = |item: &Item| if matches!(item, Item::Link(_)) { Kind::Link } else { Kind::File };
        let is_within = |path: &[u8]| self.source.submodules.iter().any(|one| path.starts_with(one.as_bytes()));
        let files = here.iter().filter(|(path, _)| !is_within(path) && *path != super::repository::ENCODED);
        let mut edits = Edits::of(files.map(|(path, item)| (path.clone(), kind(item))).collect());
        for _ in 0..self.random.between(1, 3) {
            let count = self.random.between(1, 6);
            edits.change(&mut self.random, count);
            if self.random.one_in(3) {
                edits.stage(&mut self.random);
            }
            if self.random.one_in(3)
                && !matches!(self.source.special, Special::Conflict | Special::Sparse | Special::NoCommit)
            {
                edits.commit("in the guest");
            }
        }
        edits.take_script()
    }

    /// Applies a patch as a person does.
    #[track_caller]
    fn apply(&self, patch: &Path, base: &str, fresh: &Path, what: &str) {
        let root = self.source.root.to_str().unwrap();
        let settings = "for name in autocrlf eol; do value=$(git -C \"$1\" config core.$name) || continue
            git config core.$name \"$value\"; done";
        let begin = if base.is_empty() {
            format!("git init -q '{}'", fresh.display())
        } else {
            let fresh = fresh.display();
            format!(
                "git clone -q -n 'file://{root}' '{fresh}'; set -- '{root}'; cd '{fresh}'; {settings}
                 git fetch -q origin {base}; git checkout -q --detach {base}"
            )
        };
        shell(&self.directory, begin.as_bytes());
        let script = format!("[ ! -s '{0}' ] || git apply --index '{0}' 2>&1 || echo failed", patch.display());
        let said = shell(fresh, script.as_bytes());
        let said = String::from_utf8_lossy(&said);
        // What it says of white space is no error.
        assert!(!said.contains("failed"), "{what}: git apply: {said}\n{}", state_of(patch));
    }
}

fn state_of(patch: &Path) -> String {
    fs::read(patch).unwrap().escape_ascii().to_string().replace("\\n", "\n")
}
