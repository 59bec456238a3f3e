//! Verbs about templates, one file each.

use wire::api::{BASE, TemplateList};

use crate::cmd::App;
use crate::error::Failure;
use crate::output::Format;

mod list;
mod prune;

/// Below `banger template --help`.
pub(crate) const EXAMPLES: &str = "\
Nothing has to be done: templates are made, used and replaced by themselves.
`templates = false` in config.toml switches them off: docs/templates.md.

Examples:
  banger template list
  banger template prune --all";

/// What can be done with templates.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List templates, the last used first
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Remove templates; the next VM of their kind boots, and a new one is made
    ///
    /// VMs that went on from one keep what they have.
    Prune(prune::Args),
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::List(args) => args.records.format,
            Verb::Prune(args) => args.act.format,
        }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        match self {
            Verb::List(_) => ("list templates".to_owned(), String::new()),
            Verb::Prune(_) => ("remove templates".to_owned(), String::new()),
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::List(_) => false,
            Verb::Prune(args) => args.act.quiet,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::List(args) => list::run(app, args).await,
        Verb::Prune(args) => prune::run(app, args).await,
    }
}

async fn list_all(app: &App) -> Result<TemplateList, Failure> {
    app.interrupts.guard(app.interrupts.start(), app.client.get(&format!("{BASE}/templates"))).await
}
