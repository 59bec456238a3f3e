//! `banger workspace prepare`: a repository into a VM that runs, or what changed of it since.

use std::path::PathBuf;

use wire::api::{ErrorCode, PrepareWorkspace, Vm, Workspace, WorkspaceSource};

use super::source::{self, Choice, short};
use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::output::{Format, printable};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger workspace prepare web . --dry-run
                                        shows what would travel
  banger workspace prepare web .        this repository, at /root/repo
  banger workspace prepare web          once more, what changed since
  banger workspace prepare web ~/src/app --branch try --from v1.2

What git tracks travels, with the content it has now; nothing that is ignored,
no hooks, no credentials. What was changed in the guest stays as it is: where
both sides changed a file, nothing is sent and the files are listed; --force
takes the host's.";

/// Which repository, into which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// A directory in a git work tree; left out: the one that went in last, the same way
    #[arg(value_hint = clap::ValueHint::DirPath)]
    path: Option<PathBuf>,
    /// Where it goes in the guest, instead of /root/repo
    #[arg(long, value_name = "DIR", value_parser = values::guest_path)]
    guest_path: Option<String>,
    /// Overwrite changes made in the guest
    #[arg(long)]
    force: bool,
    /// Show what would travel, and send nothing
    #[arg(long, conflicts_with_all = ["guest_path", "force"])]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) act: Act,
    #[command(flatten)]
    pub(crate) choice: Choice,
}

/// Prepares it, and prints where it is.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let source = args.path.as_deref().map(|path| args.choice.source(path)).transpose()?;
    if args.dry_run {
        let source = match source {
            Some(source) => source,
            None => again(recorded(app, &args.vm, since).await?),
        };
        let found = source::inspect(app, &source, true, since).await?;
        source::remark(app, &found);
        source::print(app, &found)?;
        return Ok(0);
    }
    if let Some(source) = &source {
        source::remark(app, &source::inspect(app, source, false, since).await?);
    }
    let request = PrepareWorkspace { source, guest_path: args.guest_path, force: args.force };
    source::prepare(app, &args.vm, &request, since).await?;
    let workspace = recorded(app, &args.vm, since).await?;
    let at = workspace.base_commit.as_deref().map_or_else(String::new, |commit| format!(" at {}", short(commit)));
    app.out.aside(&format!("{} is in {}{at}", printable(&workspace.host_path), args.vm));
    match app.out.format {
        Format::Json => app.out.json(&workspace)?,
        Format::Table | Format::Name => app.out.line(&printable(&workspace.guest_path))?,
    }
    Ok(0)
}

/// The workspace of `vm`.
///
/// # Errors
/// When it has none.
pub(super) async fn recorded(app: &App, vm: &str, since: Since) -> Result<Workspace, Failure> {
    let record: Vm = app.interrupts.guard(since, app.client.get(&path("vms", vm, ""))).await?;
    record.workspace.ok_or_else(|| {
        let failure = Failure::new(ErrorCode::WrongState, format!("{vm} has no workspace"));
        failure.hint(format!("give it one with: banger workspace prepare {vm} PATH"))
    })
}

/// What `workspace` was made of.
fn again(workspace: Workspace) -> WorkspaceSource {
    WorkspaceSource {
        host_path: workspace.host_path,
        mode: workspace.mode,
        include_untracked: workspace.include_untracked,
        branch: workspace.made_branch,
        from: workspace.from,
        depth: workspace.depth,
    }
}
