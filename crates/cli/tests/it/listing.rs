//! Which VMs and boots are listed, and how they are asked for.

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Home, Script, vm};

#[test]
fn filters_travel_to_the_daemon() {
    let home = Script::new().answer("GET /v1/vms?", &json!({"vms": [vm("web", "running")]})).run();
    for (args, asked) in [
        (&["ps", "-a"][..], "GET /v1/vms"),
        (&["ps", "--state", "running"], "GET /v1/vms?filter=state%3Drunning"),
        (&["ls", "--state", "stopped,created", "-q"], "GET /v1/vms?filter=state%3Dstopped%2Cstate%3Dcreated"),
        (
            &["list", "-f", "status=exited", "--filter", "name=we", "--sort", "disk", "-lr"],
            "GET /v1/vms?filter=state%3Dstopped%2Cname%3Dwe&sort=disk&latest=true&reverse=true",
        ),
    ] {
        assert!(home.banger(args).status().unwrap().success(), "{args:?}");
        assert_eq!(home.log.lines().last().unwrap(), asked, "{args:?}");
    }
    let output = home.banger(&["ps", "-q", "--state", "running"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "7765620000000000\n");
}

#[test]
fn a_filter_that_is_none_is_a_usage_error() {
    let home = Home::empty();
    for args in [
        &["ps", "--state", "on"][..],
        &["ps", "--filter", "state"],
        &["ps", "--filter", "colour=red"],
        &["ps", "--sort", "colour"],
        &["logs", "--boot", "first", "web"],
        &["logs", "--boot", "3", "web"],
        &["logs", "--vmm", "--source", "console", "web"],
        &["logs", "--list-boots", "-f", "web"],
    ] {
        assert_eq!(home.banger(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    let output = home.banger(&["ps", "--filter", "state=on"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no state \"on\": expected creating, created,"), "{said}");
}

#[test]
fn boots() {
    let boot = |id: &str, ended: Option<&str>| {
        json!({"id": id, "vmm": "qemu", "pid": null, "started_at_ms": 1, "ready_at_ms": 2,
            "ended_at_ms": ended.map(|_| 61_001), "ended": ended, "init": null, "warnings": []})
    };
    let list =
        json!({"boots": [boot("00000000000000b2", Some("poweroff\u{1b}")), boot("00000000000000b1", Some("stop"))]});
    let home = Script::new()
        .answer("GET /v1/vms/web/boots ", &list)
        .on("GET /v1/vms/web/logs?", |_, connection| {
            connection.open();
            connection.bytes(b"booted\n");
        })
        .run();
    let page = home.transcript(&["logs", "--list-boots", "web"]);
    // How long ago the year 1970 is changes.
    let cells = |line: &str| -> Vec<String> {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty() && !cell.ends_with(" y"));
        cells.map(str::to_owned).collect()
    };
    let page: Vec<String> = page.lines().map(|line| cells(line).join(" | ")).collect();
    assert_snapshot!(page.join("\n"), @"
    status 0
    --- stdout
    BOOT | ID | STARTED | RAN | ENDED
    0 | 00000000000000b2 | 61.0 s | poweroff\\x1b
    -1 | 00000000000000b1 | 61.0 s | stop
    --- stderr
    ");
    for (args, asked) in [
        (&["logs", "--boot", "-1", "web"][..], "source=console&boot=-1"),
        (&["logs", "-b", "0", "web"], "source=console&boot=0"),
        (&["logs", "--vmm", "--boot", "00b1", "web"], "source=vmm&boot=00b1"),
    ] {
        assert!(home.banger(args).status().unwrap().success(), "{args:?}");
        assert_eq!(home.log.lines().last().unwrap(), &format!("GET /v1/vms/web/logs?{asked}"));
    }
}

#[test]
fn the_socket_is_named_without_a_daemon() {
    let home = Home::empty();
    assert_eq!(home.transcript(&["daemon", "socket"]), "status 0\n--- stdout\n$HOME/run/bangerd.sock\n--- stderr\n");
    assert!(!home.path().join("state").exists(), "none was started");
}
