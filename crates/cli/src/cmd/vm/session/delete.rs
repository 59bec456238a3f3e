//! `banger session delete`: forgets sessions that have ended.

use super::{Several, each, session_path};
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;

const EXAMPLES: &str = "\
Examples:
  banger session delete web dev         its output and its exit status are gone";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    several: Several,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Forgets them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    each(app, "delete", &args.several, async |name| app.client.delete(&session_path(&args.several.vm, &name, "")).await)
        .await
}
