//! Verbs about kernels, one file each.

use wire::api::{BASE, Kernel, KernelList};

use crate::cmd::App;
use crate::cmd::each::Thing;
use crate::error::Failure;
use crate::output::Format;

mod build;
mod delete;
mod import;
mod list;
mod pull;
mod show;

/// Below `banger kernel --help`.
pub(crate) const EXAMPLES: &str = "\
Most of the time there is nothing to do: `banger run` imports a kernel.

Examples:
  banger kernel list
  banger kernel list --available        what the catalog has
  banger kernel pull generic-6.12
  banger kernel import                  Debian's cloud kernel, by apt
  banger kernel import ./linux-image-6.12.deb
  banger kernel import ./vmlinux --config ./.config --name mine
  banger run --kernel mine";

/// What can be done with kernels.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List kernels
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show all about one kernel
    Show(show::Args),
    /// Import a kernel
    Import(import::Args),
    /// Build banger's own kernel from Debian's source, and try it
    Build(build::Args),
    /// Pull a kernel of the catalog
    Pull(pull::Args),
    /// Delete kernels no VM uses
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(delete::Args),
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::List(args) => args.records.format,
            Verb::Show(args) => args.record.format,
            Verb::Import(args) => args.act.format,
            Verb::Build(args) => args.act.format,
            Verb::Pull(args) => args.act.format,
            Verb::Delete(args) => args.act.format,
        }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        let of = |verb: &str, object: &str| (format!("{verb} kernel {object}"), object.to_owned());
        match self {
            Verb::List(_) => ("list kernels".to_owned(), String::new()),
            Verb::Show(args) => of("show", &args.kernel),
            Verb::Import(args) => of("import", args.subject()),
            Verb::Build(args) => ("build a kernel".to_owned(), args.dir.clone()),
            Verb::Pull(args) => of("pull", &args.kernel),
            Verb::Delete(_) => ("delete kernels".to_owned(), String::new()),
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::List(_) | Verb::Show(_) => false,
            Verb::Import(args) => args.act.quiet,
            Verb::Build(args) => args.act.quiet,
            Verb::Pull(args) => args.act.quiet,
            Verb::Delete(args) => args.act.quiet,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::List(args) => list::run(app, args).await,
        Verb::Show(args) => show::run(app, args).await,
        Verb::Import(args) => import::run(app, args).await,
        Verb::Build(args) => build::run(app, args).await,
        Verb::Pull(args) => pull::run(app, args).await,
        Verb::Delete(args) => delete::run(app, args).await,
    }
}

async fn list_all(app: &App) -> Result<KernelList, Failure> {
    app.interrupts.guard(app.interrupts.start(), app.client.get(&format!("{BASE}/kernels"))).await
}

async fn things(app: &App) -> Result<Vec<Thing>, Failure> {
    let named = |kernel: Kernel| Thing { id: kernel.id.to_string(), name: kernel.name };
    Ok(list_all(app).await?.kernels.into_iter().map(named).collect())
}
