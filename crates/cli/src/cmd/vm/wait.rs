//! `banger wait`: returns when a VM is ready.

use std::time::Duration;

use wire::api::{Ready, Wait};

use crate::args::Act;
use crate::cmd::App;
use crate::cmd::vm::{Level, wait_until_ready};
use crate::complete;
use crate::error::Failure;
use crate::output::printable;
use crate::table::{elapsed, pairs};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger wait web
  banger wait web --for ssh --timeout 2m";

/// For what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// How ready
    #[arg(long = "for", visible_alias = "wait", value_enum, default_value_t, value_name = "LEVEL")]
    level: Level,
    /// How long at most: 30s, 2m
    #[arg(short, long, value_name = "TIME", value_parser = values::duration_ms)]
    timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Waits, and prints what was reached.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let ready = wait_until_ready(app, &args.vm, args.level, args.timeout, app.interrupts.start()).await?;
    app.out.record(&ready, render, |_| format!("{}\n", args.vm))?;
    Ok(0)
}

fn render(ready: &Ready) -> String {
    let level = match ready.level {
        Wait::Agent => "agent",
        Wait::System => "system",
        Wait::Ssh => "ssh",
    };
    let mut rows = vec![
        ("ready", level.to_owned()),
        ("after", format!("{} from its start", elapsed(Duration::from_millis(ready.elapsed_ms)))),
    ];
    rows.extend(ready.failed_units.iter().map(|unit| ("failed unit", printable(unit))));
    rows.extend(ready.note.iter().map(|note| ("note", printable(note))));
    pairs(&rows)
}
