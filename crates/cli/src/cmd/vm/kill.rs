//! `banger kill`: ends VMs without asking their guests.

use wire::api::{KillSignal, KillVm};

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::things;
use crate::complete;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger kill web                       when banger stop web hangs
  banger kill --signal KILL web db";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// What the VMM gets: TERM, KILL, INT, HUP, QUIT, USR1, USR2 or ABRT; it is killed if it does not end of that
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", add = complete::signals())]
    signal: KillSignal,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Kills them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    let request = KillVm { signal: args.signal };
    each::act(app, "kill", "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, "/kill");
        each::operate(app, &vm, app.client.send(&target, &request)).await
    })
    .await
}
