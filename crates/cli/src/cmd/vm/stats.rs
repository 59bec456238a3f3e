//! `banger stats`: what VMs use, once or as it goes on.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use wire::api::{Vm, VmState, VmStats};
use wire::id::VmId;
use wire::size::human;

use crate::args::Record;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each::{self, Thing};
use crate::cmd::vm::list::state;
use crate::cmd::vm::list_all;
use crate::complete;
use crate::error::Failure;
use crate::output::{self, Format};
use crate::screen::{Key, Screen};
use crate::table::table_within;
use crate::{terminal, values};
use wire::api::ErrorCode;

const EXAMPLES: &str = "\
Examples:
  banger stats                          every VM that runs
  banger stats --watch                  as it goes on; q ends it
  banger stats web --format json | jq '.stats[0].memory_bytes'";

/// Between the two looks of which one line is made: a load is a difference.
const APART: Duration = Duration::from_millis(500);

/// Of which ones, and how long.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id; those that run when left out
    #[arg(value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// Go on until q or Ctrl-C; with --format json a line each time
    #[arg(short, long)]
    watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "TIME", value_parser = values::duration_ms, default_value = "2s", requires = "watch")]
    every: u64,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// One VM's line.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    stats: VmStats,
    /// Of one processor: 200 is two of them busy.
    cpu_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Lines {
    stats: Vec<Line>,
}

/// Prints them once, or again and again.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let (first, _) = look(app, &args.vms).await?;
    if first.is_empty()
        && !args.vms.is_empty()
        && app.out.format == Format::Table
        && told_missing(app, &args.vms).await?
    {
        // Nothing to wait for, and a header above nothing says no more.
        return Ok(1);
    }
    pause(app, APART).await?;
    let (second, status) = look(app, &args.vms).await?;
    if !args.watch {
        print(app, &lines(&first, second))?;
        return Ok(if told_missing(app, &args.vms).await? { 1 } else { status });
    }
    let every = Duration::from_millis(args.every.max(100));
    if app.out.format == Format::Table && output::stdout_is_terminal() {
        return watch_on_screen(app, &args.vms, (first, second), every).await;
    }
    let (mut before, mut now) = (first, second);
    loop {
        let shown = lines(&before, now.clone());
        match app.out.format {
            Format::Json => app.out.line(&serde_json::to_string(&shown).expect("figures are plain data"))?,
            Format::Table | Format::Name => print(app, &shown)?,
        }
        if pause(app, every).await.is_err() {
            return Ok(0);
        }
        before = now;
        now = look(app, &args.vms).await?.0;
    }
}

async fn pause(app: &App, time: Duration) -> Result<(), Failure> {
    let slept = async {
        tokio::time::sleep(time).await;
        Ok(())
    };
    app.interrupts.guard(app.interrupts.start(), slept).await
}

/// Tells of references to nothing; once, not at every look.
async fn told_missing(app: &App, references: &[String]) -> Result<bool, Failure> {
    let (_, missing) = chosen(references, list_all(app).await?);
    for failure in &missing {
        app.out.tell(failure);
    }
    Ok(!missing.is_empty())
}

/// The VMs that are meant, and what is wrong with references to none.
fn chosen(references: &[String], vms: Vec<Vm>) -> (Vec<Thing>, Vec<wire::api::ApiError>) {
    let thing = |vm: &Vm| Thing { id: vm.id.to_string(), name: vm.name.to_string() };
    if references.is_empty() {
        let runs = |vm: &&Vm| !matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Suspended);
        return (vms.iter().filter(runs).map(thing).collect(), Vec::new());
    }
    let things: Vec<Thing> = vms.iter().map(thing).collect();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (reference, result) in each::resolve("VM", &things, references) {
        match result {
            Ok(thing) => found.push(thing),
            Err(mut error) => {
                error.message = format!("cannot look at {reference}: {}", error.message);
                missing.push(error);
            }
        }
    }
    (found, missing)
}

/// One look at all of them. One that is gone meanwhile is left out.
async fn look(app: &App, references: &[String]) -> Result<(Vec<VmStats>, u8), Failure> {
    let (things, _) = chosen(references, list_all(app).await?);
    let asked = things.into_iter().map(async |thing| {
        match app.client.get::<VmStats>(&path("vms", &thing.id, "/stats")).await {
            Err(failure) if failure.code() == Some(ErrorCode::NotFound) => None,
            answer => Some(answer),
        }
    });
    let all = app.interrupts.guard(app.interrupts.start(), async { Ok(join_all(asked).await) }).await?;
    each::those_that_came(app, all.into_iter().flatten().collect())
}

fn lines(before: &[VmStats], now: Vec<VmStats>) -> Lines {
    let before: HashMap<&VmId, &VmStats> = before.iter().map(|stats| (&stats.id, stats)).collect();
    let line = |stats: VmStats| {
        let cpu_percent = before.get(&stats.id).and_then(|then| percent(then, &stats));
        Line { cpu_percent, stats }
    };
    Lines { stats: now.into_iter().map(line).collect() }
}

/// Processor time over time, of one processor. Another boot, or no time between, has none.
fn percent(then: &VmStats, now: &VmStats) -> Option<f64> {
    let used = u32::try_from(now.cpu_ms?.checked_sub(then.cpu_ms?)?).ok()?;
    let passed = u32::try_from(now.at_ms.checked_sub(then.at_ms)?).ok()?;
    (passed > 0).then(|| (f64::from(used) * 1000.0 / f64::from(passed)).round() / 10.0)
}

fn print(app: &App, lines: &Lines) -> Result<(), Failure> {
    let names = |lines: &Lines| lines.stats.iter().map(|line| format!("{}\n", line.stats.name)).collect();
    let width = if output::stdout_is_terminal() { usize::from(terminal::size().cols) } else { usize::MAX };
    app.out.record(lines, |lines| render(lines, width), names)
}

fn render(lines: &Lines, width: usize) -> String {
    let header = ["NAME", "STATE", "CPU", "MEMORY", "DISK", "NET IN", "NET OUT"];
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |line: &Line| {
        let stats = &line.stats;
        let of = |part: Option<u64>, whole: u64| format!("{} / {}", or_none(part.map(human)), human(whole));
        vec![
            stats.name.to_string(),
            state(stats.state).to_owned(),
            or_none(line.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            of(stats.memory_bytes, stats.memory_limit_bytes),
            of(Some(stats.disk_allocated_bytes), stats.disk_bytes),
            or_none(stats.network.map(|traffic| human(traffic.received_bytes))),
            or_none(stats.network.map(|traffic| human(traffic.sent_bytes))),
        ]
    };
    table_within(width, &[0], &header, lines.stats.iter().map(row).collect(), header.len())
}

async fn watch_on_screen(
    app: &App,
    references: &[String],
    (mut before, mut now): (Vec<VmStats>, Vec<VmStats>),
    every: Duration,
) -> Result<u8, Failure> {
    let mut screen = Screen::open()?;
    loop {
        let size = terminal::size();
        let mut page = render(&lines(&before, now.clone()), usize::from(size.cols));
        page.push_str("\nq or Ctrl-C ends this.\n");
        screen.show(&page, size)?;
        tokio::select! {
            key = screen.key() => if matches!(key, Key::End) { return Ok(0) },
            slept = pause(app, every) => if slept.is_err() { return Ok(0) },
        }
        before = now;
        now = look(app, references).await?.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(cpu_ms: Option<u64>, at_ms: u64) -> VmStats {
        VmStats {
            id: "00000000000000aa".parse().unwrap(),
            name: "web".parse().unwrap(),
            state: VmState::Running,
            at_ms,
            vcpus: 2,
            cpu_ms,
            memory_bytes: Some(1 << 30),
            memory_limit_bytes: 2 << 30,
            guest_available_bytes: None,
            disk_allocated_bytes: 1 << 30,
            disk_bytes: 8 << 30,
            network: None,
        }
    }

    #[test]
    fn a_load_is_a_difference() {
        for (then, now, expected) in [
            (stats(Some(100), 1000), stats(Some(600), 1500), Some(100.0)),
            (stats(Some(100), 1000), stats(Some(101), 1300), Some(0.3)),
            (stats(Some(100), 1000), stats(Some(2100), 2000), Some(200.0)),
            (stats(Some(600), 1000), stats(Some(10), 1500), None),
            (stats(None, 1000), stats(Some(10), 1500), None),
            (stats(Some(10), 1000), stats(Some(10), 1000), None),
        ] {
            assert_eq!(percent(&then, &now), expected);
        }
    }

    #[test]
    fn a_line_fits_80_columns() {
        let mut line = stats(Some(1), 1);
        (line.name, line.state) = ("calm-otter".parse().unwrap(), VmState::Stopping);
        let text = render(&Lines { stats: vec![Line { stats: line, cpu_percent: Some(200.0) }] }, usize::MAX);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
