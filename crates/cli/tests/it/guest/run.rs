//! One command in a new VM.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::host::{Host, eventually, kill};
use super::lifecycle::{disk_is_clean, state};

#[test]
fn the_status_is_the_commands_own() {
    let host = Host::new();
    let cases: [(&[&str], i32); 5] = [
        (&["sh", "-c", "exit 42"], 42),
        (&["true"], 0),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ];
    host.run(&["vm", "run", "--rm", "--", "sh", "-c", "exit 42"]).code(42);
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    for (command, code) in cases {
        let mut args = vec!["exec", "web", "--"];
        args.extend(command);
        host.run(&args).code(code);
    }
    host.leaves_nothing();
}

#[test]
fn words_with_spaces_and_quotes_arrive_as_they_are() {
    let host = Host::new();
    let odd = ["a b", "'", "\"$HOME\"", "", "*", "--", "-n", "back\\slash", "é\u{1f600}", "line\nbreak"];
    let mut args = vec!["run", "--rm", "--wait", "agent", "--", "printf", "%s|"];
    args.extend(odd);
    assert_eq!(host.run(&args).code(0).stdout, format!("{}|", odd.join("|")).into_bytes());
    host.ends_clean();
}

fn git(dir: &Path, args: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-C"])
        .arg(dir)
        .args(args)
        .status()
        .unwrap();
    assert!(status.success(), "git {args:?}");
}

#[test]
fn the_tracked_files_are_there_and_nothing_else() {
    let host = Host::new();
    let repo = host.home().join("project");
    fs::create_dir_all(repo.join("sub dir")).unwrap();
    git(host.home(), &["init", "-q", "project"]);
    fs::write(repo.join("tracked"), "committed").unwrap();
    fs::write(repo.join("sub dir/script"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(repo.join("sub dir/script"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("tracked", repo.join("link")).unwrap();
    fs::write(repo.join("gone"), "x").unwrap();
    fs::write(repo.join(".gitignore"), "secret\n").unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-qm", "first"]);
    fs::write(repo.join("tracked"), "edited").unwrap();
    fs::write(repo.join("untracked"), "x").unwrap();
    fs::write(repo.join("secret"), "x").unwrap();
    fs::remove_file(repo.join("gone")).unwrap();
    let script =
        "pwd; cat tracked; echo; readlink link; 'sub dir/script'; find . -path ./.git -prune -o -type f -print | sort";
    let out = host.ok(&["run", "--rm", "--wait", "agent", repo.to_str().unwrap(), "--", "sh", "-c", script]);
    assert_eq!(out, "/root/repo\nedited\ntracked\nran\n./.gitignore\n./sub dir/script\n./tracked");
    host.ends_clean();
}

#[test]
fn two_runs_at_once_do_not_meet() {
    let host = Host::new();
    std::thread::scope(|scope| {
        let runs = ["one", "two"].map(|word| {
            let host = &host;
            scope.spawn(move || {
                host.ok(&["run", "--rm", "--wait", "agent", "--", "sh", "-c", &format!("echo {word}; hostname")])
            })
        });
        let outs = runs.map(|run| run.join().unwrap());
        assert!(outs[0].starts_with("one\n") && outs[1].starts_with("two\n"), "{outs:?}");
        assert_ne!(outs[0][4..], outs[1][4..], "both VMs have the same name");
    });
    host.ends_clean();
}

#[test]
fn ctrl_c_during_a_boot_leaves_nothing() {
    let host = Host::new();
    let child = host.command(&["run", "--rm", "--", "true"]).spawn().unwrap();
    eventually("a VM is booting", || host.guests() > 0);
    kill(child.id(), rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    eventually("its VMM is gone", || host.guests() == 0);
    host.ends_clean();
}

#[test]
fn an_image_without_an_init_works_and_keeps_its_home() {
    let host = Host::new();
    host.ok(&["run", "--image", "no-init", "--name", "tiny", "-d"]);
    let out =
        host.ok(&["exec", "--user", "root", "tiny", "--", "sh", "-c", "echo hi >/root/kept; cat /proc/1/cmdline"]);
    assert!(out.contains("banger-agent") || out.contains("/init"), "the agent is process 1: {out}");
    host.ok(&["stop", "tiny"]);
    disk_is_clean(&host, "tiny");
    host.ok(&["start", "tiny"]);
    assert_eq!(host.ok(&["exec", "--user", "root", "tiny", "--", "cat", "/root/kept"]), "hi");
    // The commands of an image without an init end it too.
    host.run(&["exec", "--user", "root", "tiny", "--", "busybox", "poweroff"]);
    eventually("it is off", || state(&host, "tiny") == "stopped");
    disk_is_clean(&host, "tiny");
    host.leaves_nothing();
}

#[test]
fn commands_begin_with_what_the_image_says() {
    let host = Host::new();
    host.ok(&["run", "--image", "no-init", "--name", "tiny", "-d"]);
    let says = ["sh", "-c", "id -un; pwd; echo \"$GREETING\""];
    assert_eq!(host.ok(&[&["exec", "tiny", "--"], &says[..]].concat()), "daemon\n/usr/games\nhello, guest");
    // Whoever runs it has the last word.
    let own = ["exec", "--user", "root", "--workdir", "/etc", "--env", "GREETING=hi", "tiny", "--"];
    assert_eq!(host.ok(&[&own[..], &says].concat()), "root\n/etc\nhi");
    host.leaves_nothing();
}
