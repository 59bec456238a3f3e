//! `banger op watch`: follows an operation somebody began. Ctrl-C stops the watching, not the operation.

use wire::api::Operation;

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::operation::{OnInterrupt, follow};
use crate::values;

/// Which one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The operation's id
    #[arg(value_parser = values::reference, add = complete::operations())]
    pub(super) operation: String,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Follows it and prints how it ended.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let found: Operation = app.client.get(&path("operations", &args.operation, "")).await?;
    let mut track = app.progress.track(&found.subject);
    let ended = follow(app, &found.id, &mut track, app.interrupts.start(), OnInterrupt::Leave).await?;
    track.finish();
    super::print_one(app, &ended)?;
    Ok(0)
}
