//! `banger start`: starts VMs that are off.

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
  banger start web
  banger start web db --wait ssh";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// What starting and restarting have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// How ready they are before this returns: a command can run, the system has booted, SSH answers
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    wait: Level,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Starts them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    begin_boots(app, "start", args.which).await
}

/// Begins a new boot of each by `verb`, and waits until they are as ready as asked.
pub(crate) async fn begin_boots(app: &App, verb: &'static str, which: Which) -> Result<u8, Failure> {
    let things = things(app).await?;
    each::act(app, verb, "VM", things, &which.vms, async |vm| {
        let target = path("vms", &vm.id, &format!("/{verb}"));
        each::operate(app, &vm, app.client.send(&target, &StartVm {})).await?;
        if which.wait != Level::Agent {
            wait_until_ready(app, &vm.name, which.wait, None, app.interrupts.start()).await?;
        }
        Ok(())
    })
    .await
}
