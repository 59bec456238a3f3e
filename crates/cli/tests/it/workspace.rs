//! The workspace loop as seen from the command line: what is asked of the daemon, what of it a person is told, and where
//! what comes back goes.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{COMMIT, Home, OP, Script, finished, inspection, transcript, vm, workspace, workspace_status};
use crate::run::{runs, without_time};

/// A home with a directory `repo` in it.
fn with_repository(home: Home) -> Home {
    std::fs::create_dir(home.path().join("repo")).unwrap();
    home
}

fn body(home: &Home, line: &str) -> Value {
    serde_json::from_slice(&home.log.wait_for(line).body).unwrap()
}

/// What is told by `banger` with `args`.
fn told(home: &Home, args: &[&str]) -> String {
    without_time(&transcript(home, &home.banger(args).output().unwrap()))
}

fn plus(mut record: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        record[name] = value.clone();
    }
    record
}

#[test]
fn run_sends_the_repository_it_looked_at_first() {
    let home = with_repository(runs(Script::new(), 3).run());
    let output = home.banger(&["run", "repo", "-e", "A=b", "--", "make"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let real = std::fs::canonicalize(home.path().join("repo")).unwrap();
    let source = json!({"host_path": real, "mode": "overlay", "include_untracked": false, "branch": null, "from": null, "depth": null});
    assert_eq!(body(&home, "POST /v1/workspaces/inspect"), json!({"source": source, "list": false}));
    assert_eq!(
        body(&home, "POST /v1/vms/fox/workspace"),
        json!({"source": source, "guest_path": null, "force": false})
    );
    assert_eq!(body(&home, "POST /v1/vms/fox/exec")["cwd"], "/root/repo");
    let asked = home.log.lines();
    let at = |line: &str| asked.iter().position(|asked| asked == line).unwrap();
    assert_eq!(at("POST /v1/workspaces/inspect"), 0, "{asked:?}");
    assert!(at("POST /v1/vms") < at("POST /v1/vms/fox/workspace"), "{asked:?}");
    let choice = [
        "run",
        "repo",
        "--branch",
        "try",
        "--from",
        "v1",
        "--include-untracked",
        "--mode",
        "full_copy",
        "-w",
        "/x",
        "--",
        "true",
    ];
    let home = with_repository(runs(Script::new(), 0).run());
    assert!(home.banger(&choice).output().unwrap().status.success());
    let source = json!({"host_path": std::fs::canonicalize(home.path().join("repo")).unwrap(), "mode": "full-copy",
        "include_untracked": true, "branch": "try", "from": "v1", "depth": null});
    assert_eq!(body(&home, "POST /v1/vms/fox/workspace")["source"], source);
    assert_eq!(body(&home, "POST /v1/vms/fox/exec")["cwd"], "/x");
}

#[test]
fn what_stays_and_what_travels_unasked_is_said() {
    let found = json!({
        "untracked_left_out": 3, "secrets": [".env", "keys/id_\u{1b}[31mrsa"],
        "warnings": ["sub is a submodule that is not checked out: it stays empty"],
    });
    let script = runs(Script::new(), 0).answer("POST /v1/workspaces/inspect", &plus(inspection(), &found));
    let home = with_repository(script.run());
    assert_snapshot!("run_remarks", told(&home, &["run", "repo", "--", "true"]));
    assert_snapshot!("run_remarks_quiet", told(&home, &["run", "-q", "repo", "--", "true"]));
    let home = with_repository(
        Script::new()
            .answer("POST /v1/workspaces/inspect", &plus(inspection(), &json!({"untracked_left_out": 1})))
            .run(),
    );
    let one = told(&home, &["run", "-d", "repo"]);
    assert!(one.contains("1 untracked file stays here"), "{one}");
}

#[test]
fn a_dry_run_shows_what_would_travel_and_makes_nothing() {
    let found = json!({
        "paths": ["a b", "sub/\u{1b}[31m\nx"], "untracked_left_out": 1, "submodules": ["sub"],
        "tooling": [".mise.toml"], "devcontainer": ".devcontainer/devcontainer.json",
    });
    let script = || Script::new().answer("POST /v1/workspaces/inspect", &plus(inspection(), &found));
    let home = with_repository(script().run());
    assert_snapshot!("dry_run", home.transcript(&["run", "repo", "--dry-run"]));
    assert_eq!(home.log.lines(), ["POST /v1/workspaces/inspect"]);
    assert_eq!(body(&home, "POST /v1/workspaces/inspect")["list"], true);
    let output = home.banger(&["run", "repo", "--dry-run", "--format", "json"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["paths"], found["paths"]);
    let output = home.banger(&["run", "repo", "--dry-run", "--format", "name"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b\nsub/\\x1b[31m\\x0ax\n");

    let mut web = vm("web", "running");
    web["workspace"] = plus(workspace(), &json!({"mode": "full-copy", "from": "v1", "branch": "try"}));
    let home = script().answer("GET /v1/vms/web ", &web).run();
    let output = home.banger(&["workspace", "prepare", "web", "--dry-run"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let source = json!({"host_path": "/", "mode": "full-copy", "include_untracked": false, "branch": "try", "from": "v1", "depth": 10});
    assert_eq!(body(&home, "POST /v1/workspaces/inspect")["source"], source);
}

#[test]
fn paths_that_are_no_workspace() {
    let home = with_repository(Script::new().run());
    std::fs::write(home.path().join("file"), "").unwrap();
    for (name, path) in [("missing", "nowhere"), ("file", "file")] {
        assert_snapshot!(format!("workspace_{name}"), home.transcript(&["run", path, "--", "true"]));
    }
    assert_eq!(home.log.lines(), [""; 0], "the daemon cannot know");
    let refused = "cannot use /src/plain as a workspace: not inside a git work tree";
    let home = with_repository(Script::new().refuse("POST /v1/workspaces/inspect", 400, "bad_request", refused).run());
    assert_snapshot!("workspace_refused", home.transcript(&["run", "repo", "--", "true"]));
    assert_eq!(home.log.lines(), ["POST /v1/workspaces/inspect"], "nothing is made for it");
}

#[test]
fn tools_that_cannot_be_fetched_are_told_before_there_is_a_vm() {
    let script = || {
        let found = plus(inspection(), &json!({"tooling": [".mise.toml", ".tool-versions"]}));
        runs(Script::new(), 0).answer("POST /v1/workspaces/inspect", &found)
    };
    for args in [&["run", "repo"][..], &["run", "-d", "repo"]] {
        let home = with_repository(script().run());
        assert_snapshot!("run_tools", home.transcript(args));
        assert_eq!(home.log.lines(), ["POST /v1/workspaces/inspect"]);
    }
    for args in [
        &["run", "-d", "repo", "--nat"][..],
        &["run", "-d", "repo", "--no-bootstrap"],
        &["run", "repo", "--", "true"],
        &["run", "--dry-run", "repo"],
    ] {
        let home = with_repository(script().run());
        let output = home.banger(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

#[test]
fn a_workspace_that_does_not_arrive() {
    let fails = |code: &'static str, message: &'static str| {
        runs(Script::new(), 0)
            .answer(
                "POST /v1/vms/fox/workspace ",
                &json!({"operation": "op-00000000000000bb", "vm": null, "subject": "fox"}),
            )
            .on("GET /v1/operations/op-00000000000000bb/events", move |_, connection| {
                connection.open();
                connection.event(&finished("unwound", &json!({"code": code, "message": message})));
            })
    };
    let home = with_repository(fails("exhausted", "cannot write /root/repo in fox: the disk is full").run());
    assert_snapshot!("run_full", home.transcript(&["run", "--wait", "agent", "repo", "--", "true"]));
    home.log.wait_for("DELETE /v1/vms/fox?discard=true");
    let home = with_repository(fails("timeout", "cannot write /root/repo in fox: no answer for 30 s").run());
    let text = told(&home, &["run", "--rm", "--wait", "agent", "repo", "--", "true"]);
    assert!(text.starts_with("status 125") && text.contains("fox is kept: banger logs fox"), "{text}");
    assert!(!home.log.lines().iter().any(|line| line.starts_with("DELETE")), "{text}");
}
