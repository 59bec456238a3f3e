//! `banger delete`: removes VMs and their disks; a running one is stopped first.

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
  banger delete web
  banger rm $(banger ps -q)             every VM there is
  banger rm --discard web               with work in it that was never exported";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// Drop changes in their workspaces that were never exported
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Deletes them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    each::act(app, "delete", "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, if args.discard { "?discard=true" } else { "" });
        each::operate(app, &vm, app.client.delete(&target)).await
    })
    .await
}
