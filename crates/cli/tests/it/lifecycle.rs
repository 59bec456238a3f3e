//! Verbs that begin operations, on one VM and on several.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{DEADLINE, Home, Script, begun, finished, step};

fn two_vms() -> Script {
    Script::new()
        .answer("POST /v1/vms/7765620000000000/", &begun("web"))
        .answer("POST /v1/vms/6462000000000000/", &begun("db"))
}

#[test]
fn several_at_once() {
    let home = two_vms().run();
    assert_snapshot!(home.transcript(&["stop", "db", "nope", "web", "6462", "nope", "db"]));
    let mut asked = home.log.lines();
    asked.retain(|line| !line.contains("operations"));
    asked.sort();
    assert_eq!(asked, ["GET /v1/vms", "POST /v1/vms/6462000000000000/stop", "POST /v1/vms/7765620000000000/stop"]);
}

#[test]
fn a_beginning_that_fits_several_fails_alone() {
    let mut other = crate::fake::vm("db", "stopped");
    other["id"] = json!("6462ffffffffffff");
    other["name"] = json!("db-2");
    let list = json!({"vms": [crate::fake::vm("web", "running"), crate::fake::vm("db", "stopped"), other]});
    let home = two_vms().answer("GET /v1/vms ", &list).run();
    assert_snapshot!(home.transcript(&["stop", "6462", "64620", "6462000000000000", "7765"]), @"
    status 1
    --- stdout
    db
    web
    --- stderr
    banger: cannot stop 6462: it begins the ids of db, db-2
    ");
    let mut asked = home.log.lines();
    asked.retain(|line| line.starts_with("POST"));
    asked.sort();
    assert_eq!(asked, ["POST /v1/vms/6462000000000000/stop", "POST /v1/vms/7765620000000000/stop"]);
}

#[test]
fn outcomes_as_json() {
    let home = two_vms().refuse("POST /v1/vms/6462000000000000/stop", 409, "busy", "cannot stop db: it is busy").run();
    assert_snapshot!(home.transcript(&["vm", "stop", "--format", "json", "web", "db"]));
}

#[test]
fn what_stop_and_delete_ask() {
    let home = two_vms().run();
    assert!(home.banger(&["stop", "-t", "5s", "web"]).status().unwrap().success());
    assert_eq!(home.log.wait_for("POST /v1/vms/7765620000000000/stop").body, br#"{"timeout_ms":5000}"#);
    assert_snapshot!(home.transcript(&["rm", "web"]), @"
    status 0
    --- stdout
    web
    --- stderr
    ");
    home.log.wait_for("DELETE /v1/vms/7765620000000000");
}

#[test]
fn what_kill_and_rename_ask() {
    let home = two_vms().answer("POST /v1/vms/web/rename", &crate::fake::vm("front", "running")).run();
    assert!(home.banger(&["kill", "web"]).status().unwrap().success());
    assert_eq!(home.log.wait_for("POST /v1/vms/7765620000000000/kill").body, br#"{"signal":"TERM"}"#);
    assert!(home.banger(&["vm", "kill", "-s", "sigusr1", "db"]).status().unwrap().success());
    assert_eq!(home.log.wait_for("POST /v1/vms/6462000000000000/kill").body, br#"{"signal":"USR1"}"#);
    assert_snapshot!(home.transcript(&["rename", "web", "front"]), @"
    status 0
    --- stdout
    front
    --- stderr
    its guest takes the host name front at its next boot
    ");
    assert_eq!(home.log.wait_for("POST /v1/vms/web/rename").body, br#"{"name":"front"}"#);
}

#[test]
fn what_set_asks() {
    let nothing = json!({"vcpus": null, "memory_mib": null, "disk_bytes": null, "nat": null, "publish": null,
        "stop_after_ms": null, "restart": null});
    for (args, changes) in [
        (&["--vcpu", "4", "--memory", "4G"][..], json!({"vcpus": 4, "memory_mib": 4096})),
        (&["--disk-size", "20G"], json!({"disk_bytes": 20_u64 << 30})),
        (&["--nat", "-p", "8080:80"], json!({"nat": true, "publish": [{"host_port": 8080, "guest_port": 80}]})),
        (&["--no-nat", "--no-publish"], json!({"nat": false, "publish": []})),
        (
            &["--stop-after", "1h30m", "--restart", "on-failure"],
            json!({"stop_after_ms": 5_400_000, "restart": "on-failure"}),
        ),
        (&["--stop-after", "off", "--restart", "no"], json!({"stop_after_ms": 0, "restart": "no"})),
    ] {
        let home = two_vms().run();
        let output = home.banger(&[&["set", "web"], args].concat()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "web\n", "{output:?}");
        let mut expected = nothing.clone();
        expected.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let body = home.log.wait_for("POST /v1/vms/7765620000000000/set").body;
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected, "{args:?}");
    }
}

#[test]
fn prune_deletes_what_is_off() {
    let home = two_vms().run();
    assert_snapshot!(home.transcript(&["prune"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot delete VMs: nobody is there to confirm it
    hint: banger prune -f does not ask
    ");
    assert!(!home.log.lines().iter().any(|line| line.starts_with("DELETE")));
    assert_snapshot!(home.transcript(&["prune", "-f"]), @"
    status 0
    --- stdout
    db
    --- stderr
    Freed 1.2 GiB.
    ");
    let asked: Vec<String> = home.log.lines().into_iter().filter(|line| line.starts_with("DELETE")).collect();
    assert_eq!(asked, ["DELETE /v1/vms/6462000000000000?only_off=true"]);
    let output = home.banger(&["prune", "-f", "--format", "json"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["freed_bytes"], 1_288_490_189_u64);

    let busy =
        two_vms().refuse("DELETE /v1/vms/6462000000000000", 409, "wrong_state", "VM db is already running").run();
    assert_snapshot!(busy.transcript(&["prune", "-f"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot delete db: VM db is already running
    Freed 0 B.
    ");
    let none = Script::new().answer("GET /v1/vms ", &json!({"vms": [crate::fake::vm("web", "running")]})).run();
    assert_snapshot!(none.transcript(&["prune"]), @"
    status 0
    --- stdout
    --- stderr
    Every VM is running, or there is none: nothing to prune.
    ");
}

#[test]
fn start_waits_for_the_level() {
    let ready = json!({"level": "system", "failed_units": ["bad\u{1b}.service"], "note": "an init that does not tell", "elapsed_ms": 5});
    let home = two_vms().answer("POST /v1/vms/web/wait", &ready).run();
    assert_snapshot!(home.transcript(&["start", "web"]));
    assert_eq!(home.log.wait_for("POST /v1/vms/web/wait").body, br#"{"level":"system","timeout_ms":null}"#);
    let home = two_vms().run();
    assert!(home.banger(&["restart", "web", "--wait", "agent"]).status().unwrap().success());
    assert!(!home.log.lines().iter().any(|line| line.ends_with("/wait")));
}

#[test]
fn waiting() {
    let home =
        Script::new().refuse("POST /v1/vms/web/wait", 504, "timeout", "web is not ready: no answer within 2 s").run();
    assert_snapshot!(home.transcript(&["wait", "fox"]), @"
    status 0
    --- stdout
    ready  system
    after  0.0 s from its start
    --- stderr
    ");
    assert_eq!(home.banger(&["wait", "web", "--for", "ssh", "--timeout", "2s"]).status().unwrap().code(), Some(1));
    assert_eq!(home.log.wait_for("POST /v1/vms/web/wait").body, br#"{"level":"ssh","timeout_ms":2000}"#);
}

#[test]
fn an_operation_that_fails() {
    let error = json!({"code": "guest_unreachable", "message": "cannot start web: the guest did not answer within 60 s", "hint": "console:\n[ 1.0] panic\u{1b}[0m"});
    let home = two_vms()
        .on("GET /v1/operations/", move |_, connection| {
            connection.open();
            connection.event(&step("spawn_vmm", "running"));
            connection.event(&json!({"event": "warning", "message": "little room on the disk"}));
            connection.event(&finished("unwound", &error));
        })
        .run();
    assert_snapshot!(home.transcript(&["start", "web"]));
}

#[test]
fn an_operation_that_is_stuck() {
    let home = two_vms()
        .on("GET /v1/operations/", |_, connection| {
            connection.open();
            connection.event(&finished("stuck", &Value::Null));
        })
        .run();
    assert_snapshot!(home.transcript(&["start", "web"]));
}

#[test]
fn a_stage_of_over_a_second_is_one_line() {
    let (go, gone) = mpsc::channel();
    let gone = Mutex::new(gone);
    let home = two_vms()
        .on("GET /v1/operations/", move |_, connection| {
            connection.open();
            connection.event(&step("fetch_packages", "running"));
            gone.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            connection.event(&json!({"event": "progress", "step": "fetch_packages", "stage": null, "done": 5, "total": 10, "unit": "bytes"}));
            connection.event(&step("fetch_packages", "succeeded"));
            connection.event(&step("commit", "running"));
            connection.event(&finished("succeeded", &Value::Null));
        })
        .run();
    let mut child = home.banger(&["stop", "web"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = Vec::new();
    while !said.ends_with(b" ... ") {
        assert!(stderr.read_until(b' ', &mut said).unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    go.send(()).unwrap();
    stderr.read_to_end(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    let said = String::from_utf8(said).unwrap();
    let (start, time) = said.split_once(" ... ").unwrap();
    assert_eq!(start, "web: fetch packages");
    let seconds: f64 = time.strip_suffix(" s\n").expect(&said).parse().unwrap();
    assert!(seconds >= 1.0, "{said:?}");

    let quiet = home.banger(&["stop", "-q", "web"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_300));
    go.send(()).unwrap();
    let output = quiet.wait_with_output().unwrap();
    assert_eq!((output.status.success(), String::from_utf8(output.stderr).unwrap()), (true, String::new()));
}

#[test]
fn a_daemon_that_restarts_meanwhile() {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let home = two_vms()
        .on("GET /v1/operations/", move |_, connection| {
            connection.open();
            if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 {
                connection.event(&step("spawn_vmm", "running"));
            } else {
                connection.event(&finished("succeeded", &Value::Null));
            }
        })
        .run();
    let output = home.banger(&["stop", "web"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web\n");
    assert!(output.status.success());
}

#[test]
fn images_and_kernels() {
    let home = Script::new()
        .answer("POST /v1/images/build", &begun("small"))
        .answer("POST /v1/kernels/import", &begun("6.1.0"))
        .run();
    let body = |home: &Home, line: &str| serde_json::from_slice::<Value>(&home.log.wait_for(line).body).unwrap();
    assert!(
        home.banger(&["image", "build", "--variant", "minimal", "--name", "small", "-q"]).status().unwrap().success()
    );
    assert_eq!(
        body(&home, "POST /v1/images/build"),
        json!({"recipe": "debian-bookworm", "variant": "minimal", "name": "small"})
    );
    std::fs::write(home.path().join("vmlinuz"), b"x").unwrap();
    let output = home.banger(&["kernel", "import", "vmlinuz"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "6.1.0\n");
    let source = &body(&home, "POST /v1/kernels/import")["source"];
    assert_eq!(source["path"], json!(home.path().canonicalize().unwrap().join("vmlinuz")));
    let home = Script::new().answer("POST /v1/kernels/import", &begun("6.1.0")).run();
    assert!(home.banger(&["kernel", "import"]).status().unwrap().success());
    let source = body(&home, "POST /v1/kernels/import")["source"].clone();
    assert_eq!(source, json!({"kind": "debian", "package": "linux-image-cloud-amd64"}));
    assert_snapshot!(home.transcript(&["kernel", "import", "./nothing"]));
    assert_snapshot!(home.transcript(&["image", "delete", "debian-bookworm", "nope"]));
}
