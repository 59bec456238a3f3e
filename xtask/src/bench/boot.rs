//! A boot to the first command, against the same machine with an init that ends at once.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::floor::Floor;
use super::host::{Host, pairs, time};
use super::table::Row;

pub(super) fn rows(host: &Host, runs: usize) -> Result<Vec<Row>> {
    host.ok(&["vm", "run", "--name", "boot", "-d", "--wait", "agent"])?;
    let floor = Floor::of(host, "boot")?;
    host.ok(&["vm", "delete", "boot"])?;
    let agent = || time(&mut host.banger(&["vm", "run", "--rm", "--wait", "agent", "--", "true"]));
    let system = || time(&mut host.banger(&["vm", "run", "--rm", "--", "true"]));
    let least = || ended(&mut floor.command("off")?);
    let first = pairs(runs, agent, least)?;
    let second = pairs(runs, system, agent)?;
    Ok(vec![
        Row::ratio("`vm run --rm --wait agent -- true`", "an init that ends at once", 1.35, &first),
        Row::ratio("`vm run --rm -- true` (`--wait system`)", "`--wait agent`", 3.0, &second),
    ])
}

/// How long the floor takes from its start to its end.
fn ended(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !status.success() {
        bail!("the floor guest failed: {command:?} ({status})");
    }
    Ok(begun.elapsed())
}
