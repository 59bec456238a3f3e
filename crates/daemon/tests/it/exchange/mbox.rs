//! Commits as mail.

use std::path::Path;

use daemon::exchange::ExchangeError;

use super::{Pair, edit, everything, git, mbox, repository, write};

/// Everything that `git am` keeps of the commits after a base, trees included.
fn history(dir: &Path, base: &str) -> String {
    git(dir, &["log", "--reverse", "--encoding=UTF-8", "--format=%an|%ae|%at|%T|%B|", &format!("{base}..HEAD")])
}

fn commits(dir: &Path) {
    edit(dir);
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-qm", "Çhange: everything\n\nA body of\nseveral lines.\n\nSigned-off-by: x"]);
    write(dir, "a", "again\n");
    git(dir, &["commit", "-qam", "a", "--author", "Änother Person <other@example.org>", "--date", "1600000000 -0500"]);
}

#[tokio::test]
async fn commits_keep_author_message_and_order() {
    let pair = Pair::new(repository).await;
    let base = pair.workspace.base_commit.clone().unwrap();
    commits(&pair.guest);
    let signature = pair.dir.path().join("signature");
    std::fs::write(&signature, "S").unwrap();
    let settings = [
        ("format.attach", "x"),
        ("format.headers", "X-Evil: 1"),
        ("format.to", "evil@example.org"),
        ("format.cc", "evil@example.org"),
        ("format.signature", "bye"),
        ("format.signatureFile", signature.to_str().unwrap()),
        ("format.coverLetter", "true"),
        ("format.subjectPrefix", "EVIL] [x"),
        ("format.numbered", "true"),
        ("format.signOff", "true"),
        ("format.from", "true"),
        ("format.forceInBodyFrom", "true"),
        ("format.notes", "true"),
        ("format.thread", "deep"),
        ("format.useAutoBase", "true"),
        ("format.outputDirectory", pair.dir.path().to_str().unwrap()),
        ("format.suffix", ".evil"),
        ("format.pretty", "oneline"),
        ("format.noprefix", "true"),
        ("i18n.logOutputEncoding", "ISO-8859-1"),
        ("log.showSignature", "true"),
        ("diff.noprefix", "true"),
        ("diff.context", "0"),
        ("diff.external", "/bin/false"),
        ("color.ui", "always"),
    ];
    for (name, value) in settings {
        git(&pair.guest, &["config", name, value]);
    }
    let before = everything(&pair.guest);
    let (mail, exported) = pair.export(&mbox()).await.unwrap();
    assert!(before == everything(&pair.guest));
    assert_eq!((exported.commits, exported.commits_left_out, exported.files_left_out), (2, 0, 0));
    assert_eq!((exported.base_commit.as_ref(), exported.files), (Some(&base), None));
    assert_eq!(exported.fingerprint, Some(pair.look().await.fingerprint));
    let file = pair.dir.path().join("mbox");
    std::fs::write(&file, mail).unwrap();
    git(&pair.host, &["am", "-q", "--keep-cr", file.to_str().unwrap()]);
    assert_eq!(history(&pair.host, &base), history(&pair.guest, &base));
    pair.end().await;
}

#[tokio::test]
async fn what_is_not_in_it_is_counted() {
    let pair = Pair::new(repository).await;
    let (mail, exported) = pair.export(&mbox()).await.unwrap();
    assert_eq!((mail.len(), exported.commits), (0, 0));
    commits(&pair.guest);
    git(&pair.guest, &["checkout", "-q", "-b", "side", "HEAD^"]);
    write(&pair.guest, "side", "s\n");
    git(&pair.guest, &["add", "side"]);
    git(&pair.guest, &["commit", "-qm", "beside"]);
    git(&pair.guest, &["merge", "-q", "-m", "both", "main"]);
    git(&pair.guest, &["commit", "-q", "--allow-empty", "-m", "nothing"]);
    write(&pair.guest, "a", "not committed\n");
    write(&pair.guest, "b", "not tracked\n");
    write(&pair.guest, "b.o", "ignored\n");
    let (mail, exported) = pair.export(&mbox()).await.unwrap();
    assert_eq!(mail.split(|b| *b == b'\n').filter(|line| line.starts_with(b"Subject: ")).count(), 4);
    // The merge; what it brought in is there, and so is the commit that changes nothing.
    assert_eq!((exported.commits, exported.commits_left_out, exported.files_left_out), (4, 1, 2));
    assert_eq!(exported.fingerprint, None);
    pair.end().await;
}

#[tokio::test]
async fn all_commits_of_a_repository_that_had_none() {
    let pair = Pair::new(|dir| drop(git(dir, &["init", "-q", "."]))).await;
    write(&pair.guest, "a", "a\n");
    git(&pair.guest, &["add", "a"]);
    git(&pair.guest, &["commit", "-qm", "first"]);
    let (mail, exported) = pair.export(&mbox()).await.unwrap();
    assert_eq!((exported.commits, exported.base_commit), (1, None));
    let file = pair.dir.path().join("mbox");
    std::fs::write(&file, mail).unwrap();
    git(&pair.host, &["am", "-q", file.to_str().unwrap()]);
    assert_eq!(git(&pair.host, &["rev-parse", "HEAD^{tree}"]), git(&pair.guest, &["rev-parse", "HEAD^{tree}"]));
    pair.end().await;
}

#[tokio::test]
async fn without_git_there_are_no_commits() {
    let bin = super::without_git::no_git();
    let pair = Pair::with_path(Some(bin.path()), repository).await;
    let error = pair.export(&mbox()).await.unwrap_err();
    assert!(matches!(error, ExchangeError::NeedsGit { .. }) && error.hint().is_some(), "{error:?}");
    pair.end().await;
}
