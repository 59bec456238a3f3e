//! What journalling costs a start.
//!
//! The time: the real engine and a real database, with steps that do nothing (`crates/daemon/benches/journal.rs`). The
//! syncs: counted in a real daemon by a library that is loaded before libc, over starts of a `sim` guest.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use figures::{Row, median};

use super::host::{Host, compile_preload, output, scratch};
use crate::root;

/// Starts whose journal is timed, in tens of runs.
const TIMED: usize = 20;
/// Starts whose syncs are counted: enough that some of them write the log back.
const COUNTED: usize = 40;

pub(super) fn rows(_: &Host, runs: usize) -> Result<Vec<Row>> {
    let times = times(runs * TIMED)?;
    let milliseconds = |pick: fn(&(Duration, Duration)) -> Duration| {
        median(times.iter().map(|pair| pick(pair).as_secs_f64() * 1000.0).collect())
    };
    let (mean, most) = syncs()?;
    Ok(vec![
        Row::limit("journalling of a `vm start`", "a write and sync of 4 KiB", 3.0, milliseconds(|pair| pair.0), "ms")
            .beside(milliseconds(|pair| pair.1)),
        Row::limit("syncs of the database in a `vm start`, mean of 40", "the commit point's", 3.0, mean, "syncs")
            .beside(1.0),
        Row::limit("the same, most in one of them", "the commit point's", 3.0, most, "syncs").beside(1.0),
    ])
}

/// The journal's time of each start, and that of its floor.
fn times(starts: usize) -> Result<Vec<(Duration, Duration)>> {
    let dir = scratch()?.join("journal");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut bench = Command::new(cargo);
    bench.current_dir(root::repository()).args(["bench", "--quiet", "-p", "daemon", "--bench", "journal", "--"]);
    let printed = output(bench.arg(&dir).arg(starts.to_string()))?;
    let pair = |line: &str| {
        let mut numbers = line.split(' ').map(|word| word.parse().map(Duration::from_nanos));
        match (numbers.next(), numbers.next()) {
            (Some(Ok(journal)), Some(Ok(floor))) => Ok((journal, floor)),
            _ => bail!("{line:?} is no pair of times"),
        }
    };
    printed.lines().map(pair).collect()
}

/// Syncs of the database's files in one start: the mean, and the most.
fn syncs() -> Result<(f64, f64)> {
    let counter = compile_preload("count_syncs.c")?;
    let log = scratch()?.join("syncs.log");
    std::fs::write(&log, "")?;
    let host = Host::simulated("syncs")?.with("LD_PRELOAD", counter).with("COUNT_SYNCS_IN", log.as_os_str());
    let counts = host.used(|host| {
        host.ok(&["vm", "create", "--no-start", "--name", "web"])?;
        let mut counts = Vec::new();
        for _ in 0..COUNTED {
            let before = lines(&log)?;
            host.ok(&["vm", "start", "web"])?;
            counts.push(lines(&log)? - before);
            host.ok(&["vm", "stop", "web"])?;
        }
        Ok(counts)
    })?;
    // A start is durable when it is answered. None seen means that the counter was not loaded.
    if counts.contains(&0) {
        bail!("a start without a sync: {counts:?}");
    }
    let number = |count: usize| u32::try_from(count).map(f64::from);
    let most = counts.iter().max().copied().context("starts were counted")?;
    Ok((number(counts.iter().sum())? / number(counts.len())?, number(most)?))
}

fn lines(log: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(log)?.lines().count())
}
