//! `banger snapshot restore`: a VM as it was.

use wire::api::RestoreSnapshot;

use super::{One, snapshot_path};
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::operation;
use crate::output::Format;

const EXAMPLES: &str = "\
Examples:
  banger snapshot restore web before             a VM that is off
  banger snapshot restore --force web before     whatever it does now is lost";

/// To which.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) one: One,
    /// Also when the VM runs or is suspended: what it is now is lost
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Brings it back and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let target = snapshot_path(&args.one.vm, &args.one.snapshot, "/restore");
    let request = RestoreSnapshot { force: args.force };
    let begun = operation::perform(app, &args.one.vm, since, app.client.send(&target, &request)).await?;
    match app.out.format {
        Format::Json => app.out.json(&begun)?,
        _ => app.out.line(&begun.subject)?,
    }
    Ok(0)
}
