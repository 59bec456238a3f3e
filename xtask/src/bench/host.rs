//! A banger home for measurements, with the tests' image and kernel, and stopwatches.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::root;

/// A `BANGER_HOME` of its own.
pub(super) struct Host {
    pub(super) home: PathBuf,
    prefix: PathBuf,
}

impl Host {
    pub(super) fn new() -> Result<Host> {
        let seed = PathBuf::from(std::env::var_os("BANGER_TEST_HOME").context("run this with `make bench`")?);
        let prefix = std::env::var_os("BANGER_BENCH_PREFIX")
            .map_or_else(|| root::repository().join("target/dist"), PathBuf::from);
        let home = PathBuf::from(format!("/tmp/bench-{}", std::process::id()));
        let state = home.join("state");
        std::fs::create_dir_all(&state)?;
        for shared in ["images", "kernels"] {
            std::os::unix::fs::symlink(seed.join("state").join(shared), state.join(shared))?;
        }
        std::os::unix::fs::symlink(seed.join("cache"), home.join("cache"))?;
        for file in ["state.db", "state.db-wal"] {
            let from = seed.join("state").join(file);
            if from.exists() {
                std::fs::copy(from, state.join(file))?;
            }
        }
        Ok(Host { home, prefix })
    }

    pub(super) fn program(&self) -> PathBuf {
        self.prefix.join("bin/banger")
    }

    pub(super) fn banger(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(args).env("BANGER_HOME", &self.home).stdin(Stdio::null());
        command
    }

    /// Runs `banger`, which must succeed, and gives what it printed.
    pub(super) fn ok(&self, args: &[&str]) -> Result<String> {
        output(&mut self.banger(args))
    }

    /// The daemon's process id.
    pub(super) fn daemon_pid(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.ok(&["daemon", "status", "--format", "json"])?)?;
        status["pid"].as_u64().context("a daemon has a pid")
    }

    /// A field of `vm show`.
    pub(super) fn show(&self, vm: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ok(&["vm", "show", vm, "--format", "json"])?)?)
    }

    /// Deletes everything and ends the daemon.
    pub(super) fn end(&self) -> Result<()> {
        for name in self.ok(&["vm", "list", "--format", "name"])?.lines() {
            self.ok(&["vm", "delete", name])?;
        }
        self.ok(&["daemon", "stop"])?;
        std::fs::remove_dir_all(&self.home)?;
        Ok(())
    }
}

/// Runs a command that must succeed and gives what it printed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} failed ({}): {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// How long a command takes from outside, which must succeed; what it prints is thrown away.
pub(super) fn time(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let took = begun.elapsed();
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(took)
}

/// Measures two things in turn after one uncounted turn each: every pair of durations.
pub(super) fn pairs(
    runs: usize,
    mut ours: impl FnMut() -> Result<Duration>,
    mut theirs: impl FnMut() -> Result<Duration>,
) -> Result<Vec<(Duration, Duration)>> {
    ours()?;
    theirs()?;
    (0..runs).map(|_| Ok((ours()?, theirs()?))).collect()
}

/// How long the machine rests before a turn that takes hundreds of MiB of memory.
const REST: Duration = Duration::from_secs(4);

/// Lets the machine come to rest, so that both sides of a pair begin alike.
///
/// A machine that is itself a guest gives memory back to its host two seconds after it was freed (free page reporting of
/// virtio-balloon, `mm/page_reporting.c`), and getting a page again costs ten times what one at hand costs. Without a rest
/// that moment falls into the middle of one side's turn, always the same one's.
pub(super) fn rest() {
    std::thread::sleep(REST);
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Compiles a static C program of the bench's own into `target/bench/`.
pub(super) fn compile(source: &str) -> Result<PathBuf> {
    let from = root::repository().join("xtask/src/bench").join(source);
    let dir = root::repository().join("target/bench");
    std::fs::create_dir_all(&dir)?;
    let to = dir.join(Path::new(source).with_extension(""));
    output(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&to).arg(&from))?;
    Ok(to)
}

/// A field of a `/proc/<pid>/status` that counts memory, MiB.
pub(super) fn memory_mib(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let line = line.with_context(|| format!("a process has {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
