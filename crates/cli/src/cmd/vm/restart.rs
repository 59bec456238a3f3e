//! `banger restart`: stops and starts VMs; each gets a new boot.

use wire::api::StartVm;

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::{Level, things, wait_until_ready};
use crate::complete;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger restart web
  banger restart web db --wait ssh";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// How ready they are before this returns: a command can run, the system has booted, SSH answers
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    wait: Level,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Restarts them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    each::act(app, "restart", "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, "/restart");
        each::operate(app, &vm, app.client.send(&target, &StartVm {})).await?;
        if args.wait != Level::Agent {
            wait_until_ready(app, &vm.name, args.wait, None, app.interrupts.start()).await?;
        }
        Ok(())
    })
    .await
}
