//! `banger run`: from nothing to a command in a new VM, and back.
//!
//! ```text
//! look at the workspace ─► image, kernel ─► create and start ─┬─► wait until ready ───┬─► tools ─► command or shell ─► with --rm: delete
//!                                                             └─► send the workspace ─┘
//! ```
//! What comes before the command either succeeds or leaves no VM, except that a guest which does not answer is kept to be
//! looked at. Ctrl-C before the command removes the VM; during the command it is the command's.

use std::ffi::OsString;
use std::path::PathBuf;

use wire::api::{BASE, Begun, ErrorCode, Vm, WORKSPACE_PATH};
use wire::attach::ExecSpec;

use self::ending::Broken;
use self::workspace::Workspace;
use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::attached::{self, Attachment, Terminal};
use crate::cmd::vm::exec::Context;
use crate::cmd::vm::workspace::source::Choice;
use crate::cmd::vm::{Level, Machine, defaults, print_one, wait_until_ready};
use crate::error::Failure;
use crate::interrupt::Since;
use crate::operation;
use crate::output::{self, Format};
use crate::table::elapsed;
use crate::terminal;
use crate::values::command_line;

mod container;
mod ending;
mod tooling;
mod workspace;

const EXAMPLES: &str = "\
Examples:
  banger run                            a shell in a new VM
  banger run . -- make test             this repository at /root/repo, and a
                                        command there
  banger run --rm -- sh -c 'exit 42'    its status is ours; the VM is gone then
  banger run . --branch try --nat       a shell in it, on a branch of its own
  banger run . --dry-run                what would travel, and nothing else
  banger run --name web -d -p 8080:80   a VM that stays, nothing attached
  banger run --image alpine -- uname    an image of a registry, pulled once; its
                                        own command where none is given

Only files that git tracks travel, with the content they have now. The work
comes back with: banger workspace export";

/// What to run, and in what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A directory in a git work tree, which goes to /root/repo
    #[arg(value_hint = clap::ValueHint::DirPath)]
    path: Option<PathBuf>,
    /// Delete the VM at the end, whatever the end is; changes in its workspace are kept as a patch
    #[arg(long)]
    rm: bool,
    /// With --rm, drop changes in its workspace
    #[arg(long, requires = "rm")]
    discard: bool,
    /// Leave it running with nothing attached, and print its name
    #[arg(short, long, conflicts_with_all = ["rm", "command"])]
    detach: bool,
    /// How ready it is before the command runs: the agent answers, the system has booted, SSH answers
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    wait: Level,
    #[command(flatten)]
    context: Context,
    /// Give the command a terminal; done by itself when everything here is one
    #[arg(short, long)]
    tty: bool,
    /// Give it none
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,
    #[command(flatten)]
    pub(crate) act: Act,
    /// Show which files would travel, and make nothing
    #[arg(long, requires = "path")]
    dry_run: bool,
    /// Do not install the tools that the repository pins, nor run its container's postCreateCommand
    #[arg(long)]
    no_bootstrap: bool,
    /// The command and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    machine: Machine,
}

impl Args {
    /// What makes no sense together and clap cannot tell.
    pub(crate) fn misuse(&self) -> Option<String> {
        self.choice.misuse()
    }
}

/// What is attached once the VM is ready.
#[derive(Debug)]
enum Attached {
    Nothing,
    Command(Vec<String>),
    Shell,
}

impl Attached {
    /// What the image runs, `usual`, where nothing else is asked for.
    fn or_usual(self, args: &Args, usual: Vec<String>) -> Attached {
        match self {
            Attached::Nothing | Attached::Shell if !args.detach && !usual.is_empty() => Attached::Command(usual),
            asked => asked,
        }
    }
}

/// Runs all of it; the status is the command's.
pub(crate) async fn run(app: &App, mut args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let attached = attached(&args)?;
    let workspace = match &args.path {
        Some(path) => Some(Workspace::inspect(app, &args, path, since).await?),
        None => None,
    };
    if let Some(workspace) = workspace.as_ref().filter(|_| args.dry_run) {
        workspace.print(app)?;
        return Ok(0);
    }
    if let Some(workspace) = &workspace {
        workspace.check_tools(&args, &attached)?;
        container::adopt(app, &mut args.machine, &workspace.found, since).await?;
    }
    let ensured = defaults::ensure(app, &mut args.machine, since).await;
    let usual = ensured.map_err(|failure| args.machine.not_created(failure))?;
    let attached = attached.or_usual(&args, usual);
    let began = clock::now();
    let begun = create(app, &args, since).await.map_err(|failure| args.machine.not_created(failure))?;
    let vm = begun.subject.clone();
    let prepared = async {
        prepare(app, &args, &vm, workspace.as_ref(), since).await?;
        match &workspace {
            Some(workspace) => tooling::set_up(app, &args, &attached, &vm, &workspace.found, since).await,
            None => Ok(()),
        }
    };
    if let Err(broken) = prepared.await {
        return Err(ending::give_up(app, &vm, broken).await);
    }
    app.out.aside(&format!("ready in {}", elapsed(clock::now().duration_since(began))));
    let argv = match attached {
        Attached::Nothing => return leave_running(app, &args, &vm, workspace.is_some()).await,
        Attached::Command(argv) => argv,
        Attached::Shell => Vec::new(),
    };
    let end = ending::End { removes: args.rm, discards: args.discard, has_workspace: workspace.is_some() };
    let (spec, attachment) = command(args, argv, workspace.is_some());
    let ended = attached::run(app, &vm, spec, attachment, async { None }).await;
    if end.removes {
        ending::remove(app, &vm, end).await?;
    } else {
        ending::remind(app, &vm, attachment.terminal).await;
    }
    ended
}

/// What the command line and the terminal ask for.
fn attached(args: &Args) -> Result<Attached, Failure> {
    if !args.command.is_empty() {
        return Ok(Attached::Command(command_line(&args.command)?));
    }
    let is_person = terminal::stdin_is_terminal() && output::stdout_is_terminal() && !args.no_tty;
    Ok(if !args.detach && (is_person || args.tty) { Attached::Shell } else { Attached::Nothing })
}

async fn create(app: &App, args: &Args, since: Since) -> Result<Begun, Failure> {
    let request = args.machine.request(true);
    let subject = args.machine.name.as_ref().map_or("new VM", |name| name.as_str());
    operation::perform(app, subject, since, app.client.send(&format!("{BASE}/vms"), &request)).await
}

/// Brings a started VM to where its command can run.
async fn prepare(app: &App, args: &Args, vm: &str, workspace: Option<&Workspace>, since: Since) -> Result<(), Broken> {
    let ready = async {
        if args.wait == Level::Agent {
            return app.interrupts.check(since).map_err(Broken::Remove);
        }
        match wait_until_ready(app, vm, args.wait, None, since).await {
            Ok(_) => Ok(()),
            Err(failure @ Failure::Interrupted { .. }) => Err(Broken::Remove(failure)),
            Err(failure) => Err(Broken::Keep(failure)),
        }
    };
    let sent = async {
        match workspace {
            Some(workspace) => workspace.send(app, vm, since).await.map_err(Broken::of_workspace),
            None => Ok(()),
        }
    };
    let (mut ready, mut sent) = (std::pin::pin!(ready), std::pin::pin!(sent));
    tokio::select! {
        ended = &mut ready => match ended {
            Err(broken @ Broken::Keep(_)) => Err(broken),
            // An interrupt reaches both, and what is being sent is taken back before the VM goes.
            Ok(()) => sent.await,
            Err(broken) => sent.await.and(Err(broken)),
        },
        ended = &mut sent => match ended {
            Ok(()) => ready.await,
            Err(broken) => Err(broken),
        },
    }
}

/// What is run, and how it is attached.
fn command(args: Args, argv: Vec<String>, has_workspace: bool) -> (ExecSpec, Attachment) {
    let limit = args.context.timeout;
    let mut spec = ExecSpec { stdin: terminal::stdin_may_be_read(), ..args.context.spec(argv) };
    if has_workspace {
        spec.cwd.get_or_insert_with(|| WORKSPACE_PATH.to_owned());
    }
    let all =
        spec.stdin && terminal::stdin_is_terminal() && output::stdout_is_terminal() && output::stderr_is_terminal();
    let is_wanted = args.tty || spec.argv.is_empty() || all;
    let terminal = if is_wanted && !args.no_tty { Terminal::Own } else { Terminal::None };
    (spec, Attachment { terminal, limit })
}

/// Nothing to attach: the VM's name is the answer.
async fn leave_running(app: &App, args: &Args, vm: &str, has_workspace: bool) -> Result<u8, Failure> {
    if args.rm {
        ending::delete(app, vm, has_workspace).await?;
        return Ok(0);
    }
    if app.out.format == Format::Json {
        let record: Vm = app.client.get(&path("vms", vm, "")).await?;
        print_one(app, &record)?;
    } else {
        app.out.line(vm)?;
    }
    ending::say_how_to_go_on(app, vm);
    Ok(0)
}

/// A failure of the command line's making.
fn refused(message: String) -> Failure {
    Failure::new(ErrorCode::BadRequest, message)
}
