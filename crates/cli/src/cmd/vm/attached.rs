//! One exec from request to exit status; `banger exec` and `banger run` both end here.

use wire::api::{ApiError, ErrorCode};
use wire::attach::{Ended, ExecSpec};

use crate::attach::{self, Ending, Given, Purpose, Signals, StreamError};
use crate::client::path;
use crate::cmd::App;
use crate::error::Failure;
use crate::terminal::{self, RawMode, TerminalError};

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// One of its own, with our size.
    Own,
    /// Pipes.
    None,
}

/// Runs `spec` in `vm` and returns its status.
///
/// # Errors
/// When it did not run, or the connection to it broke.
pub(crate) async fn run(app: &App, vm: &str, mut spec: ExecSpec, wanted: Terminal) -> Result<u8, Failure> {
    let has_terminal = wanted == Terminal::Own;
    spec.terminal = has_terminal.then(terminal::size);
    let what = spec.argv.first().map_or_else(|| "a shell".to_owned(), Clone::clone);
    let since = app.interrupts.now();
    let signals = Signals::listen();
    let target = path("vms", vm, "/exec");
    let (stream, early) = app.interrupts.guard(since, app.client.upgrade(&target, &spec)).await?;
    let is_raw = has_terminal && spec.stdin && terminal::stdin_is_terminal();
    let raw = is_raw.then(RawMode::enter).transpose()?;
    let given = Given { purpose: Purpose::Exec, escape: None, stdin: spec.stdin, raw, terminal: has_terminal, signals };
    let ending = attach::run(stream, early, given).await;
    terminal::restore();
    match ending {
        Ok(Ending::Told(Ended::Exited { status })) => Ok(status.shell_code()),
        Ok(Ending::Told(Ended::Failed { error })) => {
            Err(Failure::from(error).during(&format!("run {what} in {vm}"), &what))
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
