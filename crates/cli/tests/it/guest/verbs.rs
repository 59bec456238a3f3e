//! What is done to a VM that runs: paused, stopped by a debugger, killed, given a larger disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use super::host::{Host, kill};
use super::lifecycle::state;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The guest's clock as the first command sees it is the host's: at most 100 ms outside the time that command took.
#[track_caller]
fn clock_is_right(host: &Host, vm: &str) {
    let before = now();
    let guest: f64 = host.ok(&["exec", vm, "--", "date", "+%s.%N"]).parse().unwrap();
    let after = now();
    assert!(before - 0.1 <= guest && guest <= after + 0.1, "{guest} is not within {before} and {after}");
}

/// How long the guest stands still: far longer than its clock may be off, and less than a second, which a coarser look
/// would let pass.
const STILL: Duration = Duration::from_millis(700);

#[test]
fn a_guest_that_stood_still_has_the_right_time_at_the_first_command() {
    let host = Host::new();
    host.ok(&["run", "--name", "still", "-d", "--wait", "agent"]);
    clock_is_right(&host, "still");
    host.ok(&["pause", "still"]);
    assert_eq!(state(&host, "still"), "paused");
    assert!(host.ok(&["ps"]).contains("paused"));
    let refused = host.run(&["exec", "still", "--", "true"]).code(125);
    assert!(refused.stderr.contains("still is paused\nhint: banger resume still"), "{}", refused.stderr);
    std::thread::sleep(STILL);
    host.ok(&["resume", "still"]);
    clock_is_right(&host, "still");

    // A debugger, or a host that sleeps: nobody tells the daemon.
    let pid = host.vmm_pid("still");
    kill(pid, Signal::STOP);
    std::thread::sleep(STILL);
    kill(pid, Signal::CONT);
    clock_is_right(&host, "still");

    // Paused over a daemon's death.
    host.ok(&["pause", "still"]);
    host.kill_daemon();
    assert_eq!(state(&host, "still"), "paused");
    host.ok(&["resume", "still"]);
    clock_is_right(&host, "still");

    host.ok(&["pause", "still"]);
    let stop = host.run(&["stop", "still"]).code(0);
    assert!(!stop.stderr.contains("killed"), "{}", stop.stderr);
    super::lifecycle::disk_is_clean(&host, "still");
    host.leaves_nothing();
}

#[test]
fn a_killed_vm_is_stopped_and_starts_again() {
    let host = Host::new();
    host.ok(&["run", "--name", "victim", "-d", "--wait", "agent"]);
    host.ok(&["exec", "victim", "--", "sh", "-c", "echo kept >/root/file; sync"]);
    host.ok(&["kill", "victim"]);
    assert_eq!(state(&host, "victim"), "stopped");
    assert!(host.ok(&["logs", "--list-boots", "victim"]).contains("killed"));
    host.ok(&["rename", "victim", "survivor"]);
    host.ok(&["start", "survivor", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", "survivor", "--", "sh", "-c", "hostname; cat /root/file"]), "survivor\nkept");
    // A VMM that a signal does not reach is killed after a while.
    kill(host.vmm_pid("survivor"), Signal::STOP);
    let killed = host.run(&["kill", "--signal", "HUP", "survivor"]).code(0);
    assert!(killed.stderr.contains("did not end of HUP within 5s"), "{}", killed.stderr);
    assert_eq!(state(&host, "survivor"), "stopped");
    host.leaves_nothing();
}

#[test]
fn a_disk_grows_under_a_guest_that_runs() {
    let host = Host::new();
    host.ok(&["run", "--name", "grow", "-d", "--wait", "agent", "--disk-size", "1G"]);
    let size_gib = || -> u64 {
        let text = host.ok(&["exec", "grow", "--", "df", "--output=size", "-BM", "/root"]);
        text.lines().last().unwrap().trim().trim_end_matches('M').parse::<u64>().unwrap() / 900
    };
    assert_eq!(size_gib(), 1);
    let grown = host.run(&["set", "grow", "--disk-size", "5G"]).code(0);
    assert!(!grown.stderr.contains("warning"), "{}", grown.stderr);
    assert_eq!(size_gib(), 5, "at once");
    host.ok(&["exec", "grow", "--", "dd", "if=/dev/zero", "of=/root/large", "bs=1M", "count=1100", "status=none"]);
    let refused = host.run(&["set", "grow", "--disk-size", "2G"]).code(1);
    assert!(refused.stderr.contains("a disk only grows: grow has 5 GiB, 2 GiB is less"), "{}", refused.stderr);
    let refused = host.run(&["set", "grow", "--vcpu", "3"]).code(1);
    assert!(refused.stderr.contains("hint: banger stop grow, then again"), "{}", refused.stderr);
    host.ok(&["stop", "grow"]);
    super::lifecycle::disk_is_clean(&host, "grow");
    host.ok(&["set", "grow", "--vcpu", "3", "--memory", "600M", "--disk-size", "6G"]);
    host.ok(&["start", "grow", "--wait", "agent"]);
    assert_eq!(size_gib(), 6);
    assert_eq!(host.ok(&["exec", "grow", "--", "sh", "-c", "nproc; stat -c %s /root/large"]), "3\n1153433600");
    let kib = host.ok(&["exec", "grow", "--", "sed", "-n", "s/^MemTotal: *//p", "/proc/meminfo"]);
    let mib = kib.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024;
    assert!((480..600).contains(&mib), "{mib} MiB");
    host.leaves_nothing();
}

#[test]
fn what_a_guest_uses_and_where_it_listens() {
    let host = Host::new();
    host.ok(&["run", "--name", "busy", "-d"]);
    let ports =
        || -> serde_json::Value { serde_json::from_str(&host.ok(&["ports", "busy", "--format", "json"])).unwrap() };
    let listens = |port: u16| {
        let all = ports();
        all["ports"][0]["listening"].as_array().unwrap().iter().any(|s| s["port"] == port && s["protocol"] == "tcp")
    };
    assert!(listens(22), "{}", ports());
    assert!(!listens(4321));
    let serve = "use IO::Socket::INET; IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1:4321')->accept";
    host.ok(&["exec", "-d", "busy", "--", "perl", "-e", serve]);
    super::host::eventually("the server listens", || listens(4321));

    host.ok(&["exec", "-d", "busy", "--", "sh", "-c", "while :; do :; done"]);
    let stats: serde_json::Value = serde_json::from_str(&host.ok(&["stats", "--format", "json"])).unwrap();
    let line = &stats["stats"][0];
    assert!(line["cpu_percent"].as_f64().unwrap() > 20.0, "{line}");
    let memory = line["memory_bytes"].as_u64().unwrap();
    assert!(memory > 64 << 20 && line["memory_limit_bytes"].as_u64().unwrap() > memory / 2, "{line}");
    assert!(line["guest_available_bytes"].as_u64().unwrap() > 0 && line["network"]["sent_bytes"].is_u64(), "{line}");
    host.ok(&["pause", "busy"]);
    let stats: serde_json::Value = serde_json::from_str(&host.ok(&["stats", "busy", "--format", "json"])).unwrap();
    assert!(stats["stats"][0]["cpu_percent"].as_f64().unwrap() < 10.0, "what is paused uses no processor: {stats}");
    host.leaves_nothing();
}
