//! Verbs about a VM's snapshots, one file each.

use crate::client::{encode, path};
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::Format;
use crate::values;

mod create;
mod delete;
mod list;
mod restore;

/// Below `banger snapshot --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger snapshot create web before
  banger snapshot list web
  banger snapshot restore --force web before
  banger snapshot delete web before";

/// What can be done with snapshots.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Take a snapshot of a VM that runs: its memory, its devices and its disk
    ///
    /// The VM stands still while they are copied, and goes on.
    Create(create::Args),
    /// List the snapshots of VMs
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Bring a VM back to a snapshot of it, running
    Restore(restore::Args),
    /// Delete snapshots
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
}

/// One snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// The snapshot, by name
    #[arg(value_parser = values::reference, add = complete::snapshots())]
    pub(crate) snapshot: String,
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::Create(args) => args.act.format,
            Verb::List(args) => args.record.format,
            Verb::Restore(args) => args.act.format,
            Verb::Delete(args) => args.act.format,
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::List(_) => false,
            Verb::Create(args) => args.act.quiet,
            Verb::Restore(args) => args.act.quiet,
            Verb::Delete(args) => args.act.quiet,
        }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        let of = |verb: &str, object: &str| (format!("{verb} {object}"), object.to_owned());
        match self {
            Verb::Create(args) => of("take a snapshot of", &args.vm),
            Verb::List(list::Args { vm: Some(vm), .. }) => of("list the snapshots of", vm),
            Verb::List(_) => of("list", "snapshots"),
            Verb::Restore(args) => of("restore", &args.one.vm),
            Verb::Delete(args) => of("delete snapshots of", &args.vm),
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Create(args) => create::run(app, args).await,
        Verb::List(args) => list::run(app, args).await,
        Verb::Restore(args) => restore::run(app, args).await,
        Verb::Delete(args) => delete::run(app, args).await,
    }
}

/// The resource of one.
fn snapshot_path(vm: &str, snapshot: &str, rest: &str) -> String {
    path("vms", vm, &format!("/snapshots/{}{rest}", encode(snapshot)))
}
