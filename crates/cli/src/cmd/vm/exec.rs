//! `banger exec`: a command in a VM that runs, or a shell.

use std::ffi::OsString;
use std::time::Duration;

use wire::attach::ExecSpec;

use crate::cmd::App;
use crate::cmd::vm::attached::{self, Attachment, Terminal};
use crate::cmd::vm::session;
use crate::cmd::vm::workspace::{self, stale};
use crate::complete;
use crate::env_file::{self, EnvFile};
use crate::error::Failure;
use crate::output::{self, Format};
use crate::terminal;
use crate::values::{self, command_line};
use wire::api::{ErrorCode, PrepareWorkspace};

const EXAMPLES: &str = "\
Examples:
  banger exec -it web                   a shell
  banger exec web -- make test          a command; its status is ours
  banger exec web uname -r              the same, `--` left out
  tar c . | banger exec web -- tar x    what comes in goes to the command
  banger exec --auto-prepare web -- make
                                        with the repository as it is now
  banger exec --timeout 5m --env-file .env web -- ./fuzz

Left running, as a session (banger session --help):
  banger exec -d --name dev web -- npm run dev
  banger session attach web dev         what it printed, and what it prints now
  banger exec -dt --name sh web         a shell to come back to";

/// What to run, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Pass standard input on; always done when it is not a terminal
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Start it as a session, print the session's name and return; its input stays open
    #[arg(short, long, conflicts_with = "interactive")]
    detach: bool,
    /// What to call the session: a-z, 0-9 and -; else it is called s1, s2, ...
    #[arg(long, requires = "detach", value_parser = values::session)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) context: Context,
    /// Through a login shell
    #[arg(short, long)]
    pub(crate) login: bool,
    /// Bring the VM's workspace up to date first: banger workspace prepare
    #[arg(long)]
    auto_prepare: bool,
    /// Say nothing beside the command
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How to print a session, and how to tell a failure of ours
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// The command and its arguments; a shell when left out
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Where and as whom a command runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Context {
    /// Set a variable: NAME=VALUE, or NAME for its value here; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = values::env)]
    env: Vec<(String, String)>,
    /// Set the variables of a file: NAME=VALUE a line, # begins a comment; -e goes over it
    #[arg(long, value_name = "FILE", value_parser = env_file::read, value_hint = clap::ValueHint::FilePath)]
    env_file: Vec<EnvFile>,
    /// Run in this directory of the guest
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user of the guest: NAME or UID, with :GROUP
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// End the command after so long, with status 124: 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = values::limit, conflicts_with = "detach")]
    pub(crate) timeout: Option<Duration>,
}

impl Context {
    /// `argv`, run as asked for; with neither a terminal nor input yet.
    pub(crate) fn spec(&self, argv: Vec<String>) -> ExecSpec {
        let files = self.env_file.iter().flat_map(|EnvFile(variables)| variables);
        let env = files.chain(&self.env).cloned().collect();
        ExecSpec { argv, env, cwd: self.workdir.clone(), user: self.user.clone(), ..ExecSpec::default() }
    }
}

/// Runs it and returns its status.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let argv = command_line(&args.command)?;
    let stdin_is_terminal = terminal::stdin_is_terminal();
    if args.interactive && args.tty && !stdin_is_terminal {
        let failure =
            Failure::new(ErrorCode::BadRequest, "cannot give the command this terminal: standard input is none");
        return Err(failure.hint("leave -t out to pass standard input on as it is"));
    }
    if args.auto_prepare {
        let recorded = PrepareWorkspace { source: None, guest_path: None, force: false };
        workspace::source::prepare(app, &args.vm, &recorded, app.interrupts.start()).await?;
    }
    let (vm, is_asked) = (args.vm.clone(), !args.auto_prepare && !args.quiet);
    let remark = async { if is_asked { stale::remark(app, &vm).await } else { None } };
    if args.detach {
        return session::start(app, args, argv, remark).await;
    }
    let is_shell = argv.is_empty();
    let is_person = stdin_is_terminal && output::stdout_is_terminal();
    let terminal = if args.tty || (is_shell && is_person) { Terminal::Own } else { Terminal::None };
    let attachment = Attachment { terminal, limit: args.context.timeout };
    let spec = ExecSpec {
        stdin: args.interactive || !stdin_is_terminal || (is_shell && is_person),
        login: args.login,
        ..args.context.spec(argv)
    };
    attached::run(app, &vm, spec, attachment, remark).await
}
