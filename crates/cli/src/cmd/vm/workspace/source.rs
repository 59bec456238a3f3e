//! A repository on its way into a guest, seen from here: the options that choose what of it travels, a look at it before
//! anything is made, what a person is told about it, and the operation that sends it. The daemon reads the repository.

use std::path::Path;

use wire::api::{
    BASE, Begun, ErrorCode, InspectWorkspace, Inspection, PrepareWorkspace, WorkspaceMode, WorkspaceSource,
};
use wire::size::human;

use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::{Failure, Io};
use crate::interrupt::Since;
use crate::operation::{self, OnInterrupt};
use crate::output::printable;
use crate::table::pairs;

/// Most names in one message.
const NAMES_MAX: usize = 10;

/// What of a repository travels.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "The workspace")]
pub(crate) struct Choice {
    /// Make this branch in the guest, and check it out there
    #[arg(long, value_name = "NAME", requires = "path")]
    branch: Option<String>,
    /// What the branch begins at, instead of what the repository is at: a branch, a tag, a commit
    #[arg(long, value_name = "REF", requires = "branch")]
    from: Option<String>,
    /// Take untracked files along; ignored ones always stay
    #[arg(long, requires = "path")]
    include_untracked: bool,
    /// What travels: overlay (some history and the files as they are), full-copy (all history), metadata-only (no files)
    #[arg(long, value_name = "MODE", requires = "path", add = complete::modes())]
    mode: Option<WorkspaceMode>,
    /// How many commits deep the history goes, instead of 10
    #[arg(long, value_name = "N", requires = "path", value_parser = clap::value_parser!(u32).range(1..))]
    depth: Option<u32>,
}

impl Choice {
    /// What makes no sense together and clap cannot tell.
    pub(crate) fn misuse(&self) -> Option<String> {
        let is_whole = self.mode == Some(WorkspaceMode::FullCopy) && self.depth.is_some();
        is_whole.then(|| {
            "the argument '--depth <N>' cannot be used with '--mode full-copy', which takes all history".to_owned()
        })
    }

    /// These files of the repository around `path`.
    ///
    /// # Errors
    /// When there is no such directory.
    pub(crate) fn source(&self, path: &Path) -> Result<WorkspaceSource, Failure> {
        Ok(WorkspaceSource {
            host_path: absolute(path)?,
            mode: self.mode.unwrap_or_default(),
            include_untracked: self.include_untracked,
            branch: self.branch.clone(),
            from: self.from.clone(),
            depth: self.depth,
        })
    }
}

/// `path` as the daemon can be told: it is somewhere else than we are.
fn absolute(path: &Path) -> Result<String, Failure> {
    let refused = |why: String| {
        Failure::new(ErrorCode::BadRequest, format!("cannot use {} as a workspace: {why}", path.display()))
    };
    let real = std::fs::canonicalize(path).map_err(|error| refused(Io(error).to_string()))?;
    if !real.is_dir() {
        return Err(refused("not a directory".to_owned()));
    }
    real.into_os_string().into_string().map_err(|_| refused("its name is not UTF-8".to_owned()))
}

/// Asks what would travel.
///
/// # Errors
/// When the daemon refuses the repository.
pub(crate) async fn inspect(
    app: &App,
    source: &WorkspaceSource,
    list: bool,
    since: Since,
) -> Result<Inspection, Failure> {
    let request = InspectWorkspace { source: source.clone(), list };
    let mut track = app.progress.track("workspace");
    track.stage("look at the repository");
    let target = format!("{BASE}/workspaces/inspect");
    let inspected = app.interrupts.guard(since, track.during(app.client.send(&target, &request))).await;
    let shown = &source.host_path;
    let inspected = inspected.map_err(|failure| failure.during(&format!("use {shown} as a workspace"), shown))?;
    track.finish();
    Ok(inspected)
}

/// Says what a person should know before it travels.
pub(crate) fn remark(app: &App, found: &Inspection) {
    for warning in &found.warnings {
        app.out.warn(warning);
    }
    if !found.secrets.is_empty() {
        app.out.warn(&format!("untracked files that look like secrets travel too: {}", names(&found.secrets)));
    }
    if found.untracked_left_out > 0 {
        let files = count(found.untracked_left_out, "untracked file");
        let stay = if found.untracked_left_out == 1 { "stays" } else { "stay" };
        app.out.aside(&format!("{files} {stay} here; --include-untracked takes them along"));
    }
}

/// Prints what would travel.
pub(crate) fn print(app: &App, found: &Inspection) -> Result<(), Failure> {
    app.out.record(found, render, list)
}

/// The files, one a line.
fn list(found: &Inspection) -> String {
    found.paths.iter().flatten().map(|path| format!("{}\n", printable(path))).collect()
}

fn render(found: &Inspection) -> String {
    let or_none = |text: &Option<String>| text.as_deref().map_or_else(|| "none".to_owned(), printable);
    let mut rows = vec![
        ("mode", found.mode.name().to_owned()),
        ("root", printable(&found.root)),
        ("commit", or_none(&found.base_commit)),
        ("branch", or_none(&found.branch)),
        ("files", format!("{}, {}", found.files, human(found.bytes))),
    ];
    if !found.submodules.is_empty() {
        rows.push(("submodules", names(&found.submodules)));
    }
    if !found.tooling.is_empty() {
        rows.push(("tooling", names(&found.tooling)));
    }
    if !found.pins.is_empty() {
        let pins: Vec<String> =
            found.pins.iter().map(|pin| format!("{} {} ({})", pin.tool, pin.version, pin.file)).collect();
        rows.push(("pins", names(&pins)));
    }
    if let Some(file) = &found.devcontainer {
        rows.push(("devcontainer", printable(file)));
    }
    let files = list(found);
    let gap = if files.is_empty() { "" } else { "\n" };
    format!("{}{gap}{files}", pairs(&rows))
}

/// Sends what `request` says into `vm`, and follows that to its end.
///
/// # Errors
/// When it cannot be begun, fails or is cancelled.
pub(crate) async fn prepare(app: &App, vm: &str, request: &PrepareWorkspace, since: Since) -> Result<(), Failure> {
    app.interrupts.check(since)?;
    let mut track = app.progress.track(vm);
    track.stage("look at the repository");
    let target = path("vms", vm, "/workspace");
    let begin = track.during(app.client.send::<_, Begun>(&target, request));
    let begun = app.interrupts.guard_twice(since, begin).await;
    let begun = begun.map_err(|failure| failure.during(&format!("prepare the workspace of {vm}"), vm))?;
    operation::follow(app, &begun.operation, &mut track, since, OnInterrupt::Cancel).await?;
    track.finish();
    Ok(())
}

/// The first of `names`, and how many more there are.
pub(crate) fn names(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(NAMES_MAX).map(|name| printable(name)).collect();
    match names.len().saturating_sub(NAMES_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The beginning of a commit's id, as people read it.
pub(crate) fn short(commit: &str) -> String {
    printable(commit.get(..12).unwrap_or(commit))
}
