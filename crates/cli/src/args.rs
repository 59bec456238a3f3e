//! The command line, whole: every group, every verb, and the pages `--help` shows.
//!
//! The verbs people type all day are one enum, [`Verb`], reachable with and without the noun `vm`.

use clap::{Args, Parser, Subcommand};

use crate::cmd;
use crate::output::Format;

/// `banger --help`, below the usage line. A test holds it to the commands there are.
const LANDING: &str = "\
Most of the time:
  banger run                    a new VM and a shell in it
  banger run . -- make test     this git repository in a new VM, and a command
  banger run --rm -- CMD        the same, and the VM is gone afterwards
  banger exec -it web           a shell in a VM that runs

VMs (each also as `banger vm ...`):
  run       Create a VM, start it, run a command or a shell in it
  create    Create a VM without running anything in it
  start     Start VMs                      stop      Stop VMs
  restart   Stop and start VMs             delete    Remove VMs and disks (rm)
  pause     Let VMs stand still            resume    Let paused VMs go on
  suspend   Put VMs' memory on the disk    fork      Copy VMs that run
  snapshot  Keep what a VM is now          set       Change what VMs have
  kill      End VMs without asking
  rename    Give a VM another name         prune     Delete all VMs that are off
  stats     Show what VMs use              ports     Show where VMs are reached
  list      List VMs (ls, ps)              show      Show all about one VM
  exec      Run a command in a VM          logs      Print a VM's console
  wait      Wait until a VM is ready       session   Commands left running
  cp        Copy files in and out          diff      List changes to the system
  reset     Drop changes to the system     commit    Make an image of a VM
  workspace Work on a repository in it

What VMs are made of:
  image     List, show, build and delete images
  kernel    List, show, import and delete kernels
  template  List and remove what new VMs go on from instead of booting

This machine:
  doctor      Say what works here and what would improve it
  config      Show the settings, and where each comes from
  op          List, watch and cancel operations
  daemon      Show or stop the background process
  version     Show which banger this is
  completion  Print a shell's completion script

Every command explains itself: banger COMMAND --help";

const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}{after-help}

Options:
{options}
";

/// Disposable virtual machines for development: one command boots a real Linux VM and runs a command in it.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    bin_name = "banger",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = LANDING,
    help_template = TEMPLATE,
    subcommand_value_name = "COMMAND",
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A group, or a verb about VMs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A verb about VMs.
    #[command(flatten)]
    Verb(Box<Verb>),
    /// Create, use and delete VMs
    ///
    /// A VM is one disk, an image it shares with others, and a kernel. It keeps its disk when it stops, and is gone
    /// when it is deleted. Every verb also works without `vm`: `banger start web`.
    #[command(after_help = cmd::vm::EXAMPLES, arg_required_else_help = true)]
    Vm {
        /// What to do.
        #[command(subcommand)]
        verb: Box<Verb>,
    },
    /// List, show, build and delete images
    ///
    /// An image is a read-only root filesystem that any number of VMs share. `banger run` builds the default one when
    /// it is missing.
    #[command(after_help = cmd::image::EXAMPLES, arg_required_else_help = true)]
    Image {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::image::Verb,
    },
    /// List, show, import and delete kernels
    ///
    /// A kernel is what a VM boots, with its modules. `banger run` imports Debian's cloud kernel when there is none.
    #[command(after_help = cmd::kernel::EXAMPLES, arg_required_else_help = true)]
    Kernel {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::kernel::Verb,
    },
    /// List and remove what new VMs go on from instead of booting
    ///
    /// After the first boot of a kind of VM its like is booted once more, and saved; later ones go on from there.
    #[command(visible_alias = "templates", after_help = cmd::template::EXAMPLES, arg_required_else_help = true)]
    Template {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::template::Verb,
    },
    /// List, show, watch and cancel operations
    ///
    /// Everything that takes several steps (starting a VM, building an image) is an operation with an id, which
    /// messages mention in parentheses. It goes on when you look away, and can be watched again.
    #[command(visible_alias = "ops", after_help = cmd::operation::EXAMPLES, arg_required_else_help = true)]
    Op {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::operation::Verb,
    },
    /// Show or stop the background process
    ///
    /// `bangerd` starts with the first command that needs it, and ends by itself when idle with no VM running.
    #[command(after_help = cmd::daemon::EXAMPLES, arg_required_else_help = true)]
    Daemon {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::daemon::Verb,
    },
    /// Show the settings, and where each comes from
    ///
    /// They are read from config.toml when the background process starts; every key is optional. What a VM is given is
    /// asked for on the command line, else set in config.toml, else told from the size of this host.
    #[command(after_help = cmd::config::EXAMPLES, arg_required_else_help = true)]
    Config {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::config::Verb,
    },
    /// Say what works here and what would improve it
    Doctor(cmd::doctor::Args),
    /// Show which banger this is
    Version(cmd::version::Args),
    /// Print a shell's completion script
    ///
    /// Names of VMs, images and kernels are completed too, as they are at that moment.
    Completion(cmd::completion::Args),
    /// Make bundles and publish catalogs of images and kernels
    ///
    /// For whoever has a catalog: docs/catalogs.md. Nothing here is needed to use one.
    #[command(hide = true, after_help = cmd::internal::EXAMPLES, arg_required_else_help = true)]
    Internal {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::internal::Verb,
    },
}

/// What can be done with VMs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a VM, start it, and run a command or a shell in it
    Run(cmd::vm::run::Args),
    /// Create a VM without running anything in it
    Create(cmd::vm::create::Args),
    /// Start VMs
    Start(cmd::vm::start::Args),
    /// Stop VMs
    ///
    /// The guest is asked to shut down; one that does not is killed after a while. Disks stay.
    Stop(cmd::vm::stop::Args),
    /// Stop and start VMs
    Restart(cmd::vm::restart::Args),
    /// End VMs without asking their guests, when stopping hangs
    ///
    /// The VMM gets a signal, and is killed when it does not end of that. What a guest has not written to its disk is
    /// lost, as at a power cut.
    Kill(cmd::vm::kill::Args),
    /// Let VMs stand still: no processor time, and everything stays in memory
    ///
    /// Nothing runs in a paused VM, its connections included, until it is resumed; stopping it resumes it first.
    Pause(cmd::vm::pause::Args),
    /// Let VMs go on that are paused or suspended, with the right time
    Resume(cmd::vm::pause::Args),
    /// Put VMs' memory on the disk and end them; they go on from there
    ///
    /// A suspended VM takes no memory. `resume` and `start` let it go on where it was, `stop` gives its memory up.
    Suspend(cmd::vm::pause::Args),
    /// Make new VMs that go on from where a VM is now
    ///
    /// They share its memory until they write to it, and have names, addresses and keys of their own: docs/fork.md.
    Fork(cmd::vm::fork::Args),
    /// Keep what a VM is now, to go back to it
    #[command(visible_alias = "snapshots", after_help = cmd::vm::snapshot::EXAMPLES, arg_required_else_help = true)]
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::vm::snapshot::Verb,
    },
    /// Make an image of what a VM has become
    ///
    /// Its image and what it changed of its system; /root and /home stay the VM's alone.
    Commit(cmd::vm::commit::Args),
    /// Drop what VMs changed of their systems; /root and /home stay
    ///
    /// The system is as the image has it again, from the next start on.
    Reset(cmd::vm::reset::Args),
    /// Remove VMs and their disks; a running one is stopped first
    #[command(visible_alias = "rm")]
    Delete(cmd::vm::delete::Args),
    /// Change what VMs have: processors, memory, disk, network
    ///
    /// A VM has to be off for it; its disk grows and its policies change while it runs too.
    Set(cmd::vm::set::Args),
    /// Delete all VMs that are off, with their disks
    ///
    /// Shows which, and asks. A VM that runs, or begins to meanwhile, is never touched.
    Prune(cmd::vm::prune::Args),
    /// Give a VM another name
    ///
    /// The name is the same for every command at once. A guest that runs takes its new host name at its next boot.
    Rename(cmd::vm::rename::Args),
    /// List VMs
    #[command(visible_aliases = ["ls", "ps"])]
    List(cmd::vm::list::Args),
    /// Show all about one VM
    Show(cmd::vm::show::Args),
    /// Show what VMs use: processors, memory, disk, network
    Stats(cmd::vm::stats::Args),
    /// Show where VMs are reached, and what listens in them
    Ports(cmd::vm::ports::Args),
    /// Run a command in a VM that runs
    Exec(cmd::vm::exec::Args),
    /// List, attach to, stop commands that go on without you
    ///
    /// `banger exec -d` starts a command as a session: it outlives the terminal and the daemon, and ends with its VM's
    /// boot at the latest. The last 256 KiB of its output are kept in the guest.
    #[command(visible_alias = "sessions", after_help = cmd::vm::session::EXAMPLES, arg_required_else_help = true)]
    Session {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::vm::session::Verb,
    },
    /// Put a repository into a VM, and bring the work back
    ///
    /// `banger run PATH` puts one in. What git tracks travels; in the VM it is a repository of its own, and what is done
    /// there comes back as a patch, as commits, or as a branch. Nothing else of this host is seen from there.
    #[command(after_help = cmd::vm::workspace::EXAMPLES, arg_required_else_help = true)]
    Workspace {
        /// What to do.
        #[command(subcommand)]
        verb: cmd::vm::workspace::Verb,
    },
    /// Copy files into a VM and out of it
    #[command(visible_alias = "copy")]
    Cp(cmd::vm::cp::Args),
    /// List what a VM changed of its image
    Diff(cmd::vm::diff::Args),
    /// Print a VM's console
    Logs(cmd::vm::logs::Args),
    /// Wait until a VM is ready
    Wait(cmd::vm::wait::Args),
}

impl Command {
    /// What makes no sense together on a command line that parses, and for which command.
    pub(crate) fn misuse(&self) -> Option<(&'static [&'static str], String)> {
        let (Command::Verb(verb) | Command::Vm { verb }) = self else { return None };
        match verb.as_ref() {
            Verb::Run(args) => args.misuse().map(|why| (&["run"][..], why)),
            Verb::Workspace { verb } => verb.misuse(),
            _ => None,
        }
    }
}

/// For commands that print what there is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Records {
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
    /// Print ids only
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) quiet: bool,
}

/// For commands that print one thing.
#[derive(Debug, Clone, Args)]
pub(crate) struct Record {
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
}

/// For commands that do something.
#[derive(Debug, Clone, Args)]
pub(crate) struct Act {
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
    /// Say nothing while it goes on
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_landing_page_names_every_command() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let named = LANDING.split_whitespace().any(|word| word == name) || name == "vm";
            assert!(named, "banger --help does not mention {name}");
        }
        assert!(LANDING.lines().all(|line| line.len() <= 80), "the landing page is wider than 80 columns");
    }
}
