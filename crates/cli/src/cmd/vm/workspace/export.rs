//! `banger workspace export`: the work done in a guest, as a patch, as commits, or as a branch of the repository here.
//!
//! What comes is a guest's: it goes into one file, to standard output, or, escaped, to a terminal. Once all of it is safe
//! the daemon is told so, and lets the VM be deleted.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use wire::api::{EXPORT_TRAILER, ErrorCode, ExportBranch, ExportFormat, ExportQuery, Exported, KeepExported, Unit};
use wire::size::human;

use super::paint::Painter;
use super::prepare::recorded;
use super::source::{count, short};
use crate::client::{ClientError, encode, path};
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::keep::NewFile;
use crate::output::{self, Format, printable};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger workspace export web | git apply --index
  banger workspace export web -o work.patch
  banger workspace export web --base-commit 1a2b3c4 -o work.patch
                                        with what was committed in the VM since
  banger workspace export web --format mbox | git am
  banger workspace export web --format branch && git log banger/web

A patch holds what is not committed in the VM, untracked files too; nothing that
is ignored. Nothing in the VM changes, and nothing here but FILE or the branch.";

/// Of which VM, and as what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Against this commit, instead of what the VM is at: what was committed there since is in it too
    #[arg(long, value_name = "SHA", value_parser = values::commit)]
    base_commit: Option<String>,
    /// Into this file, once it is whole; else to standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// As what: a patch for git apply, commits for git am, or branch banger/VM of the repository here
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: As,
    /// Of this repository of the guest, instead of the workspace
    #[arg(long, value_name = "DIR", value_parser = values::guest_path)]
    guest_path: Option<String>,
    /// Say as JSON what was exported
    #[arg(long)]
    json: bool,
    /// Say nothing while it goes on
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// As what it comes. (Comments on the variants are no docs: `--help` would show them.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum As {
    #[default]
    Patch,
    Mbox,
    Branch,
}

impl Args {
    /// How to print.
    pub(crate) fn printed(&self) -> Format {
        if self.json { Format::Json } else { Format::Table }
    }

    /// The file it goes into; none: standard output.
    fn file(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// What makes no sense together and clap cannot tell.
    pub(crate) fn misuse(&self) -> Option<String> {
        let is_branch = self.format == As::Branch;
        let why = match () {
            () if is_branch && self.file().is_some() => {
                "the argument '--output <FILE>' cannot be used with '--format branch', which goes into the repository"
            }
            () if is_branch && self.guest_path.is_some() => {
                "the argument '--guest-path <DIR>' cannot be used with '--format branch'"
            }
            () if self.json && !is_branch && self.file().is_none() => {
                "the argument '--json' needs '--output <FILE>': standard output is what is exported"
            }
            () => return None,
        };
        Some(why.to_owned())
    }
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Where a person or another program may look meanwhile.
    Stdout,
    File,
}

/// What came.
pub(crate) struct Brought {
    /// As the daemon says.
    pub(crate) exported: Exported,
    /// How long it was.
    pub(crate) bytes: u64,
}

/// Exports.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let format = match args.format {
        As::Patch => ExportFormat::Patch,
        As::Mbox => ExportFormat::Mbox,
        As::Branch => return branch(app, &args, since).await,
    };
    let (base_commit, guest_path) = (args.base_commit.clone(), args.guest_path.clone());
    let query = ExportQuery { format, base_commit, guest_path };
    let brought = match args.file() {
        Some(path) => {
            let mut file = NewFile::over(path)?;
            let brought = stream(app, &args.vm, &query, To::File, since, |bytes| file.write(bytes)).await?;
            file.keep()?;
            app.out.aside(&format!("wrote {}, {}", path.display(), human(brought.bytes)));
            keep(app, &args.vm, &brought.exported, since).await?;
            brought
        }
        None if output::stdout_is_terminal() => {
            let mut painter = Painter::default();
            let brought =
                stream(app, &args.vm, &query, To::Stdout, since, |bytes| app.out.text(&painter.paint(bytes))).await?;
            app.out.text(&painter.rest())?;
            app.out.aside("shown only: -o FILE keeps it");
            brought
        }
        None => {
            let brought = stream(app, &args.vm, &query, To::Stdout, since, output::raw).await?;
            if output::stdout_keeps()? {
                keep(app, &args.vm, &brought.exported, since).await?;
            }
            brought
        }
    };
    if args.json {
        app.out.json(&brought.exported)?;
    }
    remark(app, &args, &brought, since).await?;
    Ok(0)
}

/// Brings the guest's commits into a branch here.
async fn branch(app: &App, args: &Args, since: Since) -> Result<u8, Failure> {
    let mut track = app.progress.track(&args.vm);
    track.stage("export");
    let request = ExportBranch { base_commit: args.base_commit.clone() };
    let target = path("vms", &args.vm, "/workspace/branch");
    let asked = track.during(app.client.send(&target, &request));
    let exported: Exported = app.interrupts.guard(since, asked).await?;
    track.finish();
    keep(app, &args.vm, &exported, since).await?;
    let commits = count(exported.commits, "commit");
    let name = exported.branch.as_deref().map_or_else(|| "no branch".to_owned(), printable);
    app.out.aside(&format!("{commits} of {} in {name}", args.vm));
    app.out.record(&exported, |_| format!("{name}\n"), |_| format!("{name}\n"))?;
    remark(app, args, &Brought { exported, bytes: 0 }, since).await?;
    Ok(0)
}

/// Gives what is exported to `take`, piece by piece.
///
/// # Errors
/// When it cannot be exported, or is not whole.
pub(crate) async fn stream(
    app: &App,
    vm: &str,
    query: &ExportQuery,
    to: To,
    since: Since,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Brought, Failure> {
    let mut track = app.progress.track(vm);
    track.stage("export");
    let target = target(vm, query);
    let mut answer = app.interrupts.guard(since, track.during(app.client.tree(&target))).await?;
    let mut bytes = 0;
    while let Some(piece) = app.interrupts.guard(since, track.during(answer.bytes())).await? {
        bytes += piece.len() as u64;
        match to {
            To::Stdout => track.rest(),
            To::File => track.amount(bytes, None, Unit::Bytes),
        }
        take(&piece)?;
    }
    track.finish();
    // An end without it is none.
    match answer.trailer(EXPORT_TRAILER)? {
        Some(exported) => Ok(Brought { exported, bytes }),
        None => Err(ClientError::Unfinished.into()),
    }
}

fn target(vm: &str, query: &ExportQuery) -> String {
    let format = serde_json::to_value(query.format).expect("a word is plain data");
    let mut target = path("vms", vm, &format!("/workspace/export?format={}", format.as_str().unwrap_or_default()));
    for (name, value) in [("base_commit", &query.base_commit), ("guest_path", &query.guest_path)] {
        if let Some(value) = value {
            target.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    target
}

/// Tells the daemon that all of it is safe, when all of it is in it.
pub(crate) async fn keep(app: &App, vm: &str, exported: &Exported, since: Since) -> Result<(), Failure> {
    let Some(fingerprint) = exported.fingerprint.clone() else { return Ok(()) };
    let target = path("vms", vm, "/workspace/exported");
    match app.interrupts.guard(since, app.client.tell(&target, &KeepExported { fingerprint })).await {
        Err(Failure::Told(error)) => {
            app.out.warn(&format!("{vm} still counts as not exported: {}", error.message));
            Ok(())
        }
        ended => ended,
    }
}

/// Says what is not in it.
async fn remark(app: &App, args: &Args, brought: &Brought, since: Since) -> Result<(), Failure> {
    let (exported, vm) = (&brought.exported, &args.vm);
    if exported.files == Some(0) && brought.bytes == 0 && args.format == As::Patch {
        app.out.note(&format!("nothing to export: no file of {vm} is changed"));
    }
    if exported.commits_left_out > 0 && !app.out.quiet {
        let base = match recorded(app, vm, since).await {
            Ok(workspace) => workspace.base_commit,
            // It was exported from somewhere else.
            Err(failure) if failure.code() == Some(ErrorCode::WrongState) => None,
            Err(failure) => return Err(failure),
        };
        let base = base.as_deref().map_or_else(|| "SHA".to_owned(), short);
        let commits = are(exported.commits_left_out, "commit");
        app.out.note(&format!("{commits} not in it; --base-commit {base} or --format mbox takes them"));
    }
    if exported.files_left_out > 0 {
        let files = are(exported.files_left_out, "changed file");
        let why = if args.format == As::Patch { "in a submodule" } else { "not committed, or in a submodule" };
        app.out.note(&format!("{files} not in it: {why}"));
    }
    Ok(())
}

/// `1 commit is`, `2 commits are`.
fn are(number: u64, noun: &str) -> String {
    format!("{} {}", count(number, noun), if number == 1 { "is" } else { "are" })
}
