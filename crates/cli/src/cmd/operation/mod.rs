//! Verbs about operations, one file each.

use std::time::Duration;

use wire::api::{Operation, OperationState, StepReport};

use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::{Format, printable, printable_lines};
use crate::table::{age, elapsed, pairs};

mod cancel;
mod list;
mod show;
mod watch;

/// Below `banger op --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger op list
  banger op watch op-0123456789abcdef
  banger op cancel op-0123456789abcdef  it unwinds, and leaves nothing";

/// What can be done with operations.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List operations, newest first
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show one operation with its steps
    Show(show::Args),
    /// Follow an operation to its end
    Watch(watch::Args),
    /// Cancel an operation
    Cancel(cancel::Args),
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::List(args) => args.records.format,
            Verb::Show(args) => args.record.format,
            Verb::Watch(args) => args.act.format,
            Verb::Cancel(args) => args.act.format,
        }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        let of = |verb: &str, object: &str| (format!("{verb} {object}"), object.to_owned());
        match self {
            Verb::List(_) => of("list", "operations"),
            Verb::Show(args) => of("show", &args.operation),
            Verb::Watch(args) => of("watch", &args.operation),
            Verb::Cancel(args) => of("cancel", &args.operation),
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::List(_) | Verb::Show(_) => false,
            Verb::Watch(args) => args.act.quiet,
            Verb::Cancel(args) => args.act.quiet,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::List(args) => list::run(app, args).await,
        Verb::Show(args) => show::run(app, args).await,
        Verb::Watch(args) => watch::run(app, args).await,
        Verb::Cancel(args) => cancel::run(app, args).await,
    }
}

fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Unwinding => "unwinding",
        OperationState::Succeeded => "succeeded",
        OperationState::Unwound => "unwound",
        OperationState::Stuck => "STUCK",
    }
}

fn took(operation: &Operation, now_ms: u64) -> String {
    let end_ms = operation.ended_at_ms.unwrap_or(now_ms);
    elapsed(Duration::from_millis(end_ms.saturating_sub(operation.started_at_ms)))
}

fn print_one(app: &App, operation: &Operation) -> Result<(), Failure> {
    app.out.record(
        operation,
        |operation| render(operation, clock::unix_ms()),
        |operation| format!("{}\n", operation.id),
    )
}

fn render(operation: &Operation, now_ms: u64) -> String {
    let mut rows = vec![
        ("id", operation.id.to_string()),
        ("kind", operation.kind.clone()),
        ("subject", printable(&operation.subject)),
        ("state", state(operation.state).to_owned()),
        ("began", format!("{} ago", age(operation.started_at_ms, now_ms))),
        ("took", took(operation, now_ms)),
    ];
    if let Some(reason) = &operation.reason {
        rows.push(("reason", printable(reason)));
    }
    if let Some(error) = &operation.error {
        rows.push(("error", printable_lines(&error.message)));
        if let Some(hint) = &error.hint {
            rows.push(("hint", printable_lines(hint)));
        }
    }
    rows.extend(steps(operation, now_ms).into_iter().map(|step| ("step", step)));
    pairs(&rows)
}

/// One line for each step: its name, how it stands, how long it took.
fn steps(operation: &Operation, now_ms: u64) -> Vec<String> {
    let end_ms = operation.ended_at_ms.unwrap_or(now_ms);
    let parts = |step: &StepReport| {
        let state = serde_json::to_value(step.state).expect("a state is plain data");
        let ms = step.started_at_ms.map(|started| step.ended_at_ms.unwrap_or(end_ms).saturating_sub(started));
        let took = ms.map(|ms| elapsed(Duration::from_millis(ms))).unwrap_or_default();
        (printable(&step.name), state.as_str().unwrap_or_default().replace('_', " "), took)
    };
    let parts: Vec<_> = operation.steps.iter().map(parts).collect();
    let width = |length: fn(&(String, String, String)) -> usize| parts.iter().map(length).max().unwrap_or(0);
    let (names, states) = (width(|step| step.0.len()), width(|step| step.1.len()));
    let line = |(name, state, took): &(String, String, String)| format!("{name:names$}  {state:states$}  {took}");
    parts.iter().map(|step| line(step).trim_end().to_owned()).collect()
}
