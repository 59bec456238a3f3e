//! `banger daemon`: the background process, looked at or asked to end. Never starts it.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use wire::api::{BASE, DaemonStatus, ErrorCode};

use crate::args::Record;
use crate::clock;
use crate::cmd::App;
use crate::error::{Failure, Io};
use crate::output::Format;
use crate::table::{elapsed, pairs};

/// Below `banger daemon --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger daemon status
  banger daemon stop                    VMs go on; the next command starts it";

/// How long it may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at whether it is gone.
const POLL: Duration = Duration::from_millis(20);

/// What can be done with it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Show whether it runs, and where it keeps what
    Status(Args),
    /// End it; running VMs keep running
    Stop(Args),
}

/// How to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    record: Record,
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::Status(args) | Verb::Stop(args) => args.record.format,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Status(_) => status(app).await,
        Verb::Stop(_) => stop(app).await,
    }
}

async fn ask(app: &App) -> Result<DaemonStatus, Failure> {
    app.interrupts.guard(app.interrupts.start(), app.client.get(&format!("{BASE}/status"))).await
}

async fn status(app: &App) -> Result<u8, Failure> {
    let status = ask(app).await?;
    let log = app.client.daemon().log();
    let table = |status: &DaemonStatus| {
        pairs(&[
            ("daemon", format!("{} (commit {})", status.version.version, status.version.commit)),
            ("pid", status.pid.to_string()),
            ("mode", status.mode.clone()),
            ("socket", status.socket.clone()),
            ("state", status.state_dir.clone()),
            ("log", log.display().to_string()),
            ("up", elapsed(Duration::from_millis(status.uptime_ms))),
            ("running VMs", status.running_vms.to_string()),
        ])
    };
    app.out.record(&status, table, |status| format!("{}\n", status.pid))?;
    Ok(0)
}

async fn stop(app: &App) -> Result<u8, Failure> {
    let status = ask(app).await?;
    let failed = |why: String| Failure::new(ErrorCode::OperationFailed, format!("cannot stop the daemon: {why}"));
    let pid =
        i32::try_from(status.pid).ok().and_then(Pid::from_raw).ok_or_else(|| failed("it has no pid".to_owned()))?;
    kill_process(pid, Signal::TERM).map_err(|errno| failed(Io::from(errno).to_string()))?;
    let deadline = clock::now() + STOP_TIMEOUT;
    while test_kill_process(pid).is_ok() {
        if clock::now() > deadline {
            return Err(failed(format!("process {} did not end within {} s", status.pid, STOP_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
    app.out.record(&status, |_| "the daemon is stopped\n".to_owned(), |status| format!("{}\n", status.pid))?;
    Ok(0)
}
