//! `banger op list`: what goes on, and what went on.

use wire::api::{BASE, OperationList, OperationState};

use crate::args::Records;
use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::{Format, printable};
use crate::table::{age, table_without_empty};

/// How to print them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) records: Records,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let ask = app.client.get(&format!("{BASE}/operations")).await;
    let list: OperationList = ask?;
    let ids = |list: &OperationList| list.operations.iter().map(|op| format!("{}\n", op.id)).collect::<String>();
    if args.records.quiet {
        app.out.text(&ids(&list))?;
        return Ok(0);
    }
    app.out.record(&list, |list| render(list, clock::unix_ms()), ids)?;
    for operation in list.operations.iter().filter(|operation| operation.state == OperationState::Stuck) {
        if let Some(error) = operation.error.as_ref().filter(|_| app.out.format == Format::Table) {
            app.out.tell(error);
        }
    }
    Ok(0)
}

fn render(list: &OperationList, now_ms: u64) -> String {
    let rows = list.operations.iter().map(|operation| {
        vec![
            operation.id.to_string(),
            operation.kind.clone(),
            printable(&operation.subject),
            super::state(operation.state).to_owned(),
            super::took(operation, now_ms),
            age(operation.started_at_ms, now_ms),
            operation.reason.as_deref().map(printable).unwrap_or_default(),
        ]
    });
    let header = ["ID", "KIND", "SUBJECT", "STATE", "TOOK", "BEGAN", "REASON"];
    table_without_empty(&header, &rows.collect::<Vec<_>>(), header.len() - 1)
}
