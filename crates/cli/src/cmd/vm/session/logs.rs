//! `banger session logs`: what a session printed, as far as the guest keeps it.

use wire::api::AttachSession;

use super::One;
use super::attach::{Watched, ended, watch};
use crate::attach::Escape;
use crate::cmd::App;
use crate::cmd::vm::logs::escaped;
use crate::error::Failure;
use crate::output::{self, Format, Outlet};

const EXAMPLES: &str = "\
Examples:
  banger session logs web dev
  banger session logs -f --tail 20 web dev
  banger session logs web dev 2>/dev/null > out.txt

What it printed to standard error goes to standard error.";

/// Of which session, and how much.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) one: One,
    /// Go on until the session ends
    #[arg(short, long)]
    follow: bool,
    /// Begin with this many lines, instead of all that is kept
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u64>,
    /// Exact bytes on a terminal too
    #[arg(long)]
    raw: bool,
    /// How to tell a failure
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    print(app, &args.one, args.follow, args.tail, args.raw).await
}

/// Prints what a session printed, from so many lines on, and with `follow` what it prints until it ends; escaped on a
/// terminal, unless it is to be `raw`.
pub(super) async fn print(app: &App, one: &One, follow: bool, tail: Option<u64>, raw: bool) -> Result<u8, Failure> {
    let request = AttachSession { stdin: false, follow, tail, terminal: None };
    let is_shown = output::stdout_is_terminal() || output::stderr_is_terminal();
    let escape: Option<Escape> = (is_shown && !raw).then_some(escaped);
    let watched = Watched { keys: None, outlet: Outlet::Own, escape, is_typed: false };
    let ending = watch(app, one, &request, watched).await?;
    ended(one, ending)
}
