//! `banger create`: a new VM, started unless told otherwise, with nothing run in it.

use wire::api::{BASE, Vm};

use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::{Level, Machine, defaults, print_one, wait_until_ready};
use crate::error::Failure;
use crate::operation;
use crate::output::Format;
use crate::table::elapsed;

const EXAMPLES: &str = "\
Examples:
  banger create --name web -p 8080:80
  banger create --name db --memory 4G --disk-size 20G --no-start";

/// What it is like.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Do not start it
    #[arg(long, conflicts_with = "wait")]
    no_start: bool,
    /// How ready it is before this returns: a command can run, the system has booted, SSH answers
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    wait: Level,
    #[command(flatten)]
    pub(crate) act: Act,
    #[command(flatten)]
    machine: Machine,
}

/// Creates it and prints its name.
pub(crate) async fn run(app: &App, mut args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let ensured = defaults::ensure(app, &mut args.machine, since).await;
    ensured.map_err(|failure| args.machine.not_created(failure))?;
    let began = clock::now();
    let request = args.machine.request(!args.no_start);
    let subject = args.machine.name.as_ref().map_or("new VM", |name| name.as_str());
    let begun = operation::perform(app, subject, since, app.client.send(&format!("{BASE}/vms"), &request))
        .await
        .map_err(|failure| args.machine.not_created(failure))?;
    if !args.no_start {
        if args.wait != Level::Agent {
            wait_until_ready(app, &begun.subject, args.wait, None, since).await?;
        }
        app.out.aside(&format!("ready in {}", elapsed(clock::now().duration_since(began))));
    }
    if app.out.format == Format::Json {
        let vm: Vm = app.client.get(&path("vms", &begun.subject, "")).await?;
        print_one(app, &vm)?;
    } else {
        app.out.line(&begun.subject)?;
    }
    Ok(0)
}
