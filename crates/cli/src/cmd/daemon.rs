//! `banger daemon`: the background process, looked at or asked to end. Never starts it.

use std::time::Duration;

use wire::api::{BASE, DaemonStatus, ErrorCode};

use crate::args::Record;
use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::Format;
use crate::table::{elapsed, pairs};

/// Below `banger daemon --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger daemon status
  banger daemon status --format json | jq -r .pid
  curl --unix-socket \"$(banger daemon socket)\" http://localhost/v1/vms
  banger daemon stop                    VMs go on; the next command starts it
  banger daemon unit                    a systemd unit that starts it at boot";

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
    Stop,
    /// Print the path of its API's socket, whether it runs or not
    Socket,
    /// Print a systemd user unit that starts it with this host, for run --restart
    ///
    /// banger doctor says whether it is set up, and the commands that do it.
    Unit,
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
            Verb::Status(args) => args.record.format,
            Verb::Stop | Verb::Socket | Verb::Unit => Format::Table,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Status(_) => status(app).await,
        Verb::Stop => stop(app).await,
        // Printed without the daemon.
        Verb::Unit => Ok(0),
        Verb::Socket => {
            app.out.line(&app.client.daemon().socket().display().to_string())?;
            Ok(0)
        }
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
    let daemon = app.client.daemon();
    app.interrupts.guard(app.interrupts.start(), app.client.shut_down()).await?;
    let deadline = clock::now() + STOP_TIMEOUT;
    while daemon.is_listening().await {
        if clock::now() > deadline {
            let message = format!("cannot stop the daemon: it still listens after {} s", STOP_TIMEOUT.as_secs());
            return Err(Failure::new(ErrorCode::Timeout, message).hint(format!("its log: {}", daemon.log().display())));
        }
        tokio::time::sleep(POLL).await;
    }
    app.out.note("The daemon is stopped.");
    Ok(0)
}
