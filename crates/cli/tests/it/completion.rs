//! Completion, as a shell asks for it.

use serde_json::{Value, json};

use crate::fake::{Home, Script, session};

fn candidates(home: &Home, words: &[&str]) -> Vec<String> {
    let mut args = vec!["--"];
    args.extend(words);
    let index = (words.len() - 1).to_string();
    let mut command = home.banger(&args);
    let output = command
        .env("BANGER_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", index)
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The candidates that are no options.
fn names(home: &Home, words: &[&str]) -> Vec<String> {
    let mut names = candidates(home, words);
    names.retain(|name| !name.starts_with('-'));
    names
}

#[test]
fn names_as_they_are_now() {
    let home = Script::new().run();
    assert_eq!(names(&home, &["banger", "start", ""]), ["web", "db"]);
    assert_eq!(names(&home, &["banger", "vm", "stop", "w"]), ["web"]);
    assert_eq!(names(&home, &["banger", "stop", "web", "d"]), ["db"]);
    assert_eq!(names(&home, &["banger", "run", "--image", ""]), ["debian-bookworm"]);
    assert_eq!(names(&home, &["banger", "kernel", "show", ""]), ["debian-cloud"]);
    let sessions =
        json!({"sessions": [session("dev", Value::Null), session("s2", json!(0)), session("$(reboot)", Value::Null)]});
    let home = Script::new().answer("GET /v1/vms/web/sessions", &sessions).run();
    assert_eq!(names(&home, &["banger", "session", "attach", "web", ""]), ["dev", "s2"]);
    assert_eq!(names(&home, &["banger", "vm", "session", "stop", "-t", "5s", "web", "s2", "d"]), ["dev"]);
    assert_eq!(names(&home, &["banger", "session", "attach", ""]), ["web", "db"]);
    assert!(names(&home, &["banger", "session", "attach", "db", ""]).is_empty());
    assert!(names(&home, &["banger", "kin"]).is_empty());
    std::fs::write(home.path().join("wedge"), "").unwrap();
    assert_eq!(names(&home, &["banger", "cp", "we"]), ["wedge", "web:"]);
    for verb in ["prepare", "export", "diff", "status"] {
        assert_eq!(names(&home, &["banger", "workspace", verb, "w"]), ["web"], "{verb}");
    }
    assert_eq!(names(&home, &["banger", "ker"]), ["kernel"]);
    assert!(candidates(&home, &["banger", "run", "--r"]).contains(&"--rm".to_owned()));
}

#[test]
fn values_that_are_a_closed_list() {
    let home = Home::empty();
    for verb in ["run", "create", "set"] {
        assert_eq!(names(&home, &["banger", "vm", verb, "--restart", ""]), ["no", "on-failure", "always"], "{verb}");
    }
    assert_eq!(names(&home, &["banger", "set", "web", "--restart", "a"]), ["always"]);
    let modes = ["overlay", "full-copy", "metadata-only"];
    assert_eq!(names(&home, &["banger", "run", ".", "--mode", ""]), modes);
    assert_eq!(names(&home, &["banger", "workspace", "prepare", "web", ".", "--mode", ""]), modes);
    let formats = ["patch", "mbox", "branch"];
    assert_eq!(names(&home, &["banger", "workspace", "export", "web", "--format", ""]), formats);
    assert_eq!(names(&home, &["banger", "kill", "--signal", "K"]), ["KILL"]);
    assert_eq!(names(&home, &["banger", "list", "--state", "ru"]), ["running"]);
}

#[test]
fn without_a_daemon_there_is_nothing_and_none_is_started() {
    let home = Home::empty();
    std::fs::write(home.path().join("file"), "").unwrap();
    assert!(names(&home, &["banger", "start", ""]).is_empty());
    assert!(!home.path().join("state").exists());
}

#[test]
fn scripts() {
    let home = Home::empty();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.banger(&["completion", shell]).output().unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("BANGER_COMPLETE") && script.contains(env!("CARGO_BIN_EXE_banger")),
            "{shell}: {script}"
        );
    }
}
