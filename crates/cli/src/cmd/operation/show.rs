//! `banger op show`: one operation with its steps.

use wire::api::Operation;

use crate::args::Record;
use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::values;

/// Which one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The operation's id
    #[arg(value_parser = values::reference, add = complete::operations())]
    pub(super) operation: String,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let operation: Operation = app.client.get(&path("operations", &args.operation, "")).await?;
    super::print_one(app, &operation)?;
    Ok(0)
}
