//! `banger doctor`: what works on this machine, and the one act that would improve what does not.

use wire::api::{BASE, CheckStatus, DoctorReport};

use crate::args::Record;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::{printable, printable_lines};
use crate::table::table;

/// How to print it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints the report; the status is 1 when something will not work.
pub(crate) async fn run(app: &App, _: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let report: DoctorReport = app.interrupts.guard(since, app.client.get(&format!("{BASE}/doctor"))).await?;
    let names = |report: &DoctorReport| report.checks.iter().map(|check| format!("{}\n", check.name)).collect();
    app.out.record(&report, render, names)?;
    Ok(u8::from(report.checks.iter().any(|check| check.status == CheckStatus::Fail)))
}

fn render(report: &DoctorReport) -> String {
    let word = |status| match status {
        CheckStatus::Pass => "ok",
        CheckStatus::Warn => "warn",
        CheckStatus::Fail => "FAIL",
    };
    let mut rows = Vec::new();
    for check in &report.checks {
        rows.push(vec![word(check.status).to_owned(), check.name.clone(), printable(&check.message)]);
        for line in check.fix.iter().flat_map(|fix| fix.lines()) {
            rows.push(vec![String::new(), String::new(), format!("fix: {}", printable_lines(line))]);
        }
    }
    table(&["STATUS", "CHECK", "FOUND"], &rows)
}
