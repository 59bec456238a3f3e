//! Ctrl-C: nothing is left behind that was not asked for.

use std::io::Read;
use std::process::{Child, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wire::attach::Kind;

use crate::fake::{Connection, DEADLINE, Home, OP, Script, finished, operation, step};

/// An operation that goes on until it is cancelled.
fn until_cancelled(connection: &mut Connection) {
    connection.open();
    connection.event(&step("spawn_vmm", "running"));
    connection.log().wait_for("DELETE /v1/operations/");
    connection.event(&step("spawn_vmm", "undoing"));
    connection.event(&finished("unwound", &json!({"code": "cancelled", "message": "cancelled"})));
}

fn spawn(home: &Home, args: &[&str]) -> Child {
    home.banger(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

/// Waits for the end of `child`, which is killed when it does not come.
fn end(child: Child) -> (Option<i32>, Output) {
    let (done, over) = mpsc::channel();
    let pid = Pid::from_child(&child);
    std::thread::spawn(move || {
        if over.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    (output.status.code(), output)
}

#[test]
fn cancels_the_operation_and_waits_for_its_unwinding() {
    for args in
        [&["create", "--name", "fox"][..], &["run", "--name", "fox", "--", "true"], &["run", "--rm", "--", "true"]]
    {
        let home = Script::new()
            .on("GET /v1/operations/", |_, connection| until_cancelled(connection))
            .answer("DELETE /v1/operations/", &operation("running", &Value::Null))
            .run();
        let child = spawn(&home, args);
        home.log.wait_for("GET /v1/operations/");
        interrupt(&child);
        let (status, output) = end(child);
        assert_eq!(status, Some(130), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("cancelling; what was begun is being taken back"), "{said}");
        let asked = home.log.lines();
        assert!(asked.contains(&format!("DELETE /v1/operations/{OP}")), "{asked:?}");
        assert!(!asked.iter().any(|line| line.starts_with("DELETE /v1/vms") || line.ends_with("/exec")), "{asked:?}");
    }
}

#[test]
fn the_guest_of_run_is_removed_before_its_command() {
    let home = Script::new()
        .on("POST /v1/vms/fox/wait", |_, connection| {
            connection.log().wait_for("DELETE /v1/vms/fox");
        })
        .run();
    let child = spawn(&home, &["run", "--", "true"]);
    home.log.wait_for("POST /v1/vms/fox/wait");
    interrupt(&child);
    let (status, output) = end(child);
    assert_eq!(status, Some(130), "{output:?}");
    home.log.wait_for("DELETE /v1/vms/fox");
    assert!(!home.log.lines().iter().any(|line| line.ends_with("/exec")));
}

#[test]
fn the_workspace_of_run_is_taken_back_before_the_vm_goes() {
    for wait in ["agent", "system"] {
        let home = Script::new()
            .answer(
                "POST /v1/vms/fox/workspace ",
                &json!({"operation": "op-00000000000000bb", "vm": null, "subject": "fox"}),
            )
            .on("GET /v1/operations/op-00000000000000bb/events", |_, connection| until_cancelled(connection))
            .answer("DELETE /v1/operations/", &operation("running", &Value::Null))
            .run();
        std::fs::create_dir(home.path().join("repo")).unwrap();
        let child = spawn(&home, &["run", "--wait", wait, "repo", "--", "true"]);
        home.log.wait_for("GET /v1/operations/op-00000000000000bb");
        interrupt(&child);
        let (status, output) = end(child);
        assert_eq!(status, Some(130), "{output:?}");
        let asked = home.log.lines();
        let at = |line: &str| asked.iter().position(|asked| asked.starts_with(line)).unwrap();
        assert!(at("DELETE /v1/operations/op-00000000000000bb") < at("DELETE /v1/vms/fox"), "{asked:?}");
        assert!(!asked.iter().any(|line| line.ends_with("/exec")), "{asked:?}");
    }
}

#[test]
fn with_rm_the_vm_goes_even_when_the_command_is_interrupted_twice() {
    let home = Script::new()
        .on("POST /v1/vms/fox/exec", |_, connection| {
            connection.attach();
            connection.send(Kind::Output, b"r");
            while let Some((kind, _)) = connection.receive() {
                if kind == Kind::Signal {
                    connection.send(Kind::Output, b"s");
                }
            }
        })
        .run();
    let mut child = spawn(&home, &["run", "--rm", "--", "sleep", "1000"]);
    for _ in 0..2 {
        // The command runs; then the first interrupt has reached it.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        interrupt(&child);
    }
    let (status, output) = end(child);
    assert_eq!(status, Some(130), "{output:?}");
    home.log.wait_for("DELETE /v1/vms/fox");
}

#[test]
fn a_second_interrupt_leaves_the_unwinding_to_the_daemon() {
    let home = Script::new()
        .on("GET /v1/operations/", |_, connection| {
            connection.open();
            connection.event(&step("spawn_vmm", "running"));
            while connection.bytes(b"\n") {
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .answer("DELETE /v1/operations/", &operation("unwinding", &Value::Null))
        .run();
    let child = spawn(&home, &["create"]);
    home.log.wait_for("GET /v1/operations/");
    interrupt(&child);
    home.log.wait_for("DELETE /v1/operations/");
    interrupt(&child);
    let (status, output) = end(child);
    assert_eq!(status, Some(130));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&format!("banger op watch {OP}")), "{stderr}");
}

#[test]
fn a_cancelled_operation_that_fails_otherwise_is_told() {
    let home = Script::new()
        .on("GET /v1/operations/", |_, connection| {
            connection.open();
            connection.log().wait_for("DELETE /v1/operations/");
            connection
                .event(&finished("unwound", &json!({"code": "exhausted", "message": "cannot start fox: no memory"})));
        })
        .answer("DELETE /v1/operations/", &operation("running", &Value::Null))
        .run();
    let child = spawn(&home, &["create"]);
    home.log.wait_for("GET /v1/operations/");
    interrupt(&child);
    let (status, output) = end(child);
    assert_eq!(status, Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no memory"));
}
