//! Commits in a branch of the host's repository.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use daemon::exchange::{ExchangeError, branch};
use daemon::workspace::quarantine::QuarantineError;
use wire::api::{ExportBranch, Exported};

use super::{BYTES_MAX, Pair, commit, edit, everything, git, repository, write};

async fn into_branch(pair: &Pair) -> Result<Exported, ExchangeError> {
    let vm = "web".parse().unwrap();
    let asked = ExportBranch::default();
    let scratch = pair.scratch();
    branch(&pair.running.guest, &vm, &pair.workspace, &pair.sent, &asked, BYTES_MAX, &scratch).await
}

/// What a branch may add to a repository is left out.
fn others(dir: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let mut all = everything(dir);
    let ours = [&b".git/objects/pack/"[..], b".git/refs/heads/banger/", b".git/logs/refs/heads/banger/"];
    all.retain(|name, _| !ours.iter().any(|our| name.starts_with(our)));
    all
}

fn refused(result: Result<Exported, ExchangeError>) -> QuarantineError {
    match result {
        Err(ExchangeError::Quarantine(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn commits_arrive_and_nothing_else_changes() {
    let pair = Pair::new(repository).await;
    for hook in ["reference-transaction", "post-index-change", "post-checkout", "update", "pre-auto-gc"] {
        let path = pair.host.join(".git/hooks").join(hook);
        write(
            &pair.host,
            &format!(".git/hooks/{hook}"),
            format!("#!/bin/sh\ntouch {}/ran\n", pair.dir.path().display()),
        );
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    git(&pair.host, &["config", "gc.auto", "1"]);
    write(&pair.host, "a", "the host works, too\n");
    assert!(matches!(into_branch(&pair).await, Err(ExchangeError::NoCommits { .. })));
    edit(&pair.guest);
    git(&pair.guest, &["add", "-A"]);
    git(&pair.guest, &["commit", "-qm", "second"]);
    write(&pair.guest, "a", "not committed\n");
    let (host, guest) = (others(&pair.host), everything(&pair.guest));
    let exported = into_branch(&pair).await.unwrap();
    assert!(host == others(&pair.host), "only objects and the branch");
    assert!(guest == everything(&pair.guest));
    assert!(!pair.dir.path().join("ran").exists(), "no hook was run");
    assert_eq!(exported.branch.as_deref(), Some("banger/web"));
    assert_eq!((exported.commits, exported.files_left_out, exported.fingerprint), (1, 1, None));
    assert_eq!(commit(&pair.host, "banger/web"), commit(&pair.guest, "HEAD"));
    assert_eq!(git(&pair.host, &["for-each-ref", "--format=%(refname)"]), "refs/heads/banger/web\nrefs/heads/main\n");
    git(&pair.host, &["fsck", "--strict", "--connectivity-only"]);
    // Again, and after that with history rewritten.
    into_branch(&pair).await.unwrap();
    git(&pair.guest, &["commit", "-q", "--amend", "-am", "second, better"]);
    let exported = into_branch(&pair).await.unwrap();
    assert_eq!(commit(&pair.host, "banger/web"), exported.head_commit);
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint));
    pair.end().await;
}

#[tokio::test]
async fn work_in_the_branch_is_not_lost() {
    let pair = Pair::new(repository).await;
    git(&pair.guest, &["commit", "-q", "--allow-empty", "-m", "one"]);
    into_branch(&pair).await.unwrap();
    git(&pair.guest, &["commit", "-q", "--allow-empty", "-m", "two"]);
    git(&pair.host, &["checkout", "-q", "banger/web"]);
    let error = refused(into_branch(&pair).await);
    assert!(matches!(error, QuarantineError::CheckedOut { .. }) && error.hint().is_some(), "{error:?}");
    git(&pair.host, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    git(&pair.host, &["checkout", "-q", "main"]);
    let before = everything(&pair.host);
    let error = refused(into_branch(&pair).await);
    assert!(matches!(error, QuarantineError::NotOurs { .. }), "{error:?}");
    assert!(before == everything(&pair.host), "not even objects");
    git(&pair.host, &["branch", "-qD", "banger/web"]);
    git(&pair.host, &["branch", "banger"]);
    let error = refused(into_branch(&pair).await);
    assert!(matches!(error, QuarantineError::Refused { .. }), "a branch is where a directory is to be: {error:?}");
    pair.end().await;
}

#[tokio::test]
async fn what_the_host_does_not_have_is_no_base() {
    let mut pair = Pair::new(repository).await;
    git(&pair.guest, &["commit", "-q", "--allow-empty", "-m", "one"]);
    let other = pair.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    git(&other, &["init", "-q", "."]);
    pair.workspace.host_path = other.to_str().unwrap().to_owned();
    let error = refused(into_branch(&pair).await);
    assert!(matches!(error, QuarantineError::NoBase { .. }), "{error:?}");
    pair.end().await;
}

#[tokio::test]
async fn all_of_a_repository_that_had_no_commit() {
    let pair = Pair::new(|dir| drop(git(dir, &["init", "-q", "."]))).await;
    write(&pair.guest, "a", "a\n");
    git(&pair.guest, &["add", "a"]);
    git(&pair.guest, &["commit", "-qm", "first"]);
    let exported = into_branch(&pair).await.unwrap();
    assert_eq!((exported.base_commit, exported.commits), (None, 1));
    assert_eq!(commit(&pair.host, "banger/web"), commit(&pair.guest, "HEAD"));
    pair.end().await;
}

#[tokio::test]
async fn a_guest_with_less_history_and_other_names_of_objects() {
    let make = |dir: &Path| {
        git(dir, &["init", "-q", "-b", "main", "--object-format=sha256", "."]);
        for message in ["one", "two", "three"] {
            write(dir, "a", message);
            git(dir, &["add", "a"]);
            git(dir, &["commit", "-qm", message]);
        }
    };
    let pair = Pair::new(make).await;
    let base = pair.workspace.base_commit.clone().unwrap();
    assert_eq!(base.len(), 64);
    write(&pair.guest, ".git/shallow", format!("{base}\n"));
    write(&pair.guest, "a", "four");
    git(&pair.guest, &["commit", "-qam", "four"]);
    let exported = into_branch(&pair).await.unwrap();
    assert_eq!((exported.commits, exported.base_commit), (1, Some(base)));
    assert_eq!(git(&pair.host, &["rev-list", "--count", "banger/web"]), "4\n");
    write(&pair.guest, "a", "five");
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!((there, exported.commits_left_out), (pair.guest_tree(), 1));
    pair.end().await;
}

/// Writes an object whatever it says; its name.
fn object(dir: &Path, kind: &str, content: &[u8]) -> String {
    let mut command = sys::process::command("git");
    command.arg("-C").arg(dir).args(["hash-object", "-t", kind, "--literally", "-w", "--stdin"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn objects_that_git_finds_fault_with_stay_outside() {
    let pair = Pair::new(repository).await;
    let base = pair.workspace.base_commit.clone().unwrap();
    let blob = object(&pair.guest, "blob", b"harm");
    let id: Vec<u8> = (0..40).step_by(2).map(|at| u8::from_str_radix(&blob[at..at + 2], 16).unwrap()).collect();
    let tree = |name: &[u8]| [b"100644 ", name, b"\0", &id].concat();
    let who = "x <x@y> 1700000000 +0000";
    let before = everything(&pair.host);
    for name in [&b".git"[..], b"..", b".", b".GIT", b"a/b", b"git~1", b"\x1b[2J/x"] {
        let tree = object(&pair.guest, "tree", &tree(name));
        let text = format!("tree {tree}\nparent {base}\nauthor {who}\ncommitter {who}\n\nharm\n");
        let harm = object(&pair.guest, "commit", text.as_bytes());
        std::fs::write(pair.guest.join(".git/HEAD"), format!("{harm}\n")).unwrap();
        let error = refused(into_branch(&pair).await);
        let QuarantineError::Refused { said, .. } = &error else { panic!("{name:?}: {error:?}") };
        assert!(!said.is_empty() && !said.contains(char::is_control), "{said:?}");
    }
    let main = git(&pair.guest, &["rev-parse", "main^{tree}"]);
    let text = format!("tree {main}author x\ncommitter {who}\n\nno author\n");
    let harm = object(&pair.guest, "commit", text.as_bytes());
    std::fs::write(pair.guest.join(".git/HEAD"), format!("{harm}\n")).unwrap();
    assert!(matches!(refused(into_branch(&pair).await), QuarantineError::Refused { .. }));
    assert!(before == everything(&pair.host), "nothing of it came in");
    pair.end().await;
}

/// A pack that is whole, but leads to what is nowhere.
#[tokio::test]
async fn commits_with_holes_stay_outside() {
    let answers = tempfile::tempdir().unwrap();
    let bin = super::hostile::answering(answers.path());
    let honest = |head: &str| {
        let look = format!("head {head}\nbase \ncommits 0\nleft 0\nmissing 0\n\n");
        std::fs::write(answers.path().join("look"), look).unwrap();
    };
    let make = |dir: &Path| {
        repository(dir);
        honest(&commit(dir, "HEAD").unwrap());
    };
    let pair = Pair::with_path(Some(&bin), make).await;
    let other = pair.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    repository(&other);
    for message in ["one", "two"] {
        write(&other, "a", message);
        git(&other, &["commit", "-qam", message]);
    }
    let head = commit(&other, "HEAD").unwrap();
    let base = pair.workspace.base_commit.clone().unwrap();
    let before = everything(&pair.host);
    let header = format!("head {head}\nbase {base}\ncommits 1\nleft 0\nrange 1\n\n");
    let script = format!("(echo {head}; echo ^HEAD^) | git -C {} pack-objects -q --revs --stdout", other.display());
    let pack = sys::process::run(sys::process::command("sh").args(["-c", &script])).unwrap();
    let ragged = [&pack[..pack.len() / 2], b"\x1b[31m"].concat();
    for pack in [&pack[..], &ragged, b"", b"PACK", b"PACK\0\0\0\x02\xff\xff\xff\xff"] {
        std::fs::write(answers.path().join("pack"), [header.as_bytes(), pack].concat()).unwrap();
        let error = refused(into_branch(&pair).await);
        assert!(matches!(&error, QuarantineError::Refused { said, .. } if !said.contains('\x1b')), "{error:?}");
    }
    assert!(before == everything(&pair.host), "nothing of it came in");
    pair.end().await;
}
