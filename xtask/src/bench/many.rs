//! Many VMs: a daemon that recovers, a list, creations at the same time.
//!
//! Where the figure is the daemon's and no guest's, guests are processes (`BANGER_VMM=sim`), which only a debug build runs:
//! both sides of the ratio are then that build.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use figures::{Row, median, pairs};

use super::host::{Host, failures, time};

/// VMs that a daemon finds when it starts: so many that are off, and as many that run.
const FOUND: usize = 100;
/// VMs of the long list and of the short one.
const LISTED: [usize; 2] = [1000, 10];
/// VMs created at the same time.
const CROWD: usize = 50;

pub(super) fn rows(_: &Host, runs: usize) -> Result<Vec<Row>> {
    let mut rows = recovery(runs)?;
    rows.push(list(runs * 4)?);
    rows.extend(crowd(runs)?);
    Ok(rows)
}

fn names(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{kind}-{n}")).collect()
}

/// From a daemon that was killed to the first answer of the next one.
fn restarted(host: &Host) -> Result<Duration> {
    host.ok(&["kernel", "list"])?;
    host.kill_daemon()?;
    time(&mut host.banger(&["kernel", "list"]))
}

fn recovery(runs: usize) -> Result<Vec<Row>> {
    let measured = Host::simulated("empty")?.used(|empty| {
        Host::simulated("found")?.used(|found| {
            let (off, on) = (names("off", FOUND), names("on", FOUND));
            found.create(&[&off[..], &on[..]].concat(), &[])?;
            found.each("stop", &off)?;
            pairs(
                runs,
                || {
                    let took = restarted(found)?;
                    check_recovered(found)?;
                    Ok(took)
                },
                || restarted(empty),
            )
        })
    })?;
    let what = "recovery: a daemon's first answer, with 100 VMs off and 100 (`sim`) running";
    let milliseconds = |pick: fn(&(Duration, Duration)) -> Duration| {
        median(measured.iter().map(|pair| pick(pair).as_secs_f64() * 1000.0).collect())
    };
    Ok(vec![
        Row::ratio(what, "a daemon without VMs", 20.0, &measured),
        Row::limit("the same, as a time", "a daemon without VMs", 1000.0, milliseconds(|pair| pair.0), "ms")
            .beside(milliseconds(|pair| pair.1)),
    ])
}

/// All that ran are taken over, and answer.
fn check_recovered(found: &Host) -> Result<()> {
    let running = found.ok(&["vm", "list", "--state", "running", "--format", "name"])?.lines().count();
    if running != FOUND {
        bail!("{running} of {FOUND} VMs run after the daemon was killed");
    }
    found.ok(&["vm", "exec", &format!("on-{}", FOUND - 1), "--", "true"])?;
    Ok(())
}

fn list(runs: usize) -> Result<Row> {
    let [many, few] = LISTED;
    let measured = Host::another("many")?.used(|long| {
        Host::another("few")?.used(|short| {
            long.create(&names("vm", many), &["--no-start"])?;
            short.create(&names("vm", few), &["--no-start"])?;
            let list = |host: &Host| time(&mut host.banger(&["vm", "list"]));
            pairs(runs, || list(long), || list(short))
        })
    })?;
    Ok(Row::ratio("`vm list` with 1,000 VMs", "with 10", 3.0, &measured))
}

fn crowd(runs: usize) -> Result<Vec<Row>> {
    let mut refused = 0;
    let measured = Host::simulated("crowd")?.used(|host| {
        let names = names("vm", CROWD);
        let at_once = || {
            let begun = Instant::now();
            let children: Result<Vec<_>> = names.iter().map(|name| Ok(create(host, name).spawn()?)).collect();
            refused += failures(children?)?;
            ended(host, begun)
        };
        let in_turn = || {
            let begun = Instant::now();
            for name in &names {
                time(&mut create(host, name))?;
            }
            ended(host, begun)
        };
        pairs(runs.min(3), at_once, in_turn)
    })?;
    let count = f64::from(u32::try_from(refused)?);
    Ok(vec![
        Row::ratio("50 creations (`sim`, with a boot each) at the same time", "one after another", 1.0, &measured),
        Row::limit("the same: refused or failed", "none", 0.0, count, "VMs"),
    ])
}

fn create(host: &Host, name: &str) -> std::process::Command {
    let mut command = host.banger(&["vm", "create", "--name", name]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How long it took since then; what was made is deleted.
fn ended(host: &Host, begun: Instant) -> Result<Duration> {
    let took = begun.elapsed();
    let made: Vec<String> = host.ok(&["vm", "list", "--format", "name"])?.lines().map(str::to_owned).collect();
    host.each("delete", &made)?;
    Ok(took)
}
