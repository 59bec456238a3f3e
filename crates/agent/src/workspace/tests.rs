//! Workspaces on a real disk, with real indexes made and judged by git.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wire::agent::workspace::{Added, Difference, FileMode, Found, How, Settled, State, Surveyable, Surveyed};

use super::{remove, settle, survey};

/// A workspace that is a git repository, as a host makes one.
struct Repo {
    directory: tempfile::TempDir,
}

impl Repo {
    fn new(init: &[&str]) -> Repo {
        let repo = Repo { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(repo.path("")).unwrap();
        repo.git(&[&["init", "-q"], init].concat());
        repo
    }

    /// With three committed files, long unchanged, and an index that knows nothing of them.
    fn committed(init: &[&str]) -> Repo {
        let repo = Repo::new(init);
        for (path, text) in [("a", "one"), ("sub/b", "two"), ("sub/deep/c", "three")] {
            repo.write(path, text);
        }
        repo.git(&["add", "-A"]);
        repo.git(&["commit", "-q", "-m", "all"]);
        repo.forget_stats();
        repo
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("repo").join(path)
    }

    fn top(&self) -> OwnedFd {
        File::open(self.path("")).unwrap().into()
    }

    /// Writes a file as one that was last changed long ago.
    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let then = SystemTime::now() - Duration::from_secs(5000);
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }

    /// Other content of the same length, with the time it had.
    fn swap(&self, path: &str, text: &str) {
        let path = self.path(path);
        let before = fs::metadata(&path).unwrap();
        assert_eq!(before.len(), text.len() as u64);
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.directory.path());
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0").current_dir(self.path(""));
        git.args(["-c", "user.name=x", "-c", "user.email=x@x", "-c", "core.excludesFile="]).args(arguments);
        git
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn feed(&self, arguments: &[&str], input: &str) {
        let mut git = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        git.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(git.wait().unwrap().success());
    }

    /// The index as one that was made elsewhere.
    fn forget_stats(&self) {
        fs::remove_file(self.path(".git/index")).unwrap();
        self.git(&["read-tree", "HEAD"]);
    }

    /// What git takes for changed, by the stat fields of the index alone.
    fn stat_dirty(&self) -> Vec<String> {
        self.git(&["diff-files", "--name-only"]).lines().map(str::to_owned).collect()
    }

    fn sent(&self, path: &str, state: State) -> Settled {
        let hash = Sha256::digest(fs::read(self.path(path)).unwrap_or_default()).into();
        Settled { how: How::Sent, state, hash, path: path.into() }
    }

    fn all_sent(&self) -> Vec<Settled> {
        self.git(&["ls-files"]).lines().map(|path| self.sent(path, State::Clean)).collect()
    }

    fn all_sent_of(&self, paths: &[&str]) -> Vec<Settled> {
        paths.iter().map(|path| self.sent(path, State::Clean)).collect()
    }

    fn settle(&self, records: &[Settled]) -> u64 {
        settle::settle(self.top(), list(records).as_slice()).unwrap()
    }

    fn survey(&self, added: Added) -> (Surveyed, Vec<String>) {
        let mut out = Vec::new();
        let surveyed = survey::survey(self.top(), added, &mut out).unwrap();
        let records = out.split_inclusive(|byte| *byte == 0).map(|record| {
            let told = Surveyable::parse(record.strip_suffix(b"\0").unwrap()).unwrap();
            let path = String::from_utf8(told.path).unwrap();
            let content = match told.mode {
                FileMode::Other => vec![0; 32],
                FileMode::Link => {
                    let target = fs::read_link(self.path(&path)).unwrap();
                    Sha256::digest(target.to_str().unwrap()).to_vec()
                }
                _ => Sha256::digest(fs::read(self.path(&path)).unwrap()).to_vec(),
            };
            assert_eq!(told.hash.to_vec(), content, "{path}");
            let kind = match told.difference {
                Difference::Added => 'A',
                Difference::Modified => 'M',
                Difference::Deleted => 'D',
            };
            format!("{kind} {:?} {path}", told.mode)
        });
        (surveyed, records.collect())
    }

    fn told(&self, added: bool) -> Vec<String> {
        let (surveyed, told) = self.survey(if added { Added::Hashed } else { Added::Not });
        assert_eq!(surveyed.found, Found::Workspace);
        told
    }

    fn remove(&self, names: &[&str]) -> u64 {
        let list: String = names.iter().map(|name| format!("{name}\0")).collect();
        remove::remove(self.top(), list.as_bytes()).unwrap()
    }
}

fn list(records: &[Settled]) -> Vec<u8> {
    let mut list = Vec::new();
    for record in records {
        record.write(&mut list);
    }
    list.push(0);
    list
}

fn kept(records: &[Settled]) -> Vec<Settled> {
    records.iter().map(|record| Settled { how: How::Kept, hash: [0; 32], ..record.clone() }).collect()
}

#[test]
fn git_takes_settled_files_for_unchanged_without_reading_them() {
    for (init, version) in
        [(&[][..], "2"), (&[], "4"), (&["--object-format=sha256"], "2"), (&["--object-format=sha256"], "4")]
    {
        let repo = Repo::committed(init);
        repo.git(&["config", "core.trustCtime", "false"]);
        repo.git(&["update-index", "--index-version", version]);
        assert_eq!(repo.stat_dirty(), ["a", "sub/b", "sub/deep/c"], "what this test begins with");
        let before = repo.git(&["ls-files", "-s"]);
        assert_eq!(repo.settle(&repo.all_sent()), 3);
        assert_eq!(repo.stat_dirty(), [""; 0], "{init:?} version {version}");
        repo.swap("sub/b", "TWO");
        assert_eq!(repo.stat_dirty(), [""; 0], "git did read");
        assert_eq!(repo.git(&["status", "--porcelain"]), "");
        assert_eq!(repo.git(&["ls-files", "-s"]), before);
        repo.git(&["fsck", "--strict"]);
        assert!(!repo.path(".git/index.lock").exists() && !repo.path(".git/banger/index.new").exists());
    }
}

#[test]
fn an_index_without_checksum_or_with_more_than_files_is_filled_as_well() {
    let repo = Repo::committed(&[]);
    repo.write("new", "intended");
    repo.git(&["add", "-N", "new"]);
    repo.git(&["update-index", "--skip-worktree", "a"]);
    fs::remove_file(repo.path("a")).unwrap();
    symlink("sub/b", repo.path("link")).unwrap();
    repo.git(&["add", "link"]);
    let blob = repo.git(&["rev-parse", "HEAD:sub/b"]);
    for stage in [2, 3] {
        repo.feed(&["update-index", "--index-info"], &format!("100644 {} {stage}\tfight\n", blob.trim()));
    }
    let mut index = fs::read(repo.path(".git/index")).unwrap();
    // As `index.skipHash` makes it.
    *index.last_chunk_mut::<20>().unwrap() = [0; 20];
    fs::write(repo.path(".git/index"), index).unwrap();
    let before = repo.git(&["ls-files", "-s", "-t"]);
    let mut records: Vec<Settled> = ["new", "sub/b", "sub/deep/c"].map(|path| repo.sent(path, State::Clean)).into();
    records.push(Settled { hash: Sha256::digest("sub/b").into(), ..repo.sent("link", State::Clean) });
    assert_eq!(repo.settle(&records), 3, "two files and the link");
    assert_eq!(fs::read(repo.path(".git/index")).unwrap().last_chunk(), Some(&[0; 20]));
    assert_eq!(repo.git(&["ls-files", "-s", "-t"]), before);
    assert_eq!(repo.stat_dirty(), ["fight", "fight", "new"], "what git shows of these always");
    let (surveyed, told) = repo.survey(Added::Hashed);
    assert_eq!((surveyed.index_changed, told), (false, vec![]));
}

#[test]
fn only_clean_files_are_filled_in_and_only_as_they_were_sent() {
    let repo = Repo::committed(&[]);
    repo.write("a", "ONE, changed on the host");
    let mut records = repo.all_sent();
    records[0].state = State::Modified;
    repo.write("loose", "not in the index");
    records.push(repo.sent("loose", State::Untracked));
    assert_eq!(repo.settle(&records), 2);
    assert_eq!(repo.git(&["status", "--porcelain"]), " M a\n?? loose\n");
    // It comes again, with an index that knows nothing: the guest's own changes show, whatever is said of these files.
    repo.write("sub/b", "two and more");
    repo.forget_stats();
    assert_eq!(repo.settle(&kept(&records)), 2);
    assert_eq!(repo.stat_dirty(), ["a", "sub/b"]);
    assert_eq!(repo.told(true), ["M Plain sub/b"]);
}

#[test]
fn a_file_of_this_second_is_read_when_nothing_else_tells() {
    let repo = Repo::committed(&[]);
    repo.git(&["config", "core.trustCtime", "false"]);
    let later = SystemTime::now() + Duration::from_secs(3000);
    File::options().write(true).open(repo.path("a")).unwrap().set_modified(later).unwrap();
    let records = repo.all_sent();
    assert_eq!(repo.settle(&records), 3);
    assert_eq!(repo.stat_dirty(), [""; 0]);
    repo.swap("a", "ONE");
    assert_eq!(repo.stat_dirty(), ["a"], "git reads what may have changed unseen");
    assert_eq!(repo.told(false), ["M Plain a"]);
    repo.forget_stats();
    assert_eq!(repo.settle(&kept(&records)), 2);
    assert_eq!(repo.stat_dirty(), ["a"]);
}

#[test]
fn an_index_somebody_writes_is_left_to_them() {
    let repo = Repo::committed(&[]);
    fs::write(repo.path(".git/index.lock"), "").unwrap();
    assert_eq!(repo.settle(&repo.all_sent()), 0);
    assert_eq!(repo.stat_dirty().len(), 3);
    assert_eq!(fs::read(repo.path(".git/index.lock")).unwrap(), b"");
    assert_eq!(repo.told(true), [""; 0], "the notes are there all the same");
    fs::remove_file(repo.path(".git/index.lock")).unwrap();
    fs::write(repo.path(".git/index"), "no index").unwrap();
    assert_eq!(repo.settle(&repo.all_sent_of(&["a"])), 0);
    assert_eq!(fs::read(repo.path(".git/index")).unwrap(), b"no index");
    fs::remove_file(repo.path(".git/index")).unwrap();
    assert_eq!(repo.settle(&repo.all_sent_of(&["a"])), 0);
}

#[test]
fn a_list_that_breaks_off_settles_nothing() {
    let repo = Repo::committed(&[]);
    fs::create_dir(repo.path(".git/banger")).unwrap();
    fs::write(repo.path(".git/banger/sending"), "").unwrap();
    assert_eq!(repo.survey(Added::Hashed).0.found, Found::Unfinished);
    let whole = list(&repo.all_sent());
    for end in 0..whole.len() {
        settle::settle(repo.top(), &whole[..end]).unwrap_err();
    }
    let twice = [repo.all_sent(), repo.all_sent()].concat();
    settle::settle(repo.top(), list(&twice).as_slice()).unwrap_err();
    assert_eq!(repo.survey(Added::Hashed).0.found, Found::Unfinished);
    assert!(!repo.path(".git/banger/sent").exists());
    repo.settle(&repo.all_sent());
    assert_eq!(repo.survey(Added::Hashed).0.found, Found::Workspace);
    assert!(!repo.path(".git/banger/sending").exists());
    // The next transfer, which is told of what is there by the notes of the one before.
    fs::write(repo.path(".git/banger/sending"), "").unwrap();
    repo.write("a", "half of it");
    let (surveyed, told) = repo.survey(Added::Hashed);
    assert_eq!((surveyed.found, told), (Found::Unfinished, vec!["M Plain a".to_owned()]));
    fs::remove_file(repo.path(".git/banger/sending")).unwrap();
    fs::write(repo.path(".git/banger/sent"), "").unwrap();
    assert_eq!(repo.survey(Added::Hashed).0.found, Found::Unfinished, "notes that a power cut took");
}

#[test]
fn what_no_host_sent_is_foreign() {
    let repo = Repo::new(&[]);
    assert_eq!(repo.survey(Added::Hashed), (Surveyed { found: Found::Foreign, index_changed: false }, vec![]));
    fs::remove_dir_all(repo.path(".git")).unwrap();
    assert_eq!(repo.survey(Added::Hashed).0.found, Found::Nothing);
}

#[test]
fn differences_are_told() {
    let repo = Repo::committed(&[]);
    for path in ["run", "touched", "gone", "becomes/directory", "becomes-link/x", "pipe", "later"] {
        repo.write(path, path);
    }
    symlink("a", repo.path("link")).unwrap();
    let mut records = repo.all_sent();
    records.extend(repo.all_sent_of(&[
        "run",
        "touched",
        "gone",
        "becomes/directory",
        "becomes-link/x",
        "pipe",
        "later",
    ]));
    records.push(Settled { hash: Sha256::digest("a").into(), ..repo.sent("link", State::Untracked) });
    let unknown = Settled { how: How::Kept, ..repo.sent("later", State::Clean) };
    *records.iter_mut().find(|record| record.path == b"later").unwrap() = unknown;
    repo.settle(&records);
    assert_eq!(repo.told(true), ["M Plain later"], "nobody knows what was sent of it");

    repo.swap("a", "ONE");
    fs::set_permissions(repo.path("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(repo.path("sub/b"), fs::Permissions::from_mode(0o600)).unwrap();
    repo.write("touched", "touched");
    fs::remove_file(repo.path("gone")).unwrap();
    fs::remove_file(repo.path("later")).unwrap();
    fs::remove_file(repo.path("becomes/directory")).unwrap();
    repo.write("becomes/directory/inside", "x");
    fs::remove_dir_all(repo.path("becomes-link")).unwrap();
    symlink("/etc", repo.path("becomes-link")).unwrap();
    fs::remove_file(repo.path("link")).unwrap();
    symlink("b", repo.path("link")).unwrap();
    fs::remove_file(repo.path("pipe")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, repo.path("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let sent = [
        "M Plain a",
        "D Other becomes-link/x",
        "D Other becomes/directory",
        "D Other gone",
        "D Other later",
        "M Link link",
        "M Other pipe",
        "M Executable run",
    ];
    assert_eq!(repo.told(false), sent);

    repo.write(".gitignore", "*.o\n");
    repo.write("sub/x.o", "ignored");
    repo.write("sub-2/new", "new");
    repo.write("sub/deep.er/new", "new");
    repo.write("nested/in/it/file", "of another repository");
    repo.write("nested/in/.git", "gitdir: elsewhere");
    repo.write(".git/own", "not of the work tree");
    let added = [
        "A Plain .gitignore",
        "A Link becomes-link",
        "A Plain becomes/directory/inside",
        "A Plain sub-2/new",
        "A Plain sub/deep.er/new",
        "A Plain sub/x.o",
    ];
    assert_eq!(repo.told(true), [&sent[..], &added].concat());
}

#[test]
fn an_index_that_names_something_else_is_told() {
    let repo = Repo::committed(&[]);
    repo.settle(&repo.all_sent());
    let changed = || repo.survey(Added::Not).0.index_changed;
    assert!(!changed());
    repo.write("a", "one");
    repo.git(&["update-index", "--refresh"]);
    repo.git(&["update-index", "--index-version", "4"]);
    assert!(!changed(), "the same in another form");
    repo.git(&["update-index", "--chmod=+x", "a"]);
    assert!(changed());
    repo.git(&["update-index", "--chmod=-x", "a"]);
    assert!(!changed());
    repo.git(&["update-index", "--assume-unchanged", "a"]);
    assert!(changed());
    fs::remove_file(repo.path(".git/index")).unwrap();
    assert!(changed());
    repo.settle(&repo.all_sent_of(&["a"]));
    assert!(!changed(), "there was none");
}

#[test]
fn files_are_removed_and_no_link_is_followed() {
    let repo = Repo::new(&[]);
    let outside = repo.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    for path in ["a", "d/e/f/one", "d/e/two", "full/stays", "full/goes", "old/file"] {
        repo.write(path, "x");
    }
    symlink(&outside, repo.path("link")).unwrap();
    symlink("../outside/file", repo.path("full/link")).unwrap();
    fs::create_dir_all(repo.path("empty/dir")).unwrap();
    let names = [
        "a",
        "d/e/f/one",
        "d/e/two",
        "full/goes",
        "full/link",
        "link/file",
        "none",
        "none/at/all",
        "a/below",
        "empty/dir",
        "full",
    ];
    assert_eq!(repo.remove(&names), 5);
    assert!(outside.join("file").exists());
    let left = |path: &str| fs::symlink_metadata(repo.path(path)).is_ok();
    assert_eq!(
        ["a", "d", "full/stays", "link", "empty", "old/file"].map(left),
        [false, false, true, true, false, true]
    );
    assert_eq!(repo.remove(&["link", "full/stays", "old/file"]), 3);
    let names: Vec<_> = fs::read_dir(repo.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [".git"]);
    for bad in [&b"../outside/file\0"[..], b"/etc/passwd\0", b"\0", b"a", &[b'a'; 5000]] {
        remove::remove(repo.top(), bad).unwrap_err();
    }
    assert!(Path::new("/etc/passwd").exists() && outside.join("file").exists());
}

#[test]
fn notes_are_not_written_through_a_link() {
    let repo = Repo::committed(&[]);
    let outside = repo.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, repo.path(".git/banger")).unwrap();
    settle::settle(repo.top(), list(&repo.all_sent()).as_slice()).unwrap_err();
    fs::remove_file(repo.path(".git/banger")).unwrap();
    fs::create_dir(repo.path(".git/banger")).unwrap();
    symlink(outside.join("victim"), repo.path(".git/banger/sent.new")).unwrap();
    symlink(outside.join("victim"), repo.path(".git/banger/index.new")).unwrap();
    assert_eq!(repo.settle(&repo.all_sent()), 3);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_deep_tree_needs_few_descriptors() {
    let repo = Repo::new(&[]);
    let path = |depth: usize| format!("{}file", "d/".repeat(depth));
    let paths: Vec<String> = (0..200).step_by(3).map(path).collect();
    for path in &paths {
        repo.write(path, "x");
    }
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    repo.settle(&repo.all_sent_of(&names));
    assert_eq!(repo.told(true), [""; 0]);
    assert_eq!(repo.remove(&names), paths.len() as u64);
    assert!(!repo.path("d").exists());
}

#[test]
fn a_path_longer_than_any_is_passed_over() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let repo = Repo::committed(&[]);
    repo.settle(&repo.all_sent());
    let name = "n".repeat(250);
    let mut directory = repo.top();
    for _ in 0..20 {
        mkdirat(&directory, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        directory = openat(&directory, name.as_str(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    openat(&directory, "file", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
    repo.write("new", "new");
    assert_eq!(repo.told(true), ["A Plain new"]);
}
