//! A guest that has no git.

use std::os::unix::fs::symlink;
use std::path::Path;

use wire::agent::workspace::Difference;
use wire::api::ExportQuery;

use super::{Pair, edit, everything, git, repository, write};

/// A directory of programs with a shell and nothing else.
pub(super) fn no_git() -> tempfile::TempDir {
    let bin = tempfile::tempdir().unwrap();
    symlink("/bin/sh", bin.path().join("sh")).unwrap();
    bin
}

#[tokio::test]
async fn what_was_not_touched_makes_no_patch() {
    let bin = no_git();
    let pair = Pair::with_path(Some(bin.path()), repository).await;
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    assert_eq!((patch.as_slice(), exported.files), (&b""[..], Some(0)));
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint));
    pair.end().await;
}

#[tokio::test]
async fn edits_of_every_kind_come_back() {
    let bin = no_git();
    let make = |dir: &Path| {
        repository(dir);
        write(dir, "lib/.gitignore", "*.log\n");
        git(dir, &["add", "lib"]);
        git(dir, &["commit", "-qm", "ignores"]);
        write(dir, ".git/info/exclude", "/secret\n");
        write(dir, "early", "staged before it was sent\n");
        git(dir, &["add", "early"]);
    };
    let pair = Pair::with_path(Some(bin.path()), make).await;
    edit(&pair.guest);
    std::fs::remove_file(pair.guest.join("lib/.gitignore")).unwrap();
    write(&pair.guest, "lib/kept.log", "no longer ignored\n");
    write(&pair.guest, "new/.gitignore", "*.tmp\n");
    write(&pair.guest, "new/x.tmp", "ignored by a new file\n");
    write(&pair.guest, "secret", "ignored\n");
    let (host, guest) = (everything(&pair.host), everything(&pair.guest));
    let (there, exported) = pair.round_trip(None).await;
    let mut expected = pair.guest_tree();
    expected.retain(|name, _| !matches!(&name[..], b"new/x.tmp" | b"secret"));
    assert_eq!(there, expected);
    let look = pair.look().await;
    assert!(host == everything(&pair.host) && guest == everything(&pair.guest));
    assert_eq!(exported.base_commit, pair.workspace.base_commit);
    assert_eq!(exported.files_left_out, 0);
    assert_eq!(exported.fingerprint.as_ref(), Some(&look.fingerprint));
    assert!(!look.is_unchanged);
    assert!(look.differences.iter().all(|file| !file.path.ends_with(b".tmp") && file.path != b"secret"));
    assert!(look.differences.iter().any(|file| file.difference == Difference::Added && file.hash != [0; 32]));
    pair.end().await;
}

#[tokio::test]
async fn line_ends_are_the_hosts() {
    let bin = no_git();
    let make = |dir: &Path| {
        repository(dir);
        write(dir, ".gitattributes", "*.dos text eol=crlf\n*.x filter=harm diff=harm\n");
        write(dir, "f.dos", "one\r\ntwo\r\n");
        write(dir, "big.x", "pointer\n");
        git(dir, &["add", "-A"]);
        git(dir, &["commit", "-qm", "attributes"]);
        write(dir, "big.x", "as if a filter had made it\n");
        write(dir, "early.dos", "staged\r\n");
        git(dir, &["add", "early.dos"]);
        let touch = format!("touch {}", dir.parent().unwrap().join("ran").display());
        for name in ["filter.harm.clean", "filter.harm.smudge", "diff.harm.command", "diff.harm.textconv"] {
            git(dir, &["config", name, &touch]);
        }
    };
    let pair = Pair::with_path(Some(bin.path()), make).await;
    // By what looked at the host's files above.
    std::fs::remove_file(pair.dir.path().join("ran")).unwrap();
    write(&pair.guest, "f.dos", "one\r\nTWO\r\n");
    write(&pair.guest, "g.x", "filtered\n");
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    let patch = String::from_utf8(patch).unwrap();
    assert!(patch.contains("\n-two\n+TWO\n") && !patch.contains('\r'), "{patch}");
    assert!(patch.contains("\n+staged\n") && !patch.contains("big.x"), "{patch}");
    assert_eq!(exported.files, Some(3));
    assert!(!pair.dir.path().join("ran").exists());
    pair.end().await;
}

#[tokio::test]
async fn what_git_could_not_keep_is_left_out() {
    let bin = no_git();
    let pair = Pair::with_path(Some(bin.path()), repository).await;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pair.guest.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    symlink("/etc/passwd", pair.guest.join("out")).unwrap();
    std::fs::remove_file(pair.guest.join("a")).unwrap();
    symlink("/etc", pair.guest.join("a")).unwrap();
    write(&pair.guest, ".gitattributes", "* filter=evil diff=evil\n");
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    let patch = String::from_utf8(patch).unwrap();
    assert!(patch.contains("+/etc/passwd") && !patch.contains("root:"), "{patch}");
    assert_eq!((exported.files_left_out, exported.fingerprint), (1, None));
    pair.end().await;
}

#[tokio::test]
async fn submodules_are_told_and_not_in_it() {
    let bin = no_git();
    let make = |dir: &Path| {
        let sub = dir.parent().unwrap().join("sub");
        std::fs::create_dir(&sub).unwrap();
        repository(&sub);
        repository(dir);
        git(dir, &["submodule", "--quiet", "add", sub.to_str().unwrap(), "lib/sub"]);
        git(dir, &["commit", "-qm", "with a submodule"]);
    };
    let pair = Pair::with_path(Some(bin.path()), make).await;
    write(&pair.guest, "lib/sub/a", "changed\n");
    write(&pair.guest, "lib/sub/new", "new\n");
    write(&pair.guest, "lib/sub/ignored.o", "o\n");
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    assert_eq!((patch.len(), exported.files, exported.files_left_out), (0, Some(0), 2));
    let names: Vec<_> = pair.look().await.differences.into_iter().map(|file| file.path).collect();
    assert_eq!(names, [&b"lib/sub/a"[..], b"lib/sub/new"]);
    pair.end().await;
}
