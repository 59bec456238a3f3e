//! What takes too long for every day, with real guests: the daemon killed at each step of a stop, a deletion and an image's
//! build, power cuts, a state directory of an hour ago, lives by the dozen. Each runs in `make soak` only; with simulated
//! guests all but the build is in `make test` too.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::host::{Host, eventually, eventually_within, soak};
use crate::death::{self, Back, CREATE};
use crate::lives;

/// How long a build that is begun anew may take: it fetches packages.
const BUILD_WITHIN: Duration = Duration::from_secs(400);
/// An image of few packages, built by the same means as every other.
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images/no-init");

#[test]
#[ignore = "it is part of `make soak`"]
fn a_daemon_killed_at_any_step_of_a_stop_loses_nothing() {
    death::of_the_daemon_at_every_step(Host::new(), "vm.stop", &[CREATE], &["stop", "web"]);
}

#[test]
#[ignore = "it is part of `make soak`"]
fn a_daemon_killed_at_any_step_of_a_deletion_leaves_a_vm_or_nothing() {
    death::of_the_daemon_at_every_step(Host::new(), "vm.delete", &[CREATE], &["rm", "web"]);
}

#[test]
#[ignore = "it is part of `make soak`"]
fn power_cuts_leave_vms_that_are_off_and_start() {
    death::of_the_machine(Host::new());
}

#[test]
#[ignore = "it is part of `make soak`"]
fn a_state_directory_of_an_hour_ago_converges_beside_what_runs() {
    death::of_the_last_hour(Host::new(), Back::Everything, true);
}

#[test]
#[ignore = "it is part of `make soak`"]
fn a_state_directory_of_an_hour_ago_converges_after_everything_ended() {
    death::of_the_last_hour(Host::new(), Back::Everything, false);
}

#[test]
#[ignore = "it is part of `make soak`"]
fn a_database_of_an_hour_ago_converges_beside_the_disks_of_today() {
    death::of_the_last_hour(Host::new(), Back::Database, true);
}

/// A tenth of the lives that simulated guests live: a real one takes a hundred times as long.
#[test]
#[ignore = "it is part of `make soak`"]
fn lives_of_real_vms_leave_nothing_with_the_daemon() {
    lives::leave_nothing(Host::new(), soak().unwrap_or(20).div_ceil(10), 2);
}

#[test]
#[ignore = "it is part of `make soak`"]
fn a_daemon_killed_at_any_step_of_an_image_build_leaves_an_image_or_nothing() {
    let host = Host::bare();
    host.ok(&["image", "build", RECIPE]);
    let steps = host.steps_of("image.build");
    assert!(steps.len() >= 3, "{steps:?}");
    for step in &steps {
        host.run(&["image", "delete", "no-init"]);
        let fault = format!("image.build/{step}:kill-after");
        let doomed = host.daemon_that_dies_at(&fault);
        let told = host.run(&["image", "build", RECIPE]);
        assert_ne!(host.daemon_pid(), Some(doomed), "the daemon did not die at {fault}: {}", told.stderr);
        build_is_whole(&host, &fault);
    }
    // In the middle of the longest one, while another program does the work.
    host.run(&["image", "delete", "no-init"]);
    let mut build = host.command(&["image", "build", RECIPE]).spawn().unwrap();
    eventually("packages are being unpacked", || is_at_work(&host));
    host.kill_daemon();
    build.wait().unwrap();
    build_is_whole(&host, "a death in the middle");

    // What came of it boots.
    if host.ok(&["image", "list", "--format", "name"]).is_empty() {
        host.ok(&["image", "build", RECIPE]);
    }
    let kernel = std::env::var("BANGER_TEST_KERNEL_DEB").expect("set by `make soak`");
    host.ok(&["kernel", "import", &kernel, "--name", "linux-image-cloud-amd64"]);
    assert_eq!(host.ok(&["run", "--rm", "--image", "no-init", "--wait", "agent", "--", "echo", "booted"]), "booted");
    host.ends_clean();
}

fn is_at_work(host: &Host) -> bool {
    host.processes().iter().any(|(_, line)| line.contains("mmdebstrap"))
}

/// The newest build has come to an end, and there is an image or nothing, and nobody at work.
#[track_caller]
fn build_is_whole(host: &Host, when: &str) {
    let newest = || -> serde_json::Value {
        let list: serde_json::Value = serde_json::from_str(&host.ok(&["ops", "list", "--format", "json"])).unwrap();
        list["operations"].as_array().unwrap().iter().find(|op| op["kind"] == "image.build").unwrap().clone()
    };
    let has_ended = |op: &serde_json::Value| op["state"] != "running" && op["state"] != "unwinding";
    eventually_within(BUILD_WITHIN, &format!("the build ends after {when}"), || has_ended(&newest()));
    let state = newest()["state"].clone();
    let images = host.ok(&["image", "list", "--format", "name"]);
    match state.as_str() {
        Some("succeeded") => assert_eq!(images, "no-init", "{when}"),
        Some("unwound") => assert_eq!(images, "", "{when}"),
        _ => panic!("{when}: {}", newest()),
    }
    eventually("nothing of another build is left", || {
        entries(&host.state().join("images")).len() == images.lines().count()
    });
    eventually("nobody but the daemon is at work", || host.processes().len() == 1);
}

fn entries(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
