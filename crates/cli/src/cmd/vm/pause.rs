//! `banger pause`, `banger suspend` and `banger resume`: VMs stand still, in memory or on the disk, and go on.

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
  banger pause web
  banger resume web
  banger suspend web                               needs no memory meanwhile
  banger resume $(banger ps -q --state paused)";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Does `verb`, `pause`, `suspend` or `resume`, to all of them at the same time.
pub(crate) async fn run(app: &App, verb: &'static str, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    each::act(app, verb, "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, &format!("/{verb}"));
        each::operate(app, &vm, app.client.send(&target, &serde_json::json!({}))).await
    })
    .await
}
