//! A VM that nobody uses is stopped.

use std::time::{Duration, Instant};

use super::host::{Host, eventually};

#[test]
fn a_guest_is_stopped_once_its_last_command_is_over() {
    let host = Host::new();
    // Open to the outside, so that what a network says by itself is there too.
    host.ok(&["run", "--name", "web", "-d", "--nat", "--stop-after", "12s"]);
    // Longer than its time.
    let began = Instant::now();
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-c", "echo kept > /root/left; sleep 20; echo done"]), "done");
    eventually("it is stopped", || host.settled("web").is_some_and(|vm| vm["state"] == "stopped"));
    assert!(began.elapsed() >= Duration::from_secs(20 + 12), "{:?}", began.elapsed());
    let vm = host.settled("web").unwrap();
    assert_eq!(vm["boot"]["ended"], "idle for 12 s");
    assert_eq!(vm["last_error"], serde_json::Value::Null);
    assert!(host.ok(&["op", "list"]).lines().any(|line| line.contains("vm.stop") && line.ends_with("idle for 12 s")));
    host.ok(&["set", "web", "--stop-after", "off"]);
    host.ok(&["start", "web", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "web", "--", "cat", "/root/left"]), "kept");
    host.leaves_nothing();
}
