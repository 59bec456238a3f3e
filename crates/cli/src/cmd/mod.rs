//! One file for each command; here is what they share, and the way from a parsed command line to an exit status.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use tokio::runtime::{Builder, Runtime};
use wire::api::{BASE, DaemonStatus, ErrorCode};

use crate::args::{Command, Verb};
use crate::client::Client;
use crate::daemon::{Daemon, Start};
use crate::error::{Failure, Statuses};
use crate::interrupt::Interrupts;
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::settings::Settings;

mod available;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod doctor;
pub(crate) mod each;
pub(crate) mod image;
pub(crate) mod internal;
pub(crate) mod kernel;
pub(crate) mod operation;
pub(crate) mod program;
pub(crate) mod template;
pub(crate) mod unit;
pub(crate) mod version;
pub(crate) mod vm;

/// What a command works with.
pub(crate) struct App {
    /// The daemon's API.
    pub(crate) client: Client,
    /// The printer.
    pub(crate) out: Output,
    /// What goes on.
    pub(crate) progress: Progress,
    /// Ctrl-C.
    pub(crate) interrupts: Interrupts,
    /// This program's file, as far as it is known.
    pub(crate) exe: Option<PathBuf>,
    /// Where programs are: `PATH`.
    pub(crate) programs: OsString,
}

/// The exit status of `command`; everything was said.
pub(crate) fn run(command: Command, settings: Settings) -> u8 {
    let way = Way::of(&command);
    let result = match command {
        Command::Version(args) => version::run(&args, way.output),
        Command::Completion(args) => completion::run(&args, &settings),
        Command::Config { verb: config::Verb::Path } => config::path(&settings, way.output),
        Command::Daemon { verb: daemon::Verb::Unit } => unit::print(&settings, way.output),
        command => with_daemon(&settings, &way, command),
    };
    match result {
        Ok(status) => status,
        Err(failure) => {
            let failure = way.name(failure);
            if let Failure::Told(error) = &failure {
                way.output.error(error);
            }
            way.statuses.of(&failure)
        }
    }
}

/// How a command prints and ends.
struct Way {
    /// What is being done to what, for failures that do not say it themselves.
    act: Option<(String, String)>,
    output: Output,
    statuses: Statuses,
    start: Start,
}

impl Way {
    fn of(command: &Command) -> Way {
        let act = act(command);
        let way = |format, quiet, statuses| Way {
            act: act.clone(),
            output: Output { format, quiet },
            statuses,
            start: Start::OnDemand,
        };
        let ordinary = |format, quiet| way(format, quiet, Statuses::Ordinary);
        match command {
            Command::Verb(verb) | Command::Vm { verb } => match verb.as_ref() {
                Verb::Run(args) => way(args.act.format, args.act.quiet, Statuses::Exec),
                Verb::Exec(args) => way(args.format, args.quiet, Statuses::Exec),
                Verb::Create(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Start(args) => ordinary(args.which.act.format, args.which.act.quiet),
                Verb::Stop(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Restart(args) => ordinary(args.which.act.format, args.which.act.quiet),
                Verb::Kill(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Rename(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Pause(args) | Verb::Resume(args) | Verb::Suspend(args) => {
                    ordinary(args.act.format, args.act.quiet)
                }
                Verb::Set(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Prune(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Commit(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Reset(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Delete(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Wait(args) => ordinary(args.act.format, args.act.quiet),
                Verb::List(args) => ordinary(args.records.format, false),
                Verb::Stats(args) => ordinary(args.record.format, false),
                Verb::Ports(args) => ordinary(args.record.format, false),
                Verb::Show(args) => ordinary(args.record.format, false),
                Verb::Cp(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Diff(args) => ordinary(args.format, false),
                Verb::Logs(args) => ordinary(args.format, false),
                Verb::Workspace { verb } => ordinary(verb.format(), verb.quiet()),
                Verb::Fork(args) => ordinary(args.act.format, args.act.quiet),
                Verb::Snapshot { verb } => ordinary(verb.format(), verb.quiet()),
                Verb::Session { verb } => way(verb.format(), verb.quiet(), verb.statuses()),
            },
            Command::Image { verb } => ordinary(verb.format(), verb.quiet()),
            Command::Kernel { verb } => ordinary(verb.format(), verb.quiet()),
            Command::Internal { verb } => ordinary(verb.act().format, verb.act().quiet),
            Command::Template { verb } => ordinary(verb.format(), verb.quiet()),
            Command::Op { verb } => ordinary(verb.format(), verb.quiet()),
            Command::Daemon { verb } => Way { start: Start::Never, ..ordinary(verb.format(), false) },
            Command::Config { verb } => ordinary(verb.format(), false),
            Command::Doctor(args) => ordinary(args.record.format, false),
            Command::Version(args) => ordinary(args.record.format, false),
            Command::Completion(_) => ordinary(Format::Table, false),
        }
    }
}

impl Way {
    fn name(&self, failure: Failure) -> Failure {
        match &self.act {
            Some((act, object)) => failure.during(act, object),
            None => failure,
        }
    }
}

/// What `command` does, after "cannot", and its object. Verbs on several things name each themselves.
fn act(command: &Command) -> Option<(String, String)> {
    let of = |verb: &str, object: &str| Some((format!("{verb} {object}"), object.to_owned()));
    match command {
        Command::Verb(verb) | Command::Vm { verb } => match verb.as_ref() {
            Verb::Run(_) => of("run", "a VM"),
            Verb::Create(_) => of("create", "a VM"),
            Verb::Start(_) => of("start", "VMs"),
            Verb::Stop(_) => of("stop", "VMs"),
            Verb::Restart(_) => of("restart", "VMs"),
            Verb::Kill(_) => of("kill", "VMs"),
            Verb::Rename(args) => of("rename", &args.vm),
            Verb::Pause(_) => of("pause", "VMs"),
            Verb::Suspend(_) => of("suspend", "VMs"),
            Verb::Fork(args) => of("fork", &args.vm),
            Verb::Snapshot { verb } => Some(verb.act()),
            Verb::Resume(_) => of("resume", "VMs"),
            Verb::Set(_) => of("change", "VMs"),
            Verb::Prune(_) => of("prune", "VMs"),
            Verb::Commit(args) => of("make an image of", &args.vm),
            Verb::Reset(_) => of("reset", "VMs"),
            Verb::Delete(_) => of("delete", "VMs"),
            Verb::Wait(args) => of("wait for", &args.vm),
            Verb::List(_) => of("list", "VMs"),
            Verb::Stats(_) => of("look at", "VMs"),
            Verb::Ports(_) => of("list the ports of", "VMs"),
            Verb::Show(args) => of("show", &args.vm),
            Verb::Exec(args) => of("run a command in", &args.vm),
            Verb::Cp(args) => {
                let (source, destination) = args.ends.shown();
                Some((format!("copy {source} to {destination}"), args.ends.there().vm.clone()))
            }
            Verb::Diff(args) => of("list the changes of", &args.vm),
            Verb::Logs(args) => of("print the log of", &args.vm),
            Verb::Session { verb } => Some(verb.act()),
            Verb::Workspace { verb } => Some(verb.act()),
        },
        Command::Image { verb } => Some(verb.act()),
        Command::Kernel { verb } => Some(verb.act()),
        Command::Internal { verb } => Some((verb.words().to_owned(), String::new())),
        Command::Template { verb } => Some(verb.act()),
        Command::Op { verb } => Some(verb.act()),
        Command::Doctor(_) => of("look at", "this host"),
        Command::Config { .. } => of("show", "the settings"),
        Command::Daemon { .. } | Command::Version(_) | Command::Completion(_) => None,
    }
}

fn with_daemon(settings: &Settings, way: &Way, command: Command) -> Result<u8, Failure> {
    let runtime = runtime()
        .map_err(|error| Failure::new(ErrorCode::Exhausted, format!("cannot begin: {}", crate::error::Io(error))))?;
    let client = Client::new(Daemon::of(settings, way.start)?);
    let result = runtime.block_on(async {
        let progress = Progress::new(way.output);
        let (interrupts, exe) = (Interrupts::listen(), settings.exe.clone());
        let app = App { client, out: way.output, progress, interrupts, exe, programs: settings.programs.clone() };
        dispatch(&app, settings, command).await
    });
    runtime.shutdown_background();
    result
}

async fn dispatch(app: &App, settings: &Settings, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Verb(verb) | Command::Vm { verb } => match *verb {
            Verb::Run(args) => vm::run::run(app, args).await,
            Verb::Create(args) => vm::create::run(app, args).await,
            Verb::Start(args) => vm::start::run(app, args).await,
            Verb::Stop(args) => vm::stop::run(app, args).await,
            Verb::Restart(args) => vm::restart::run(app, args).await,
            Verb::Kill(args) => vm::kill::run(app, args).await,
            Verb::Rename(args) => vm::rename::run(app, args).await,
            Verb::Pause(args) => vm::pause::run(app, "pause", args).await,
            Verb::Suspend(args) => vm::pause::run(app, "suspend", args).await,
            Verb::Fork(args) => vm::fork::run(app, args).await,
            Verb::Snapshot { verb } => vm::snapshot::run(app, verb).await,
            Verb::Resume(args) => vm::pause::run(app, "resume", args).await,
            Verb::Set(args) => vm::set::run(app, args).await,
            Verb::Prune(args) => vm::prune::run(app, args).await,
            Verb::Commit(args) => vm::commit::run(app, args).await,
            Verb::Reset(args) => vm::reset::run(app, args).await,
            Verb::Delete(args) => vm::delete::run(app, args).await,
            Verb::List(args) => vm::list::run(app, args).await,
            Verb::Stats(args) => vm::stats::run(app, args).await,
            Verb::Ports(args) => vm::ports::run(app, args).await,
            Verb::Show(args) => vm::show::run(app, args).await,
            Verb::Exec(args) => vm::exec::run(app, args).await,
            Verb::Cp(args) => vm::cp::run(app, args).await,
            Verb::Diff(args) => vm::diff::run(app, args).await,
            Verb::Logs(args) => vm::logs::run(app, args).await,
            Verb::Session { verb } => vm::session::run(app, verb).await,
            Verb::Workspace { verb } => vm::workspace::run(app, verb).await,
            Verb::Wait(args) => vm::wait::run(app, args).await,
        },
        Command::Image { verb } => image::run(app, verb).await,
        Command::Kernel { verb } => kernel::run(app, verb).await,
        Command::Internal { verb } => internal::run(app, settings, verb).await,
        Command::Template { verb } => template::run(app, verb).await,
        Command::Op { verb } => operation::run(app, verb).await,
        Command::Daemon { verb } => daemon::run(app, verb).await,
        Command::Doctor(args) => doctor::run(app, args).await,
        Command::Config { .. } => config::show(app).await,
        Command::Version(_) | Command::Completion(_) => Ok(0),
    }
}

/// The last line of the help page that `arguments` ask for, where it depends on this host and a daemon is there to ask.
pub(crate) fn help_line(arguments: &[OsString], settings: &Settings) -> Option<String> {
    let words = arguments.iter().skip(1).take_while(|argument| *argument != "--").filter_map(|word| word.to_str());
    let verb = words.filter(|word| !word.starts_with('-')).find(|word| *word != "vm")?;
    if !matches!(verb, "run" | "create") {
        return None;
    }
    let client = Client::new(Daemon::of(settings, Start::Never).ok()?);
    let status: DaemonStatus = runtime().ok()?.block_on(client.get(&format!("{BASE}/status"))).ok()?;
    Some(config::defaults_line(&status))
}

/// A runtime on this thread; made only when the daemon is needed.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
