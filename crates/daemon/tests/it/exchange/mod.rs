//! How the work in a guest comes back: the real agent below a directory of this host, git of this host in the guest's place.

mod branch;
mod hostile;
mod mbox;
mod patch;
mod without_git;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::future::ready;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use daemon::exchange::{ExchangeError, Look, Sent, SentFile, SentRepository, export, look};
use daemon::model::digest::Digest;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use wire::agent::workspace::{FileMode, How, Settled, State};
use wire::api::{ExportFormat, ExportQuery, Exported, WORKSPACE_PATH, Workspace};

use super::agent::{Running, SOON, running_as};

pub(super) const BYTES_MAX: u64 = 64 << 20;

/// A repository here, and what was sent of it in a guest.
pub(super) struct Pair {
    pub(super) dir: tempfile::TempDir,
    pub(super) running: Running,
    pub(super) host: PathBuf,
    pub(super) guest: PathBuf,
    pub(super) workspace: Workspace,
    pub(super) sent: Sent,
}

/// git in a directory, with no configuration of this machine's; what it prints.
pub(super) fn git(dir: &Path, args: &[&str]) -> String {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    String::from_utf8(git_os(dir, &args)).unwrap()
}

pub(super) fn git_os(dir: &Path, args: &[&OsStr]) -> Vec<u8> {
    let mut command = sys::process::command("git");
    command.arg("-C").arg(dir).args(["-c", "protocol.file.allow=always"]).args(args);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Ä Person").env(format!("GIT_{who}_EMAIL"), "person@example.org");
        command.env(format!("GIT_{who}_DATE"), "1700000000 +0200");
    }
    sys::process::run(&mut command).unwrap_or_else(|error| panic!("git {args:?}: {error}"))
}

pub(super) fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A repository of many kinds of files, with a commit.
pub(super) fn repository(dir: &Path) {
    git(dir, &["init", "-q", "-b", "main", "."]);
    write(dir, "a", "one\ntwo\nthree\n");
    write(dir, "d/deep/file", "deep\n".repeat(100));
    write(dir, "d/gone", "gone\n");
    write(dir, "binary", b"\0\x01\x02 binary \xff");
    write(dir, "run.sh", "#!/bin/sh\n");
    write(dir, "crlf.txt", "one\r\ntwo\r\n");
    write(dir, "blank", "\n\n\n x\n\n");
    write(dir, "empty", "");
    write(dir, ".gitignore", "*.o\n/target\n");
    write(dir, "with space", "x\n");
    symlink("a", dir.join("link")).unwrap();
    std::fs::write(dir.join(OsStr::from_bytes(b"od\xffd \"n\n")), "odd\n").unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "first"]);
}

/// Changes of all kinds; commits none of them.
pub(super) fn edit(dir: &Path) {
    write(dir, "a", "one\nTWO\nthree\nfour");
    write(dir, "binary", b"\0\x01\x02 other \xfe\0");
    write(dir, "blank", "\n\n x\n\n\n\n");
    write(dir, "crlf.txt", "one\r\n2\r\n");
    write(dir, "staged", "staged\n");
    git(dir, &["add", "staged"]);
    write(dir, "staged", "staged, and then changed\n");
    write(dir, "new/-dash", "n\n");
    write(dir, "new/empty", "");
    write(dir, "new/\"quoted\"\ttab", "q\n");
    write(dir, "ignored.o", "o");
    write(dir, "target/huge", "t");
    std::fs::remove_file(dir.join("d/gone")).unwrap();
    std::fs::rename(dir.join("d/deep/file"), dir.join("moved")).unwrap();
    std::fs::set_permissions(dir.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(dir.join("link")).unwrap();
    symlink("nowhere/at all", dir.join("link")).unwrap();
    std::fs::remove_file(dir.join("with space")).unwrap();
    write(dir, "with space/file", "a file became a directory\n");
    std::fs::write(dir.join(OsStr::from_bytes(b"new/\xfe\xff")), "bytes\n").unwrap();
}

/// All files below a directory but git's own: their modes and contents.
pub(super) fn tree(dir: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    files(dir, &|name| name == OsStr::new(".git"))
}

fn files(dir: &Path, skip: &dyn Fn(&OsStr) -> bool) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().map(Result::unwrap).filter(|e| !skip(&e.file_name())) {
            let meta = entry.metadata().unwrap();
            let name = entry.path().strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if meta.is_symlink() {
                let target = std::fs::read_link(entry.path()).unwrap();
                found.insert(name, (0o120_000, target.as_os_str().as_bytes().to_vec()));
            } else {
                let mode = if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
                found.insert(name, (mode, std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    found
}

/// Everything below a directory, git's own files too.
pub(super) fn everything(dir: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    files(dir, &|_| false)
}

impl Pair {
    pub(super) async fn new(make: impl FnOnce(&Path)) -> Pair {
        Pair::with_path(None, make).await
    }

    /// A pair whose guest finds programs in `path` only.
    pub(super) async fn with_path(path: Option<&Path>, make: impl FnOnce(&Path)) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("host");
        std::fs::create_dir_all(dir.path().join("scratch")).unwrap();
        std::fs::create_dir(&host).unwrap();
        make(&host);
        let image_env = path.map(|path| ("PATH".to_owned(), path.to_str().unwrap().to_owned()));
        let running = running_as(image_env.into_iter().collect()).await;
        let guest = running._dir.path().join("boot/root").join(&WORKSPACE_PATH[1..]);
        let mut pair = Pair { dir, running, host, guest, workspace: blank(), sent: Sent::default() };
        pair.send().await;
        pair
    }

    /// Puts what is here into the guest, as it is.
    pub(super) async fn send(&mut self) {
        std::fs::create_dir_all(self.guest.parent().unwrap()).unwrap();
        let mut copy = sys::process::command("cp");
        sys::process::run(copy.arg("-a").arg(&self.host).arg(&self.guest)).unwrap();
        let head = commit(&self.host, "HEAD");
        self.workspace.base_commit.clone_from(&head);
        self.workspace.host_path = self.host.to_str().unwrap().to_owned();
        let mut repositories = vec![String::new()];
        if self.host.join(".gitmodules").exists() {
            let list = git(&self.host, &["submodule", "foreach", "--quiet", "--recursive", "echo $displaypath"]);
            for path in list.lines() {
                self.embed(path);
                repositories.push(path.to_owned());
            }
        }
        for path in repositories {
            let repository = self.settle(path).await;
            self.sent.repositories.push(repository);
        }
        // Times of a transfer are over when its successor begins.
        let look = self.look().await;
        self.workspace.exported = None;
        assert!(look.is_unchanged, "{look:?}");
    }

    /// Gives a submodule in the guest a git directory of its own.
    fn embed(&self, path: &str) {
        let (from, to) = (self.host.join(path), self.guest.join(path).join(".git"));
        let from = git(&from, &["rev-parse", "--absolute-git-dir"]);
        std::fs::remove_file(&to).unwrap();
        sys::process::run(sys::process::command("cp").arg("-a").arg(from.trim_end()).arg(&to)).unwrap();
        git(&self.guest, &["config", "-f", to.join("config").to_str().unwrap(), "--unset", "core.worktree"]);
    }

    async fn settle(&self, path: String) -> SentRepository {
        let here = self.host.join(&path);
        let listed = git_os(&here, &["ls-files", "-z", "-c"].map(OsStr::new));
        let has_commit = commit(&here, "HEAD").is_some();
        let changed = match has_commit {
            true => git_os(&here, &["diff", "--name-only", "-z", "HEAD"].map(OsStr::new)),
            false => listed.clone(),
        };
        let is_changed = |name: &[u8]| changed.split(|byte| *byte == 0).any(|path| path == name);
        let all = tree(&here);
        let (mut records, mut files) = (Vec::new(), HashMap::new());
        for name in listed.split(|byte| *byte == 0) {
            let Some((mode, content)) = all.get(name) else { continue };
            let state = if is_changed(name) { State::Modified } else { State::Clean };
            let hash = Sha256::digest(content).into();
            records.push(Settled { how: How::Sent, state, hash, path: name.to_vec() });
            let mode = match mode {
                0o755 => FileMode::Executable,
                0o644 => FileMode::Plain,
                _ => FileMode::Link,
            };
            files.insert(name.to_vec(), SentFile { mode, digest: Digest::of(content) });
        }
        let there = format!("{WORKSPACE_PATH}/{path}");
        self.running.guest.settle(there.trim_end_matches('/'), &records).await.unwrap();
        SentRepository { head: commit(&here, "HEAD"), path, files }
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch")
    }

    pub(super) async fn look(&self) -> Look {
        look(&self.running.guest, &self.workspace, &self.sent, &self.scratch()).await.unwrap()
    }

    pub(super) async fn export(&self, query: &ExportQuery) -> Result<(Vec<u8>, Exported), ExchangeError> {
        let (guest, workspace) = (&self.running.guest, &self.workspace);
        let work = async {
            let mut stream =
                export(guest, workspace, ready(Ok(self.sent.clone())), query, BYTES_MAX, &self.scratch()).await?;
            let mut all = Vec::new();
            while let Some(bytes) = stream.read().await? {
                all.extend_from_slice(&bytes);
            }
            Ok((all, stream.done()))
        };
        timeout(SOON, work).await.expect("an export ends")
    }

    /// Exports a patch, and applies it to a fresh checkout of its base; what that is then.
    pub(super) async fn round_trip(&self, base: Option<&str>) -> (BTreeMap<Vec<u8>, (u32, Vec<u8>)>, Exported) {
        let query = ExportQuery { base_commit: base.map(str::to_owned), ..ExportQuery::default() };
        let (patch, exported) = self.export(&query).await.unwrap();
        let fresh = tempfile::tempdir_in(self.dir.path()).unwrap();
        let format = git(&self.host, &["rev-parse", "--show-object-format"]);
        git(fresh.path(), &["init", "-q", "--object-format", format.trim(), "."]);
        if let Some(base) = &exported.base_commit {
            // The base may be a commit of the guest's own.
            git(fresh.path(), &["fetch", "-q", self.guest.to_str().unwrap(), base]);
            git(fresh.path(), &["checkout", "-q", base]);
        }
        let file = self.dir.path().join("work.patch");
        std::fs::write(&file, &patch).unwrap();
        if !patch.is_empty() {
            git(fresh.path(), &["apply", "--index", file.to_str().unwrap()]);
        }
        assert_eq!(git(fresh.path(), &["diff", "--name-only"]), "", "the index is as the files are");
        (tree(fresh.path()), exported)
    }

    /// What the guest's files are, without ignored ones.
    pub(super) fn guest_tree(&self) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
        let mut all = tree(&self.guest);
        all.retain(|name, _| !name.ends_with(b".o") && !name.starts_with(b"target/"));
        all
    }

    pub(super) async fn end(self) {
        let left: Vec<_> = std::fs::read_dir(self.scratch()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        self.running.end().await;
    }
}

fn blank() -> Workspace {
    Workspace {
        guest_path: WORKSPACE_PATH.to_owned(),
        host_path: String::new(),
        head_commit: None,
        base_commit: None,
        branch: None,
        mode: wire::api::WorkspaceMode::Overlay,
        include_untracked: false,
        from: None,
        depth: None,
        prepared_at_ms: None,
        exported: None,
        made_branch: None,
        last_look: None,
        mise: None,
        env: Vec::new(),
    }
}

/// What a name stands for in a repository.
pub(super) fn commit(dir: &Path, name: &str) -> Option<String> {
    let mut command = sys::process::command("git");
    command.arg("-C").arg(dir).args(["rev-parse", "-q", "--verify", name]);
    let found = sys::process::run(&mut command).ok()?;
    Some(String::from_utf8(found).unwrap().trim().to_owned())
}

pub(super) fn mbox() -> ExportQuery {
    ExportQuery { format: ExportFormat::Mbox, ..ExportQuery::default() }
}
