//! Commands left running: the daemon dies, watchers stall, and they go on.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::host::{Host, eventually};

/// How long a command may take beside a flood: emulated, on a host whose cores are shared.
const RESPONSIVE: Duration = Duration::from_secs(30);
/// How much more of the guest's memory the agent may take while a session floods: its ring, and what waits to be sent.
const GROWTH_KIB_MAX: u64 = 4096;

fn attach(host: &Host, vm: &str, session: &str) -> Child {
    host.command(&["session", "attach", vm, session]).stdin(Stdio::piped()).spawn().unwrap()
}

/// Reads lines until one is `wanted`; all of them.
fn read_until(reader: &mut impl BufRead, wanted: &str) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != wanted) {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it ended before {wanted:?}: {lines:?}");
        lines.push(line.trim_end().to_owned());
    }
    lines
}

fn record(host: &Host, vm: &str, session: &str) -> Value {
    let list: Value = serde_json::from_str(&host.ok(&["session", "list", "--format", "json", vm])).unwrap();
    list["sessions"].as_array().unwrap().iter().find(|record| record["name"] == session).unwrap().clone()
}

/// Resident memory of the guest's agent.
fn agent_kib(host: &Host) -> u64 {
    let script = "for p in /proc/[0-9]*; do read -r c < $p/comm; case $(tr '\\0' ' ' < $p/cmdline) in @*) \
                  sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' $p/status;; esac; done 2>/dev/null | sort -n | tail -1";
    host.ok(&["exec", "web", "--", "sh", "-c", script]).trim().parse().unwrap()
}

#[test]
fn sessions_outlive_the_daemon_and_hold_up_nobody() {
    let host = Host::new();
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    goes_on_without_the_daemon(&host);
    is_looked_at_by_several(&host);
    is_ended_with_all_it_started(&host);
    a_kill_reaches_nothing_later(&host);
    floods(&host);
    host.ok(&["vm", "restart", "web", "--wait", "agent"]);
    assert_eq!(host.ok(&["session", "list", "--format", "name", "web"]), "", "none outlives its boot");
    host.leaves_nothing();
}

fn goes_on_without_the_daemon(host: &Host) {
    let counter = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.2; done";
    assert_eq!(host.ok(&["exec", "-d", "--name", "count", "web", "--", "sh", "-c", counter]), "count");
    let pid = record(host, "web", "count")["pid"].clone();
    let mut first = attach(host, "web", "count");
    let mut lines = BufReader::new(first.stdout.take().unwrap());
    read_until(&mut lines, "tick 3");
    host.kill_daemon();
    assert_eq!(first.wait().unwrap().code(), Some(125), "who was attached is told");

    let mut again = attach(host, "web", "count");
    let mut lines = BufReader::new(again.stdout.take().unwrap());
    assert_eq!(read_until(&mut lines, "tick 3"), ["tick 1", "tick 2", "tick 3"], "what it printed before is replayed");
    let now: u64 =
        host.ok(&["session", "logs", "-n", "1", "web", "count"]).trim_start_matches("tick ").parse().unwrap();
    read_until(&mut lines, &format!("tick {}", now + 2));
    let record = record(host, "web", "count");
    assert_eq!((&record["pid"], &record["state"], &record["clients"]), (&pid, &"running".into(), &1.into()));
    again.kill().unwrap();
    again.wait().unwrap();
    assert_eq!(host.ok(&["session", "stop", "web", "count"]), "count");
}

fn is_looked_at_by_several(host: &Host) {
    let echo = "while read -r x; do echo got $x; done; exit 5";
    host.ok(&["exec", "-d", "--name", "echo", "web", "--", "sh", "-c", echo]);
    let mut watchers = [attach(host, "web", "echo"), attach(host, "web", "echo")];
    let mut outputs: Vec<_> = watchers.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap())).collect();
    watchers[0].stdin.as_mut().unwrap().write_all(b"typed\n").unwrap();
    for output in &mut outputs {
        read_until(output, "got typed");
    }
    host.ok(&["session", "send", "web", "echo", "--enter", "sent"]);
    for output in &mut outputs {
        read_until(output, "got sent");
    }
    assert_eq!(host.pipe(&["session", "send", "--stdin", "--eof", "web", "echo"], b"last\n").code(0).text(), "");
    for (watcher, output) in watchers.iter_mut().zip(&mut outputs) {
        read_until(output, "got last");
        assert_eq!(watcher.wait().unwrap().code(), Some(5), "its status is theirs");
    }
    let late = host.run(&["session", "attach", "web", "echo"]).code(5);
    assert_eq!(late.text(), "got typed\ngot sent\ngot last");
    host.run(&["session", "send", "web", "echo", "x"]).code(1);
}

fn is_ended_with_all_it_started(host: &Host) {
    // One that left the process group is found by the cgroup.
    let stubborn = "trap '' TERM; setsid sleep 4242 & echo up; while :; do sleep 0.1; done";
    host.ok(&["exec", "-d", "--name", "stubborn", "web", "--", "sh", "-c", stubborn]);
    eventually("it is up", || host.ok(&["session", "logs", "web", "stubborn"]) == "up");
    host.ok(&["session", "stop", "-t", "500ms", "web", "stubborn"]);
    assert_eq!(record(host, "web", "stubborn")["exit_status"], 137);
    let sleeps = ["exec", "web", "--", "sh", "-c", "grep -lsx 'sleep' /proc/[0-9]*/comm | wc -l"];
    eventually("nothing of it is left", || host.ok(&sleeps) == "0");
    host.ok(&["session", "delete", "web", "stubborn"]);
}

/// Kernels that count the kills of a cgroup kill whatever is born in it later.
fn a_kill_reaches_nothing_later(host: &Host) {
    let names = ["killed-1", "killed-2", "killed-3"];
    for name in names {
        host.ok(&["exec", "-d", "--name", name, "web", "--", "sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    }
    for name in names {
        host.ok(&["session", "stop", "-t", "100ms", "web", name]);
        assert_eq!(record(host, "web", name)["exit_status"], 137);
    }
    host.ok(&["session", "delete", "web", names[0], names[1], names[2]]);
    // More at once than there are cgroups at hand.
    let at_once: Vec<_> = (0..6)
        .map(|_| host.command(&["exec", "web", "--", "sh", "-c", "sleep 2; echo fine"]).spawn().unwrap())
        .collect();
    for child in at_once {
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"fine\n".as_slice()));
    }
}

fn floods(host: &Host) {
    let before = agent_kib(host);
    host.ok(&["exec", "-d", "--name", "flood", "web", "--", "yes", "0123456789abcdef"]);
    // Nobody reads this one's output: it fills a pipe, a socket and a window, and then stalls.
    let mut stalled = attach(host, "web", "flood");
    let printed = |host: &Host| record(host, "web", "flood")["output_bytes"].as_u64().unwrap();
    let mut last = 0;
    for _ in 0..4 {
        eventually("the flood goes on", || printed(host) > last + (8 << 20));
        last = printed(host);
        let began = Instant::now();
        assert_eq!(host.ok(&["exec", "web", "--", "echo", "hello"]), "hello");
        assert!(began.elapsed() < RESPONSIVE, "{:?}", began.elapsed());
    }
    let after = agent_kib(host);
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after {last} bytes");
    // Its reader wakes up, and is told what it missed.
    let mut stdout = stalled.stdout.take().unwrap();
    let draining = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap());
    let mut told = String::new();
    let mut stderr = BufReader::new(stalled.stderr.take().unwrap());
    while !told.contains("of output are missing here") {
        assert!(stderr.read_line(&mut told).unwrap() > 0, "{told}");
    }
    host.ok(&["session", "kill", "web", "flood"]);
    assert_eq!(stalled.wait().unwrap().code(), Some(137));
    stderr.read_to_string(&mut told).unwrap();
    assert!(draining.join().unwrap() > 0);
}
