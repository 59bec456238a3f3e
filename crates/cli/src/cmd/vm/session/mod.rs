//! Verbs about sessions, one file each, and how `banger exec -d` starts one.

use wire::agent::session::is_session_name;
use wire::api::{Session, SessionState, StartSession};
use wire::attach::ExecSpec;

use crate::client::{encode, path};
use crate::cmd::App;
use crate::cmd::each::{self, Thing};
use crate::cmd::vm::exec;
use crate::complete;
use crate::error::{Failure, Statuses};
use crate::output::{Format, printable};
use crate::terminal;
use crate::values;

mod attach;
mod delete;
mod kill;
mod list;
mod logs;
mod send;
mod stop;
pub(crate) mod tooling;

/// Below `banger session --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger exec -d --name dev web -- npm run dev
  banger session list web
  banger session attach web dev         ctrl-p ctrl-q leaves it running
  banger session logs -f web dev
  banger session send web dev --enter 'rs'
  banger session stop web dev";

/// What can be done with sessions.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List a VM's sessions
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show what a session printed and prints, and type into it
    Attach(attach::Args),
    /// Print what a session printed
    Logs(logs::Args),
    /// Give a session input
    Send(send::Args),
    /// End sessions; one that does not end is killed after a while
    Stop(stop::Args),
    /// Send sessions a signal
    Kill(kill::Args),
    /// Forget sessions that have ended
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
}

/// One session.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// The session, by name
    #[arg(value_parser = values::session, add = complete::sessions())]
    pub(crate) session: String,
}

/// Some sessions of one VM.
#[derive(Debug, clap::Args)]
pub(crate) struct Several {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Sessions, by name
    #[arg(required = true, value_name = "SESSION", value_parser = values::session, add = complete::sessions())]
    pub(crate) sessions: Vec<String>,
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::List(args) => args.record.format,
            Verb::Attach(args) => args.format,
            Verb::Logs(args) => args.format,
            Verb::Send(args) => args.record.format,
            Verb::Stop(args) => args.act.format,
            Verb::Kill(args) => args.act.format,
            Verb::Delete(args) => args.act.format,
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::List(_) | Verb::Logs(_) | Verb::Send(_) => false,
            Verb::Attach(args) => args.quiet,
            Verb::Stop(args) => args.act.quiet,
            Verb::Kill(args) => args.act.quiet,
            Verb::Delete(args) => args.act.quiet,
        }
    }

    /// Which statuses it ends with.
    pub(crate) fn statuses(&self) -> Statuses {
        if matches!(self, Verb::Attach(_)) { Statuses::Exec } else { Statuses::Ordinary }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        let of = |verb: &str, object: &str| (format!("{verb} {object}"), object.to_owned());
        match self {
            Verb::List(list::Args { vm: Some(vm), .. }) => of("list the sessions of", vm),
            Verb::List(_) => of("list", "sessions"),
            Verb::Attach(args) => of("attach to", &args.one.session),
            Verb::Logs(args) => of("print the output of", &args.one.session),
            Verb::Send(args) => of("send to", &args.one.session),
            Verb::Stop(_) => of("stop", "sessions"),
            Verb::Kill(_) => of("signal", "sessions"),
            Verb::Delete(_) => of("delete", "sessions"),
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::List(args) => list::run(app, args).await,
        Verb::Attach(args) => attach::run(app, args).await,
        Verb::Logs(args) => logs::run(app, args).await,
        Verb::Send(args) => send::run(app, args).await,
        Verb::Stop(args) => stop::run(app, args).await,
        Verb::Kill(args) => kill::run(app, args).await,
        Verb::Delete(args) => delete::run(app, args).await,
    }
}

/// Starts what `banger exec -d` asks for, and prints the session's name. Meanwhile `remark` is found out, which is warned
/// of.
pub(crate) async fn start(
    app: &App,
    args: exec::Args,
    argv: Vec<String>,
    remark: impl Future<Output = Option<String>>,
) -> Result<u8, Failure> {
    let what = argv.first().map_or_else(|| "a shell".to_owned(), Clone::clone);
    let terminal = args.tty.then(terminal::size);
    let mut command = ExecSpec { terminal, stdin: true, login: args.login, ..args.context.spec(argv) };
    if args.tty {
        terminal::name(&mut command.env);
    }
    let request = StartSession { name: args.name, command };
    let target = path("vms", &args.vm, "/sessions");
    let starting = app.interrupts.guard(app.interrupts.start(), app.client.send::<_, Session>(&target, &request));
    let (started, remark) = tokio::join!(starting, remark);
    if let Some(remark) = remark {
        app.out.warn(&remark);
    }
    let session = started.map_err(|failure| failure.during(&format!("run {what} in {}", args.vm), &what))?;
    let (vm, name) = (&args.vm, printable(&session.name));
    let line = |_: &Session| format!("{name}\n");
    app.out.record(&session, line, line)?;
    app.out.aside(&format!("{what} goes on in {vm}: banger session attach {vm} {name}"));
    Ok(0)
}

/// The path of a session, or of what is below it. A name is checked before it gets here.
fn session_path(vm: &str, session: &str, tail: &str) -> String {
    path("vms", vm, &format!("/sessions/{}{tail}", encode(session)))
}

/// Does `act`, which is called `verb`, to each of the sessions; its argument is a session's name.
async fn each<A>(app: &App, verb: &str, several: &Several, act: impl Fn(String) -> A) -> Result<u8, Failure>
where
    A: Future<Output = Result<Session, Failure>>,
{
    let things = several.sessions.iter().filter(|name| is_session_name(name));
    let things = things.map(|name| Thing { id: name.clone(), name: name.clone() }).collect();
    each::act(app, verb, "session", things, &several.sessions, async |thing| {
        app.interrupts.guard(app.interrupts.start(), act(thing.name)).await.map(drop)
    })
    .await
}

/// What a session is doing, in a word or two.
fn state(session: &Session) -> String {
    match (session.state, session.exit_status) {
        (SessionState::Running, _) => "running".to_owned(),
        (SessionState::Ended, Some(status)) => format!("ended ({status})"),
        (SessionState::Ended, None) => "ended".to_owned(),
    }
}
