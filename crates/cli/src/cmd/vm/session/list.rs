//! `banger session list`: the sessions of a VM.

use wire::api::{Session, SessionList};

use super::state;
use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::printable;
use crate::table::{age, table};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger session list web
  banger session list web --format json | jq -r '.sessions[] | select(.state == \"running\").name'";

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

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("vms", &args.vm, "/sessions");
    let list: SessionList = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    let names = |list: &SessionList| list.sessions.iter().map(|s| format!("{}\n", printable(&s.name))).collect();
    app.out.record(&list, |list| render(&list.sessions, clock::unix_ms()), names)?;
    Ok(0)
}

fn render(sessions: &[Session], now_ms: u64) -> String {
    let row = |session: &Session| {
        vec![
            printable(&session.name),
            state(session),
            age(session.started_at_ms, now_ms),
            session.clients.to_string(),
            if session.terminal { "yes" } else { "no" }.to_owned(),
            printable(&session.command),
        ]
    };
    let header = ["NAME", "STATE", "STARTED", "CLIENTS", "TTY", "COMMAND"];
    table(&header, &sessions.iter().map(row).collect::<Vec<_>>())
}
