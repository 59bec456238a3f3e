//! What the daemon does to VMs unasked, through the programs, with guests that are processes.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::guest::host::{Host, eventually, kill};

fn shown(host: &Host, vm: &str) -> Value {
    serde_json::from_str(&host.ok(&["show", vm, "--format", "json"])).unwrap()
}

fn row(page: &str, name: &str) -> String {
    let line = page.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with("  ")));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).trim().to_owned()
}

fn is_stopped(host: &Host, vm: &str) -> bool {
    host.settled(vm).is_some_and(|vm| vm["state"] == "stopped")
}

const CREATE: &[&str] = &["create", "--wait", "agent", "--stop-after", "2s", "--name"];

#[test]
fn commands_and_sessions_keep_a_vm_and_then_it_is_stopped() {
    let host = Host::simulated();
    let create = |name: &str| host.ok(&[CREATE, &[name]].concat());
    create("web");
    let began = Instant::now();
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-c", "sleep 5; echo done"]), "done", "longer than its time");
    eventually("it is stopped", || is_stopped(&host, "web"));
    assert!(began.elapsed() >= Duration::from_secs(5 + 2), "{:?}", began.elapsed());
    assert_eq!(shown(&host, "web")["boot"]["ended"], "idle for 2 s");
    let page = host.ok(&["show", "web"]);
    assert_eq!(row(&page, "stop after"), "2 s idle");
    assert!(row(&page, "ended").ends_with("ago: idle for 2 s"), "{page}");
    let list = host.ok(&["op", "list"]);
    assert!(list.lines().any(|line| line.contains("vm.stop") && line.ends_with("idle for 2 s")), "{list}");

    create("session");
    host.ok(&["exec", "-d", "session", "--", "sleep", "1000"]);
    create("idle");
    // The daemon dies, and the next one goes on.
    host.kill_daemon();
    host.ok(&["ps"]);
    eventually("the idle one is stopped", || is_stopped(&host, "idle"));
    assert_eq!(shown(&host, "session")["state"], "running");
    assert_eq!(row(&host.ok(&["show", "session"]), "stop after"), "2 s idle; in use");
    host.ok(&["session", "kill", "session", "s1"]);
    eventually("its session is over", || is_stopped(&host, "session"));
    host.leaves_nothing();
}

#[test]
fn the_configured_time_holds_for_new_vms_that_say_nothing() {
    let host = Host::simulated();
    host.configure("auto_stop_stale_after = \"2s\"\n");
    let made = host.run(&["run", "--name", "web", "-d", "--wait", "agent"]).code(0);
    assert!(made.stderr.contains("| stops after 2 s idle"), "{}", made.stderr);
    host.ok(&["create", "--name", "kept", "--wait", "agent", "--stop-after", "off"]);
    eventually("it is stopped", || is_stopped(&host, "web"));
    assert_eq!(row(&host.ok(&["show", "kept"]), "stop after"), "off");
    assert_eq!(shown(&host, "kept")["state"], "running");
    host.leaves_nothing();
}

/// Sets up what `banger doctor` says: a user of the host who lingers, with the unit enabled.
fn set_up_at_boot(host: &Host) {
    let write = |path: &Path, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let uid = rustix::process::getuid().as_raw();
    write(&host.root().join("etc/passwd"), &format!("tester:x:{uid}:{uid}::/:/bin/sh\n"));
    write(&host.root().join("var/lib/systemd/linger/tester"), "");
    let units = host.home().join(".config/systemd/user");
    write(&units.join("bangerd.service"), &host.ok(&["daemon", "unit"]));
    write(&units.join("default.target.wants/bangerd.service"), "");
}

#[test]
fn vms_come_back_after_a_reboot_where_the_daemon_does() {
    let host = Host::simulated_to_reboot();
    let refused = host.run(&["create", "--name", "web", "--restart", "always"]).code(1);
    for part in ["cannot create web: --restart always needs", "hint: set it up with: ", "loginctl enable-linger"] {
        assert!(refused.stderr.contains(part), "{part:?} in {}", refused.stderr);
    }
    let doctor = host.run(&["doctor"]).text();
    assert!(doctor.contains("start at boot") && doctor.contains("fix: loginctl enable-linger"), "{doctor}");
    assert_eq!(host.ok(&["list", "--format", "name"]), "");

    set_up_at_boot(&host);
    let doctor = host.run(&["doctor"]).text();
    assert!(doctor.contains("bangerd.service of this user starts the daemon at boot"), "{doctor}");
    for (name, policy) in [("web", "always"), ("off", "unless-stopped"), ("db", "on-failure"), ("left", "no")] {
        host.ok(&["create", "--name", name, "--wait", "agent", "--restart", policy]);
    }
    host.ok(&["stop", "off"]);
    host.reboot();
    // What the unit does: the daemon is there before anybody asks anything.
    host.ok(&["ps"]);
    eventually("web runs again", || shown(&host, "web")["state"] == "running");
    for name in ["off", "db", "left"] {
        assert_eq!(shown(&host, name)["state"], "stopped", "{name}");
    }
    let page = host.ok(&["show", "web"]);
    assert_eq!(row(&page, "restart"), "always; started again, try 1 of 8, because the host went down");
    assert_eq!(host.ok(&["exec", "web", "--", "echo", "alive"]), "alive");
    assert_eq!(host.guests(), 1);
    host.leaves_nothing();
}

#[test]
fn a_vm_whose_process_is_killed_is_started_again() {
    let host = Host::simulated_to_reboot();
    set_up_at_boot(&host);
    host.ok(&["create", "--name", "web", "--wait", "agent", "--restart", "on-failure"]);
    let first = shown(&host, "web")["boot"]["id"].clone();
    for (pid, _) in host.processes().into_iter().filter(|(_, line)| line.contains("--serve")) {
        kill(pid, Signal::KILL);
    }
    eventually("it runs on a new boot", || {
        let vm = shown(&host, "web");
        vm["state"] == "running" && vm["boot"]["id"] != first
    });
    assert_eq!(shown(&host, "web")["restarts"]["tries"], 1);
    let list = host.ok(&["op", "list"]);
    assert!(list.contains("restart on-failure: the VMM was ended by signal 9 (try 1 of 8)"), "{list}");
    // What is killed on purpose stays off.
    host.ok(&["kill", "web"]);
    assert!(is_stopped(&host, "web"));
    host.leaves_nothing();
}
