//! `banger workspace diff`: what was done in a guest, as a patch to read.

use wire::api::{ExportFormat, ExportQuery};

use super::export::{To, stream};
use super::paint::Painter;
use super::prepare::recorded;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger workspace diff web             all that was done in the VM, committed
                                        there or not
  banger workspace diff web --base-commit 1a2b3c4
  banger workspace diff web | less      as it is, without colours

Looking at it is no export: banger workspace export.";

/// Of which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Against this commit, instead of the one that went in
    #[arg(long, value_name = "SHA", value_parser = values::commit)]
    base_commit: Option<String>,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let base_commit = match args.base_commit {
        Some(commit) => Some(commit),
        None => recorded(app, &args.vm, since).await?.base_commit,
    };
    let query = ExportQuery { format: ExportFormat::Patch, base_commit, guest_path: None };
    if !output::stdout_is_shown() {
        stream(app, &args.vm, &query, To::Stdout, since, output::raw).await?;
        return Ok(0);
    }
    let mut painter = Painter::default();
    stream(app, &args.vm, &query, To::Stdout, since, |bytes| app.out.text(&painter.paint(bytes))).await?;
    app.out.text(&painter.rest())?;
    Ok(0)
}
