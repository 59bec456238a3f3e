//! `banger session list`: the sessions of a VM, or of all that run.

use futures_util::future::join_all;
use wire::api::{Session, SessionList, VmState};

use super::state;
use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::each;
use crate::cmd::vm::list_all;
use crate::complete;
use crate::error::Failure;
use crate::output::printable;
use crate::table::{age, table};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger session list
  banger session list web
  banger session list --format json | jq -r '.sessions[] | select(.state == \"running\") | \"\\(.vm) \\(.name)\"'";

/// Of which VM.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id [default: all that run]
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints them; those of the VMs whose guest answers, when one does not.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let asked = async {
        match &args.vm {
            Some(vm) => Ok((app.client.get::<SessionList>(&path("vms", vm, "/sessions")).await?.sessions, 0)),
            None => of_all(app).await,
        }
    };
    let (sessions, status) = app.interrupts.guard(app.interrupts.start(), asked).await?;
    let is_of_one = args.vm.is_some();
    let name = |session: &Session| {
        let name = printable(&session.name);
        if is_of_one { format!("{name}\n") } else { format!("{} {name}\n", session.vm) }
    };
    let names = |list: &SessionList| list.sessions.iter().map(name).collect();
    let now_ms = clock::unix_ms();
    app.out.record(&SessionList { sessions }, |list| render(&list.sessions, is_of_one, now_ms), names)?;
    Ok(status)
}

/// Those of every VM that runs, asked at the same time, in the order of the VMs.
async fn of_all(app: &App) -> Result<(Vec<Session>, u8), Failure> {
    let vms = list_all(app).await?;
    let asked = vms.iter().filter(|vm| vm.state == VmState::Running).map(async |vm| {
        let list = app.client.get::<SessionList>(&path("vms", &vm.id.to_string(), "/sessions")).await;
        let named = |failure: Failure| failure.during(&format!("list the sessions of {}", vm.name), vm.name.as_str());
        list.map_err(named)
    });
    let (lists, status) = each::those_that_came(app, join_all(asked).await)?;
    Ok((lists.into_iter().flat_map(|list| list.sessions).collect(), status))
}

fn render(sessions: &[Session], is_of_one: bool, now_ms: u64) -> String {
    let row = |session: &Session| {
        let vm = (!is_of_one).then(|| session.vm.clone());
        let rest = [
            printable(&session.name),
            state(session),
            age(session.started_at_ms, now_ms),
            session.clients.to_string(),
            if session.terminal { "yes" } else { "no" }.to_owned(),
            printable(&session.command),
        ];
        vm.into_iter().chain(rest).collect()
    };
    let header = ["VM", "NAME", "STATE", "STARTED", "CLIENTS", "TTY", "COMMAND"];
    table(&header[usize::from(is_of_one)..], &sessions.iter().map(row).collect::<Vec<_>>())
}
