//! Programs that start, a daemon that idles, a disk that is made.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use figures::{Row, pairs};

use super::host::{Host, memory_mib, output, rest, time};
use crate::root;

/// VMs that run while the daemon's memory and processor time are looked at.
const IDLE_VMS: usize = 10;
/// Disks of one turn: an operation's record counts whole milliseconds, and the sum of many is right to a few.
const DISKS: usize = 20;
/// Runs of `make quickstart` that count.
const QUICKSTARTS: usize = 3;
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(20);

pub(super) fn rows(host: &Host, runs: usize) -> Result<Vec<Row>> {
    let mut rows = starts(host, runs * 10)?;
    rows.extend(disks(host, runs)?);
    rows.extend(daemon(host)?);
    rows.extend(quickstart(host)?);
    Ok(rows)
}

fn starts(host: &Host, runs: usize) -> Result<Vec<Row>> {
    ["--help", "version"]
        .into_iter()
        .map(|word| {
            let measured = pairs(runs, || time(&mut host.banger(&[word])), || time(&mut Command::new("/bin/true")))?;
            Ok(Row::ratio(&format!("`banger {word}`"), "`/bin/true`", 5.0, &measured))
        })
        .collect()
}

/// How long the steps that make disks of this size took, from the operations' own records.
fn disk_steps(host: &Host, size: &str) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for _ in 0..DISKS {
        host.ok(&["vm", "create", "--no-start", "--name", "disk", "--disk-size", size])?;
        let list: serde_json::Value = serde_json::from_str(&host.ok(&["ops", "list", "--format", "json"])?)?;
        let steps = list["operations"][0]["steps"].as_array().context("an operation has steps")?;
        let step = steps.iter().find(|step| step["name"] == "make_disk").context("a creation makes a disk")?;
        let at = |key: &str| step[key].as_u64().with_context(|| format!("the step has {key}"));
        took += Duration::from_millis(at("ended_at_ms")? - at("started_at_ms")?);
        host.ok(&["vm", "delete", "disk"])?;
    }
    Ok(took)
}

fn mkfs(host: &Host, size: &str) -> Result<Duration> {
    let file = host.home.join("mkfs.ext4");
    let mut took = Duration::ZERO;
    for _ in 0..DISKS {
        output(Command::new("truncate").args(["-s", size]).arg(&file))?;
        took += time(Command::new("mkfs.ext4").arg("-qF").arg(&file))?;
        std::fs::remove_file(&file)?;
    }
    Ok(took)
}

fn disks(host: &Host, runs: usize) -> Result<Vec<Row>> {
    let small = pairs(runs, || disk_steps(host, "1G"), || mkfs(host, "1G"))?;
    let usual = pairs(runs, || disk_steps(host, "8G"), || mkfs(host, "8G"))?;
    let huge = pairs(runs, || disk_steps(host, "1T"), || disk_steps(host, "1G"))?;
    Ok(vec![
        Row::ratio("making 20 VMs' disks of 1 GiB", "`mkfs.ext4`, 20 times", 0.5, &small),
        Row::ratio("making 20 VMs' disks of 8 GiB", "`mkfs.ext4`, 20 times", 0.5, &usual),
        Row::ratio("making 20 VMs' disks of 1 TiB", "the same of 1 GiB", 1.25, &huge),
    ])
}

fn daemon(host: &Host) -> Result<Vec<Row>> {
    let names: Vec<String> = (0..IDLE_VMS).map(|n| format!("idle-{n}")).collect();
    for name in &names {
        host.ok(&["vm", "run", "--name", name, "-d", "--wait", "agent", "--memory", "256M", "--vcpu", "1"])?;
    }
    let pid = host.daemon_pid()?;
    let before = cpu_seconds(pid)?;
    let begun = Instant::now();
    std::thread::sleep(IDLE);
    let used = cpu_seconds(pid)? - before;
    let resident = memory_mib(&std::fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS")?;
    let share = used / begun.elapsed().as_secs_f64() * 100.0;
    for name in &names {
        host.ok(&["vm", "delete", name])?;
    }
    Ok(vec![
        Row::limit("daemon with 10 idle VMs: resident memory", "30 MiB", 30.0, resident, "MiB"),
        Row::limit("daemon with 10 idle VMs: processor while nothing happens", "nothing", 0.05, share, "%"),
    ])
}

/// User and system time: fields 14 and 15 of `/proc/pid/stat`, in hundredths of a second on Linux.
fn cpu_seconds(pid: u64) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat has a name")?.1.split_ascii_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// `make quickstart` where everything is there already: the whole against the `vm run` in it.
fn quickstart(host: &Host) -> Result<Vec<Row>> {
    let mut measured = Vec::new();
    for run in 0..=QUICKSTARTS {
        rest();
        output(Command::new(root::repository().join("scripts/quickstart.sh")).env("BANGER_HOME", &host.home))?;
        // The first one warms the others up.
        if run > 0 {
            measured.push((step_of_quickstart("total")?, step_of_quickstart("vm run")?));
        }
    }
    Ok(vec![Row::ratio("`make quickstart` again", "the `vm run` in it", 1.3, &measured)])
}

/// How long a step of the last `make quickstart` took, as it says itself.
fn step_of_quickstart(step: &str) -> Result<Duration> {
    let text = std::fs::read_to_string(root::target().join("quickstart-times.txt"))?;
    let line = text.lines().find(|line| line.trim_end().ends_with(step)).with_context(|| format!("no step {step}"))?;
    let number = line.split_ascii_whitespace().next().context("a step has seconds")?;
    Ok(Duration::from_secs_f64(number.parse()?))
}
