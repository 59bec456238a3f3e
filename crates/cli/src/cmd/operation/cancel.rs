//! `banger op cancel`: stops an operation at its next step and waits until it is unwound.

use wire::api::{ErrorCode, Operation};

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

/// Cancels it; the status is 0 when it ended cancelled.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("operations", &args.operation, "");
    let found: Operation = app.client.delete(&target).await?;
    let mut track = app.progress.track(&found.subject);
    match follow(app, &found.id, &mut track, app.interrupts.start(), OnInterrupt::Leave).await {
        Ok(_) => app.out.note(&format!("{} had succeeded before it could be cancelled", found.id)),
        Err(failure) if failure.code() == Some(ErrorCode::Cancelled) => {}
        Err(failure) => return Err(failure),
    }
    track.finish();
    let ended: Operation = app.client.get(&target).await?;
    super::print_one(app, &ended)?;
    Ok(0)
}
