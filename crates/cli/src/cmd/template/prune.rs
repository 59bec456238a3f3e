//! `banger template prune`: removes what fresh VMs go on from.

use std::sync::atomic::{AtomicU64, Ordering};

use wire::api::{PrunedTemplates, Template};
use wire::size::human;

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each::{self, Thing};
use crate::complete;
use crate::error::Failure;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger template prune --all
  banger template prune $(banger template list -q | tail -n 1)";

/// Which ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Templates, by key or the beginning of one
    #[arg(
        required_unless_present = "all", value_name = "KEY", value_parser = values::reference,
        add = complete::templates()
    )]
    keys: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Removes them and says what that freed.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let templates = super::list_all(app).await?.templates;
    let thing = |template: Template| Thing { id: template.key.clone(), name: template.key };
    let things: Vec<Thing> = templates.into_iter().map(thing).collect();
    let keys = if args.all { things.iter().map(|thing| thing.id.clone()).collect() } else { args.keys };
    let freed = AtomicU64::new(0);
    let ended = each::all("remove", "template", &things, &keys, async |template| {
        let pruned: PrunedTemplates = app.client.delete(&path("templates", &template.id, "")).await?;
        freed.fetch_add(pruned.freed_bytes, Ordering::Relaxed);
        Ok(())
    })
    .await;
    let freed = freed.into_inner();
    let reported = each::report(app, ended, Some(freed));
    app.out.note(&format!("Freed {}.", human(freed)));
    reported
}
