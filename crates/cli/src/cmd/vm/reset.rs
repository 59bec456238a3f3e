//! `banger reset`: drops what VMs changed of their systems; their homes stay.

use std::io::BufRead;

use wire::api::{ErrorCode, ResetVm};

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::things;
use crate::complete;
use crate::error::Failure;
use crate::output::{Format, fragment};
use crate::terminal;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger reset web                      asks; done when web starts next
  banger reset --yes web && banger start web
  banger reset --yes --restart web      done now

What was installed and changed outside of /root, /home and the directories of
container engines goes; those stay. A VM that is off stays off.";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// VMs, by name or id
    #[arg(required = true, value_name = "VM", value_parser = values::reference, add = complete::vms())]
    vms: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Restart those that run; refused for them otherwise
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Resets them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = things(app).await?;
    let found = each::resolve("VM", &things, &args.vms).into_iter().filter_map(|(_, vm)| Some(vm.ok()?.name));
    let found: Vec<String> = found.collect();
    // Nobody is asked about what is not there.
    if !args.yes && !found.is_empty() && !confirm(app, &found).await? {
        app.out.note("Nothing was reset.");
        return Ok(1);
    }
    let request = ResetVm { restart: args.restart };
    each::act(app, "reset", "VM", things, &args.vms, async |vm| {
        let target = path("vms", &vm.id, "/reset");
        each::operate(app, &vm, app.client.send(&target, &request)).await
    })
    .await
}

async fn confirm(app: &App, vms: &[String]) -> Result<bool, Failure> {
    if app.out.format == Format::Json || !terminal::stdin_is_terminal() {
        let failure = Failure::new(ErrorCode::BadRequest, "nobody is there to confirm it");
        return Err(failure.hint("banger reset --yes does not ask"));
    }
    fragment(&format!("Drop all changes to the system of {}, but not /root and /home? [y/N] ", vms.join(", ")));
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = app.interrupts.guard(app.interrupts.start(), async { Ok(line.await) }).await?;
    // An end of the input, or a failure to read it, is no consent.
    let answer = answer.ok().and_then(Result::ok).unwrap_or_default();
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
