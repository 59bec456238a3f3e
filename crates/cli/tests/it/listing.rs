//! Which VMs and boots are listed, and how they are asked for.

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Home, Script, vm};

#[test]
fn filters_travel_to_the_daemon() {
    let home = Script::new().answer("GET /v1/vms", &json!({"vms": [vm("web", "running")]})).run();
    for (args, asked) in [
        (&["ps", "-a"][..], "GET /v1/vms?brief=true"),
        (&["ps", "--format", "json", "-r"], "GET /v1/vms?reverse=true"),
        (&["ps", "--state", "running"], "GET /v1/vms?filter=state%3Drunning&brief=true"),
        (
            &["ls", "--state", "stopped,created", "-q"],
            "GET /v1/vms?filter=state%3Dstopped%2Cstate%3Dcreated&brief=true",
        ),
        (
            &["list", "-f", "status=exited", "--filter", "name=we", "--sort", "disk", "-lr"],
            "GET /v1/vms?filter=state%3Dstopped%2Cname%3Dwe&sort=disk&latest=true&reverse=true&brief=true",
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

fn stats(cpu_ms: u64, at_ms: u64) -> serde_json::Value {
    json!({"id": "7765620000000000", "name": "web", "state": "running", "at_ms": at_ms, "vcpus": 2, "cpu_ms": cpu_ms,
        "memory_bytes": 536_870_912_u64, "memory_limit_bytes": 2_147_483_648_u64, "guest_available_bytes": null,
        "disk_allocated_bytes": 1_288_490_189_u64, "disk_bytes": 8_u64 << 30,
        "network": {"received_bytes": 2048, "sent_bytes": 1024}})
}

/// A VM that uses half a processor.
pub(crate) fn busy() -> Script {
    let looks = std::sync::atomic::AtomicU64::new(0);
    Script::new().on("GET /v1/vms/7765620000000000/stats ", move |_, connection| {
        let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        connection.json(200, &stats(500 * look, 1000 * look));
    })
}

#[test]
fn what_vms_use() {
    assert_snapshot!(busy().run().transcript(&["stats"]), @"
    status 0
    --- stdout
    NAME  STATE    CPU    MEMORY           DISK             NET IN  NET OUT
    web   running  50.0%  512 MiB / 2 GiB  1.2 GiB / 8 GiB  2 KiB   1 KiB
    --- stderr
    ");
    let home = busy().run();
    let output = home.banger(&["stats", "--format", "json", "web", "7765"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["stats"][0]["cpu_percent"], &found["stats"][1]), (&json!(50.0), &json!(null)));
    let nothing = home.transcript(&["stats", "nope"]);
    assert_snapshot!(nothing, @"
    status 1
    --- stdout
    --- stderr
    banger: cannot look at nope: there is no VM of that name or id
    hint: banger list shows the VMs there are
    ");
    assert_eq!(home.transcript(&["stats", "--watch", "nope"]), nothing, "nothing is waited for");
    assert_snapshot!(home.transcript(&["stats", "nope", "--format", "name", "web"]), @"
    status 1
    --- stdout
    web
    --- stderr
    banger: cannot look at nope: there is no VM of that name or id
    hint: banger list shows the VMs there are
    ");
}

#[test]
fn a_watch_in_a_pipe_is_a_line_each_time() {
    let home = busy().run();
    let mut command = home.banger(&["stats", "--watch", "--every", "100ms", "--format", "json"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        let found: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(found["stats"][0]["cpu_percent"], 50.0);
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "an end that was asked for is none to complain about");
}

#[test]
fn nobody_is_asked_about_what_is_not_there() {
    let home = Script::new().run();
    assert_snapshot!(home.transcript(&["reset", "nope"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot reset nope: there is no VM of that name or id
    hint: banger list shows the VMs there are
    ");
    assert_snapshot!(home.transcript(&["reset", "nope", "web"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot reset VMs: nobody is there to confirm it
    hint: banger reset --yes does not ask
    ");
    assert!(home.log.lines().iter().all(|line| !line.contains("/reset")), "nothing was reset");
}

#[test]
fn where_vms_are_reached() {
    let socket =
        |protocol: &str, port: u16, address: &str| json!({"protocol": protocol, "port": port, "address": address});
    let web = json!({"id": "7765620000000000", "name": "web", "state": "running", "note": null,
        "published": [{"host_port": 8080, "guest_port": 80}, {"host_port": 2222, "guest_port": 22}],
        "listening": [socket("tcp", 22, "0.0.0.0"), socket("tcp", 22, "::"), socket("udp", 68, "10.0.2.15")]});
    let db = json!({"id": "6462000000000000", "name": "db", "state": "stopped", "note": "its guest is not running",
        "published": [{"host_port": 5432, "guest_port": 5432}], "listening": null});
    let home = Script::new()
        .answer("GET /v1/vms/7765620000000000/ports ", &web)
        .answer("GET /v1/vms/6462000000000000/ports ", &db)
        .run();
    assert_snapshot!(home.transcript(&["ports", "web", "nope", "db"]), @"
    status 1
    --- stdout
    VM   PROTO  PORT  LISTENS     HOST
    web  tcp    22    0.0.0.0,::  127.0.0.1:2222
    web  tcp    80    nobody      127.0.0.1:8080
    web  udp    68    10.0.2.15
    db   tcp    5432  ?           127.0.0.1:5432
    --- stderr
    banger: cannot list the ports of nope: there is no VM of that name or id
    hint: banger list shows the VMs there are
    db: its guest is not running
    ");
    assert_snapshot!(home.transcript(&["ports", "nope"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot list the ports of nope: there is no VM of that name or id
    hint: banger list shows the VMs there are
    ");
    let output = home.banger(&["ports", "web", "--format", "json"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["ports"], json!([web]));
}
