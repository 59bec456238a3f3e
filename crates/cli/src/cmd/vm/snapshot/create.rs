//! `banger snapshot create`: a VM's machine as it is now.

use wire::api::{SnapshotList, TakeSnapshot};

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::operation;
use crate::output::Format;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger snapshot create web
  banger snapshot create web before-the-upgrade";

/// Of which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// What the snapshot is called [default: by the time]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Takes it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let target = path("vms", &args.vm, "/snapshots");
    let before = app.client.get::<SnapshotList>(&target).await?;
    let request = TakeSnapshot { name: args.name };
    operation::perform(app, &args.vm, since, app.client.send(&target, &request)).await?;
    let list = app.client.get::<SnapshotList>(&target).await?;
    let taken = list.snapshots.into_iter().filter(|one| before.snapshots.iter().all(|old| old.name != one.name));
    for snapshot in taken {
        match app.out.format {
            Format::Json => app.out.json(&snapshot)?,
            _ => app.out.line(&snapshot.name)?,
        }
    }
    Ok(0)
}
