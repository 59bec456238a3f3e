//! What a repository asks of its guest beside its files: tools that mise installs, a development container. What is asked of
//! the daemon for it, and what of it a person is told.

use std::net::TcpListener;

use insta::assert_snapshot;
use serde_json::{Value, json};
use wire::agent::message::ExitStatus;
use wire::attach::Kind;

use crate::fake::{Home, Script, inspection, session, transcript, vm, workspace};
use crate::run::{runs, without_time};

const MISE: &str = "/usr/local/bin/mise";

/// A home with a directory `repo`, of which the daemon says `found`.
fn home(script: Script, found: &Value) -> Home {
    let mut inspected = inspection();
    for (name, value) in found.as_object().unwrap() {
        inspected[name] = value.clone();
    }
    let home = script.answer("POST /v1/workspaces/inspect ", &inspected).run();
    std::fs::create_dir(home.path().join("repo")).unwrap();
    home
}

/// A daemon whose VM fox has mise, and where both sessions end with these statuses.
fn guest(tooling: u8, post_create: u8) -> Script {
    let mut fox = vm("fox", "running");
    fox["workspace"] = workspace();
    fox["workspace"]["mise"] = json!(MISE);
    let ends = |script: Script, name: &str, status: u8, text: &'static str| {
        script.on(&format!("POST /v1/vms/fox/sessions/{name}/attach"), move |_, connection| {
            connection.attach();
            connection.send(Kind::Output, text.as_bytes());
            connection.send(Kind::Error, b"mise WARN slow\n");
            connection.exited(ExitStatus::Code { code: status });
        })
    };
    let script = runs(Script::new(), 5)
        .answer("GET /v1/vms/fox ", &fox)
        .answer("POST /v1/vms/fox/sessions ", &session("x", Value::Null));
    let script = ends(script, "tooling", tooling, "+ mise install\ninstalled node@22\n");
    ends(script, "post-create", post_create, "+ npm ci\nadded 3 packages\n")
}

fn pinned() -> Value {
    json!({"tooling": [".mise.toml", ".tool-versions"],
        "pins": [{"tool": "go", "version": "1.25", "file": "go.mod"}, {"tool": "rust", "version": "1.85", "file": "rust-toolchain"}]})
}

/// What is told without how long things took.
fn told(home: &Home, args: &[&str]) -> String {
    let text = without_time(&transcript(home, &home.banger(args).output().unwrap()));
    let stages = ["fox: install tools ", "fox: run postCreateCommand "];
    let timeless = |line: &str| match stages.iter().find(|stage| line.starts_with(**stage)) {
        Some(stage) => format!("{stage}T"),
        None => line.to_owned(),
    };
    text.lines().map(timeless).collect::<Vec<_>>().join("\n")
}

/// What was asked for of sessions, in order.
fn sessions(home: &Home) -> Vec<Value> {
    let asked = home.log.bodies("POST /v1/vms/fox/sessions");
    asked.into_iter().filter(|body| !body["command"].is_null()).collect()
}

#[test]
fn without_a_shell_tools_are_waited_for() {
    let home = home(guest(0, 0), &pinned());
    assert_snapshot!("tools_detached", told(&home, &["run", "-d", "--nat", "-u", "dev", "-e", "A=b", "repo"]));
    let asked = sessions(&home);
    assert_eq!(asked.len(), 1, "{asked:?}");
    let (name, command) = (&asked[0]["name"], &asked[0]["command"]);
    assert_eq!((name, &command["cwd"], &command["user"]), (&json!("tooling"), &json!("/"), &json!("dev")));
    assert_eq!(command["env"], json!([["A", "b"]]));
    let argv = command["argv"].as_array().unwrap();
    assert_eq!(argv[..2], [json!("/bin/sh"), json!("-c")]);
    assert_eq!(argv[3..], [json!("banger"), json!(MISE), json!("/root/repo"), json!("go@1.25"), json!("rust@1.85")]);
    let lines = home.log.lines();
    let at = |line: &str| lines.iter().position(|asked| asked == line).unwrap();
    assert!(at("POST /v1/vms/fox/workspace") < at("POST /v1/vms/fox/sessions"), "{lines:?}");
}

#[test]
fn quiet_shows_nothing_of_it_and_standard_output_is_the_names() {
    let home = home(guest(0, 0), &pinned());
    assert_snapshot!("tools_quiet", told(&home, &["run", "-q", "-d", "--nat", "repo"]));
}

#[test]
fn tools_that_are_not_installed_keep_nobody() {
    let text = told(&home(guest(3, 0), &pinned()), &["run", "-d", "--nat", "repo"]);
    assert_snapshot!("tools_failed", text);
    let script = guest(0, 0).answer("GET /v1/vms/fox ", &vm("fox", "running"));
    assert_snapshot!("tools_no_mise", told(&home(script, &pinned()), &["run", "-d", "--nat", "repo"]));
    let refused = "the agent in fox does not answer";
    let script = guest(0, 0).refuse("POST /v1/vms/fox/sessions ", 503, "guest_unreachable", refused);
    assert_snapshot!("tools_refused", told(&home(script, &pinned()), &["run", "-d", "--nat", "repo"]));
}

#[test]
fn a_shell_does_not_wait_and_a_command_has_none_installed() {
    let shell = home(guest(0, 0), &pinned());
    let text = told(&shell, &["run", "-t", "--nat", "repo"]);
    assert!(text.starts_with("status 5"), "{text}");
    let aside = "the tools of .mise.toml, .tool-versions are being installed; a new shell has them then: banger logs -f --tooling fox";
    assert!(text.contains(aside), "{text}");
    let lines = shell.log.lines();
    assert!(lines.contains(&"POST /v1/vms/fox/sessions".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("/attach")), "{lines:?}");
    for args in [&["run", "--nat", "repo", "--", "make"][..], &["run", "-d", "--no-bootstrap", "repo"]] {
        let home = home(guest(0, 0), &pinned());
        told(&home, args);
        assert_eq!(sessions(&home), [json!(null); 0], "{args:?}");
    }
}

fn contained(container: &Value) -> Value {
    json!({"devcontainer": ".devcontainer.json", "container": container})
}

#[test]
fn a_containers_command_runs_before_ours() {
    let found = contained(&json!({"env": [["A", "b"]], "post_create": ["npm ci", "make 'a b'"]}));
    let home = home(guest(0, 0), &found);
    assert_snapshot!("container_command", told(&home, &["run", "repo", "--", "make"]));
    let asked = sessions(&home);
    let command = &asked[0]["command"];
    assert_eq!((&asked[0]["name"], &command["cwd"]), (&json!("post-create"), &json!("/root/repo")));
    assert_eq!(command["argv"].as_array().unwrap()[3..], [json!("banger"), json!("npm ci"), json!("make 'a b'")]);
    let lines = home.log.lines();
    let at = |line: &str| lines.iter().position(|asked| asked == line).unwrap();
    assert!(at("POST /v1/vms/fox/sessions/post-create/attach") < at("POST /v1/vms/fox/exec"), "{lines:?}");
}

#[test]
fn a_containers_command_waits_for_tools_and_may_fail() {
    let mut found = contained(&json!({"post_create": ["npm ci"]}));
    found["tooling"] = json!([".mise.toml"]);
    let both = home(guest(0, 9), &found);
    let text = told(&both, &["run", "-t", "--nat", "repo"]);
    assert!(text.starts_with("status 5"), "{text}");
    assert!(text.contains("banger: warning: postCreateCommand ended with status 9 in fox"), "{text}");
    let names: Vec<Value> = sessions(&both).iter().map(|asked| asked["name"].clone()).collect();
    assert_eq!(names, [json!("tooling"), json!("post-create")]);
    both.log.wait_for("POST /v1/vms/fox/sessions/tooling/attach");
    for args in [&["run", "-d", "--no-bootstrap", "repo"][..], &["run", "--dry-run", "repo"]] {
        let home = home(guest(0, 0), &found);
        told(&home, args);
        assert_eq!(sessions(&home), [json!(null); 0], "{args:?}");
    }
}

fn created(home: &Home) -> (Value, Value) {
    let body: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/vms").body).unwrap();
    (body["image"].clone(), body["publish"].clone())
}

#[test]
fn a_containers_image_is_used_where_it_is() {
    let found = contained(&json!({"image": "mine/dev:1"}));
    let here = home(guest(0, 0).answer("GET /v1/images/mine%2Fdev%3A1 ", &crate::fake::image()), &found);
    told(&here, &["run", "-d", "repo"]);
    assert_eq!(created(&here).0, "mine/dev:1");
    let missing =
        home(guest(0, 0).refuse("GET /v1/images/mine%2Fdev%3A1 ", 404, "not_found", "no image mine/dev:1"), &found);
    let text = told(&missing, &["run", "-d", "repo"]);
    let warning = "warning: .devcontainer.json wants the image mine/dev:1, which is not here: the default one is used";
    assert!(text.starts_with("status 0") && text.contains(warning), "{text}");
    assert_eq!(created(&missing).0, Value::Null);
    let asked = home(guest(0, 0).answer("GET /v1/images/i ", &crate::fake::image()), &found);
    told(&asked, &["run", "-d", "--image", "i", "repo"]);
    assert_eq!(created(&asked).0, "i");
}

#[test]
fn a_containers_ports_are_published_where_they_are_free() {
    let (busy, free) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let [busy_port, free_port] = [&busy, &free].map(|listener| listener.local_addr().unwrap().port());
    drop(free);
    let found = contained(&json!({"ports": [busy_port, free_port, 81]}));
    let home = home(guest(0, 0), &found);
    let text = told(&home, &["run", "-d", "-p", "8080:81", "repo"]);
    let warning = format!(
        "warning: port {busy_port} of .devcontainer.json is not published on 127.0.0.1: address already in use; choose another with -p HOST:{busy_port}"
    );
    assert!(text.contains(&warning), "{text}");
    let pair = |host: u16, guest: u16| json!({"host_port": host, "guest_port": guest});
    assert_eq!(created(&home).1, json!([pair(8080, 81), pair(free_port, free_port)]));
}

#[test]
fn the_log_of_it_is_found_again() {
    let list = json!({"sessions": [session("dev", Value::Null), session("post-create", json!(0)), session("tooling", json!(0))]});
    let script = guest(0, 0).answer("GET /v1/vms/fox/sessions ", &list);
    assert_snapshot!("tooling_log", script.run().transcript(&["logs", "--tooling", "fox"]));
    let home =
        Script::new().answer("GET /v1/vms/web/sessions ", &json!({"sessions": [session("dev", json!(0))]})).run();
    assert_snapshot!("tooling_no_log", home.transcript(&["vm", "logs", "--tooling", "-f", "web"]));
    let home = guest(0, 0).answer("GET /v1/vms/fox/sessions ", &list).run();
    home.banger(&["logs", "--tooling", "-f", "fox"]).output().unwrap();
    let asked: Value =
        serde_json::from_slice(&home.log.wait_for("POST /v1/vms/fox/sessions/tooling/attach").body).unwrap();
    assert_eq!((&asked["follow"], &asked["stdin"]), (&json!(true), &json!(false)));
}
