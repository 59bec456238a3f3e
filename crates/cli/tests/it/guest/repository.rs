//! A repository goes into a guest, and the work comes back: the whole loop with the programs as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::host::Host;

/// Does to a repository what somebody might: edits, adds, deletes, makes executable.
const WORK: &str =
    "echo edited >tracked && rm gone && echo new >'new file' && chmod +x tool && head -c 3000 /dev/urandom >bytes";

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-C"])
        .arg(dir)
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A repository with a commit in the home of `host`.
fn repository(host: &Host) -> PathBuf {
    let repo = host.home().join("project");
    git(host.home(), &["init", "-q", "-b", "main", "project"]);
    for (name, text) in [("tracked", "committed\n"), ("gone", "x\n"), ("tool", "#!/bin/sh\n")] {
        fs::write(repo.join(name), text).unwrap();
    }
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "first"]);
    repo
}

/// What the work is, as git tells it of an index.
fn is_done_in(repo: &Path) {
    let expected = "A\tbytes\nD\tgone\nA\tnew file\nM\ttool\nM\ttracked";
    assert_eq!(git(repo, &["diff", "--cached", "--name-status", "HEAD"]), expected);
    assert_eq!(fs::read_to_string(repo.join("tracked")).unwrap(), "edited\n");
    assert_eq!(fs::read(repo.join("bytes")).unwrap().len(), 3000);
}

#[test]
fn work_comes_back_as_a_patch() {
    let host = Host::new();
    let repo = repository(&host);
    let path = repo.to_str().unwrap();
    let plan: serde_json::Value =
        serde_json::from_str(&host.ok(&["run", path, "--dry-run", "--format", "json"])).unwrap();
    assert_eq!(plan["paths"], serde_json::json!(["gone", "tool", "tracked"]));
    host.ok(&["run", "-d", "--name", "web", "--wait", "agent", path]);
    assert!(host.ok(&["workspace", "status", "web"]).matches("as it was sent").count() == 2);
    assert_eq!(host.ok(&["exec", "web", "--", "pwd"]), "/root/repo");
    host.ok(&["exec", "web", "--", "sh", "-c", WORK]);

    let status = host.ok(&["workspace", "status", "web"]);
    assert!(status.contains("5 changed files") && status.contains("M tracked"), "{status}");
    let refused = host.run(&["rm", "web"]).code(1);
    assert!(refused.stderr.contains("web holds work that was never exported"), "{}", refused.stderr);
    let shown = host.ok(&["workspace", "diff", "web"]);
    assert!(shown.contains("+edited") && shown.contains("GIT binary patch"), "{shown}");
    let patch = host.home().join("work.patch");
    host.ok(&["workspace", "export", "web", "-o", patch.to_str().unwrap()]);
    git(&repo, &["apply", "--index", patch.to_str().unwrap()]);
    is_done_in(&repo);

    // This side is ahead now; what is there is the same, so that it goes over.
    let warned = host.run(&["exec", "web", "--", "true"]).code(0);
    assert!(warned.stderr.contains("is ahead of web") && warned.stderr.contains("--auto-prepare"), "{}", warned.stderr);
    let quiet = host.run(&["exec", "--auto-prepare", "-q", "web", "--", "cat", "tracked"]).code(0);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (b"edited\n".to_vec(), ""));
    host.run(&["exec", "--timeout", "1s", "web", "--", "sleep", "1000"]).code(124);
    host.ok(&["rm", "web"]);
    host.leaves_nothing();
}

#[test]
fn work_in_a_vm_that_goes_is_saved_first() {
    let host = Host::new();
    let repo = repository(&host);
    let args = ["run", "--rm", "--wait", "agent", repo.to_str().unwrap(), "--", "sh", "-c"];
    let ran = host.run(&[&args[..], &[&format!("{WORK}; exit 7")]].concat()).code(7);
    assert!(ran.stderr.contains("5 changed files in "), "{}", ran.stderr);
    let exports = host.state().join("exports");
    let patches: Vec<PathBuf> = fs::read_dir(&exports).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [patch] = &patches[..] else { panic!("{patches:?}") };
    assert!(ran.stderr.contains(patch.to_str().unwrap()), "{}", ran.stderr);
    git(&repo, &["apply", "--index", patch.to_str().unwrap()]);
    is_done_in(&repo);
    git(&repo, &["commit", "-qm", "second"]);
    assert_eq!(host.run(&[&args[..], &["true"]].concat()).code(0).stdout, b"");
    host.run(&[&["run", "--discard"], &args[1..], &["echo lost >tracked"]].concat()).code(0);
    assert_eq!(fs::read_dir(&exports).unwrap().count(), 1, "nothing was changed, or it was not wanted");
    fs::remove_dir_all(&exports).unwrap();
    host.ends_clean();
}

/// The other two modes: a history without its files, of which none is missed, and all of a branch's history.
#[test]
fn a_history_goes_in_without_files_and_with_all_of_it() {
    let host = Host::new();
    let repo = repository(&host);
    git(&repo, &["branch", "side"]);
    for number in 2..=12 {
        git(&repo, &["commit", "-q", "--allow-empty", "-m", &number.to_string()]);
    }
    let path = repo.to_str().unwrap();
    host.ok(&["create", "--name", "web", "--wait", "agent"]);
    host.ok(&["workspace", "prepare", "web", path, "--mode", "metadata-only"]);
    let there = |script: &str| host.ok(&["exec", "web", "--", "sh", "-ec", script]);
    assert_eq!(there("git log -1 --format=%s; git rev-list --count HEAD; ls"), "12\n10");
    assert!(host.ok(&["workspace", "status", "web"]).contains("as it was sent"));
    there("git restore tracked && echo edited >tracked");
    let patch = host.home().join("work.patch");
    host.ok(&["workspace", "export", "web", "-o", patch.to_str().unwrap()]);
    git(&repo, &["apply", "--index", patch.to_str().unwrap()]);
    assert_eq!(git(&repo, &["diff", "--cached", "--name-status", "HEAD"]), "M\ttracked");

    // Another place, and the original's spelling.
    let elsewhere = ["workspace", "prepare", "web", path, "--guest-path", "/root/whole", "--mode", "full_copy"];
    host.ok(&elsewhere);
    assert_eq!(there("pwd; git rev-list --count HEAD; git branch; cat tracked"), "/root/whole\n12\n* main\nedited");
    // A commit without changes is work too, and no patch can hold it.
    there("git -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m nothing");
    let refused = host.run(&["rm", "web"]).code(1);
    assert!(refused.stderr.contains("web holds work that was never exported"), "{}", refused.stderr);
    host.ok(&["rm", "--discard", "web"]);
    host.leaves_nothing();
}
