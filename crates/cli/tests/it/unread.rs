//! A daemon that dies under a command: what it never read is asked of the next one, what it read is not.

use serde_json::json;
use wire::agent::message::ExitStatus;

use crate::fake::{OP, Script};

fn script() -> Script {
    Script::new()
        .answer("POST /v1/vms/7765620000000000/stop", &json!({"operation": OP, "vm": null, "subject": "web"}))
        .on("POST /v1/vms/web/exec", |_, connection| {
            connection.attach();
            connection.exited(ExitStatus::Code { code: 7 });
        })
}

#[test]
fn what_was_never_read_is_asked_again() {
    let home = script().dying().run();
    assert_eq!(home.transcript(&["stop", "web"]), "status 0\n--- stdout\nweb\n--- stderr\n");
    assert_eq!(home.transcript(&["exec", "-q", "web", "x"]), "status 7\n--- stdout\n--- stderr\n");
    let asked = home.log.lines();
    let posts: Vec<_> = asked.iter().filter(|line| line.starts_with("POST")).collect();
    assert_eq!(posts, ["POST /v1/vms/7765620000000000/stop", "POST /v1/vms/web/exec"], "each was read once");
}

#[test]
fn what_was_read_is_not_asked_again() {
    // They are read whole, and then the connection ends.
    let home = script().on("POST ", |_, _| {}).run();
    for (args, status) in [(&["stop", "web"][..], 1), (&["exec", "web", "x"], 125)] {
        let output = home.banger(args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot talk to the daemon"), "{output:?}");
    }
    let asked = home.log.lines();
    assert_eq!(asked.iter().filter(|line| line.starts_with("POST")).count(), 2, "{asked:?}");
}
