//! The whole product with guests that are processes instead of machines (`BANGER_VMM=sim`): the programs, the database, the
//! agent's protocol and the files are the real ones, so that many lives of many VMs fit into a test.
//!
//! `BANGER_SOAK` lengthens what is a sample here; a number larger than one is how many lives the soak lives.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::guest::host::{Host, eventually};

/// How many lives are lived one after the other; 200 in a soak that says no number.
fn lives(sample: usize) -> usize {
    match std::env::var("BANGER_SOAK").ok().as_deref() {
        None | Some("" | "0") => sample,
        Some(text) => text.parse().ok().filter(|number| *number > 1).unwrap_or(200),
    }
}

/// What a daemon holds, and what lies below its home.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    files: usize,
    vms: String,
}

fn held(host: &Host) -> Held {
    let count = |path: std::path::PathBuf| std::fs::read_dir(path).map(Iterator::count).unwrap_or(0);
    let pid = host.daemon_pid().expect("a daemon runs");
    Held {
        descriptors: count(format!("/proc/{pid}/fd").into()),
        files: ["state/vms", "state/failed", "run/boots", "run"].iter().map(|dir| count(host.home().join(dir))).sum(),
        vms: host.ok(&["vm", "list", "--format", "name"]),
    }
}

fn resident_kib(host: &Host) -> u64 {
    let pid = host.daemon_pid().expect("a daemon runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Created, used, stopped, started, used, deleted.
fn live(host: &Host, name: &str) {
    host.ok(&["run", "--name", name, "-d", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", name, "--", "echo", name]), name);
    host.ok(&["stop", name]);
    host.ok(&["start", name, "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", name, "--", "echo", "again"]), "again");
    host.ok(&["rm", name]);
}

#[test]
fn lives_of_vms_leave_nothing_with_the_daemon() {
    let host = Host::simulated();
    // One after the other first, so that what is made once has been made.
    live(&host, "first");
    eventually("the daemon has put down what it used", || held(&host).files <= 8);
    let (before, memory) = (held(&host), resident_kib(&host));
    let (next, all) = (AtomicUsize::new(0), lives(12));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= all {
                        break;
                    }
                    live(&host, &format!("life-{number}"));
                }
            });
        }
    });
    eventually("the daemon holds what it held before", || held(&host) == before);
    let grown = resident_kib(&host).saturating_sub(memory);
    assert!(grown < 16 * 1024, "the daemon grew by {grown} KiB in {all} lives");
    host.ends_clean();
}

#[test]
fn fifty_at_once_are_all_made_and_all_deleted() {
    let host = Host::simulated();
    host.ok(&["ps"]);
    let names: Vec<String> = (0..50).map(|number| format!("vm-{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| host.ok(&["create", "--name", name, "--wait", "agent"]));
        }
    });
    assert_eq!(host.ok(&["ps", "--format", "name"]).lines().count(), 50);
    assert_eq!(host.guests(), 50);
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| host.ok(&["rm", name]));
        }
    });
    assert_eq!(host.guests(), 0);
    host.ends_clean();
}

/// Kills the daemon at every step of `kind`, which `verb` runs on the VM `web` that `arrange` prepares.
fn killed_at_every_step(kind: &str, arrange: &[&[&str]], verb: &[&str]) {
    let host = Host::simulated();
    let prepare = || {
        host.run(&["rm", "web"]);
        for args in arrange {
            host.ok(args);
        }
    };
    prepare();
    host.ok(verb);
    let steps = host.steps_of(kind);
    assert!(steps.len() >= 2, "{kind}: {steps:?}");
    for step in &steps {
        for point in ["kill-before", "kill-after"] {
            prepare();
            let fault = format!("{kind}/{step}:{point}");
            let doomed = host.daemon_that_dies_at(&fault);
            let told = host.run(verb);
            assert_ne!(host.daemon_pid(), Some(doomed), "the daemon did not die at {fault}: {}", told.stderr);
            let running = match host.settled("web") {
                None => 0,
                Some(vm) => usize::from(vm["state"] == "running"),
            };
            eventually(&format!("as many guests run as the records say, after {fault}"), || host.guests() == running);
            if host.settled("web").is_some() {
                if running == 0 {
                    host.ok(&["start", "web", "--wait", "agent"]);
                }
                assert_eq!(host.ok(&["exec", "web", "--", "echo", "alive"]), "alive", "after {fault}");
                host.ok(&["rm", "web"]);
            }
            assert_eq!(host.guests(), 0, "a guest is left after {fault}");
        }
    }
    host.ends_clean();
}

const CREATE: &[&str] = &["create", "--name", "web", "--wait", "agent"];

#[test]
fn a_daemon_killed_in_a_create_converges() {
    killed_at_every_step("vm.create", &[], CREATE);
}

#[test]
fn a_daemon_killed_in_a_stop_converges() {
    killed_at_every_step("vm.stop", &[CREATE], &["stop", "web"]);
}

#[test]
fn a_daemon_killed_in_a_restart_converges() {
    killed_at_every_step("vm.restart", &[CREATE], &["restart", "web", "--wait", "agent"]);
}

#[test]
fn a_daemon_killed_in_a_delete_converges() {
    killed_at_every_step("vm.delete", &[CREATE], &["rm", "web"]);
}

#[test]
fn what_a_daemon_that_died_left_behind_is_gone_with_the_next() {
    let host = Host::simulated();
    host.ok(&["list"]);
    host.kill_daemon();
    let (boot, vm) = (host.home().join("run/boots/0123456789abcdef"), host.home().join("state/vms/0123456789abcdef"));
    for dir in [&boot, &vm] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("left"), b"behind").unwrap();
    }
    host.ok(&["list"]);
    eventually("the next daemon has swept", || !boot.exists() && !vm.exists());
    host.ends_clean();
}
