//! `banger session kill`: sends sessions a signal.

use wire::api::SignalSession;

use super::{Several, each, session_path};
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger session kill web dev
  banger session kill --signal HUP web dev

KILL reaches everything the session started, any other signal its process group.";

/// Which ones, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    several: Several,
    /// Which signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = values::signal)]
    signal: u8,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Signals them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let request = SignalSession { signal: args.signal };
    each(app, "signal", &args.several, async |name| {
        app.client.send(&session_path(&args.several.vm, &name, "/signal"), &request).await
    })
    .await
}
