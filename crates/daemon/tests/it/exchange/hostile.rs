//! Guests that lie. The shell of these answers with what a file has, instead of running what it is told.

use std::future::ready;
use std::path::{Path, PathBuf};

use daemon::exchange::{ExchangeError, capture, export, look};
use wire::agent::message::ExitStatus;
use wire::api::ExportQuery;

use super::{Pair, everything, repository};

/// A directory of programs whose `sh` answers what the files of `answers` have, by the verb it was asked with: as they are,
/// or by running `<verb>.sh`. What it has to say about files that git knows is not all there is to say.
pub(super) fn answering(answers: &Path) -> PathBuf {
    let bin = answers.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nPATH=/usr/bin:/bin\ncd {}\n[ ! -e $4.sh ] || exec /bin/sh ./$4.sh\nexec cat $4\n",
        answers.display()
    );
    std::fs::write(bin.join("sh"), script).unwrap();
    std::fs::write(answers.join("tracked.sh"), format!("printf '{}'; exit 95", header())).unwrap();
    std::fs::set_permissions(bin.join("sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bin
}

const ID: &str = "0123456789012345678901234567890123456789";

fn header() -> String {
    format!("head {ID}\nbase {ID}\ncommits 0\nleft 0\nmissing 0\n\n")
}

fn raw(path: &str) -> String {
    format!(":100644 100644 {ID} {ID} M\t{path}\n")
}

#[tokio::test]
async fn answers_that_are_none() {
    let answers = tempfile::tempdir().unwrap();
    let pair = Pair::with_path(None, repository).await;
    let before = everything(pair.dir.path());
    let bin = answering(answers.path());
    let lying = Pair::with_path(Some(no_look(&bin).as_path()), |dir| drop(super::git(dir, &["init", "-q"]))).await;
    let patch = format!("{}{}\ndiff --git a/a b/a\n", header(), raw("a"));
    let bad = [
        "yes".to_owned(),
        "cat /dev/zero".to_owned(),
        "printf '\\033[2J\\n\\n'".to_owned(),
        "echo; echo".to_owned(),
        "for i in 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0; do echo commits 1; done; echo".to_owned(),
        format!("printf '{}'; yes | head -c 100000 | tr -d '\\n'", header()),
        format!("printf '{}not a list\\n'", header()),
        format!("printf '{}{}\\nnot a patch\\n'", header(), raw("a")),
        format!("printf '{}\\ndiff --git a/a b/a\\n'", header()),
        format!("printf '{}'", raw("a")),
        format!("printf '{}{}'", header(), raw("a")),
    ];
    let tracked = answers.path().join("tracked.sh");
    let honest = std::fs::read(&tracked).unwrap();
    for bad in &bad {
        std::fs::write(answers.path().join("patch.sh"), bad).unwrap();
        let error = lying.export(&ExportQuery::default()).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Nonsense), "{bad}: {error:?}");
        std::fs::write(&tracked, bad).unwrap();
        let error = lying.export(&ExportQuery::default()).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Nonsense), "twice {bad}: {error:?}");
        std::fs::write(&tracked, &honest).unwrap();
    }
    for path in ["../a", "/a", "a//b", "\"\\033[2J/../x\"", "\"open"] {
        std::fs::write(answers.path().join("look.sh"), format!("printf '%s\\n' '{}{}'", header(), raw(path))).unwrap();
        let error = look(&lying.running.guest, &lying.workspace, &lying.sent, &lying.scratch()).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Nonsense), "{path}: {error:?}");
    }
    // One that does not end.
    std::fs::write(answers.path().join("patch.sh"), format!("printf '{patch}'; exec yes")).unwrap();
    let (guest, workspace, sent) = (&lying.running.guest, &lying.workspace, &lying.sent);
    let max = 1 << 20;
    let mut stream = export(guest, workspace, ready(Ok(sent.clone())), &ExportQuery::default(), max, &lying.scratch())
        .await
        .unwrap();
    let mut taken = 0;
    let error = loop {
        match stream.read().await {
            Ok(bytes) => taken += bytes.expect("it has no end").len() as u64,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ExchangeError::TooMuch { .. }) && taken <= max, "{taken}: {error:?}");
    std::fs::write(&tracked, format!("printf '{patch}'; exec yes")).unwrap();
    let error = lying.export(&ExportQuery::default()).await.unwrap_err();
    assert!(matches!(error, ExchangeError::TooMuch { .. } | ExchangeError::Nonsense), "{error:?}");
    std::fs::write(&tracked, &honest).unwrap();
    // One that breaks off, and complains with what a terminal would obey.
    let fails = format!("printf '{patch}'; printf '\\033[2Jwhy\\nnot\\n' >&2; exit 3");
    std::fs::write(answers.path().join("patch.sh"), fails).unwrap();
    let error = lying.export(&ExportQuery::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "git in the guest failed: \u{fffd}[2Jwhy; not");
    assert!(before == everything(pair.dir.path()));
    lying.end().await;
    pair.end().await;
}

/// The same programs, with one honest look first: what is sent is looked at once.
fn no_look(bin: &Path) -> PathBuf {
    let answers = bin.parent().unwrap();
    std::fs::write(answers.join("look"), "head \nbase \ncommits 0\nleft 0\nmissing 0\n\n").unwrap();
    bin.to_owned()
}

#[tokio::test]
async fn a_command_is_captured_within_bounds() {
    let pair = Pair::new(repository).await;
    let guest = &pair.running.guest;
    let sh = |script: &str| ["sh", "-c", script].map(str::to_owned);
    let env = [("WHAT".to_owned(), "that".to_owned())];
    let script = "echo $WHAT; pwd; echo bad >&2; head -c 5000 /dev/zero >&2; echo end >&2; exit 7";
    let done = capture(guest, &sh(script), "/root/repo", &env, 1000).await.unwrap();
    assert_eq!(done.status, ExitStatus::Code { code: 7 });
    assert_eq!(done.stdout, format!("that\n{}\n", pair.guest.display()).into_bytes());
    assert!(done.stderr_tail.ends_with("end") && done.stderr_tail.len() < 5000, "{}", done.stderr_tail);
    let error = capture(guest, &sh("yes"), "/root/repo", &[], 1000).await.unwrap_err();
    assert!(matches!(error, ExchangeError::TooMuch { bytes_max: 1000 }), "{error:?}");
    let error = capture(guest, &["no-such-program".to_owned()], "/root/repo", &[], 1000).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Guest(_)), "{error:?}");
    pair.end().await;
}
