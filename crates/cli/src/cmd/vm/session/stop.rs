//! `banger session stop`: asks sessions to end, and kills what does not.

use wire::api::StopSession;

use super::{Several, each, session_path};
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger session stop web dev
  banger session stop web dev job --timeout 1m

Their process groups get SIGTERM; what is left after the time is killed, with
everything they started. Output and status stay until they are deleted, or the
VM stops.";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    several: Several,
    /// How long they may take before they are killed: 30s, 2m; 10s when left out
    #[arg(short, long, value_name = "TIME", value_parser = values::duration_ms)]
    timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Stops them, all at the same time.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let request = StopSession { timeout_ms: args.timeout };
    each(app, "stop", &args.several, async |name| {
        app.client.send(&session_path(&args.several.vm, &name, "/stop"), &request).await
    })
    .await
}
