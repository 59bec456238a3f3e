//! The clean slate: what a scenario must leave as it found it, wherever on the host it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{command, processes, wait};

/// How long the host may take to be as it was: interfaces and cgroups go a moment after the process that held them.
const SETTLE_MAX: Duration = Duration::from_secs(15);

/// Directories whose entries are looked at, one level deep.
const DIRECTORIES: [&str; 11] = [
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/run",
    "/run/user/1000",
    "/run/netns",
    "/home/tester",
    "/srv",
    "/srv/jailer",
    "/var/lib",
    "/etc/systemd/system",
];

/// Programs of the system that come and go on their own.
const SYSTEM: [&str; 5] = ["systemd", "(", "sshd", "dbus-daemon", "udevadm"];

/// Everything there is of some kinds, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slate(BTreeSet<String>);

impl Slate {
    /// Looks at the host.
    pub(crate) fn take() -> Result<Slate> {
        let mut lines = BTreeSet::new();
        for process in processes::all()? {
            if !SYSTEM.iter().any(|name| process.program().starts_with(name)) {
                lines.insert(format!("process {} {}", process.pid, process.arguments.join(" ")));
            }
        }
        for dir in DIRECTORIES {
            lines.extend(entries(Path::new(dir))?.into_iter().map(|name| format!("file {dir}/{name}")));
        }
        for (kind, dir) in [("link", "/sys/class/net"), ("block device", "/sys/block")] {
            lines.extend(entries(Path::new(dir))?.into_iter().map(|name| format!("{kind} {name}")));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        lines.extend(mounts.lines().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?))));
        for (kind, listing) in [
            ("nft", "nft list tables"),
            ("dm", "dmsetup ls"),
            ("loop", "losetup --list --noheadings --output NAME,BACK-FILE"),
            ("cgroup", "find /sys/fs/cgroup -type d -name '*banger*' -o -type d -name '*firecracker*'"),
            ("namespace", "lsns --noheadings --type net --output NS"),
        ] {
            let said = command::shell(listing)?;
            lines.extend(said.lines().map(|line| format!("{kind} {}", line.trim())));
        }
        Ok(Slate(lines))
    }

    /// Waits until the host is as it was.
    ///
    /// # Errors
    /// What differs when it never is.
    pub(crate) fn await_same(&self) -> Result<()> {
        wait::until("the host is as it was", SETTLE_MAX, || {
            let difference = difference(&self.0, &Slate::take()?.0);
            ensure!(difference.is_empty(), "\n{}", difference.join("\n"));
            Ok(())
        })
    }
}

/// What was left and what was taken away; a process may end at any time.
fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let left = after.difference(before).map(|line| format!("left: {line}"));
    let gone =
        before.difference(after).filter(|line| !line.starts_with("process ")).map(|line| format!("gone: {line}"));
    left.chain(gone).collect()
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
    };
    let names = listing.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Result<Vec<String>> = names.collect();
    // Services get private directories as they start, and a bus one as it is first used.
    Ok(names?.into_iter().filter(|name| !name.starts_with("systemd-private-") && name != "dbus-1").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(lines: &[&str]) -> BTreeSet<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn what_is_left_and_what_is_gone_is_told() {
        let before = set(&["link lo", "link tap1", "process 1 init", "process 2 sh"]);
        let after = set(&["link lo", "link tap2", "process 1 init", "process 3 qemu"]);
        let expected = ["left: link tap2", "left: process 3 qemu", "gone: link tap1"];
        assert_eq!(difference(&before, &after), expected);
        assert!(difference(&before, &before).is_empty());
    }
}
