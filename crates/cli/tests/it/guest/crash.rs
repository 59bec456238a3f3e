//! The daemon killed at each step of a start: the next one finishes or takes back what was begun.

use super::host::{Host, eventually};

/// The steps of `vm.start`, as the operation itself lists them.
fn steps(host: &Host) -> Vec<String> {
    host.ok(&["vm", "create", "--name", "probe", "--no-start"]);
    host.ok(&["vm", "start", "probe", "--wait", "agent"]);
    let list: serde_json::Value = serde_json::from_str(&host.ok(&["ops", "list", "--format", "json"])).unwrap();
    host.ok(&["vm", "delete", "probe"]);
    let start = list["operations"].as_array().unwrap().iter().find(|op| op["kind"] == "vm.start").unwrap();
    start["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

/// Ends the daemon and starts one that kills itself behind the effect of `step`, before that is journalled.
fn daemon_that_dies_at(host: &Host, step: &str) {
    host.ok(&["daemon", "stop"]);
    eventually("the daemon has ended", || host.daemon_pid().is_none());
    let started = host.command(&["ps"]).env("BANGER_FAULT", format!("vm.start/{step}:kill-after")).output().unwrap();
    assert!(started.status.success(), "{started:?}");
}

#[test]
fn a_daemon_killed_at_any_step_of_a_start_leaves_a_vm_that_starts() {
    let host = Host::new();
    let steps = steps(&host);
    assert!(steps.len() >= 5, "{steps:?}");
    host.ok(&["vm", "create", "--name", "web", "--no-start"]);
    for step in &steps {
        daemon_that_dies_at(&host, step);
        let doomed = host.daemon_pid().expect("a daemon runs");
        // The client finds the next daemon, which finishes what the first had begun; whether it says so or gives up,
        // the VM is whole afterwards.
        let start = host.run(&["vm", "start", "web", "--wait", "agent"]);
        assert_ne!(host.daemon_pid(), Some(doomed), "the daemon did not die at {step}: {}", start.stderr);
        eventually("the VM has settled", || {
            let show = host.run(&["vm", "show", "web", "--format", "json"]);
            let vm: serde_json::Value = serde_json::from_slice(&show.stdout).unwrap_or_default();
            vm["operation"].is_null() && matches!(vm["state"].as_str(), Some("running" | "stopped" | "created"))
        });
        if host.run(&["exec", "web", "--", "true"]).code != 0 {
            host.ok(&["vm", "start", "web", "--wait", "agent"]);
        }
        assert_eq!(host.ok(&["exec", "web", "--", "hostname"]), "web", "after {step}");
        let vmms = host.processes().into_iter().filter(|(_, line)| line.contains("qemu-system")).count();
        assert_eq!(vmms, 1, "not one VMM after {step}");
        host.ok(&["vm", "stop", "web"]);
        let vmms = host.processes().into_iter().filter(|(_, line)| line.contains("qemu-system")).count();
        assert_eq!(vmms, 0, "a VMM is left after {step}");
    }
    host.leaves_nothing();
}

#[test]
fn running_vms_outlive_their_daemon() {
    let host = Host::new();
    host.ok(&["run", "--name", "long", "-d", "--wait", "agent"]);
    let boot = host.ok(&["exec", "long", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    host.kill_daemon();
    assert_eq!(host.ok(&["exec", "long", "--", "cat", "/proc/sys/kernel/random/boot_id"]), boot);
    host.leaves_nothing();
}

#[test]
fn twenty_commands_at_once_find_one_daemon() {
    let host = Host::bare();
    let running: Vec<_> = (0..20).map(|_| host.command(&["ps", "-q"]).spawn().unwrap()).collect();
    for command in running {
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    eventually("the others have left", || {
        host.processes().iter().filter(|(_, line)| line.contains("bangerd")).count() == 1
    });
    host.ends_clean();
}

#[test]
fn opposite_verbs_at_once_on_one_vm_happen_or_are_refused_by_name() {
    let host = Host::new();
    host.ok(&["create", "--name", "web", "--no-start"]);
    for _ in 0..2 {
        let running: Vec<_> =
            [&["start", "web", "--wait", "agent"][..], &["stop", "web"], &["start", "web", "--wait", "agent"]]
                .map(|args| (args, host.command(args).spawn().unwrap()))
                .into_iter()
                .collect();
        for (args, command) in running {
            let output = command.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let reasons = ["web is busy: ", "is not running", "is already running", "is already stopping"];
            let is_refused = output.status.code() == Some(1) && reasons.iter().any(|reason| said.contains(reason));
            assert!(output.status.success() || is_refused, "{args:?}: {said}");
        }
        let show: serde_json::Value = serde_json::from_str(&host.ok(&["show", "web", "--format", "json"])).unwrap();
        assert!(["running", "stopped", "created"].contains(&show["state"].as_str().unwrap()), "{show}");
    }
    host.leaves_nothing();
}
