//! What stays over stop and start, and how a guest ends.

use std::path::PathBuf;
use std::process::Command;

use super::host::{Host, eventually};

/// The disk of a VM that has ended must be clean without any repair: `e2fsck -fn`, e2fsck(8).
#[track_caller]
pub(super) fn disk_is_clean(host: &Host, vm: &str) {
    let id = host.ok(&["vm", "show", vm, "--format", "json"]);
    let id = serde_json::from_str::<serde_json::Value>(&id).unwrap()["id"].as_str().unwrap().to_owned();
    let disk: PathBuf = host.state().join("vms").join(id).join("disk.ext4");
    let check = Command::new("e2fsck").arg("-fn").arg(&disk).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    let is_clean = check.status.success() && !said.contains("recover");
    assert!(is_clean, "{said}\n{}\n{}", host.ok(&["op", "list"]), host.ok(&["logs", vm]));
}

pub(super) fn state(host: &Host, vm: &str) -> String {
    let json = host.ok(&["vm", "show", vm, "--format", "json"]);
    serde_json::from_str::<serde_json::Value>(&json).unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn home_and_packages_stay_and_the_disk_is_clean() {
    let host = Host::new();
    host.ok(&["vm", "run", "--name", "web", "-d"]);
    assert_eq!(host.ok(&["vm", "exec", "web", "--", "hostname"]), "web");
    let package = "mkdir -p p/DEBIAN p/usr/share/kept && echo here >p/usr/share/kept/file &&
        printf 'Package: kept\\nVersion: 1\\nArchitecture: all\\nMaintainer: T <t@example.com>\\nDescription: t\\n' >p/DEBIAN/control &&
        dpkg-deb -b p kept.deb >&2 && dpkg -i kept.deb >&2 && cat /proc/sys/kernel/random/boot_id";
    let first_boot = host.ok(&["vm", "exec", "web", "--", "sh", "-ec", package]);
    let machine = host.ok(&["vm", "exec", "web", "--", "cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"]);
    host.ok(&["vm", "stop", "web"]);
    disk_is_clean(&host, "web");
    let refused = host.run(&["vm", "exec", "web", "--", "true"]).code(125);
    assert!(refused.stderr.contains("web is not running"), "{}", refused.stderr);
    host.ok(&["vm", "start", "web"]);
    let check =
        "ls /root/kept.deb && dpkg -s kept | grep Status && cat /usr/share/kept/file /proc/sys/kernel/random/boot_id";
    let out = host.ok(&["vm", "exec", "web", "--", "sh", "-ec", check]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..3], ["/root/kept.deb", "Status: install ok installed", "here"]);
    assert_ne!(lines[3], first_boot, "a start is a new boot");
    let again = host.ok(&["vm", "exec", "web", "--", "cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"]);
    assert_eq!(again, machine, "identity stays");
    host.ok(&["vm", "delete", "web"]);
    host.ends_clean();
}

#[test]
fn a_guest_that_has_barely_begun_stops_by_itself_and_loses_nothing() {
    let host = Host::new();
    host.ok(&["run", "--name", "early", "-d", "--wait", "agent"]);
    host.ok(&["exec", "early", "--", "sh", "-c", "echo one >/root/x; echo two >/etc/x"]);
    let stop = host.run(&["stop", "early"]).code(0);
    assert!(!stop.stderr.contains("killed"), "{}", stop.stderr);
    disk_is_clean(&host, "early");
    host.ok(&["start", "early", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "early", "--", "cat", "/root/x", "/etc/x"]), "one\ntwo");
    host.leaves_nothing();
}

#[test]
fn poweroff_from_inside_stops_and_reboot_boots_again() {
    let host = Host::new();
    host.ok(&["run", "--name", "inside", "-d"]);
    let boot = host.ok(&["exec", "inside", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    host.run(&["exec", "inside", "--", "systemctl", "--no-block", "reboot"]);
    eventually("it has booted again", || {
        let ran = host.run(&["exec", "inside", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
        ran.code == 0 && ran.text() != boot
    });
    host.ok(&["wait", "inside"]);
    host.run(&["exec", "inside", "--", "systemctl", "--no-block", "poweroff"]);
    eventually("it is off", || state(&host, "inside") == "stopped");
    disk_is_clean(&host, "inside");
    host.leaves_nothing();
}

#[test]
fn an_init_that_kills_the_agent_still_ends_as_stopped() {
    let host = Host::new();
    host.ok(&["run", "--name", "killer", "-d", "--wait", "agent"]);
    // The agent's own process dies with it; the guest goes on and powers off by itself.
    let kill = "sync; setsid sh -c 'sleep 1; kill -9 $(pidof @banger-agent); sleep 1; echo o >/proc/sysrq-trigger' >/dev/null 2>&1 &";
    host.run(&["exec", "killer", "--", "sh", "-c", kill]);
    eventually("it is off", || state(&host, "killer") == "stopped");
    host.ok(&["start", "killer", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "killer", "--", "hostname"]), "killer");
    host.leaves_nothing();
}

#[test]
fn the_waiting_levels_are_reached_in_order() {
    let host = Host::new();
    host.ok(&["vm", "create", "--name", "levels", "--wait", "agent"]);
    host.ok(&["vm", "wait", "levels", "--for", "system"]);
    assert_eq!(host.ok(&["exec", "levels", "--", "systemctl", "is-system-running"]), "running");
    host.ok(&["vm", "wait", "levels", "--for", "ssh"]);
    host.leaves_nothing();
}

#[test]
fn the_root_is_as_promised() {
    let host = Host::new();
    host.ok(&["run", "--name", "root", "-d", "--disk-size", "20G"]);
    let run = |script: &str| host.ok(&["exec", "root", "--", "sh", "-ec", script]);
    let options = run("findmnt -no OPTIONS /");
    for option in ["redirect_dir=on", "index=on", "xino=on"] {
        assert!(options.contains(option), "{option} in {options}");
    }
    assert!(!options.contains("metacopy=on"), "{options}");
    assert_eq!(run("findmnt -no FSTYPE /root; findmnt -no FSTYPE /home"), "ext4\next4", "homes are not on overlayfs");
    assert_eq!(run("ls /lib/modules"), run("uname -r"));
    run("modprobe br_netfilter && lsmod | grep -q br_netfilter");
    assert_eq!(run("test $(df --output=size -BG / | tail -1 | tr -dc 0-9) -ge 18 && echo grown"), "grown");
    assert_eq!(run("systemctl --failed --no-legend --plain | wc -l"), "0");
    assert_eq!(run("cat /proc/self/cgroup").matches("/banger/").count(), 1, "a command has a cgroup of its own");
    assert_eq!(run("id -u; pwd; echo $HOME $USER"), "0\n/root\n/root root");
    host.leaves_nothing();
}

#[test]
fn a_reset_drops_the_system_and_keeps_the_homes() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    let change = "echo mine >/etc/changed; rm /etc/issue; mkdir -p /usr/share/made && echo x >/usr/share/made/file;
        echo kept >/root/file; echo kept >/home/file; cat /etc/machine-id";
    let machine = host.ok(&["exec", "web", "--", "sh", "-ec", change]);
    let refused = host.run(&["reset", "--yes", "web"]).code(1);
    assert!(refused.stderr.contains("web is running") && refused.stderr.contains("--restart"), "{}", refused.stderr);
    let unasked = host.run(&["reset", "web"]).code(1);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    host.ok(&["stop", "web"]);
    host.ok(&["reset", "--yes", "web"]);
    assert_eq!(state(&host, "web"), "stopped");
    assert!(host.ok(&["show", "web"]).contains("at the next start"), "a reset to come is shown");
    // The one who remembers it dies.
    host.kill_daemon();
    host.ok(&["start", "web", "--wait", "agent"]);
    let look = "test ! -e /etc/changed; test -e /etc/issue; test ! -e /usr/share/made; cat /root/file /home/file /etc/machine-id";
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-ec", look]), format!("kept\nkept\n{machine}"));
    assert!(!host.ok(&["show", "web"]).contains("at the next start"));
    // Once: what is changed from here on stays.
    host.ok(&["exec", "web", "--", "sh", "-ec", "echo again >/etc/changed"]);
    host.ok(&["restart", "web", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "web", "--", "cat", "/etc/changed"]), "again");
    host.ok(&["reset", "--yes", "--restart", "web"]);
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-ec", "test ! -e /etc/changed; cat /root/file"]), "kept");
    host.ok(&["stop", "web"]);
    disk_is_clean(&host, "web");
    host.leaves_nothing();
}
