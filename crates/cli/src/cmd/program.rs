//! Programs that work in front of the user, as parts of a command.

use wire::api::ErrorCode;

use crate::cmd::App;
use crate::error::{Failure, Io};
use crate::output::printable;
use crate::process::Attached;

/// Runs it to its end, or to the user's Ctrl-C, which it hears as well. `failed` is what it means that it fails.
pub(crate) async fn done(app: &App, program: Attached, failed: Option<&str>) -> Result<(), Failure> {
    let since = app.interrupts.start();
    let shown = program.shown();
    let run = tokio::task::spawn_blocking(move || program.run()).await;
    app.interrupts.check(since)?;
    let status = run.map_err(std::io::Error::other).and_then(|ran| ran).map_err(|error| {
        Failure::new(ErrorCode::OperationFailed, format!("cannot run {}: {}", printable(&shown), Io(error)))
    })?;
    if status.success() {
        return Ok(());
    }
    // "exit status: 3", "signal: 9 (SIGKILL)"
    let ended = || format!("{} ended with {}", printable(&shown), status.to_string().replace("exit status:", "status"));
    Err(Failure::new(ErrorCode::OperationFailed, failed.map_or_else(ended, str::to_owned)))
}
