//! `banger diff`: what a VM changed of its image.

use serde::Serialize;
use wire::api::{Change, ChangeKind};

use crate::client::path;
use crate::cmd::App;
use crate::cmd::vm::{offer_start, started};
use crate::complete;
use crate::error::Failure;
use crate::output::{Format, printable};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger diff web                       A added, M modified, D deleted
  banger diff web --format name         the paths alone
  banger diff web --format json | jq '.changes | length'

/root, /home and the directories of container engines are not part of the
system and are left out, as is what banger writes there at every boot.";

/// Of which one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Start the VM first when it is off
    #[arg(long)]
    start: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
}

#[derive(Debug, Serialize)]
struct Changes {
    changes: Vec<Change>,
}

/// Prints it, line by line as it comes; JSON is one document.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    if args.start {
        started(app, &args.vm, since).await?;
    }
    let target = path("vms", &args.vm, "/changes");
    let mut answer = match app.interrupts.guard(since, app.client.tree(&target)).await {
        Ok(answer) => answer,
        Err(failure) => return Err(offer_start(app, failure, &args.vm, since).await),
    };
    let mut changes = Vec::new();
    while let Some(change) = app.interrupts.guard(since, answer.record::<Change>()).await? {
        match app.out.format {
            Format::Table => app.out.line(&format!("{} {}", letter(change.change), printable(&change.path)))?,
            Format::Name => app.out.line(&printable(&change.path))?,
            Format::Json => changes.push(change),
        }
    }
    if app.out.format == Format::Json {
        app.out.json(&Changes { changes })?;
    }
    Ok(0)
}

/// One letter for what became of a file.
pub(crate) fn letter(change: ChangeKind) -> char {
    match change {
        ChangeKind::Added => 'A',
        ChangeKind::Modified => 'M',
        ChangeKind::Deleted => 'D',
    }
}
