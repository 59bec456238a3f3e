//! One exec from request to exit status; `banger exec` and `banger run` both end here.

use std::time::Duration;

use tokio::time::Instant;
use wire::api::{ApiError, ErrorCode};
use wire::attach::{Ended, ExecSpec};
use wire::duration;

use crate::attach::{self, Ending, Given, Purpose, Signals, StreamError};
use crate::client::{Upgraded, path};
use crate::cmd::App;
use crate::error::Failure;
use crate::limit::{self, Limit};
use crate::output::Outlet;
use crate::terminal::{self, RawMode, TerminalError};

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// One of its own, with our size.
    Own,
    /// Pipes.
    None,
}

/// How a command is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attachment {
    /// Whether it gets a terminal.
    pub(crate) terminal: Terminal,
    /// How long it may run.
    pub(crate) limit: Option<Duration>,
}

/// Runs `spec` in `vm` and returns its status. Where there is a workspace in the VM, `remark` is found out while the command
/// begins, and warned of before it is heard.
///
/// # Errors
/// When it did not run, or the connection to it broke.
pub(crate) async fn run(
    app: &App,
    vm: &str,
    mut spec: ExecSpec,
    attachment: Attachment,
    remark: impl Future<Output = Option<String>>,
) -> Result<u8, Failure> {
    let has_terminal = attachment.terminal == Terminal::Own;
    spec.terminal = has_terminal.then(terminal::size);
    if has_terminal {
        terminal::name(&mut spec.env);
    }
    let what = spec.argv.first().map_or_else(|| "a shell".to_owned(), Clone::clone);
    let since = app.interrupts.now();
    let signals = Signals::listen();
    let target = path("vms", vm, "/exec");
    let opening = async {
        let opened = app.client.upgrade(&target, &spec).await?;
        Ok((opened, Instant::now()))
    };
    let (Upgraded { stream, early, has_workspace }, began) = app.interrupts.guard(since, opening).await?;
    if has_workspace && let Some(remark) = remark.await {
        app.out.warn(&remark);
    }
    let is_raw = has_terminal && spec.stdin && terminal::stdin_is_terminal();
    let raw = is_raw.then(RawMode::enter).transpose()?;
    let limit = Limit::since(began, attachment.limit);
    let (purpose, outlet, stdin) = (Purpose::Exec, Outlet::Own, spec.stdin);
    let given = Given { purpose, outlet, escape: None, stdin, raw, terminal: has_terminal, signals, limit };
    let ending = attach::run(stream, early, given).await;
    terminal::restore();
    match ending {
        Ok(Ending::Told(Ended::Exited { status })) => Ok(status.shell_code()),
        Ok(Ending::Told(Ended::Failed { error })) => {
            Err(Failure::from(error).during(&format!("run {what} in {vm}"), &what))
        }
        Ok(Ending::TimedOut) => {
            let limit_ms = attachment.limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            app.out.note(&format!("{what} was ended in {vm}: it ran for {}", duration::human(limit_ms)));
            Ok(limit::STATUS)
        }
        Ok(Ending::OutputClosed) => Err(Failure::OutputClosed),
        Ok(Ending::GaveUp { signal }) => Err(Failure::Interrupted { signal }),
        // Said of sessions only.
        Ok(Ending::Told(Ended::Read) | Ending::Left { .. }) => Err(broken(vm, &what, &StreamError::Lost)),
        Err(error) => Err(broken(vm, &what, &error)),
    }
}

/// What a stream that broke is to whoever followed `what`.
pub(crate) fn broken(vm: &str, what: &str, error: &StreamError) -> Failure {
    let cause = crate::error::chain(error);
    let code = match error {
        StreamError::Output(_) => ErrorCode::Exhausted,
        StreamError::Terminal(_) => ErrorCode::Unsupported,
        StreamError::Lost | StreamError::Broken(_) | StreamError::Message(_) | StreamError::Ended(_) => {
            ErrorCode::DaemonUnavailable
        }
    };
    ApiError::new(code, format!("cannot follow {what} in {vm}: {cause}")).into()
}

impl From<TerminalError> for Failure {
    fn from(error: TerminalError) -> Failure {
        Failure::from_error(ErrorCode::Unsupported, &error)
    }
}
