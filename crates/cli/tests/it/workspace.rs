//! The workspace loop as seen from the command line: what is asked of the daemon, what of it a person is told, and where
//! what comes back goes.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{COMMIT, Home, Script, finished, inspection, transcript, vm, workspace, workspace_status};
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
    web["workspace"] = plus(workspace(), &json!({"mode": "full-copy", "from": "v1", "made_branch": "try"}));
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

/// A home with a VM `web` whose exec ends at once, and whose workspace is as `more` says of the host's side.
fn with_host(more: &Value) -> Home {
    let mut status = workspace_status(0);
    status["guest"] = Value::Null;
    status["host"] = plus(status["host"].clone(), more);
    exec().answer("GET /v1/vms/web/workspace?host_only=true ", &status).run()
}

fn exec() -> Script {
    let end = |connection: &mut crate::fake::Connection| {
        connection.attach_to_workspace();
        connection.exited(wire::agent::message::ExitStatus::Code { code: 4 });
    };
    Script::new()
        .on("POST /v1/vms/web/exec", move |_, connection| end(connection))
        .answer("POST /v1/vms/web/sessions ", &crate::fake::session("s1", Value::Null))
}

#[test]
fn a_repository_that_is_ahead_is_warned_of_before_a_command() {
    let ahead = with_host(&json!({"head_moved": true, "changes": 2}));
    assert_snapshot!("exec_stale", ahead.transcript(&["exec", "web", "make"]));
    let line = |home: &Home, args: &[&str]| {
        let output = home.banger(args).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 4)), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let one = with_host(&json!({"changes": 1}));
    assert!(line(&one, &["exec", "web", "make"]).contains("/ is ahead of web (1 changed file): "));
    assert!(line(&one, &["exec", "-d", "web", "make"]).contains("/ is ahead of web (1 changed file): "));
    assert_eq!(line(&one, &["exec", "-q", "web", "make"]), "");
    assert_eq!(one.log.lines().iter().filter(|line| line.contains("/workspace")).count(), 2, "quiet asks nobody");
    for nothing in [json!({}), json!({"changes": 3, "problem": "git is not there"})] {
        assert_eq!(line(&with_host(&nothing), &["exec", "web", "make"]), "", "{nothing}");
    }
    for (status, code) in [(404, "not_found"), (409, "wrong_state"), (500, "internal")] {
        let home = exec().refuse("GET /v1/vms/web/workspace?host_only=true ", status, code, "no workspace").run();
        assert_eq!(line(&home, &["exec", "web", "make"]), "", "{code}");
    }
    let mut gone = workspace_status(0);
    gone["workspace"]["host_path"] = json!("/surely/not/there");
    gone["host"]["problem"] = json!("there is no such directory");
    let home = exec().answer("GET /v1/vms/web/workspace?host_only=true ", &gone).run();
    assert_snapshot!("exec_gone", home.transcript(&["exec", "web", "make"]));
}

#[test]
fn who_does_not_answer_about_the_repository_keeps_no_command() {
    let home = exec()
        .on("GET /v1/vms/web/workspace?host_only=true ", |_, connection| {
            connection.log().wait_for("GET /v1/vms/over");
        })
        .run();
    assert_eq!(home.banger(&["exec", "web", "make"]).output().unwrap().status.code(), Some(4));
    home.banger(&["show", "over"]).output().unwrap();
}

#[test]
fn auto_prepare_brings_it_up_to_date_first() {
    let operation = json!({"operation": crate::fake::OP, "vm": null, "subject": "web"});
    let home = exec().answer("POST /v1/vms/web/workspace ", &operation).run();
    assert_eq!(home.banger(&["exec", "--auto-prepare", "web", "make"]).output().unwrap().status.code(), Some(4));
    let asked = home.log.lines();
    let events = format!("GET /v1/operations/{}/events", crate::fake::OP);
    assert_eq!(asked, ["POST /v1/vms/web/workspace", &events, "POST /v1/vms/web/exec"]);
    assert_eq!(body(&home, "POST /v1/vms/web/workspace"), json!({"source": null, "guest_path": null, "force": false}));
    let refusal = "web has no workspace";
    let home = exec().refuse("POST /v1/vms/web/workspace ", 409, "wrong_state", refusal).run();
    assert_snapshot!("exec_no_workspace", home.transcript(&["exec", "--auto-prepare", "web", "make"]));
    assert_eq!(home.log.lines().len(), 1, "the command did not run");
}

#[test]
fn prepare_says_where_it_is() {
    let mut web = vm("web", "running");
    web["workspace"] = workspace();
    let operation = json!({"operation": crate::fake::OP, "vm": null, "subject": "web"});
    let script = || {
        let found = plus(inspection(), &json!({"untracked_left_out": 2}));
        Script::new()
            .answer("GET /v1/vms/web ", &web)
            .answer("POST /v1/workspaces/inspect ", &found)
            .answer("POST /v1/vms/web/workspace ", &operation)
    };
    let home = with_repository(script().run());
    assert_snapshot!("prepare", home.transcript(&["workspace", "prepare", "web", "repo", "--depth", "3"]));
    let sent = body(&home, "POST /v1/vms/web/workspace");
    assert_eq!((&sent["source"]["depth"], &sent["force"]), (&json!(3), &json!(false)));
    let again = ["vm", "workspace", "prepare", "web", "--force", "--guest-path", "/srv/x", "--format", "json"];
    let home = script().run();
    let output = home.banger(&again).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["base_commit"], COMMIT);
    let sent = json!({"source": null, "guest_path": "/srv/x", "force": true});
    assert_eq!(body(&home, "POST /v1/vms/web/workspace"), sent);
    assert!(!home.log.lines().contains(&"POST /v1/workspaces/inspect".to_owned()), "the daemon knows what to look at");

    let conflict = json!({"error": {"code": "wrong_state", "message": "cannot prepare the workspace of web: changed on both sides: a, b",
        "hint": "--force takes the host's"}});
    let home = script().on("POST /v1/vms/web/workspace ", move |_, connection| connection.json(409, &conflict)).run();
    assert_snapshot!("prepare_conflict", home.transcript(&["workspace", "prepare", "web"]));
}

#[test]
fn work_that_would_be_lost_is_deleted_only_when_asked() {
    let refusal = "cannot delete db: 3 changed files in /root/repo were never exported";
    let other = vm("old", "stopped");
    let script = || {
        Script::new()
            .answer("GET /v1/vms ", &json!({"vms": [vm("db", "stopped"), other.clone()]}))
            .refuse("DELETE /v1/vms/6462000000000000?only_off=true ", 409, "in_use", refusal)
            .refuse("DELETE /v1/vms/6462000000000000 ", 409, "in_use", refusal)
    };
    let home = script().run();
    assert_snapshot!("delete_refused", home.transcript(&["rm", "db"]));
    assert_snapshot!("delete_discarded", home.transcript(&["rm", "--discard", "db"]));
    assert!(home.log.lines().contains(&"DELETE /v1/vms/6462000000000000?discard=true".to_owned()));
    assert_snapshot!("prune_refused", home.transcript(&["prune", "-f"]));
    let home = script().run();
    assert!(home.banger(&["prune", "-f", "--discard"]).output().unwrap().status.success());
    home.log.wait_for("DELETE /v1/vms/6462000000000000?only_off=true&discard=true");
}

#[test]
fn the_workspace_is_on_the_vms_page() {
    let mut web = vm("web", "running");
    let row = |web: &Value| {
        let home = Script::new().answer("GET /v1/vms/web ", web).run();
        let page = String::from_utf8(home.banger(&["show", "web"]).output().unwrap().stdout).unwrap();
        let line = page.lines().find(|line| line.starts_with("workspace")).unwrap().to_owned();
        line["workspace".len()..].trim().to_owned()
    };
    web["workspace"] = workspace();
    assert_eq!(row(&web), "/root/repo from / (main at 0123456789ab)");
    let never = json!({"branch": null, "base_commit": null, "head_commit": null, "prepared_at_ms": null});
    web["workspace"] = plus(workspace(), &never);
    assert_eq!(row(&web), "/root/repo from /, not sent whole");
}
