//! A boot to the first command, against the same machine with an init that ends at once.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use figures::{Row, pairs};

use super::floor::Floor;
use super::host::{Host, rest, time};

pub(super) fn rows(host: &Host, runs: usize) -> Result<Vec<Row>> {
    host.ok(&["vm", "run", "--name", "boot", "-d", "--wait", "agent"])?;
    let floor = Floor::of(host, "boot")?;
    host.ok(&["vm", "delete", "boot"])?;
    let agent = || rested(&mut host.banger(&["vm", "run", "--rm", "--wait", "agent", "--", "true"]));
    let system = || rested(&mut host.banger(&["vm", "run", "--rm", "--", "true"]));
    let least = || rested(&mut floor.command("off")?);
    let first = pairs(runs, agent, least)?;
    let second = pairs(runs, system, agent)?;
    Ok(vec![
        Row::ratio("`vm run --rm --wait agent -- true`", "an init that ends at once", 1.35, &first),
        Row::ratio("`vm run --rm -- true` (`--wait system`)", "`--wait agent`", 3.0, &second),
    ])
}

/// How long a boot takes, of a machine at rest.
pub(super) fn rested(command: &mut Command) -> Result<Duration> {
    rest();
    time(command)
}
