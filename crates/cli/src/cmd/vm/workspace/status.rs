//! `banger workspace status`: what has become of both sides of a workspace.

use wire::api::{Change, GuestSide, HostSide, WorkspaceStatus};

use super::source::{count, short};
use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::diff::letter;
use crate::complete;
use crate::error::Failure;
use crate::output::printable;
use crate::table::age;
use crate::values;

/// Most changes that people are shown of one side.
const CHANGES_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  banger workspace status web
  banger workspace status web --format json | jq .guest.exported";

/// Of which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let mut track = app.progress.track(&args.vm);
    track.stage("compare");
    let target = path("vms", &args.vm, "/workspace");
    let asked = track.during(app.client.get(&target));
    let status: WorkspaceStatus = app.interrupts.guard(app.interrupts.start(), asked).await?;
    track.finish();
    let page = |status: &WorkspaceStatus| render(status, &args.vm, clock::unix_ms());
    app.out.record(&status, page, |status| format!("{}\n", printable(&status.workspace.guest_path)))?;
    Ok(0)
}

fn render(status: &WorkspaceStatus, vm: &str, now_ms: u64) -> String {
    let workspace = &status.workspace;
    let when = match workspace.prepared_at_ms {
        Some(at_ms) => format!("sent {} ago", age(at_ms, now_ms)),
        None => format!("never sent whole: banger workspace prepare {vm}"),
    };
    let mut text = format!("{}, {when}\n", workspace.mode.name());
    text.push_str(&format!("\nhere, {}:\n", printable(&workspace.host_path)));
    host(&mut text, &status.host, workspace.head_commit.as_deref());
    text.push_str(&format!("\nin {vm}, {}:\n", printable(&workspace.guest_path)));
    match &status.guest {
        Some(side) => guest(&mut text, side, vm),
        None => text.push_str("  cannot tell: the guest was not asked\n"),
    }
    text
}

fn host(text: &mut String, side: &HostSide, sent: Option<&str>) {
    if let Some(problem) = &side.problem {
        text.push_str(&format!("  cannot tell: {}\n", printable(problem)));
        return;
    }
    if side.head_moved {
        let at = |commit: Option<&str>| commit.map_or_else(|| "no commit".to_owned(), short);
        text.push_str(&format!("  at {} now, sent was {}\n", at(side.head_commit.as_deref()), at(sent)));
    }
    changes(text, side.changes, &side.changed);
    if !side.head_moved && side.changes == 0 {
        text.push_str("  as it was sent\n");
    }
}

fn guest(text: &mut String, side: &GuestSide, vm: &str) {
    if let Some(problem) = &side.problem {
        text.push_str(&format!("  cannot tell: {}\n", printable(problem)));
        return;
    }
    if side.commits == 0 && side.changes == 0 {
        text.push_str("  as it was sent\n");
        return;
    }
    if side.commits > 0 {
        let at = side.head_commit.as_deref().map_or_else(String::new, |head| format!(", at {}", short(head)));
        text.push_str(&format!("  {}{at}\n", count(side.commits, "new commit")));
    }
    changes(text, side.changes, &side.changed);
    text.push_str(&match side.exported {
        true => "  exported, all of it\n".to_owned(),
        false => format!("  not exported: banger workspace export {vm}\n"),
    });
}

/// How many changes there are, and the first of them.
fn changes(text: &mut String, number: u64, first: &[Change]) {
    if number == 0 {
        return;
    }
    text.push_str(&format!("  {}\n", count(number, "changed file")));
    let shown = first.iter().take(CHANGES_MAX);
    for change in shown.clone() {
        text.push_str(&format!("    {} {}\n", letter(change.change), printable(&change.path)));
    }
    match number.saturating_sub(shown.len() as u64) {
        0 => {}
        more => text.push_str(&format!("    and {more} more\n")),
    }
}
