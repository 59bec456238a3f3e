//! A repository of a real git, sent to a directory that plays the guest, and looked at there by git.

mod again;
mod kinds;
mod secret;
mod shapes;
mod tooling;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tree::unpack::{Policy, unpack};
use wire::agent::workspace::{Difference, FileMode, Found, How, SENDING, STATE_DIR, Surveyable};
use wire::api::WorkspaceSource;

use super::{GuestFound, Notes, Repository, Transfer, WorkspaceError};
use crate::model::progress::Watcher;

/// A host's repository, a guest, and what lies between.
struct Bench {
    dir: TempDir,
    source: WorkspaceSource,
    notes: Option<Notes>,
    force: bool,
    sent: u32,
}

impl Bench {
    /// With an empty repository.
    fn new() -> Bench {
        Bench::with(&[])
    }

    fn with(init: &[&str]) -> Bench {
        let bench = Bench::bare_bench();
        std::fs::create_dir(bench.host()).unwrap();
        bench.git(&[&["init", "-q", "-b", "main"], init].concat());
        bench
    }

    /// Without one.
    fn bare_bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("guest")).unwrap();
        let host_path = dir.path().join("host").to_str().unwrap().to_owned();
        let source = WorkspaceSource { host_path, ..WorkspaceSource::default() };
        Bench { dir, source, notes: None, force: false, sent: 0 }
    }

    fn host(&self) -> PathBuf {
        PathBuf::from(&self.source.host_path)
    }

    fn guest(&self) -> PathBuf {
        self.dir.path().join("guest")
    }

    /// Runs git on the host.
    fn git(&self, args: &[&str]) -> String {
        git(&self.host(), args)
    }

    /// Runs git in the guest.
    fn there(&self, args: &[&str]) -> String {
        git(&self.guest(), args)
    }

    fn write(&self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
        write(&self.host(), path, content);
    }

    /// Records everything as a commit.
    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    fn inspect(&self) -> Result<Repository, WorkspaceError> {
        Repository::inspect(&self.source)
    }

    /// What a guest's agent would say of the repositories that were sent.
    fn survey(&self) -> BTreeMap<Vec<u8>, GuestFound> {
        let Some(notes) = &self.notes else { return BTreeMap::new() };
        let of = |(path, _): (Vec<u8>, _)| {
            let repo = notes.repo(&path).unwrap();
            let top = self.guest().join(OsStr::from_bytes(&path));
            let differences = repo.files.iter().filter_map(|file| {
                let now = survey(&top.join(OsStr::from_bytes(&file.path.0)));
                let (mode, hash) = now.unwrap_or((FileMode::Other, [0; 32]));
                let difference = if now.is_some() { Difference::Modified } else { Difference::Deleted };
                let is_same = (mode, hash) == (file.mode, *file.digest.as_bytes());
                (!is_same).then(|| Surveyable { path: file.path.0.clone(), difference, mode, hash })
            });
            let differences = differences.collect();
            let head = git(&top, &["rev-parse", "-q", "--verify", "HEAD"]).trim().to_owned();
            let head = Some(head).filter(|head| !head.is_empty());
            let index_changed = !top.join(".git/banger-index").exists()
                || std::fs::read_to_string(top.join(".git/banger-index")).unwrap() != git(&top, &["ls-files", "-s"]);
            (path, GuestFound { found: Found::Workspace, index_changed, head, differences })
        };
        notes.repositories().into_iter().map(of).collect()
    }

    fn plan(&mut self) -> Result<Transfer, WorkspaceError> {
        self.sent += 1;
        let scratch = self.dir.path().join(format!("scratch {}", self.sent));
        std::fs::create_dir(&scratch).unwrap();
        self.inspect()?.plan(self.notes.as_ref(), &self.survey(), self.force, &scratch)
    }

    /// Brings the guest up to date, as its agent would.
    fn send(&mut self) -> Result<Transfer, WorkspaceError> {
        let mut transfer = self.plan()?;
        for path in transfer.remove() {
            let file = self.guest().join(OsStr::from_bytes(&path));
            if file.symlink_metadata().is_ok() {
                std::fs::remove_file(&file).unwrap();
            }
            let mut parent = file.parent().unwrap();
            while std::fs::remove_dir(parent).is_ok() {
                parent = parent.parent().unwrap();
            }
        }
        let mut stream = Vec::new();
        transfer.stream(&mut stream, Watcher::none())?;
        let guest = std::fs::File::open(self.guest()).unwrap();
        unpack(guest.into(), Policy::hostile(true), stream.as_slice()).unwrap();
        for (path, settled) in transfer.settle() {
            let top = self.guest().join(OsStr::from_bytes(&path));
            for one in settled.iter().filter(|one| one.how == How::Sent) {
                let there = survey(&top.join(OsStr::from_bytes(&one.path)));
                assert_eq!(there.map(|(_, hash)| hash), Some(one.hash), "{}", one.path.escape_ascii());
            }
            std::fs::remove_file(top.join(SENDING)).unwrap();
            std::fs::remove_dir(top.join(STATE_DIR)).unwrap();
            std::fs::write(top.join(".git/banger-index"), git(&top, &["ls-files", "-s"])).unwrap();
        }
        let notes = self.dir.path().join("notes.json");
        transfer.notes().store(&notes).unwrap();
        self.notes = Notes::load(&notes).unwrap();
        Ok(transfer)
    }

    /// Sends it, and sees that git says the same of both sides.
    fn arrives(&mut self) -> Transfer {
        let transfer = self.send().unwrap();
        self.compare("");
        transfer
    }

    fn compare(&self, below: &str) {
        let (host, guest) = (self.host().join(below), self.guest().join(below));
        let asked: [&[&str]; 6] = [
            &["status", "--porcelain=v2", "--branch", "-z", "-uno"],
            &["ls-files", "-z", "--stage"],
            &["ls-files", "-z", "-t", "-v"],
            &["diff", "--binary"],
            &["diff", "--binary", "--cached"],
            &["for-each-ref", "refs/tags"],
        ];
        for args in asked {
            assert_eq!(git(&host, args), git(&guest, args), "{args:?}");
        }
        sound(&guest);
    }
}

/// Sees that git finds nothing to complain of.
fn sound(guest: &Path) {
    let answer = command(guest, &["fsck", "--strict", "--no-progress", "--no-dangling"]).output().unwrap();
    let said = String::from_utf8([answer.stdout, answer.stderr].concat()).unwrap();
    let is_sound = said.lines().all(|line| line.starts_with("notice: "));
    assert!(answer.status.success() && is_sound, "{said}");
}

fn command(directory: &Path, args: &[&str]) -> std::process::Command {
    let mut command = sys::process::command("git");
    command
        .current_dir(directory)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@example.org");
    }
    command
}

fn git(directory: &Path, args: &[&str]) -> String {
    let answer = command(directory, args).output().unwrap();
    let stderr = String::from_utf8_lossy(&answer.stderr);
    // These say no by failing.
    let may_fail = matches!(args, ["rev-parse" | "symbolic-ref" | "merge", "-q", ..]);
    assert!(answer.status.success() || may_fail, "git {args:?}: {stderr}");
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

fn write(top: &Path, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
    let path = top.join(OsStr::from_bytes(path.as_ref()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// What a file is, and the hash of what is in it.
fn survey(path: &Path) -> Option<(FileMode, [u8; 32])> {
    use std::os::unix::fs::PermissionsExt;
    let meta = path.symlink_metadata().ok()?;
    if meta.is_symlink() {
        let target = std::fs::read_link(path).unwrap();
        return Some((FileMode::Link, Sha256::digest(target.as_os_str().as_bytes()).into()));
    }
    if !meta.is_file() {
        return None;
    }
    let mode = if meta.permissions().mode() & 0o100 == 0 { FileMode::Plain } else { FileMode::Executable };
    Some((mode, Sha256::digest(std::fs::read(path).unwrap()).into()))
}
