//! `banger stop`: shuts VMs down; their disks stay.

use wire::api::StopVm;

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
  banger stop web
  banger stop web db --timeout 5s";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// How long a guest may take before it is killed: 30s, 2m
    #[arg(short, long, value_name = "TIME", value_parser = values::duration_ms)]
    timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Stops them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    let request = StopVm { timeout_ms: args.timeout };
    each::act(app, "stop", "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, "/stop");
        each::operate(app, &vm, app.client.send(&target, &request)).await
    })
    .await
}
