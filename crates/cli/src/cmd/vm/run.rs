//! `banger run`: from nothing to a command in a new VM, and back.
//!
//! ```text
//! look at the workspace ─► image, kernel ─► create and start ─┬─► wait until ready ─┬─► command or shell ─► with --rm: delete
//!                                                             └─► copy the files ───┘
//! ```
//! What comes before the command either succeeds or leaves no VM, except that a guest which is slow to be ready is kept
//! to be looked at. Ctrl-C before the command removes the VM; during the command it is the command's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wire::api::{BASE, Begun, ErrorCode, TreeDone, Unit, Vm, Workspace as Recorded};
use wire::attach::ExecSpec;

use crate::args::Act;
use crate::client::{encode, path, within};
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::attached::{self, Terminal};
use crate::cmd::vm::defaults::{self, TIDY_TIMEOUT};
use crate::cmd::vm::exec::Context;
use crate::cmd::vm::{Level, Machine, print_one, wait_until_ready};
use crate::error::Failure;
use crate::interrupt::Since;
use crate::operation::{self, OnInterrupt};
use crate::output::{self, Format};
use crate::progress::TICK;
use crate::table::elapsed;
use crate::terminal;
use crate::values::command_line;
use crate::workspace::{self, Workspace};

const EXAMPLES: &str = "\
Examples:
  banger run                            a shell in a new VM
  banger run . -- make test             this repository at /root/repo, and a
                                        command there
  banger run --rm -- sh -c 'exit 42'    its status is ours; the VM is gone then
  banger run --name web -d -p 8080:80   a VM that stays, nothing attached

Only files that git tracks travel, with the content they have now.";

/// What to run, and in what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A directory in a git work tree, whose tracked files go to /root/repo
    #[arg(value_hint = clap::ValueHint::DirPath)]
    path: Option<PathBuf>,
    /// Delete the VM at the end, whatever the end is
    #[arg(long)]
    rm: bool,
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
    /// The command and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    machine: Machine,
}

/// What is attached once the VM is ready.
#[derive(Debug)]
enum Attached {
    Nothing,
    Command(Vec<String>),
    Shell,
}

/// A VM on its way: what becomes of it if the rest fails.
enum Broken {
    /// It is not what was asked for.
    Remove(Failure),
    /// Somebody will want to look at it.
    Keep(Failure),
}

/// Runs all of it; the status is the command's.
pub(crate) async fn run(app: &App, mut args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let attached = attached(&args)?;
    let workspace = args.path.as_deref().map(Workspace::inspect).transpose()?;
    defaults::ensure(app, &args.machine, since).await.map_err(|failure| args.machine.not_created(failure))?;
    let began = clock::now();
    let begun =
        create(app, &args, workspace.as_ref(), since).await.map_err(|failure| args.machine.not_created(failure))?;
    let vm = begun.subject.clone();
    let has_workspace = workspace.is_some();
    let prepared = prepare(app, &args, &vm, workspace, since).await;
    if let Err(broken) = prepared {
        return Err(give_up(app, &args, &vm, broken).await);
    }
    app.out.aside(&format!("ready in {}", elapsed(clock::now().duration_since(began))));
    let spec = match attached {
        Attached::Nothing => return leave_running(app, &args, &vm).await,
        Attached::Command(argv) => exec_spec(&mut args, argv, has_workspace),
        Attached::Shell => exec_spec(&mut args, Vec::new(), has_workspace),
    };
    let terminal = terminal_for(&args, &spec);
    let ended = attached::run(app, &vm, spec, terminal).await;
    if args.rm {
        delete(app, &vm).await?;
    } else {
        say_how_to_go_on(app, &vm);
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

async fn create(app: &App, args: &Args, workspace: Option<&Workspace>, since: Since) -> Result<Begun, Failure> {
    let request = args.machine.request(true);
    let subject = args.machine.name.as_ref().map_or("new VM", |name| name.as_str());
    operation::perform(app, subject, since, app.client.send(&format!("{BASE}/vms"), &request)).await
}

/// Brings a started VM to where its command can run.
async fn prepare(app: &App, args: &Args, vm: &str, workspace: Option<Workspace>, since: Since) -> Result<(), Broken> {
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
    let copied = async {
        match workspace {
            Some(workspace) => copy(app, vm, workspace, since).await.map_err(Broken::Remove),
            None => Ok(()),
        }
    };
    tokio::try_join!(ready, copied).map(drop)
}

/// Sends the files of `workspace`.
async fn copy(app: &App, vm: &str, workspace: Workspace, since: Since) -> Result<(), Failure> {
    let mut track = app.progress.track(vm);
    track.stage(&format!("copy {} files", workspace.file_count()));
    let total = workspace.bytes;
    let sent = Arc::new(AtomicU64::new(0));
    let body = workspace.stream(Arc::clone(&sent))?;
    let target = format!("{}?path={}", path("vms", vm, "/tree"), encode(workspace::GUEST_PATH));
    let put = async {
        let mut put = std::pin::pin!(app.client.put_tar::<TreeDone>(&target, body));
        loop {
            tokio::select! {
                done = &mut put => return done,
                () = tokio::time::sleep(TICK) => {
                    track.amount(sent.load(Ordering::Relaxed), Some(total), Unit::Bytes);
                    track.tick();
                }
            }
        }
    };
    let sent = app.interrupts.guard(since, put).await;
    sent.map_err(|failure| failure.during(&format!("copy the workspace to {vm}"), workspace::GUEST_PATH))?;
    track.finish();
    Ok(())
}

/// What becomes of a VM that did not get as far as its command.
async fn give_up(app: &App, args: &Args, vm: &str, broken: Broken) -> Failure {
    let (failure, is_kept) = match broken {
        Broken::Remove(failure) => (failure, false),
        Broken::Keep(failure) => (failure, !args.rm),
    };
    if is_kept {
        return failure
            .hint(format!("{vm} is kept: banger logs {vm} shows its console, banger delete {vm} removes it"));
    }
    match delete(app, vm).await {
        Ok(()) => {
            app.out.note(&format!("{vm} is deleted again"));
            failure
        }
        Err(Failure::Told(error)) => {
            app.out.tell(&error);
            failure
        }
        Err(_) => failure,
    }
}

/// Deletes `vm` with a deadline of its own; Ctrl-C does not reach it, a second one gives up waiting.
async fn delete(app: &App, vm: &str) -> Result<(), Failure> {
    let since = app.interrupts.now();
    let mut track = app.progress.track(vm);
    track.stage("delete");
    let deleted = async {
        let begun: Begun = app.client.delete(&path("vms", vm, "")).await?;
        operation::follow(app, &begun.operation, &mut track, since, OnInterrupt::Ignore).await.map(drop)
    };
    let deleted = app.interrupts.guard_twice(since, deleted);
    let left = || format!("delete it with: banger delete {vm}");
    match within(TIDY_TIMEOUT, deleted).await {
        Some(Ok(())) => {
            track.finish();
            Ok(())
        }
        Some(Err(failure)) if failure.code() == Some(ErrorCode::NotFound) => Ok(()),
        Some(Err(failure)) => Err(failure.hint(left())),
        None => {
            let message = format!("cannot delete {vm}: it took more than {} s", TIDY_TIMEOUT.as_secs());
            Err(Failure::new(ErrorCode::Timeout, message).hint(left()))
        }
    }
}

fn exec_spec(args: &mut Args, argv: Vec<String>, has_workspace: bool) -> ExecSpec {
    let cwd = args.context.workdir.take();
    ExecSpec {
        argv,
        env: std::mem::take(&mut args.context.env),
        cwd: cwd.or_else(|| has_workspace.then(|| workspace::GUEST_PATH.to_owned())),
        user: args.context.user.take(),
        terminal: None,
        stdin: terminal::stdin_may_be_read(),
        login: false,
    }
}

fn terminal_for(args: &Args, spec: &ExecSpec) -> Terminal {
    let all =
        spec.stdin && terminal::stdin_is_terminal() && output::stdout_is_terminal() && output::stderr_is_terminal();
    let is_wanted = args.tty || spec.argv.is_empty() || all;
    if is_wanted && !args.no_tty { Terminal::Own } else { Terminal::None }
}

/// Nothing to attach: the VM's name is the answer.
async fn leave_running(app: &App, args: &Args, vm: &str) -> Result<u8, Failure> {
    if args.rm {
        delete(app, vm).await?;
        return Ok(0);
    }
    if app.out.format == Format::Json {
        let record: Vm = app.client.get(&path("vms", vm, "")).await?;
        print_one(app, &record)?;
    } else {
        app.out.line(vm)?;
    }
    say_how_to_go_on(app, vm);
    Ok(0)
}

fn say_how_to_go_on(app: &App, vm: &str) {
    app.out.aside(&format!("{vm} is still running; a shell in it: banger exec -it {vm}"));
    app.out.aside(&format!("off: banger stop {vm}, gone: banger delete {vm}"));
}
