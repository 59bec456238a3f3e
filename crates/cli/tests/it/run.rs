//! `banger run`, from the machine it asks for to what is left afterwards. Its workspace: see `workspace.rs`.

use insta::assert_snapshot;
use serde_json::{Value, json};
use wire::agent::message::ExitStatus;

use crate::fake::{OP, Script, finished, transcript};

pub(crate) fn runs(script: Script, status: u8) -> Script {
    script.on("POST /v1/vms/fox/exec", move |_, connection| {
        connection.attach();
        connection.exited(ExitStatus::Code { code: status });
    })
}

#[test]
fn a_command_and_its_status() {
    let home = runs(Script::new(), 42).run();
    let output = home.banger(&["run", "--rm", "-e", "A=b", "--", "sh", "-c", "exit 42"]).output().unwrap();
    assert_snapshot!(without_time(&transcript(&home, &output)));
    let asked = home.log.lines();
    let events = format!("GET /v1/operations/{OP}/events");
    assert_eq!(
        asked,
        [
            "GET /v1/status",
            "GET /v1/images/debian-bookworm",
            "GET /v1/kernels/debian-cloud",
            "POST /v1/vms",
            &events,
            "POST /v1/vms/fox/wait",
            "POST /v1/vms/fox/exec",
            "DELETE /v1/vms/fox",
            &events,
        ]
    );
    let spec: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/vms/fox/exec").body).unwrap();
    assert_eq!((&spec["argv"], &spec["env"]), (&json!(["sh", "-c", "exit 42"]), &json!([["A", "b"]])));
}

/// `text` without how long things took.
pub(crate) fn without_time(text: &str) -> String {
    let line = |line: &str| if line.starts_with("ready in ") { "ready in T".to_owned() } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_left_running_is_said() {
    let home = runs(Script::new(), 0).run();
    let output = home.banger(&["vm", "run", "--wait", "agent", "--", "true"]).output().unwrap();
    assert_snapshot!(without_time(&transcript(&home, &output)));
    let output = home
        .banger(&[
            "run",
            "-d",
            "--nat",
            "-p",
            "8080:80",
            "--memory",
            "512",
            "--disk-size",
            "4G",
            "--vcpu",
            "1",
            "--name",
            "fox",
        ])
        .output();
    assert_snapshot!(without_time(&transcript(&home, &output.unwrap())));
    let output = home.banger(&["run", "-q"]).output().unwrap();
    assert_snapshot!(without_time(&transcript(&home, &output)), @"
    status 0
    --- stdout
    fox
    --- stderr
    ");
}

#[test]
fn the_machine_as_asked() {
    let home = runs(Script::new(), 0)
        .answer("GET /v1/images/i ", &crate::fake::image())
        .answer("GET /v1/kernels/k ", &crate::fake::kernel())
        .run();
    let args = [
        "run",
        "-d",
        "--nat",
        "-p",
        "8080:80",
        "-m",
        "1.5G",
        "--disk-size",
        "4G",
        "--vcpu",
        "1",
        "--name",
        "fox",
        "--image",
        "i",
        "--kernel",
        "k",
        "--stop-after",
        "30m",
        "--restart",
        "always",
    ];
    assert!(home.banger(&args).status().unwrap().success());
    assert_eq!(
        serde_json::from_slice::<Value>(&home.log.wait_for("POST /v1/vms").body).unwrap(),
        json!({"name": "fox", "image": "i", "kernel": "k", "vcpus": 1, "memory_mib": 1536, "disk_bytes": 4_u64 << 30, "nat": true,
            "publish": [{"host_port": 8080, "guest_port": 80}], "stop_after_ms": 1_800_000, "restart": "always", "start": true})
    );
}

#[test]
fn a_default_image_and_kernel_are_made() {
    let home = runs(Script::new(), 0)
        .refuse("GET /v1/images/debian-bookworm ", 404, "not_found", "no such image")
        .refuse("GET /v1/kernels/debian-cloud ", 404, "not_found", "no such kernel")
        .answer("POST /v1/images/build", &json!({"operation": OP, "vm": null, "subject": "debian-bookworm"}))
        .refuse("POST /v1/kernels/import", 409, "already_exists", "cannot import: debian-cloud is there")
        .run();
    let output = home.banger(&["run", "--", "true"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let body = |line: &str| serde_json::from_slice::<Value>(&home.log.wait_for(line).body).unwrap();
    assert_eq!(
        body("POST /v1/images/build"),
        json!({"recipe": "debian-bookworm", "variant": "minimal", "name": "debian-bookworm"})
    );
    let kernel = body("POST /v1/kernels/import");
    assert_eq!(
        kernel,
        json!({"source": {"kind": "debian", "package": "linux-image-cloud-amd64"}, "name": "debian-cloud"})
    );
}

#[test]
fn an_image_somebody_else_is_making_is_waited_for() {
    let home = runs(Script::new(), 0)
        .refuse("GET /v1/images/debian-bookworm ", 404, "not_found", "no such image")
        .on("POST /v1/images/build", |_, connection| {
            let error = json!({"code": "busy", "message": "debian-bookworm is being built", "operation": "op-00000000000000bb"});
            connection.json(409, &json!({"error": error}));
        })
        .run();
    assert!(home.banger(&["run", "--", "true"]).output().unwrap().status.success());
    home.log.wait_for("GET /v1/operations/op-00000000000000bb/events");
}

#[test]
fn nothing_is_made_for_a_vm_that_cannot_be() {
    let home = runs(Script::new(), 0)
        .refuse("GET /v1/images/mine ", 404, "not_found", "no image \"mine\"")
        .refuse("GET /v1/kernels/debian-cloud ", 404, "not_found", "no such kernel")
        .refuse("POST /v1/images/pull ", 404, "not_found", "the registry has no such image")
        .run();
    let posted = || home.log.lines().into_iter().filter(|line| line.starts_with("POST")).collect::<Vec<_>>();
    let run = |more: &[&str]| {
        let args = [&["run", "--image", "mine"], more, &["--", "true"]].concat();
        assert_eq!(home.banger(&args).output().unwrap().status.code(), Some(125));
    };
    run(&["--pull", "never"]);
    assert_eq!(posted(), [""; 0], "something was made for nothing");
    run(&[]);
    assert_eq!(posted().len(), 1, "only the image is looked for elsewhere: {:?}", posted());
}

#[test]
fn failures_on_the_way() {
    let home = runs(Script::new(), 0)
        .refuse("POST /v1/vms ", 409, "already_exists", "cannot create fox: the name is taken")
        .run();
    assert_snapshot!("run_taken", home.transcript(&["run", "--name", "fox", "--", "true"]));
    assert_snapshot!(
        "run_taken_json",
        home.transcript(&["run", "-q", "--name", "fox", "--format", "json", "--", "true"])
    );

    let slow = || {
        runs(Script::new(), 0).refuse(
            "POST /v1/vms/fox/wait",
            504,
            "timeout",
            "fox is not ready: no answer within 90 s",
        )
    };
    let home = slow().run();
    assert_snapshot!("run_slow", home.transcript(&["run", "--", "true"]));
    assert!(!home.log.lines().iter().any(|line| line.starts_with("DELETE")), "a slow guest is kept to be looked at");
    let home = slow().run();
    assert_snapshot!("run_slow_rm", home.transcript(&["run", "--rm", "--", "true"]));
    assert!(!home.log.lines().iter().any(|line| line.starts_with("DELETE")), "its logs could not be read any more");

    let home =
        runs(Script::new(), 7).refuse("DELETE /v1/vms/fox", 500, "internal", "cannot delete fox: something").run();
    let output = home.banger(&["run", "--rm", "--", "true"]).output().unwrap();
    assert_snapshot!("run_undeletable", without_time(&transcript(&home, &output)));
}

#[test]
fn a_guest_that_never_answers() {
    let error = json!({"code": "timeout", "message": "cannot start fox: no answer from the guest within 60 s", "hint": "its console is kept"});
    let home = Script::new()
        .on("GET /v1/operations/", move |_, connection| {
            connection.open();
            connection.event(&finished("unwound", &error));
        })
        .run();
    assert_snapshot!(home.transcript(&["run", "--rm", "--", "true"]));
    assert!(!home.log.lines().iter().any(|line| line.starts_with("DELETE")), "there is nothing to delete");
}
