//! Lives of VMs, mixed and at once: in the end their daemon holds what it held before, and nothing lies about.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::guest::host::{Host, eventually};

/// How much the daemon's memory may grow over any number of lives: what its allocator keeps of the busiest moment.
const GROWTH_KIB_MAX: u64 = 16 * 1024;
/// Threads of a daemon that does nothing: the first one, two that drive tasks, and the two of the database. Those for work
/// that blocks end after some idle seconds.
const THREADS_IDLE: usize = 5;

/// What a daemon holds, and what lies below its home.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// What its descriptors lead to, in order.
    descriptors: Vec<String>,
    threads: usize,
    /// Files and directories of state and run.
    files: BTreeSet<PathBuf>,
    guests: usize,
    vms: String,
    images: String,
    /// Operations that have not come to their end.
    unfinished: usize,
}

fn held(host: &Host) -> Held {
    let pid = host.daemon_pid().expect("a daemon runs");
    let entries = |dir: String| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let leads_to = |path: PathBuf| std::fs::read_link(path).ok().map(|to| kind_of(&to.to_string_lossy()));
    let mut descriptors: Vec<String> =
        entries(format!("/proc/{pid}/fd")).filter_map(|entry| leads_to(entry.path())).collect();
    descriptors.sort();
    let mut files = BTreeSet::new();
    for dir in ["state", "run"] {
        find(&host.home().join(dir), &mut files);
    }
    let operations: serde_json::Value = serde_json::from_str(&host.ok(&["op", "list", "--format", "json"])).unwrap();
    let has_ended = |state: &serde_json::Value| state == "succeeded" || state == "unwound";
    Held {
        descriptors,
        threads: entries(format!("/proc/{pid}/task")).count(),
        files,
        guests: host.guests(),
        vms: host.ok(&["vm", "list", "--format", "name"]),
        images: host.ok(&["image", "list", "--format", "name"]),
        unfinished: operations["operations"].as_array().unwrap().iter().filter(|op| !has_ended(&op["state"])).count(),
    }
}

/// `socket:[1234]` without its number.
fn kind_of(link: &str) -> String {
    link.split_once(":[").map_or(link, |(kind, _)| kind).to_owned()
}

/// Adds what is below `dir`, following no link.
fn find(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}

fn resident_kib(host: &Host) -> u64 {
    let pid = host.daemon_pid().expect("a daemon runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Created, used, ended in one of several ways, started, used, deleted.
fn live(host: &Host, name: &str, kind: usize) {
    host.ok(&["run", "--name", name, "-d", "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", name, "--", "echo", name]), name);
    match kind % 4 {
        0 => drop(host.ok(&["stop", name])),
        1 => drop(host.ok(&["kill", name])),
        2 => {
            host.ok(&["exec", "-d", name, "--", "sleep", "3"]);
            host.ok(&["stop", name]);
        }
        _ => {
            host.ok(&["restart", name, "--wait", "agent"]);
            assert_eq!(host.run(&["exec", name, "--", "sh", "-c", "exit 3"]).code, 3);
            host.ok(&["stop", name]);
        }
    }
    host.ok(&["start", name, "--wait", "agent"]);
    assert_eq!(host.ok(&["exec", name, "--", "echo", "again"]), "again");
    host.ok(&["rm", name]);
}

/// Lives that many lives, some at once, and compares what the daemon holds before and afterwards.
pub(crate) fn leave_nothing(host: Host, lives: usize, at_once: usize) {
    // One of each kind first, so that what is made once has been made.
    for kind in 0..4 {
        live(&host, "first", kind);
    }
    let mut before = held(&host);
    eventually("the daemon has put down what it used", || {
        before = held(&host);
        before.threads <= THREADS_IDLE && before.guests == 0
    });
    let (pid, memory) = (host.daemon_pid(), resident_kib(&host));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= lives {
                        break;
                    }
                    live(&host, &format!("life-{number}"), number);
                }
            });
        }
    });
    let mut after = held(&host);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while after != before && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
        after = held(&host);
    }
    assert_eq!(after, before, "after {lives} lives");
    assert_eq!(host.daemon_pid(), pid, "one daemon served all of them");
    let grown = resident_kib(&host).saturating_sub(memory);
    assert!(grown < GROWTH_KIB_MAX, "the daemon grew by {grown} KiB in {lives} lives");
    host.ends_clean();
}
