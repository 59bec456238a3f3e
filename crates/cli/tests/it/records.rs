//! Commands that print what there is.

use std::time::SystemTime;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Home, OP, Script, operation, vm};

#[test]
fn lists_and_pages() {
    let home = Script::new()
        .answer(
            "GET /v1/doctor",
            &json!({"checks": [
                {"name": "kvm", "status": "warn", "message": "no /dev/kvm: guests run in emulation", "fix": "turn on virtualisation"},
                {"name": "qemu", "status": "pass", "message": "7.2", "fix": null},
            ]}),
        )
        .answer(
            "GET /v1/config",
            &json!({"path": "/home/x/.config/banger/config.toml", "exists": false, "settings": [
                {"key": "log_level", "value": "\"info\"", "origin": "default", "why": null},
                {"key": "vm_defaults.vcpu", "value": "4", "origin": "host", "why": "a quarter of 16 processors, at most 4"},
                {"key": "vm_defaults.memory_mib", "value": "512", "origin": "config", "why": null},
            ]}),
        )
        .run();
    for (name, args) in [
        ("config", &["config", "show"][..]),
        ("vms", &["list"]),
        ("vms_names", &["vm", "ls", "--format", "name"]),
        ("vms_ids", &["ps", "-q"]),
        ("vm", &["show", "web"]),
        ("images", &["image", "list"]),
        ("image", &["image", "show", "debian-bookworm"]),
        ("templates", &["template", "list"]),
        ("kernels", &["kernel", "ls"]),
        ("kernel", &["kernel", "show", "debian-cloud"]),
        ("doctor", &["doctor"]),
        ("daemon", &["daemon", "status"]),
    ] {
        assert_snapshot!(format!("list_{name}"), home.transcript(args));
    }
}

/// What the catalog has, how old it is, and what is said where there is none.
#[test]
fn what_the_catalog_has() {
    let entry = |name: &str, is_here: bool| {
        json!({"name": name, "distro": "debian-12", "arch": "amd64", "kernel_ref": "generic", "digest": "sha256:00",
            "size": 286_000_000, "description": "Debian\u{1b}[31m with Docker", "is_here": is_here})
    };
    let images = json!({"catalog": "https://x.org/", "serial": 7, "kept_for_ms": 7_200_000,
        "why": "cannot fetch the catalog from https://x.org/: cannot reach x.org", "entries": [entry("full", true), entry("small", false)]});
    let mut kernel = entry("generic", false);
    kernel["version"] = json!("6.12.48");
    let kernels = json!({"catalog": "/srv/c/", "serial": 7, "entries": [kernel]});
    let home =
        Script::new().answer("GET /v1/images/available ", &images).answer("GET /v1/kernels/available ", &kernels).run();
    for (name, args) in [
        ("images", &["image", "list", "--available"][..]),
        ("images_names", &["image", "ls", "--available", "-q"]),
        ("kernels", &["kernel", "list", "--available"]),
        ("kernels_json", &["kernel", "list", "--available", "--format", "json"]),
    ] {
        assert_snapshot!(format!("available_{name}"), home.transcript(args));
    }
    let none = json!({"serial": 0, "entries": []});
    let home = Script::new().answer("GET /v1/images/available ", &none).run();
    assert_snapshot!("available_nothing", home.transcript(&["image", "list", "--available"]));
}

#[test]
fn templates_are_pruned_by_the_beginning_of_a_key_or_all() {
    let home = Script::new().run();
    for args in [&["template", "prune", "01234567"][..], &["templates", "prune", "--all"]] {
        let output = home.banger(args).output().unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((stdout.as_str(), stderr.as_str()), ("0123456789abcdef\n", "Freed 117.7 MiB.\n"), "{args:?}");
    }
    assert_eq!(home.banger(&["template", "prune"]).output().unwrap().status.code(), Some(2), "which, or all");
    assert_eq!(home.banger(&["template", "prune", "ffff0000"]).output().unwrap().status.code(), Some(1));
    let off = json!({"is_enabled": false, "fell_back": 0, "templates": []});
    let home = Script::new().answer("GET /v1/templates ", &off).run();
    let listed = home.banger(&["template", "list"]).output().unwrap();
    assert!(String::from_utf8(listed.stderr).unwrap().contains("templates = false"));
}

#[test]
fn a_stuck_operation_is_listed_with_what_to_do() {
    let error = json!({
        "code": "operation_failed", "message": "cannot start fox: no\u{1b}[2J", "hint": "put it right, then once more",
        "operation": OP,
    });
    let list = json!({"operations": [operation("stuck", &error), operation("succeeded", &Value::Null)]});
    let home = Script::new().answer("GET /v1/operations", &list).run();
    let output = home.banger(&["op", "list"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(stdout.lines().filter(|line| line.contains("STUCK")).count(), 1, "{stdout}");
    assert!(stderr.starts_with("banger: cannot start fox: no") && stderr.contains(OP), "{stderr}");
    assert!(stderr.ends_with("hint: put it right, then once more\n") && !stderr.contains('\u{1b}'), "{stderr}");
    for quiet in [&["op", "list", "--format", "json"][..], &["op", "list", "--format", "name"], &["op", "ls", "-q"]] {
        assert!(home.banger(quiet).output().unwrap().stderr.is_empty(), "{quiet:?}");
    }
    let mut stuck = operation("stuck", &error);
    (stuck["started_at_ms"], stuck["ended_at_ms"]) = (json!(1000), json!(9000));
    let step = |name, state, began: Value, ended: Value| json!({"name": name, "state": state, "started_at_ms": began, "ended_at_ms": ended});
    stuck["steps"] = json!([
        step("mark_starting", "undone", json!(1000), json!(1400)),
        step("spawn_vmm", "undo_failed", json!(1500), Value::Null),
        step("await_agent", "pending", Value::Null, Value::Null),
    ]);
    let home = Script::new().answer(&format!("GET /v1/operations/{OP}"), &stuck).run();
    let shown = home.banger(&["op", "show", OP]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.lines().any(|line| line.starts_with("hint") && line.ends_with("put it right, then once more")),
        "{shown}"
    );
    let steps: Vec<&str> = shown.lines().filter(|line| line.starts_with("step")).collect();
    assert_eq!(
        steps,
        [
            "step     mark_starting  undone       0.4 s",
            "step     spawn_vmm      undo failed  7.5 s",
            "step     await_agent    pending",
        ]
    );
}

#[test]
fn json_is_the_api_record() {
    let home = Script::new().run();
    let output = home.banger(&["ps", "--format", "json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["vms"][1]["name"], "db");
    let output = home.banger(&["show", "--format=json", "web"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<wire::api::Vm>(&output.stdout).unwrap().name.as_str(), "web");
}

#[test]
fn what_happens_unasked_is_on_the_page() {
    let row = |record: Value, name: &str| {
        let home = Script::new().answer("GET /v1/vms/web ", &record).run();
        let page = String::from_utf8(home.banger(&["show", "web"]).output().unwrap().stdout).unwrap();
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{page}"));
        line[name.len()..].trim().to_owned()
    };
    let now_ms = u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let mut record = vm("web", "running");
    record["stop_after_ms"] = json!(1_800_000);
    assert_eq!(row(record.clone(), "stop after"), "30 min idle; in use");
    record["idle"] = json!({"since_ms": now_ms - 725_000, "stops_at_ms": now_ms + 1_070_000});
    assert_eq!(row(record, "stop after"), "30 min idle; idle for 12 min, stops in 17 min");

    for (state, tries, next_at_ms, text) in [
        ("running", 1, None, "on-failure; started again, try 1 of 8, because it fell"),
        ("stopped", 2, Some(now_ms + 30_500), "on-failure; try 3 of 8 in 30 s, because it fell"),
        ("stopped", 8, None, "on-failure; given up after 8 tries, because it fell"),
    ] {
        let mut record = vm("web", state);
        record["restart"] = json!("on-failure");
        record["restarts"] = json!({"why": "it fell", "tries": tries, "tries_max": 8, "next_at_ms": next_at_ms});
        assert_eq!(row(record, "restart"), text);
    }

    let mut stop = operation("succeeded", &Value::Null);
    stop["reason"] = json!("idle for 30 min");
    let list = json!({"operations": [stop.clone(), operation("succeeded", &Value::Null)]});
    let home = Script::new().answer("GET /v1/operations", &list).run();
    let list = String::from_utf8(home.banger(&["op", "list"]).output().unwrap().stdout).unwrap();
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].ends_with("REASON") && lines[1].ends_with("idle for 30 min"), "{list}");
    let home = Script::new().answer(&format!("GET /v1/operations/{OP}"), &stop).run();
    let shown = String::from_utf8(home.banger(&["op", "show", OP]).output().unwrap().stdout).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("reason") && line.ends_with("idle for 30 min")), "{shown}");
}

#[test]
fn no_vms() {
    let home = Script::new().answer("GET /v1/vms?brief=true ", &json!({"vms": []})).run();
    assert_snapshot!(home.transcript(&["ps"]), @"
    status 0
    --- stdout
    ID  NAME  STATE  IMAGE  VCPU  MEM  DISK  CREATED
    --- stderr
    ");
    assert_snapshot!(home.transcript(&["ps", "-q"]), @"
    status 0
    --- stdout
    --- stderr
    ");
}

#[test]
fn errors_for_people_and_programs() {
    let home = Script::new()
        .on("GET /v1/vms/nope ", |_, connection| {
            connection.json(
                404,
                &json!({"error": {"code": "not_found", "message": "cannot show nope: no such VM\u{1b}[2J", "hint": "banger ps lists them",
                    "operation": "op-00000000000000aa", "retryable": false}}),
            );
        })
        .refuse("GET /v1/doctor", 503, "exhausted", "cannot look: no memory")
        .on("GET /v1/images ", |_, connection| {
            connection.open();
            connection.bytes(b"<html>");
        })
        .run();
    assert_snapshot!("error_text", home.transcript(&["show", "nope"]));
    assert_snapshot!("error_json", home.transcript(&["show", "nope", "--format", "json"]));
    assert_snapshot!("error_doctor", home.transcript(&["doctor"]));
    assert_snapshot!("error_nonsense", home.transcript(&["image", "list"]));
}

#[test]
fn a_failed_check_is_a_failed_doctor() {
    let check = json!({"name": "disk", "status": "fail", "message": "full", "fix": "make room\nor not"});
    let home = Script::new().answer("GET /v1/doctor", &json!({"checks": [check]})).run();
    assert_snapshot!(home.transcript(&["doctor"]));
}

#[test]
fn references_are_encoded() {
    let home = Script::new().run();
    assert_eq!(home.banger(&["show", "../images?x=1"]).output().unwrap().status.code(), Some(1));
    assert_eq!(home.log.lines(), ["GET /v1/vms/..%2Fimages%3Fx%3D1"]);
}

#[test]
fn what_a_guest_says_does_not_drive_the_terminal() {
    let mut record = vm("web", "stopped");
    record["last_error"] = json!("the guest said \u{1b}]0;owned\u{7}\nhidden");
    let home = Script::new().answer("GET /v1/vms/web ", &record).run();
    let output = home.banger(&["show", "web"]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    // Its second line stands below the first one, where no row of ours can be.
    let (_, quoted) = page.split_once("the guest said \\x1b]0;owned\\x07\n").unwrap_or_else(|| panic!("{page}"));
    assert!(quoted.starts_with("            hidden"), "{page}");
    assert!(!page.contains('\u{1b}'));
}

#[test]
fn another_version_of_the_daemon() {
    let home = Script::new()
        .on("GET /v1/vms?brief=true ", |_, connection| {
            connection.bytes(b"HTTP/1.1 200 OK\r\nserver: bangerd/9.9.9\r\ncontent-length: 2\r\n\r\n{}");
        })
        .run();
    assert_snapshot!(home.transcript(&["ps"]));
}

#[test]
fn logs_are_exact_in_a_pipe() {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let sent = bytes.clone();
    let home = Script::new()
        .on("GET /v1/vms/web/logs", move |_, connection| {
            connection.open();
            connection.bytes(&sent);
        })
        .run();
    let output = home.banger(&["logs", "-f", "--source", "vmm", "web"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, bytes);
    assert_eq!(home.log.lines(), ["GET /v1/vms/web/logs?source=vmm&follow=true"]);
}

#[test]
fn nobody_reads() {
    let home = Script::new()
        .on("GET /v1/vms/web/logs", |_, connection| {
            connection.open();
            while connection.bytes(&[b'x'; 4096]) {}
        })
        .run();
    let mut child = home
        .banger(&["logs", "web"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_full_disk_is_told() {
    let home = Script::new().run();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = home.banger(&["ps"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "banger: cannot write to standard output: no space left on device\n"
    );
}

#[test]
fn colour_is_asked_for() {
    let home = Home::empty();
    let stderr = |name: &str, value: &str| {
        home.banger(&["daemon", "status"])
            .env(name, value)
            .output()
            .map(|output| String::from_utf8(output.stderr).unwrap())
            .unwrap()
    };
    assert!(!stderr("X", "1").contains('\u{1b}'));
    assert!(stderr("CLICOLOR_FORCE", "1").contains('\u{1b}'));
}
