//! `banger show`: all about one VM.

use wire::api::{BootStatus, Vm, VmState, Workspace};
use wire::duration;
use wire::size::human;

use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::workspace::source::short;
use crate::cmd::vm::{list, print_one};
use crate::complete;
use crate::error::Failure;
use crate::output::{printable, printable_lines};
use crate::table::{age, pairs};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger show web
  banger show web --format json | jq .boot";

/// Which one.
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
    let target = path("vms", &args.vm, "");
    let vm: Vm = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    print_one(app, &vm)?;
    Ok(0)
}

/// A VM as a page of names and values.
pub(crate) fn render(vm: &Vm) -> String {
    let now_ms = clock::unix_ms();
    let disk = format!("{}, takes {}", human(vm.disk_bytes), human(vm.disk_allocated_bytes));
    let mut rows = vec![
        ("id", vm.id.to_string()),
        ("name", vm.name.to_string()),
        ("state", list::state(vm.state).to_owned()),
        ("image", format!("{} ({})", vm.image, vm.image_id)),
        ("kernel", format!("{} ({})", vm.kernel, vm.kernel_id)),
        ("vcpu", vm.vcpus.to_string()),
        ("memory", human(vm.memory_mib << 20)),
        ("disk", disk),
        ("nat", if vm.nat { "on" } else { "off" }.to_owned()),
    ];
    if !vm.publish.is_empty() {
        rows.push(("ports", list::ports(&vm.publish)));
    }
    rows.push(("stop after", stop_after(vm, now_ms)));
    rows.push(("restart", restart(vm, now_ms)));
    if let Some(workspace) = &vm.workspace {
        rows.push(("workspace", workspace_of(workspace)));
    }
    if vm.reset_pending {
        rows.push(("reset", "at the next start: changes to the system are dropped, /root and /home stay".to_owned()));
    }
    rows.push(("created", format!("{} ago", age(vm.created_at_ms, now_ms))));
    if let Some(boot) = &vm.boot {
        boot_rows(boot, now_ms, &mut rows);
    }
    if let Some(operation) = &vm.operation {
        rows.push(("operation", operation.to_string()));
    }
    if let Some(error) = &vm.last_error {
        rows.push(("last error", printable_lines(error)));
    }
    pairs(&rows)
}

/// Where a workspace is, what it is of, and at which commit it began.
fn workspace_of(workspace: &Workspace) -> String {
    let place = format!("{} from {}", printable(&workspace.guest_path), printable(&workspace.host_path));
    let commit = workspace.base_commit.as_deref().or(workspace.head_commit.as_deref());
    let at = match (workspace.branch.as_deref().map(printable), commit.map(short)) {
        (Some(branch), Some(commit)) => format!(" ({branch} at {commit})"),
        (Some(branch), None) => format!(" ({branch})"),
        (None, Some(commit)) => format!(" (at {commit})"),
        (None, None) => String::new(),
    };
    let whole = if workspace.prepared_at_ms.is_some() { "" } else { ", not sent whole" };
    format!("{place}{at}{whole}")
}

/// After how long without use it is stopped, and how far it is.
fn stop_after(vm: &Vm, now_ms: u64) -> String {
    let Some(after_ms) = vm.stop_after_ms else {
        return "off".to_owned();
    };
    let after = format!("{} idle", duration::human(after_ms));
    match vm.idle {
        Some(idle) => {
            let (since, left) = (age(idle.since_ms, now_ms), age(now_ms, idle.stops_at_ms));
            format!("{after}; idle for {since}, stops in {left}")
        }
        None if vm.state == VmState::Running => format!("{after}; in use"),
        None => after,
    }
}

/// When it is started without being asked, and what came of that.
fn restart(vm: &Vm, now_ms: u64) -> String {
    let policy = vm.restart.name();
    let Some(restarts) = &vm.restarts else {
        return policy.to_owned();
    };
    let tries = format!("try {} of {}", restarts.tries, restarts.tries_max);
    let is_off = matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Suspended);
    let done = match restarts.next_at_ms {
        Some(next_at_ms) if is_off => {
            let next = restarts.tries + 1;
            format!("try {next} of {} in {}", restarts.tries_max, age(now_ms, next_at_ms))
        }
        Some(_) => tries,
        None if is_off && restarts.tries >= restarts.tries_max => format!("given up after {} tries", restarts.tries),
        None if restarts.tries == 0 => return policy.to_owned(),
        None => format!("started again, {tries}"),
    };
    format!("{policy}; {done}, because {}", printable(&restarts.why))
}

fn boot_rows(boot: &BootStatus, now_ms: u64, rows: &mut Vec<(&'static str, String)>) {
    let pid = boot.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    rows.push(("boot", format!("{} ({}{pid})", boot.id, boot.vmm)));
    let ready = boot.ready_at_ms.map_or_else(String::new, |ready_at_ms| {
        let took_ms = ready_at_ms.saturating_sub(boot.started_at_ms);
        format!(", answered after {}", crate::table::elapsed(std::time::Duration::from_millis(took_ms)))
    });
    rows.push(("started", format!("{} ago{ready}", age(boot.started_at_ms, now_ms))));
    if let Some(ended_at_ms) = boot.ended_at_ms {
        let how = boot.ended.as_deref().unwrap_or("unknown");
        rows.push(("ended", format!("{} ago: {}", age(ended_at_ms, now_ms), printable(how))));
    } else {
        rows.push(("init", boot.init.as_deref().map_or_else(|| "the agent itself".to_owned(), printable)));
    }
    rows.extend(boot.warnings.iter().map(|warning| ("warning", printable(warning))));
}
