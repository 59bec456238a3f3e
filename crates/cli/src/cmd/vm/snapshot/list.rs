//! `banger snapshot list`: the snapshots of a VM, or of all.

use futures_util::future::join_all;
use wire::api::{Snapshot, SnapshotList};
use wire::size::human;

use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::list_all;
use crate::complete;
use crate::error::Failure;
use crate::table::{age, table};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger snapshot list
  banger snapshot list web --format json";

/// Of which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id [default: all]
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let asked = async {
        match &args.vm {
            Some(vm) => Ok((app.client.get::<SnapshotList>(&path("vms", vm, "/snapshots")).await?.snapshots, 0)),
            None => of_all(app).await,
        }
    };
    let (snapshots, status) = app.interrupts.guard(app.interrupts.start(), asked).await?;
    let is_of_one = args.vm.is_some();
    let name = |snapshot: &Snapshot| match is_of_one {
        true => format!("{}\n", snapshot.name),
        false => format!("{} {}\n", snapshot.vm, snapshot.name),
    };
    let names = |list: &SnapshotList| list.snapshots.iter().map(name).collect();
    let now_ms = clock::unix_ms();
    app.out.record(&SnapshotList { snapshots }, |list| render(&list.snapshots, now_ms), names)?;
    Ok(status)
}

async fn of_all(app: &App) -> Result<(Vec<Snapshot>, u8), Failure> {
    let vms = list_all(app).await?;
    let asked = vms.iter().map(async |vm| {
        let list = app.client.get::<SnapshotList>(&path("vms", &vm.id.to_string(), "/snapshots")).await;
        let named = |failure: Failure| failure.during(&format!("list the snapshots of {}", vm.name), vm.name.as_str());
        list.map_err(named)
    });
    let (lists, status) = each::those_that_came(app, join_all(asked).await)?;
    Ok((lists.into_iter().flat_map(|list| list.snapshots).collect(), status))
}

fn render(snapshots: &[Snapshot], now_ms: u64) -> String {
    let row = |snapshot: &Snapshot| {
        vec![
            snapshot.vm.clone(),
            snapshot.name.clone(),
            human(snapshot.memory_mib << 20),
            human(snapshot.bytes),
            age(snapshot.created_at_ms, now_ms),
        ]
    };
    table(&["VM", "NAME", "MEM", "SIZE", "TAKEN"], &snapshots.iter().map(row).collect::<Vec<_>>())
}
