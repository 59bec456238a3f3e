//! `banger snapshot delete`: snapshots that nobody goes back to.

use wire::api::{Snapshot, SnapshotList};

use super::snapshot_path;
use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each::{self, Thing};
use crate::complete;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger snapshot delete web before
  banger snapshot delete web $(banger snapshot list web --format name)";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Snapshots, by name
    #[arg(required = true, value_name = "SNAPSHOT", value_parser = values::reference, add = complete::snapshots())]
    snapshots: Vec<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Deletes them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let list = app.client.get::<SnapshotList>(&path("vms", &args.vm, "/snapshots")).await?;
    let things = list.snapshots.into_iter().map(|one| Thing { id: String::new(), name: one.name });
    let mut ended = Vec::new();
    // One after the other: each holds the VM.
    for name in each::resolve("snapshot", &things.collect::<Vec<_>>(), &args.snapshots) {
        let (reference, thing) = name;
        let (thing, result) = match thing {
            Ok(thing) => {
                let deleted = app.client.delete::<Snapshot>(&snapshot_path(&args.vm, &thing.name, "")).await;
                (Some(thing), deleted.map(drop))
            }
            Err(error) => (None, Err(Failure::from(error))),
        };
        let result = result.map_err(|failure| failure.during(&format!("delete snapshot {reference}"), &reference));
        ended.push((reference, thing, result));
    }
    each::report(app, ended, None)
}
