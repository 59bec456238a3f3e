//! The daemon killed at each step of a start, and a VMM killed: the next daemon finishes or takes back what was begun, and the
//! VM starts. The other operations have theirs in [`super::soak`].

use super::host::{Host, eventually};
use crate::death;

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
fn running_vms_outlive_their_daemons() {
    death::of_the_daemon_again_and_again(Host::new(), &["long"]);
}

#[test]
fn a_vmm_that_is_killed_leaves_a_vm_that_starts() {
    death::of_a_vmm(Host::new());
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
