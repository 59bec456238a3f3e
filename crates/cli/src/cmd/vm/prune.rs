//! `banger prune`: deletes every VM that is off, after saying which.

use std::io::BufRead;

use wire::api::{Begun, ErrorCode, Vm, VmState};
use wire::size::human;

use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::each::{self, Thing};
use crate::cmd::vm::{list, list_all};
use crate::error::Failure;
use crate::output::{self, Format, fragment};
use crate::table::{age, table_within};
use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  banger prune                          shows what would go, and asks
  banger prune -f --format json | jq .freed_bytes";

/// Whether to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Drop changes in their workspaces that were never exported; else such VMs stay
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Deletes them, all at the same time, and says what that freed.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let vms = list_all(app).await?;
    // The daemon looks once more before it deletes: what was started meanwhile stays.
    let is_off = |vm: &Vm| matches!(vm.state, VmState::Created | VmState::Stopped) && vm.operation.is_none();
    let vms: Vec<Vm> = vms.into_iter().filter(is_off).collect();
    if vms.is_empty() {
        app.out.note("Every VM is running, or there is none: nothing to prune.");
        return each::report(app, Vec::new(), Some(0));
    }
    if !args.force && !confirm(app, &vms).await? {
        app.out.note("Nothing was deleted.");
        return Ok(1);
    }
    let thing = |vm: &Vm| Thing { id: vm.id.to_string(), name: vm.name.to_string() };
    let (things, ids): (Vec<Thing>, Vec<String>) = vms.iter().map(|vm| (thing(vm), vm.id.to_string())).unzip();
    let ended = each::all("delete", "VM", &things, &ids, async |vm| {
        let tail = if args.discard { "?only_off=true&discard=true" } else { "?only_off=true" };
        let target = path("vms", &vm.id, tail);
        each::operate(app, &vm, app.client.delete::<Begun>(&target)).await
    })
    .await;
    let gone = vms.iter().zip(&ended).filter(|(_, (_, _, result))| result.is_ok());
    let freed = gone.map(|(vm, _)| vm.disk_allocated_bytes).sum();
    let reported = each::report(app, ended, Some(freed));
    app.out.note(&format!("Freed {}.", human(freed)));
    reported
}

/// Shows what would go and asks a person.
async fn confirm(app: &App, vms: &[Vm]) -> Result<bool, Failure> {
    if app.out.format == Format::Json || !terminal::stdin_is_terminal() {
        let failure = Failure::new(ErrorCode::BadRequest, "cannot delete VMs: nobody is there to confirm it");
        return Err(failure.hint("banger prune -f does not ask"));
    }
    let now_ms = clock::unix_ms();
    let row = |vm: &Vm| {
        let (state, image) = (list::state(vm.state).to_owned(), vm.image.clone());
        vec![vm.name.to_string(), state, image, human(vm.disk_allocated_bytes), age(vm.created_at_ms, now_ms)]
    };
    let rows: Vec<Vec<String>> = vms.iter().map(row).collect();
    let total: u64 = vms.iter().map(|vm| vm.disk_allocated_bytes).sum();
    let what = if vms.len() == 1 {
        "this VM and its disk".to_owned()
    } else {
        format!("these {} VMs and their disks", vms.len())
    };
    let width = if output::stderr_is_terminal() { usize::from(terminal::size().cols) } else { usize::MAX };
    let header = ["NAME", "STATE", "IMAGE", "TAKES", "CREATED"];
    fragment(&table_within(width, &[0, 2], &header, rows, header.len()));
    fragment(&format!("Delete {what}, {}? [y/N] ", human(total)));
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = app.interrupts.guard(app.interrupts.start(), async { Ok(line.await) }).await?;
    // An end of the input, or a failure to read it, is no consent.
    let answer = answer.ok().and_then(Result::ok).unwrap_or_default();
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
