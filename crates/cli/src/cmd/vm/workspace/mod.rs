//! Verbs about workspaces, one file each: a project's files in a guest, and the work that comes back.

use crate::cmd::App;
use crate::error::Failure;
use crate::output::Format;

mod diff;
pub(crate) mod export;
mod paint;
mod prepare;
pub(crate) mod source;
pub(crate) mod stale;
mod status;

/// Below `banger workspace --help`.
pub(crate) const EXAMPLES: &str = "\
Most of the time:
  banger run . --name web               a new VM, and this repository in it
  banger workspace export web | git apply --index

Examples:
  banger workspace prepare web          what changed here since, into the VM
  banger workspace status web           what changed on both sides
  banger workspace diff web             what changed in the VM
  banger workspace export web -o work.patch
  banger workspace export web --format mbox | git am
  banger workspace export web --format branch
                                        its commits, as branch banger/web here";

/// What can be done with workspaces.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Put a repository into a VM that runs, or bring it up to date
    Prepare(prepare::Args),
    /// Bring back what was done in a VM: a patch, commits, or a branch
    Export(export::Args),
    /// Show what was done in a VM, as a patch to read
    Diff(diff::Args),
    /// Show what changed since it went in, on both sides
    Status(status::Args),
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::Prepare(args) => args.act.format,
            Verb::Export(args) => args.printed(),
            Verb::Diff(_) => Format::Table,
            Verb::Status(args) => args.record.format,
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::Prepare(args) => args.act.quiet,
            Verb::Export(args) => args.quiet,
            Verb::Diff(_) | Verb::Status(_) => false,
        }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        let of = |verb: &str, vm: &str| (format!("{verb} the workspace of {vm}"), vm.to_owned());
        match self {
            Verb::Prepare(args) => of("prepare", &args.vm),
            Verb::Export(args) => of("export", &args.vm),
            Verb::Diff(args) => of("show", &args.vm),
            Verb::Status(args) => of("look at", &args.vm),
        }
    }

    /// What makes no sense together and clap cannot tell, and for which command.
    pub(crate) fn misuse(&self) -> Option<(&'static [&'static str], String)> {
        match self {
            Verb::Prepare(args) => args.choice.misuse().map(|why| (&["workspace", "prepare"][..], why)),
            Verb::Export(args) => args.misuse().map(|why| (&["workspace", "export"][..], why)),
            Verb::Diff(_) | Verb::Status(_) => None,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Prepare(args) => prepare::run(app, args).await,
        Verb::Export(args) => export::run(app, args).await,
        Verb::Diff(args) => diff::run(app, args).await,
        Verb::Status(args) => status::run(app, args).await,
    }
}
