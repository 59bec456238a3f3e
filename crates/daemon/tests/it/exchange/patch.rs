//! Everything as one patch.

use std::ffi::OsStr;
use std::future::ready;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use daemon::exchange::ExchangeError;
use wire::agent::workspace::Difference;
use wire::api::{ExportQuery, GuestSide};

use super::{Pair, edit, everything, git, repository, tree, write};

#[tokio::test]
async fn what_was_not_touched_makes_no_patch() {
    let pair = Pair::new(repository).await;
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    assert_eq!((patch.as_slice(), exported.files, exported.commits), (&b""[..], Some(0), 0));
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint));
    pair.end().await;
}

#[tokio::test]
async fn edits_of_every_kind_come_back_and_the_guest_is_as_it_was() {
    let pair = Pair::new(repository).await;
    edit(&pair.guest);
    let before = everything(&pair.guest);
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!(there, pair.guest_tree());
    let look = pair.look().await;
    assert!(before == everything(&pair.guest), "index, refs, objects and files are untouched");
    assert_eq!(exported.base_commit, pair.workspace.base_commit);
    assert_eq!((exported.commits, exported.commits_left_out, exported.files_left_out), (0, 0, 0));
    assert_eq!(exported.fingerprint.as_ref(), Some(&look.fingerprint));
    assert!(!look.is_unchanged && !look.is_exported && look.index_changed);
    let of = |wanted| {
        let found = look.differences.iter().filter(|file| file.difference == wanted);
        found.map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of(Difference::Deleted), ["d/deep/file", "d/gone", "with space"]);
    assert_eq!(of(Difference::Modified), ["a", "binary", "blank", "crlf.txt", "link", "run.sh"]);
    let added = ["moved", "new/\"quoted\"\ttab", "new/-dash", "new/empty", "new/\u{fffd}\u{fffd}", "staged"];
    assert_eq!(of(Difference::Added), [&added[..], &["with space/file"]].concat());
    let workspace = wire::api::Workspace { exported: exported.fingerprint, ..pair.workspace.clone() };
    let again = daemon::exchange::look(&pair.running.guest, &workspace, &pair.sent, &pair.scratch()).await.unwrap();
    let side = GuestSide::from(again);
    assert_eq!((side.exported, side.changes, side.changed.len()), (true, 16, 16));
    pair.end().await;
}

/// Changes of files that git knows need no index of their own. What comes back is the same as with one.
#[tokio::test]
async fn changes_of_known_files_are_told_without_an_index() {
    let programs = tempfile::tempdir().unwrap();
    let log = programs.path().join("log");
    let own_path = std::env::var("PATH").unwrap();
    let logging = format!("#!/bin/sh\necho \"$@\" >>{}\nPATH={own_path} exec git \"$@\"\n", log.display());
    write(programs.path(), "git", logging);
    std::fs::set_permissions(programs.path().join("git"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{own_path}", programs.path().display());
    let pair = Pair::with_path(Some(Path::new(&path)), repository).await;
    write(&pair.guest, "a", "one\nTWO\nthree\nfour");
    write(&pair.guest, "binary", b"\0\x01\x02 other \xfe\0");
    write(&pair.guest, "crlf.txt", "one\r\n2\r\n");
    write(&pair.guest, "blank", "of the index\n");
    git(&pair.guest, &["add", "blank"]);
    write(&pair.guest, "staged", "new\n");
    git(&pair.guest, &["add", "staged"]);
    write(&pair.guest, "staged", "new, and then changed\n");
    write(&pair.guest, "intended", "to be added\n");
    git(&pair.guest, &["add", "-N", "intended"]);
    // Touched only.
    write(&pair.guest, "with space", "x\n");
    write(&pair.guest, "ignored.o", "o");
    std::fs::remove_file(pair.guest.join("d/gone")).unwrap();
    std::fs::set_permissions(pair.guest.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::remove_file(pair.guest.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", pair.guest.join("link")).unwrap();
    write(&pair.guest, "empty", "no more\n");
    std::fs::write(pair.guest.join(OsStr::from_bytes(b"od\xffd \"n\n")), "odder\n").unwrap();

    let added = |log: &Path| std::fs::read_to_string(log).unwrap().lines().any(|line| line.contains(" add "));
    let before = everything(&pair.guest);
    std::fs::remove_file(&log).unwrap();
    let (there, exported) = pair.round_trip(None).await;
    assert!(!added(&log), "{}", std::fs::read_to_string(&log).unwrap());
    assert!(before == everything(&pair.guest), "index, refs, objects and files are untouched");
    assert_eq!(there, pair.guest_tree());
    assert_eq!(exported.files, Some(11));
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint), "the look has an index");
    // With one new file it is asked in the other way, and the rest is the same.
    let (patch, _) = pair.export(&ExportQuery::default()).await.unwrap();
    write(&pair.guest, "z", "new\n");
    let (longer, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    assert!(added(&log) && exported.files == Some(12) && longer.starts_with(&patch));
    // As with whatever else is not only changed: a file that became a link, one in conflict.
    std::fs::remove_file(pair.guest.join("z")).unwrap();
    for name in ["a", "binary"] {
        std::fs::remove_file(pair.guest.join(name)).unwrap();
        std::os::unix::fs::symlink("x", pair.guest.join(name)).unwrap();
        std::fs::remove_file(&log).unwrap();
        let (there, exported) = pair.round_trip(None).await;
        assert!(added(&log) && there == pair.guest_tree(), "{name}");
        assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint), "{name}");
    }
    pair.end().await;
}

#[tokio::test]
async fn a_file_in_conflict_is_as_it_lies_there() {
    let pair = Pair::new(repository).await;
    git(&pair.guest, &["checkout", "-qb", "other"]);
    write(&pair.guest, "a", "theirs\n");
    git(&pair.guest, &["commit", "-qam", "theirs"]);
    git(&pair.guest, &["checkout", "-q", "main"]);
    write(&pair.guest, "a", "ours\n");
    git(&pair.guest, &["commit", "-qam", "ours"]);
    let merge =
        sys::process::command("git").arg("-C").arg(&pair.guest).args(["merge", "-q", "other"]).output().unwrap();
    assert!(!merge.status.success(), "they are in conflict");
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!(there, pair.guest_tree());
    assert_eq!(exported.fingerprint, None, "a commit of the guest's is left out");
    pair.end().await;
}

/// Whatever the guest's configuration says, the patch is one for the host.
#[tokio::test]
async fn no_configuration_of_the_guests_spoils_the_patch() {
    let pair = Pair::new(repository).await;
    edit(&pair.guest);
    let evil = pair.dir.path().join("evil");
    write(pair.dir.path(), "evil", format!("#!/bin/sh\ntouch {}/ran\nexit 1\n", pair.dir.path().display()));
    std::fs::set_permissions(&evil, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let evil = evil.to_str().unwrap();
    let settings = [
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.srcPrefix", "x/"),
        ("diff.dstPrefix", "y/"),
        ("diff.external", evil),
        ("diff.renames", "copies"),
        ("diff.renameLimit", "1"),
        ("diff.algorithm", "patience"),
        ("diff.suppressBlankEmpty", "true"),
        ("diff.interHunkContext", "7"),
        ("diff.context", "0"),
        ("diff.relative", "true"),
        ("diff.orderFile", "/nonexistent"),
        ("diff.submodule", "log"),
        ("diff.ignoreSubmodules", "all"),
        ("diff.colorMoved", "zebra"),
        ("diff.wsErrorHighlight", "all"),
        ("diff.odd.textconv", evil),
        ("diff.odd.command", evil),
        ("color.ui", "always"),
        ("color.diff", "always"),
        ("core.quotePath", "false"),
        ("core.abbrev", "4"),
        ("core.pager", evil),
        ("core.fsmonitor", evil),
        ("core.hooksPath", pair.dir.path().to_str().unwrap()),
        ("core.attributesFile", "/nonexistent"),
        ("core.safecrlf", "true"),
        ("core.splitIndex", "true"),
        ("core.untrackedCache", "true"),
        ("core.worktree", "/nonexistent"),
        ("core.bare", "true"),
        ("index.version", "4"),
        ("status.showUntrackedFiles", "no"),
        ("add.ignoreErrors", "false"),
        ("trace2.normalTarget", "2"),
        ("alias.diff", "!false"),
    ];
    for (name, value) in settings {
        git(&pair.guest, &["config", "-f", ".git/config", name, value]);
    }
    std::os::unix::fs::symlink(evil, pair.dir.path().join("post-index-change")).unwrap();
    write(&pair.guest, ".git/info/attributes", "a diff=odd\nblank diff=odd\n");
    let before = everything(&pair.guest);
    let fresh = pair.round_trip(None).await.0;
    assert_eq!(fresh, pair.guest_tree());
    assert!(before == everything(&pair.guest), "index, refs, objects and files are untouched");
    assert!(!pair.dir.path().join("ran").exists(), "nothing that it names was run");
    pair.end().await;
}

#[tokio::test]
async fn commits_are_in_a_patch_from_where_the_guest_began() {
    let pair = Pair::new(repository).await;
    let base = pair.workspace.base_commit.clone().unwrap();
    edit(&pair.guest);
    git(&pair.guest, &["add", "-A"]);
    git(&pair.guest, &["commit", "-qm", "second"]);
    write(&pair.guest, "a", "not committed\n");
    write(&pair.guest, "untracked", "u\n");
    let (there, exported) = pair.round_trip(Some(&base)).await;
    assert_eq!(there, pair.guest_tree());
    assert_eq!((exported.commits, exported.commits_left_out), (1, 0));
    let look = pair.look().await;
    assert_eq!(exported.fingerprint.as_ref(), Some(&look.fingerprint), "whichever base it was from");
    assert_eq!(look.commits, 1);
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!(there, pair.guest_tree());
    assert_eq!((exported.commits, exported.commits_left_out, exported.files), (0, 1, Some(2)));
    assert_eq!(exported.fingerprint, None, "a commit is not in it");
    pair.end().await;
}

/// A patch does not say of a link that is renamed as it is that it is a link: what takes its place would be behind it.
#[tokio::test]
async fn a_link_that_went_elsewhere_is_not_in_the_way_of_what_took_its_place() {
    let pair = Pair::new(repository).await;
    std::fs::rename(pair.guest.join("link"), pair.guest.join("renamed")).unwrap();
    std::fs::create_dir(pair.guest.join("link")).unwrap();
    std::fs::rename(pair.guest.join("a"), pair.guest.join("link/a")).unwrap();
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!(there, pair.guest_tree());
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint));
    git(&pair.guest, &["add", "-A"]);
    git(&pair.guest, &["commit", "-qm", "moved"]);
    let mails = pair.export(&super::mbox()).await.unwrap().0;
    let mails = String::from_utf8_lossy(&mails).into_owned();
    assert!(mails.contains("deleted file mode 120000") && !mails.contains("rename from"), "{mails}");
    pair.end().await;
}

#[tokio::test]
async fn only_commits_are_bases() {
    let pair = Pair::new(repository).await;
    let asked = |base: &str| ExportQuery { base_commit: Some(base.to_owned()), ..ExportQuery::default() };
    for bad in ["HEAD", "main", "abc", "--output=/tmp/x", "abcd;true"] {
        assert!(matches!(pair.export(&asked(bad)).await, Err(ExchangeError::NoCommit(_))), "{bad}");
    }
    let missing = pair.export(&asked("0123456789")).await;
    assert!(matches!(missing, Err(ExchangeError::NoBase { .. })), "{missing:?}");
    let short = pair.workspace.base_commit.clone().unwrap()[..8].to_uppercase();
    let exported = pair.export(&asked(&short)).await.unwrap().1;
    assert_eq!(exported.base_commit, pair.workspace.base_commit);
    pair.end().await;
}

fn unborn(dir: &Path) {
    git(dir, &["init", "-q", "."]);
    write(dir, "a", "a\n");
    write(dir, "b", "b\n");
    git(dir, &["add", "a", "b"]);
}

#[tokio::test]
async fn a_repository_without_a_commit() {
    let pair = Pair::new(unborn).await;
    write(&pair.guest, "a", "changed\n");
    write(&pair.guest, "c/d", "new\n");
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!(there, tree(&pair.guest));
    assert_eq!((exported.base_commit, exported.head_commit), (None, None));
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint));
    git(&pair.guest, &["add", "-A"]);
    git(&pair.guest, &["commit", "-qm", "first"]);
    let look = pair.look().await;
    assert_eq!(look.commits, 1);
    let exported = pair.export(&ExportQuery::default()).await.unwrap().1;
    assert_eq!((exported.files, exported.commits_left_out), (Some(0), 1));
    pair.end().await;
}

/// What was sent with changes that no commit has is not the guest's work, and in the patch all the same: it is whole.
#[tokio::test]
async fn what_was_changed_before_it_was_sent() {
    let make = |dir: &Path| {
        repository(dir);
        write(dir, "a", "changed here\n");
        write(dir, "early", "e\n");
        git(dir, &["add", "early"]);
        std::fs::remove_file(dir.join("d/gone")).unwrap();
    };
    let pair = Pair::new(make).await;
    let look = pair.look().await;
    assert!(look.is_unchanged, "{look:?}");
    let there = pair.round_trip(None).await.0;
    assert_eq!(there, pair.guest_tree());
    write(&pair.guest, "a", "changed there\n");
    let names: Vec<_> = pair.look().await.differences.into_iter().map(|file| file.path).collect();
    assert_eq!(names, [b"a"]);
    pair.end().await;
}

#[tokio::test]
async fn repositories_within_the_workspace() {
    let make = |dir: &Path| {
        let sub = dir.parent().unwrap().join("sub");
        std::fs::create_dir(&sub).unwrap();
        repository(&sub);
        repository(dir);
        git(dir, &["submodule", "--quiet", "add", sub.to_str().unwrap(), "lib/sub"]);
        git(dir, &["commit", "-qm", "with a submodule"]);
    };
    let pair = Pair::new(make).await;
    let first = pair.look().await;
    write(&pair.guest, "lib/sub/a", "changed below\n");
    write(&pair.guest, "a", "changed\n");
    let look = pair.look().await;
    let names: Vec<_> = look.differences.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    assert_eq!(names, ["a", "lib/sub/a"]);
    assert_ne!(look.fingerprint, first.fingerprint);
    let (_, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    assert_eq!((exported.files, exported.files_left_out, exported.fingerprint), (Some(1), 1, None));
    let sub = pair.guest.join("lib/sub");
    git(&sub, &["commit", "-qam", "below"]);
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    let pointer = format!("+Subproject commit {}", super::commit(&sub, "HEAD").unwrap());
    assert!(String::from_utf8_lossy(&patch).contains(&pointer));
    assert_eq!(exported.fingerprint, None, "the commit that it points to is not in it");
    assert_eq!(pair.look().await.commits, 1);
    // Repositories that are no submodules: without a commit git cannot take them.
    for name in ["vendor", "void"] {
        std::fs::create_dir(pair.guest.join(name)).unwrap();
        git(&pair.guest.join(name), &["init", "-q", "."]);
        write(&pair.guest, &format!("{name}/x"), "x");
    }
    git(&pair.guest.join("vendor"), &["add", "-A"]);
    git(&pair.guest.join("vendor"), &["commit", "-qm", "vendored"]);
    let (_, with) = pair.export(&ExportQuery::default()).await.unwrap();
    assert_eq!(with.files_left_out, exported.files_left_out + 2);
    std::fs::remove_dir_all(sub.join(".git")).unwrap();
    assert!(!pair.look().await.is_unchanged);
    std::fs::remove_dir_all(&sub).unwrap();
    assert!(!pair.look().await.is_unchanged);
    pair.end().await;
}

#[tokio::test]
async fn a_sparse_checkout_stays_whole() {
    let make = |dir: &Path| {
        repository(dir);
        git(dir, &["sparse-checkout", "set", "--no-cone", "/a", "/d/"]);
        git(dir, &["add", "--sparse", "-A"]);
    };
    let pair = Pair::new(make).await;
    write(&pair.guest, "a", "changed\n");
    write(&pair.guest, "outside/of/it", "new\n");
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!(exported.files, Some(2));
    assert!(there.contains_key(&b"binary"[..]) && there.contains_key(&b"outside/of/it"[..]));
    pair.end().await;
}

#[tokio::test]
async fn a_conflict_is_exported_as_it_lies_there() {
    let make = |dir: &Path| {
        repository(dir);
        git(dir, &["checkout", "-qb", "other"]);
        write(dir, "a", "theirs\n");
        git(dir, &["commit", "-qam", "theirs"]);
        git(dir, &["checkout", "-q", "main"]);
    };
    let pair = Pair::new(make).await;
    write(&pair.guest, "a", "ours\n");
    git(&pair.guest, &["commit", "-qam", "ours"]);
    let mut merge = sys::process::command("git");
    merge.arg("-C").arg(&pair.guest).args(["-c", "user.name=x", "-c", "user.email=x@y", "merge", "-q", "other"]);
    sys::process::run(&mut merge).unwrap_err();
    let before = everything(&pair.guest);
    let there = pair.round_trip(None).await.0;
    assert_eq!(there, pair.guest_tree());
    assert!(there[&b"a"[..]].1.starts_with(b"<<<<<<<"));
    assert!(before == everything(&pair.guest), "the conflict stays one");
    pair.end().await;
}

#[tokio::test]
async fn another_repository_of_the_guests() {
    let pair = Pair::new(repository).await;
    let other = pair.guest.parent().unwrap().join("other place");
    std::fs::create_dir(&other).unwrap();
    repository(&other);
    edit(&other);
    let path = Some("/root/other place".to_owned());
    let query = ExportQuery { guest_path: path, ..ExportQuery::default() };
    let (patch, exported) = pair.export(&query).await.unwrap();
    assert!(patch.starts_with(b"diff --git ") && exported.files > Some(10));
    assert_eq!((exported.fingerprint, exported.commits_left_out), (None, 0));
    for place in ["/root", "/nonexistent"] {
        let query = ExportQuery { guest_path: Some(place.to_owned()), ..ExportQuery::default() };
        let error = pair.export(&query).await.unwrap_err();
        assert!(matches!(error, ExchangeError::NoRepository { .. } | ExchangeError::Guest(_)), "{error:?}");
    }
    pair.end().await;
}

#[tokio::test]
async fn a_linked_work_tree_and_an_index_behind_a_link() {
    let pair = Pair::new(repository).await;
    let linked = pair.guest.parent().unwrap().join("linked");
    git(&pair.guest, &["worktree", "add", "-q", linked.to_str().unwrap()]);
    edit(&linked);
    let before = everything(&pair.guest);
    let query = ExportQuery { guest_path: Some("/root/linked".to_owned()), ..ExportQuery::default() };
    let patch = pair.export(&query).await.unwrap().0;
    assert!(before == everything(&pair.guest));
    edit(&pair.guest);
    assert_eq!(patch, pair.export(&ExportQuery::default()).await.unwrap().0);
    let index = pair.guest.join(".git/index");
    std::fs::rename(&index, pair.guest.join(".git/real")).unwrap();
    std::os::unix::fs::symlink("real", &index).unwrap();
    let before = everything(&pair.guest);
    assert_eq!(patch, pair.export(&ExportQuery::default()).await.unwrap().0);
    assert!(before == everything(&pair.guest), "a link to an index is not written through");
    pair.end().await;
}

/// Whether something of an export is in the guest's git directory.
fn has_leftovers(pair: &Pair) -> bool {
    let entries = std::fs::read_dir(pair.guest.join(".git")).unwrap();
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("export"))
}

#[tokio::test]
async fn an_export_that_is_given_up_leaves_nothing() {
    let pair = Pair::new(repository).await;
    // What one left that was killed.
    write(&pair.guest, ".git/banger-export.4194305/index", "x");
    let huge: String = (0..2_000_000).map(|line| format!("{line}\n")).collect();
    write(&pair.guest, "huge", huge);
    let (guest, query) = (&pair.running.guest, ExportQuery::default());
    let mut stream = daemon::exchange::export(
        guest,
        &pair.workspace,
        ready(Ok(pair.sent.clone())),
        &query,
        super::BYTES_MAX,
        &pair.scratch(),
    )
    .await
    .unwrap();
    assert!(stream.read().await.unwrap().is_some());
    assert!(!pair.guest.join(".git/banger-export.4194305").exists());
    assert!(has_leftovers(&pair), "it is under way");
    drop(stream);
    let deadline = std::time::Instant::now() + super::super::agent::SOON;
    while has_leftovers(&pair) {
        assert!(std::time::Instant::now() < deadline, "a temporary index outlived its export");
        tokio::task::yield_now().await;
    }
    pair.end().await;
}

#[tokio::test]
async fn files_that_were_never_sent_are_not_missing() {
    let mut pair = Pair::new(repository).await;
    for name in tree(&pair.guest).into_keys() {
        std::fs::remove_file(pair.guest.join(std::os::unix::ffi::OsStrExt::from_bytes(name.as_slice()) as &OsStr))
            .unwrap();
    }
    pair.running.guest.settle(&pair.workspace.guest_path, &[]).await.unwrap();
    pair.workspace.mode = wire::api::WorkspaceMode::MetadataOnly;
    pair.sent.repositories[0].files.clear();
    let look = pair.look().await;
    assert!(look.is_unchanged, "{look:?}");
    let (patch, exported) = pair.export(&ExportQuery::default()).await.unwrap();
    assert_eq!((patch.len(), exported.files), (0, Some(0)));
    write(&pair.guest, "a", "checked out, and changed\n");
    write(&pair.guest, "new", "n\n");
    let (there, exported) = pair.round_trip(None).await;
    assert_eq!((exported.files, there.len()), (Some(2), tree(&pair.host).len() + 1));
    pair.end().await;
}
