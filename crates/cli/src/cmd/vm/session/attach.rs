//! `banger session attach`: what a session printed, what it prints from now on, and a way into it.

use wire::api::{ApiError, AttachSession, ErrorCode, Session};
use wire::attach::Ended;

use super::{One, session_path};
use crate::attach::{self, Ending, Escape, Given, Purpose, Signals};
use crate::client::Upgraded;
use crate::cmd::App;
use crate::cmd::vm::attached::broken;
use crate::detach_keys::{self, DetachKeys};
use crate::error::Failure;
use crate::limit::Limit;
use crate::output::{self, Format, Outlet};
use crate::terminal::{self, RawMode};

const EXAMPLES: &str = "\
Examples:
  banger session attach web dev         ctrl-p ctrl-q leaves it running
  banger session attach --no-stdin --tail 20 web dev
  banger session attach --detach-keys ctrl-a,d web dev

With a terminal on both sides what you type goes in as it is, Ctrl-C included.
Otherwise Ctrl-C leaves the session, which goes on: banger session stop ends it.
The exit status is the session's when it ends meanwhile, 0 when keys leave it.";

/// To what, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) one: One,
    /// Look only
    #[arg(long)]
    no_stdin: bool,
    /// Begin with this many lines, instead of all that is kept
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u64>,
    /// Keys that leave the session
    #[arg(long, value_name = "KEYS", default_value = detach_keys::DEFAULT, value_parser = DetachKeys::parse)]
    detach_keys: DetachKeys,
    /// Say nothing beside the session
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How to tell a failure of ours
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
}

/// Attaches, and returns the session's status when it ends.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let One { vm, session } = &args.one;
    let since = app.interrupts.start();
    let record: Session = app.interrupts.guard(since, app.client.get(&session_path(vm, session, ""))).await?;
    let is_person = terminal::stdin_is_terminal() && output::stdout_is_terminal() && terminal::stdin_may_be_read();
    let is_typed = is_person && record.terminal && !args.no_stdin;
    let request = AttachSession {
        stdin: !args.no_stdin && terminal::stdin_may_be_read(),
        follow: true,
        tail: args.tail,
        terminal: is_typed.then(terminal::size),
    };
    let keys = is_typed.then_some(args.detach_keys);
    let watched = Watched { keys, outlet: Outlet::Own, escape: None, is_typed };
    match watch(app, &args.one, &request, watched).await? {
        Ending::Told(Ended::Exited { status }) => Ok(status.shell_code()),
        Ending::Left { signal: None } => {
            app.out.aside(&format!("{session} goes on: banger session attach {vm} {session}"));
            Ok(0)
        }
        Ending::Left { signal: Some(signal) } => {
            app.out.aside(&format!("{session} goes on: banger session stop {vm} {session} ends it"));
            Err(Failure::Interrupted { signal })
        }
        other => ended(&args.one, other),
    }
}

/// How a session is looked at.
pub(super) struct Watched {
    pub(super) keys: Option<DetachKeys>,
    pub(super) outlet: Outlet,
    pub(super) escape: Option<Escape>,
    /// A person types into its terminal.
    pub(super) is_typed: bool,
}

/// Looks at a session until it ends, all is shown, or somebody leaves.
///
/// # Errors
/// When it cannot be looked at.
pub(super) async fn watch(app: &App, one: &One, request: &AttachSession, watched: Watched) -> Result<Ending, Failure> {
    let since = app.interrupts.now();
    let signals = Signals::listen();
    let target = session_path(&one.vm, &one.session, "/attach");
    let Upgraded { stream, early, .. } = app.interrupts.guard(since, app.client.upgrade(&target, request)).await?;
    let raw = watched.is_typed.then(RawMode::enter).transpose()?;
    let given = Given {
        purpose: Purpose::Session { keys: watched.keys },
        outlet: watched.outlet,
        escape: watched.escape,
        stdin: request.stdin,
        raw,
        terminal: watched.is_typed,
        signals,
        limit: Limit::none(),
    };
    let ending = attach::run(stream, early, given).await;
    terminal::restore();
    ending.map_err(|error| broken(&one.vm, &one.session, &error))
}

/// What every other end of looking at a session comes to.
pub(super) fn ended(one: &One, ending: Ending) -> Result<u8, Failure> {
    match ending {
        Ending::Told(Ended::Exited { .. } | Ended::Read) => Ok(0),
        Ending::Told(Ended::Failed { error }) => {
            let act = format!("follow {} in {}", one.session, one.vm);
            Err(Failure::from(error).during(&act, &one.session))
        }
        Ending::OutputClosed => Err(Failure::OutputClosed),
        Ending::Left { signal: Some(signal) } | Ending::GaveUp { signal } => Err(Failure::Interrupted { signal }),
        Ending::Left { signal: None } | Ending::TimedOut => {
            Err(ApiError::new(ErrorCode::Internal, "a session was left by keys nobody typed").into())
        }
    }
}
