//! `banger completion`: the script that makes a shell ask us for candidates.

use std::ffi::OsStr;

use clap::ValueEnum;
use clap_complete::env::Shells;
use wire::api::ErrorCode;

use crate::complete::VARIABLE;
use crate::error::{Failure, Io};
use crate::output;
use crate::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  source <(banger completion bash)          # in ~/.bashrc
  source <(banger completion zsh)           # in ~/.zshrc, after compinit
  banger completion fish | source           # in ~/.config/fish/config.fish";

/// Which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Shells we know.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Prints the script, which calls this very program.
pub(crate) fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let shells = Shells::builtins();
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shell = shells.completer(name).expect("the builtin shells include these three");
    let own = settings.exe.as_deref().map(|exe| exe.as_os_str()).unwrap_or(OsStr::new("banger"));
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "banger", "banger", &own.to_string_lossy(), &mut script)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("cannot write the script: {}", Io(error))))?;
    output::raw(&script)?;
    Ok(0)
}
