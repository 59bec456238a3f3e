//! Machines that are saved and go on, for real: suspended, brought back to a snapshot, forked.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::host::Host;
use super::lifecycle::{disk_is_clean, state};

/// What must differ in every fork, a line each: random bytes of the kernel, of new processes, and ids.
const RANDOM: &str = "head -c 16 /dev/urandom | base64; cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id \
                      /etc/machine-id; openssl rand -hex 16 2>/dev/null || head -c 16 /dev/random | base64; \
                      perl -e 'print rand, \"\\n\"'; cat /sys/class/net/e*/address; mktemp -u";

/// Writes files and what they should be, for ever.
const WRITER: &str = "i=0; while :; do head -c 300k /dev/urandom >/root/f.$i; sha256sum /root/f.$i >>/root/sums; i=$((i+1)); sleep 0.3; done";

/// Whether all files are what they should be. The last line may be unfinished.
const CHECK: &str = "head -n -1 /root/sums >/root/whole; test -s /root/whole && sha256sum --quiet -c /root/whole";

#[test]
fn eight_forks_under_write_load_are_machines_of_their_own() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--memory", "192M"]);
    host.ok(&["exec", "-d", "--name", "writer", "web", "--", "sh", "-c", WRITER]);
    host.ok(&["exec", "web", "--", "sh", "-c", "until test -s /root/sums; do sleep 0.1; done"]);
    let forks = host.ok(&["fork", "web", "--name", "try", "-n", "8"]);
    let forks: Vec<&str> = forks.lines().collect();
    assert_eq!(forks, ["try-1", "try-2", "try-3", "try-4", "try-5", "try-6", "try-7", "try-8"]);
    let mut seen = HashSet::new();
    for vm in forks.iter().chain(&["web"]) {
        assert_eq!(host.ok(&["exec", vm, "--", "hostname"]), *vm);
        let said = host.ok(&["exec", vm, "--", "sh", "-c", RANDOM]);
        assert_eq!(said.lines().count(), 8, "{said}");
        for line in said.lines() {
            assert!(seen.insert(line.to_owned()), "{line} of {vm} was another's");
        }
    }
    // What ran in the parent runs in each; it goes on where there will be another fork.
    for vm in forks.iter().chain(&["web"]).filter(|vm| **vm != "try-2") {
        host.ok(&["session", "stop", vm, "writer"]);
    }
    // Each has a disk of its own that is whole.
    for vm in ["try-1", "try-8", "web"] {
        host.ok(&["exec", vm, "--", "sh", "-c", &format!("echo {vm} >/root/name; sync")]);
        host.ok(&["exec", vm, "--", "sh", "-c", CHECK]);
        // Beside eight guests, on an emulated processor, its services take longer to end than a guest is given.
        host.ok(&["stop", "--timeout", "3m", vm]);
        disk_is_clean(&host, vm);
    }
    // One of a fork, whose memory is mapped already, and of which the saved file is gone.
    assert_eq!(host.ok(&["fork", "try-2"]), "try-2-1");
    host.ok(&["session", "stop", "try-2-1", "writer"]);
    host.ok(&["exec", "try-2-1", "--", "sh", "-c", CHECK]);
    assert!(std::fs::read_dir(host.state().join("forks")).unwrap().next().is_none(), "what was saved is removed");
    host.leaves_nothing();
}

/// The guest's CLOCK_BOOTTIME, seconds.
fn uptime(host: &Host) -> f64 {
    host.ok(&["exec", "web", "--", "cut", "-d ", "-f1", "/proc/uptime"]).parse().unwrap()
}

#[test]
fn a_suspended_vm_goes_on_where_it_was() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--memory", "192M"]);
    let count = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; sleep 0.1; done";
    host.ok(&["exec", "-d", "--name", "counter", "web", "--", "sh", "-c", count]);
    let ids = "cat /proc/sys/kernel/random/boot_id /etc/machine-id";
    let before = host.ok(&["exec", "web", "--", "sh", "-c", ids]);
    let counted = |host: &Host| host.ok(&["exec", "web", "--", "cat", "/dev/shm/count"]).parse::<u64>().unwrap();
    let first = counted(&host);
    let (began, up) = (Instant::now(), uptime(&host));
    host.ok(&["suspend", "web"]);
    let lies = Instant::now();
    assert_eq!(state(&host, "web"), "suspended");
    let refused = host.run(&["exec", "web", "--", "true"]).code(125);
    assert!(refused.stderr.contains("web is suspended\nhint: banger resume web"), "{}", refused.stderr);
    host.kill_daemon();
    // A time that would be seen if it counted.
    std::thread::sleep(Duration::from_secs(3));
    let lay = lies.elapsed();
    host.ok(&["resume", "web"]);
    let (ran, passed) = (uptime(&host) - up, (began.elapsed() - lay).as_secs_f64());
    assert!(ran < passed + 1.0, "its clock stood still for {lay:?}: {ran} s more, of {passed} s");
    assert_eq!(host.ok(&["exec", "web", "--", "sh", "-c", ids]), before, "it is the same machine");
    assert!(counted(&host) >= first, "what was in memory is");
    let clock: f64 = host.ok(&["exec", "web", "--", "date", "+%s.%N"]).parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((clock - now).abs() < 5.0, "{clock} is not {now}");

    // What cannot be read is no reason to lose it.
    host.ok(&["suspend", "web"]);
    let vm = host.show("web")["id"].as_str().unwrap().to_owned();
    let devices = host.state().join("vms").join(vm).join("suspended/devices");
    let kept = std::fs::read(&devices).unwrap();
    std::fs::write(&devices, "no devices").unwrap();
    let failed = host.run(&["resume", "web"]).code(1);
    assert!(failed.stderr.contains("cannot start web"), "{}", failed.stderr);
    assert_eq!(state(&host, "web"), "suspended");
    std::fs::write(&devices, kept).unwrap();
    host.ok(&["resume", "web"]);
    assert!(counted(&host) >= first, "what was in memory is");

    // Its memory can be given up; its disk was ready for that.
    host.ok(&["exec", "web", "--", "sh", "-c", "echo kept >/root/kept"]);
    host.ok(&["suspend", "web"]);
    host.ok(&["stop", "web"]);
    assert_eq!(state(&host, "web"), "stopped");
    host.ok(&["start", "web", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "web", "--", "cat", "/root/kept"]), "kept");
    let after = host.ok(&["exec", "web", "--", "sh", "-c", ids]);
    assert_ne!(after.lines().next(), before.lines().next(), "that was a boot");
    host.leaves_nothing();
}

#[test]
fn a_vm_goes_back_to_a_snapshot_with_memory_and_disk() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--memory", "192M"]);
    host.ok(&["exec", "web", "--", "sh", "-c", "echo old | tee /root/file >/dev/shm/file"]);
    assert_eq!(host.ok(&["snapshot", "create", "web", "one"]), "one");
    host.ok(&["exec", "web", "--", "sh", "-c", "echo new | tee /root/file >/dev/shm/file; sync"]);
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = host.ok(&["exec", "web", "--", "sh", "-c", boot]);
    let refused = host.run(&["snapshot", "restore", "web", "one"]).code(1);
    assert!(refused.stderr.contains("hint: banger snapshot restore --force web one"), "{}", refused.stderr);
    for off in [false, true] {
        if off {
            host.ok(&["stop", "web"]);
            disk_is_clean(&host, "web");
        }
        host.ok(&["snapshot", "restore", "--force", "web", "one"]);
        assert_eq!(host.ok(&["exec", "web", "--", "cat", "/root/file", "/dev/shm/file"]), "old\nold");
        assert_ne!(host.ok(&["exec", "web", "--", "sh", "-c", boot]), before, "another machine, as far as ids go");
    }
    host.ok(&["stop", "web"]);
    disk_is_clean(&host, "web");
    assert_eq!(host.ok(&["snapshot", "list", "web", "--format", "name"]), "one");
    assert_eq!(host.ok(&["snapshot", "delete", "web", "one"]), "one");
    assert_eq!(host.ok(&["snapshot", "list", "web", "--format", "name"]), "");
    host.leaves_nothing();
}
