//! What comes back out of a workspace: `banger workspace export`, `diff` and `status`, and `banger run --rm`.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{COMMIT, Home, Script, transcript, vm, workspace, workspace_status};
use crate::run::{runs, without_time};

pub(crate) const PATCH: &[u8] =
    b"diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-old\n+new \xff\n+\x1b[2J\n";

/// What the daemon says of it: all of it is in it.
fn whole() -> Value {
    json!({"base_commit": COMMIT, "head_commit": COMMIT, "files": 1, "commits": 0, "fingerprint": "f00d"})
}

/// An export of `bytes` that ends with these trailers; without any, it breaks off.
fn exports(script: Script, vm: &str, bytes: &'static [u8], trailers: &[(&str, Value)]) -> Script {
    let end: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    script
        .on(&format!("GET /v1/vms/{vm}/workspace/export?"), move |_, connection| {
            connection.bytes(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: banger-error, banger-exported\r\n\r\n",
            );
            let (first, second) = bytes.split_at(bytes.len() / 2);
            for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
                connection.bytes(format!("{:x}\r\n", piece.len()).as_bytes());
                connection.bytes(piece);
                connection.bytes(b"\r\n");
            }
            if !end.is_empty() {
                connection.bytes(format!("0\r\n{end}\r\n").as_bytes());
            }
        })
        .answer(&format!("POST /v1/vms/{vm}/workspace/exported "), &json!({}))
}

/// The VM `web` with a workspace, from which all of the patch comes.
pub(crate) fn web() -> Script {
    let mut web = vm("web", "running");
    web["workspace"] = workspace();
    exports(Script::new().answer("GET /v1/vms/web ", &web), "web", PATCH, &[("banger-exported", whole())])
}

fn run(home: &Home, args: &[&str]) -> Output {
    home.banger(args).output().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_told_safe(home: &Home) -> bool {
    home.log.lines().contains(&"POST /v1/vms/web/workspace/exported".to_owned())
}

#[test]
fn a_patch_on_standard_output_is_exact_and_safe_once_it_was_written() {
    let home = web().run();
    let output = run(&home, &["workspace", "export", "web"]);
    assert!(output.status.success() && output.stdout == PATCH, "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let told = home.log.wait_for("POST /v1/vms/web/workspace/exported");
    assert_eq!(serde_json::from_slice::<Value>(&told.body).unwrap(), json!({"fingerprint": "f00d"}));
    assert_eq!(home.log.lines()[0], "GET /v1/vms/web/workspace/export?format=patch");

    let home = web().run();
    let args =
        ["vm", "workspace", "export", "web", "--format", "mbox", "--base-commit", "ABCD12", "--guest-path", "/a b"];
    assert!(run(&home, &args).status.success());
    let asked = "GET /v1/vms/web/workspace/export?format=mbox&base_commit=abcd12&guest_path=%2Fa%20b";
    assert_eq!(home.log.lines()[0], asked);

    let home = web().run();
    let output = run(&home, &["workspace", "export", "web", "-o", "-"]);
    assert!(output.stdout == PATCH && !home.path().join("-").exists(), "{output:?}");
    let home = web().run();
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    assert!(home.banger(&["workspace", "export", "web"]).stdout(null).status().unwrap().success());
    assert!(!is_told_safe(&home), "what went to /dev/null is not safe");
    let file = std::fs::File::create(home.path().join("patch")).unwrap();
    assert!(home.banger(&["workspace", "export", "web"]).stdout(file).status().unwrap().success());
    assert!(is_told_safe(&home));

    let home = web().run();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = home.banger(&["workspace", "export", "web"]).stdout(Stdio::from(writer)).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert!(!is_told_safe(&home), "nobody read it");
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let home = web().run();
    std::fs::write(home.path().join("old"), "old").unwrap();
    std::fs::set_permissions(home.path().join("old"), std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink("old", home.path().join("link")).unwrap();
    assert_snapshot!("export_file", home.transcript(&["workspace", "export", "web", "-o", "new"]));
    assert!(is_told_safe(&home));
    assert!(run(&home, &["workspace", "export", "web", "-o", "link"]).status.success());
    for name in ["new", "old"] {
        assert_eq!(std::fs::read(home.path().join(name)).unwrap(), PATCH, "{name}");
    }
    assert_eq!(std::fs::metadata(home.path().join("old")).unwrap().permissions().mode() & 0o777, 0o600);
    let output = run(&home, &["workspace", "export", "web", "--json", "-q", "-o", "new"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["fingerprint"], "f00d");

    let why =
        json!({"error": {"code": "operation_failed", "message": "git in web ended with status 128: no such commit"}});
    for (bytes, trailers, said) in [
        (PATCH, vec![("banger-error", why)], "cannot export the workspace of web: git in web ended with status 128"),
        (PATCH, vec![], "broke off in the middle"),
        (PATCH, vec![("x", json!(1))], "broke off in the middle"),
    ] {
        let home = exports(Script::new(), "web", bytes, &trailers).run();
        std::fs::write(home.path().join("old"), "old").unwrap();
        for name in ["old", "new"] {
            let output = run(&home, &["workspace", "export", "web", "-o", name]);
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && stderr.contains(said), "{stderr}");
        }
        assert_eq!(run(&home, &["workspace", "export", "web"]).status.code(), Some(1), "{said}");
        assert_eq!(std::fs::read(home.path().join("old")).unwrap(), b"old");
        assert_eq!(names(home.path()), ["old", "run"], "{said}");
        assert!(!is_told_safe(&home), "{said}");
    }
}

#[test]
fn what_is_no_file_is_not_written_over() {
    let home = web().run();
    std::fs::create_dir(home.path().join("dir")).unwrap();
    symlink("nowhere", home.path().join("dangling")).unwrap();
    let mut told = String::new();
    for path in ["dir", "dangling", "none/x", "/dev/null"] {
        told.push_str(&home.transcript(&["workspace", "export", "web", "-o", path]));
    }
    assert_snapshot!("export_refused", told);
    assert!(home.log.lines().is_empty(), "the guest was asked before that was known");
}

#[test]
fn what_is_not_in_it_is_said() {
    let more = |more: Value| {
        let mut exported = whole();
        for (name, value) in more.as_object().unwrap() {
            exported[name] = value.clone();
        }
        vec![("banger-exported", exported)]
    };
    let said = |args: &[&str], bytes: &'static [u8], trailers: Vec<(&str, Value)>| {
        let home = exports(web(), "web", bytes, &trailers).run();
        let text = home.transcript(&[&["workspace", "export", "web", "-o", "out"], args].concat());
        (text, is_told_safe(&home))
    };
    let (text, is_safe) =
        said(&[], PATCH, more(json!({"commits_left_out": 3, "files_left_out": 1, "fingerprint": null})));
    assert!(!is_safe);
    assert_snapshot!("export_left_out", text);
    let (text, is_safe) = said(&["--format", "mbox"], PATCH, more(json!({"files_left_out": 2, "fingerprint": null})));
    assert!(!is_safe);
    assert_snapshot!("export_mbox_left_out", text);
    let (text, is_safe) = said(&[], b"", more(json!({"files": 0})));
    assert!(is_safe);
    assert_snapshot!("export_nothing", text);

    let home =
        web().refuse("POST /v1/vms/web/workspace/exported ", 507, "exhausted", "cannot record it: no space").run();
    assert_snapshot!("export_unrecorded", home.transcript(&["workspace", "export", "web", "-o", "out"]));
}

#[test]
fn commits_as_a_branch_of_the_repository_here() {
    let exported = json!({"base_commit": COMMIT, "head_commit": COMMIT, "branch": "banger/web", "commits": 2, "files_left_out": 1,
        "fingerprint": null});
    let script = || web().answer("POST /v1/vms/web/workspace/branch ", &exported);
    let home = script().run();
    let args = ["workspace", "export", "web", "--format", "branch"];
    assert_snapshot!("export_branch", home.transcript(&args));
    assert_snapshot!(
        "export_branch_json",
        home.transcript(&[&args[..], &["--json", "--base-commit", "abcd"]].concat())
    );
    let asked: Vec<Value> = home.log.bodies("POST /v1/vms/web/workspace/branch");
    assert_eq!(asked, [json!({"base_commit": null}), json!({"base_commit": "abcd"})]);
    let home = web().refuse("POST /v1/vms/web/workspace/branch ", 409, "wrong_state", "web is not running").run();
    assert_snapshot!("export_branch_refused", home.transcript(&args));
}

#[test]
fn a_diff_is_plain_in_a_pipe_and_shows_commits_too() {
    let home = web().run();
    let output = run(&home, &["workspace", "diff", "web"]);
    assert!(output.status.success() && output.stdout == PATCH, "{output:?}");
    let asked = format!("GET /v1/vms/web/workspace/export?format=patch&base_commit={COMMIT}");
    assert_eq!(home.log.lines(), ["GET /v1/vms/web", &asked], "looking is no export");
    let output =
        home.banger(&["workspace", "diff", "web", "--base-commit", "abcd"]).env("CLICOLOR_FORCE", "1").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("\u{1b}[32m+new \u{fffd}\u{1b}[0m\n\u{1b}[32m+\\x1b[2J\u{1b}[0m\n"), "{text:?}");
    let home = Script::new().run();
    assert_snapshot!("diff_no_workspace", home.transcript(&["workspace", "diff", "web"]));
}

#[test]
fn both_sides_in_words() {
    let change = |kind: &str, path: &str| json!({"change": kind, "path": path});
    let mut status = workspace_status(0);
    status["workspace"]["host_path"] = json!("/src/app");
    let answer = |status: &Value| Script::new().answer("GET /v1/vms/web/workspace ", status).run();
    assert_snapshot!("status_same", answer(&status).transcript(&["workspace", "status", "web"]));
    status["host"] = json!({"head_commit": "f".repeat(40), "head_moved": true, "changes": 2, "problem": null,
        "changed": [change("modified", "a"), change("deleted", "b\u{1b}[2J")]});
    status["guest"] = json!({"head_commit": "e".repeat(40), "commits": 1, "changes": 1234, "exported": false, "problem": null,
        "changed": (0..30).map(|number| change("added", &format!("new {number}"))).collect::<Vec<_>>()});
    let home = answer(&status);
    assert_snapshot!("status_both", home.transcript(&["workspace", "status", "web"]));
    let output = run(&home, &["workspace", "status", "web", "--format", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["guest"]["changes"], 1234);
    assert_eq!(run(&home, &["workspace", "status", "web", "--format", "name"]).stdout, b"/root/repo\n");
    status["host"]["problem"] = json!("there is no /src/app");
    status["guest"] = json!({"head_commit": null, "commits": 0, "changes": 0, "changed": [], "exported": false,
        "problem": "web is not running"});
    status["workspace"]["prepared_at_ms"] = Value::Null;
    assert_snapshot!("status_unknown", answer(&status).transcript(&["workspace", "status", "web"]));
}

/// The home of `banger run --rm repo` whose guest has so many changes, and where the daemon answers as `script` says.
fn removing(script: Script, changes: u64) -> Home {
    let home = runs(script, 5).answer("GET /v1/vms/fox/workspace ", &workspace_status(changes)).run();
    std::fs::create_dir(home.path().join("repo")).unwrap();
    home
}

fn patches(home: &Home) -> Vec<PathBuf> {
    let dir = home.path().join("state/exports");
    if dir.exists() { names(&dir).iter().map(|name| dir.join(name)).collect() } else { Vec::new() }
}

/// What `run --rm` says, with the time in a patch's name taken out.
fn removed(home: &Home, more: &[&str]) -> String {
    let args = [&["run", "--rm", "repo"], more, &["--", "make"]].concat();
    let text = without_time(&transcript(home, &run(home, &args)));
    let Some((before, rest)) = text.split_once("/exports/fox-") else { return text };
    let (stamp, after) = rest.split_at("20260131T235959Z".len());
    assert!(stamp.bytes().filter(u8::is_ascii_digit).count() == 14, "{stamp}");
    format!("{before}/exports/fox-TIME{after}")
}

fn is_deleted(home: &Home) -> bool {
    home.log.lines().iter().any(|line| line.starts_with("DELETE"))
}

#[test]
fn work_in_a_vm_that_goes_is_kept_here() {
    let script = || exports(Script::new(), "fox", PATCH, &[("banger-exported", whole())]);
    let home = removing(script(), 1);
    assert_snapshot!("rm_saved", removed(&home, &[]));
    let patch = &patches(&home)[..];
    assert_eq!(patch.len(), 1);
    assert_eq!(std::fs::read(&patch[0]).unwrap(), PATCH);
    assert_eq!(std::fs::metadata(&patch[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let asked = home.log.lines();
    let at = |line: &str| asked.iter().position(|asked| asked.starts_with(line)).unwrap_or_else(|| panic!("{asked:?}"));
    let export = format!("GET /v1/vms/fox/workspace/export?format=patch&base_commit={COMMIT}");
    assert!(at(&export) < at("DELETE /v1/vms/fox?discard=true"), "{asked:?}");

    for (label, home, more) in [
        ("nothing was changed", removing(script(), 0), &[][..]),
        ("it is not wanted", removing(script(), 1), &["--discard"]),
    ] {
        let text = removed(&home, more);
        assert!(text.starts_with("status 5"), "{label}: {text}");
        assert!(patches(&home).is_empty() && is_deleted(&home), "{label}");
    }
    let mut exported = workspace_status(1);
    exported["guest"]["exported"] = json!(true);
    let home = removing(script(), 1);
    drop(home);
    let home = runs(script(), 5).answer("GET /v1/vms/fox/workspace ", &exported).run();
    std::fs::create_dir(home.path().join("repo")).unwrap();
    removed(&home, &[]);
    assert!(patches(&home).is_empty() && is_deleted(&home), "all was exported already");
}

#[test]
fn work_that_cannot_be_kept_here_keeps_the_vm() {
    let why =
        json!({"error": {"code": "guest_unreachable", "message": "cannot export fox: the guest does not answer"}});
    let mut partial = whole();
    partial["fingerprint"] = Value::Null;
    for (name, home, kept) in [
        ("rm_unsaved", removing(exports(Script::new(), "fox", PATCH, &[("banger-error", why)]), 1), 0),
        ("rm_broken", removing(exports(Script::new(), "fox", PATCH, &[]), 1), 0),
        ("rm_partly", removing(exports(Script::new(), "fox", PATCH, &[("banger-exported", partial)]), 1), 1),
    ] {
        assert_snapshot!(name, removed(&home, &[]));
        assert!(!is_deleted(&home), "{name}");
        assert_eq!(patches(&home).len(), kept, "{name}");
    }
}

#[test]
fn of_a_guest_that_does_not_tell_the_daemon_knows_more() {
    let refusal = "fox may hold work that was never exported: it was not stopped in order";
    let mut unknown = workspace_status(0);
    unknown["guest"]["problem"] = json!("fox is not running");
    let script = || runs(Script::new(), 5).answer("GET /v1/vms/fox/workspace ", &unknown);
    for (is_refused, home) in
        [(true, script().refuse("DELETE /v1/vms/fox ", 409, "wrong_state", refusal).run()), (false, script().run())]
    {
        std::fs::create_dir(home.path().join("repo")).unwrap();
        let text = removed(&home, &[]);
        if is_refused {
            assert_snapshot!("rm_unknown", text);
        } else {
            assert!(text.starts_with("status 5"), "{text}");
        }
        assert!(
            home.log.lines().contains(&"DELETE /v1/vms/fox".to_owned()),
            "what may be lost is not discarded: {text}"
        );
    }
}
