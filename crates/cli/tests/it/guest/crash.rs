//! The daemon killed at each step of a start: the next one finishes or takes back what was begun.

use super::host::{Host, eventually};

/// The steps of `vm.start`, as the operation itself lists them.
fn steps(host: &Host) -> Vec<String> {
    host.ok(&["vm", "create", "--name", "probe", "--wait", "agent"]);
    let list: serde_json::Value = serde_json::from_str(&host.ok(&["ops", "list", "--format", "json"])).unwrap();
    host.ok(&["vm", "stop", "probe"]);
    host.ok(&["vm", "start", "probe", "--wait", "agent"]);
    drop(list);
    let list: serde_json::Value = serde_json::from_str(&host.ok(&["ops", "list", "--format", "json"])).unwrap();
    let start = list["operations"].as_array().unwrap().iter().find(|op| op["kind"] == "vm.start").unwrap().clone();
    host.ok(&["vm", "delete", "probe"]);
    start["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_daemon_killed_at_any_step_of_a_start_leaves_a_vm_that_starts() {
    let host = Host::new();
    let steps = steps(&host);
    assert!(steps.len() >= 5, "{steps:?}");
    host.ok(&["vm", "create", "--name", "web", "--no-start"]);
    for step in &steps {
        if let Some(pid) = host.daemon_pid() {
            super::host::kill(pid, rustix::process::Signal::TERM);
            eventually("the daemon has ended", || host.daemon_pid().is_none());
        }
        let mut start = host.command(&["vm", "start", "web", "--wait", "agent"]);
        start.env("BANGER_FAULT", format!("vm.start/{step}:kill-after"));
        let ended = start.output().unwrap();
        assert!(!ended.status.success(), "the daemon died at {step}");
        eventually("that daemon is dead", || host.daemon_pid().is_none());
        // The next command starts a daemon that recovers; after that the VM is whole, started or startable.
        eventually("the VM has settled", || {
            let show = host.run(&["vm", "show", "web", "--format", "json"]);
            let vm: serde_json::Value = serde_json::from_slice(&show.stdout).unwrap_or_default();
            vm["operation"].is_null() && matches!(vm["state"].as_str(), Some("running" | "stopped" | "created"))
        });
        if host.run(&["vm", "start", "web", "--wait", "agent"]).code != 0 {
            assert_eq!(host.ok(&["exec", "web", "--", "hostname"]), "web", "after {step} it neither starts nor runs");
        }
        assert_eq!(host.ok(&["exec", "web", "--", "hostname"]), "web", "after {step}");
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
