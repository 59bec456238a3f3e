//! The daemon killed at each step of a start: the next one finishes or takes back what was begun.

use super::host::Host;

#[test]
fn a_daemon_killed_at_any_step_of_a_start_leaves_a_vm_that_starts() {
    let host = Host::new();
    host.ok(&["vm", "create", "--name", "web", "--no-start"]);
    host.ok(&["vm", "start", "web", "--wait", "agent"]);
    let steps = host.steps_of("vm.start");
    assert!(steps.len() >= 5, "{steps:?}");
    host.ok(&["vm", "stop", "web"]);
    for step in &steps {
        let doomed = host.daemon_that_dies_at(&format!("vm.start/{step}:kill-after"));
        // The client finds the next daemon, which finishes what the first had begun; whether it says so or gives up,
        // the VM is whole afterwards.
        let start = host.run(&["vm", "start", "web", "--wait", "agent"]);
        assert_ne!(host.daemon_pid(), Some(doomed), "the daemon did not die at {step}: {}", start.stderr);
        host.settled("web").expect("there is the VM");
        if host.run(&["exec", "web", "--", "true"]).code != 0 {
            host.ok(&["vm", "start", "web", "--wait", "agent"]);
        }
        assert_eq!(host.ok(&["exec", "web", "--", "hostname"]), "web", "after {step}");
        assert_eq!(host.guests(), 1, "not one VMM after {step}");
        host.ok(&["vm", "stop", "web"]);
        assert_eq!(host.guests(), 0, "a VMM is left after {step}");
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
