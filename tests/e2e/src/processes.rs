//! Processes, found by what they carry and never by their name alone.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal};

/// A process that can be told from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    start_ticks: u64,
    /// Its arguments, its program's path first.
    pub(crate) arguments: Vec<String>,
}

impl Process {
    /// The process of this number; none where there is none, or only what it left.
    pub(crate) fn read(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments: Vec<String> = arguments
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        // A zombie has no arguments, and neither has a thread of the kernel.
        (state != "Z" && !arguments.is_empty()).then_some(Process { pid, start_ticks, arguments })
    }

    /// The program's name, without its directory.
    pub(crate) fn program(&self) -> &str {
        let first = self.arguments.first().map_or("", String::as_str);
        first.rsplit('/').next().unwrap_or(first)
    }

    pub(crate) fn is_alive(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks)
    }

    /// Sends SIGKILL to this very process.
    pub(crate) fn kill(&self) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no such number")?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("cannot open the process")?;
        anyhow::ensure!(self.is_alive(), "{self:?} has ended before");
        rustix::process::pidfd_send_signal(fd, Signal::KILL).context("cannot kill")
    }
}

/// Every process that is not the kernel's.
pub(crate) fn all() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list processes")? {
        let name = entry.context("cannot list processes")?.file_name();
        found.extend(name.to_str().and_then(|name| Process::read(name.parse().ok()?)));
    }
    found.sort();
    Ok(found)
}

/// The processes of a home: those that carry its path in their arguments or their environment.
pub(crate) fn of_home(home: &Path) -> Result<Vec<Process>> {
    let path = home.to_string_lossy().into_owned();
    let belongs = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        let is_in = |text: &str| text.contains(&path);
        process.arguments.iter().any(|word| is_in(word)) || is_in(&String::from_utf8_lossy(&environment))
    };
    Ok(all()?.into_iter().filter(belongs).collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_home_and_told_from_others() {
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("60").env("BANGER_HOME", home.path()).spawn().unwrap();
        let found = crate::wait::until("the child is found", std::time::Duration::from_secs(20), || {
            let found = of_home(home.path())?;
            anyhow::ensure!(found.len() == 1 && found[0].program() == "sleep", "{found:?}");
            Ok(found)
        });
        let found = found.unwrap();
        assert_eq!(found[0].pid, child.id());
        let later = Process { start_ticks: found[0].start_ticks + 1, ..found[0].clone() };
        assert!(found[0].is_alive() && !later.is_alive());
        assert!(later.kill().is_err(), "another process of that number is none of ours");
        found[0].kill().unwrap();
        child.wait().unwrap();
        assert!(!found[0].is_alive());
    }
}
