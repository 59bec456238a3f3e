//! Memory: a VMM beside its guest's, and ten idle VMs of one template against ten that booted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use figures::Row;

use super::Bench;
use super::launch::Launch;
use super::smaps::Taken;
use crate::command;
use crate::home::Home;
use crate::processes;
use crate::wait;

const MEMORY_MIB: u64 = 256;
const VMS: usize = 10;
/// What VMMs may take beside their guests' memory, MiB.
const BESIDE_MIB: f64 = 6.0;
/// What ten VMs of a template may take of what ten others do.
const SHARE: f64 = 0.35;
/// How long guests that have nothing to do may take until their memory stays as it is.
const REST_MAX: Duration = Duration::from_secs(180);
/// How much of it may change between two looks of a guest at rest, and how long after each other these are.
const REST_KIB: u64 = 512;
const LOOK: Duration = Duration::from_secs(3);

/// What ten VMs of a home take.
struct Ten {
    /// The first one's VMM and launcher beside the guest's memory, while it is alone.
    beside: f64,
    /// All processes of all of them.
    all: f64,
    /// What the host has less of.
    available: f64,
}

pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    bench.template(&["--memory", &format!("{MEMORY_MIB}M")])?;
    let warm = ten(bench, &bench.warm)?;
    let cold = ten(bench, &bench.cold)?;
    bench.note(format!(
        "ten idle VMs lower the host's MemAvailable, which takes the template's pages for free ones, by {:.0} MiB from a \
         template and {:.0} MiB booted",
        warm.available, cold.available
    ));
    let what = "Firecracker and its launcher, beside the guest's memory";
    Ok(vec![
        Row::limit(what, "of a VM that booted", BESIDE_MIB, cold.beside, "MiB"),
        Row::limit("the same", "of a VM of a template", BESIDE_MIB, warm.beside, "MiB"),
        Row::share(
            "ten idle 256 MiB VMs of one template: all their processes (Pss)",
            "ten that booted",
            SHARE,
            (warm.all, cold.all),
            "MiB",
        ),
    ])
}

fn ten(bench: &Bench, home: &Home) -> Result<Ten> {
    let before = available()?;
    let mut launches = Vec::new();
    let mut beside = 0;
    for number in 1..=VMS {
        let name = format!("idle-{number}");
        bench.time(home, &["run", "-q", "-d", "--name", &name, "--memory", &format!("{MEMORY_MIB}M")])?;
        launches.push(Launch::of(home, &name)?);
        if let [alone] = &launches[..] {
            beside = Taken::by(&alone.vmm)?.beside_guest(MEMORY_MIB)? + Taken::by(&alone.launcher)?.all;
        }
    }
    let mut last = taken(home, &launches)?;
    let all = wait::until("ten guests are at rest", REST_MAX, || {
        std::thread::sleep(LOOK);
        let (now, then) = (taken(home, &launches)?, last);
        last = now;
        ensure!(now.abs_diff(then) <= REST_KIB, "{then} KiB became {now}");
        Ok(now)
    })?;
    let available = before.saturating_sub(available()?);
    for number in 1..=VMS {
        home.ok(&["delete", "-q", &format!("idle-{number}")])?;
    }
    let mib = |kib: u64| Duration::from_secs(kib).as_secs_f64() / 1024.0;
    Ok(Ten { beside: mib(beside), all: mib(all), available: mib(available) })
}

/// What every process of the home takes but the daemon's, KiB: VMMs, launchers, and what carries their networks.
fn taken(home: &Home, launches: &[Launch]) -> Result<u64> {
    let said = home.ok(&["daemon", "status", "--format", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&said).context("a daemon's status is JSON")?;
    let daemon = status["pid"].as_u64().context("a daemon has a process")?;
    let mut all: Vec<_> = launches.iter().map(|launch| launch.vmm.clone()).collect();
    // Commands of ours that end in this moment are none of theirs.
    let is_of_vms = |process: &processes::Process| u64::from(process.pid) != daemon && process.program() != "banger";
    all.extend(processes::of_home(home.path())?.into_iter().filter(is_of_vms));
    all.iter().map(|process| Ok(Taken::by(process)?.all)).sum()
}

/// What the host could still give, KiB.
fn available() -> Result<u64> {
    let kib = command::shell("sed -n 's/^MemAvailable: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo")?;
    kib.parse().context("MemAvailable is no number")
}
