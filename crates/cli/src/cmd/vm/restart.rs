//! `banger restart`: stops and starts VMs; each gets a new boot.

use crate::cmd::App;
use crate::cmd::vm::start::{Which, begin_boots};
use crate::error::Failure;

const EXAMPLES: &str = "\
Examples:
  banger restart web
  banger restart web db --wait ssh";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Restarts them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    begin_boots(app, "restart", args.which).await
}
