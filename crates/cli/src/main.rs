//! `banger`: what people type.
//!
//! A command line is parsed ([`args`]), one file below [`cmd`] does what it says with the daemon's API ([`client`]), and
//! [`output`] prints. Nothing is decided here that the API does not decide. The runtime is made only by commands that need
//! the daemon, so that help, version and completion scripts appear at once.

mod args;
mod attach;
mod client;
mod clock;
mod cmd;
mod complete;
mod copy;
mod daemon;
mod detach_keys;
mod env_file;
mod error;
mod interrupt;
mod keep;
mod limit;
mod operation;
mod output;
mod pipe;
mod process;
mod progress;
mod screen;
mod settings;
mod table;
mod terminal;
mod values;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use wire::api::{ApiError, ErrorCode};

use crate::args::Cli;
use crate::error::Failure;
use crate::output::{Format, Output};
use crate::settings::Settings;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let [_, first, daemon] = &arguments[..]
        && first == process::BECOME_DAEMON
    {
        return become_daemon(Path::new(daemon));
    }
    std::panic::set_hook(Box::new(|panic| {
        terminal::restore();
        let error = ApiError::new(ErrorCode::Internal, format!("this is a defect of banger: {panic}"));
        Output { format: Format::Table, quiet: false }.tell(&error);
    }));
    match complete::answer(&arguments) {
        Some(status) => ExitCode::from(status),
        None => ExitCode::from(run(arguments)),
    }
}

fn run(arguments: Vec<OsString>) -> u8 {
    let is_json = asks_for_json(&arguments);
    let parsed =
        command().try_get_matches_from(&arguments).and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let parsed = parsed.and_then(|cli| match cli.command.misuse() {
        Some((words, why)) => Err(misuse(words, why)),
        None => Ok(cli),
    });
    match parsed {
        Ok(cli) => cmd::run(cli.command, Settings::read()),
        Err(error) if !error.use_stderr() => match help(&error, &arguments) {
            Ok(()) => 0,
            Err(failure) => error::Statuses::Ordinary.of(&failure),
        },
        Err(error) => {
            if is_json {
                // Nobody may be left to read it; the exit status still says it.
                drop(
                    Output { format: Format::Json, quiet: false }.json(&wire::api::ErrorBody { error: usage(&error) }),
                );
            }
            drop(output::usage(&error));
            2
        }
    }
}

/// Prints a help page, or the version.
fn help(error: &clap::Error, arguments: &[OsString]) -> Result<(), Failure> {
    output::usage(error)?;
    if error.kind() != clap::error::ErrorKind::DisplayHelp {
        return Ok(());
    }
    match cmd::help_line(arguments, &Settings::read()) {
        Some(line) => Output { format: Format::Table, quiet: false }.text(&format!("\n{line}")),
        None => Ok(()),
    }
}

/// The command tree, with what `--version` says.
fn command() -> clap::Command {
    Cli::command().version(cmd::version::one_line())
}

/// A usage error of the command that `words` lead to.
fn misuse(words: &[&str], why: String) -> clap::Error {
    let mut root = command();
    root.build();
    let mut named = &mut root;
    for word in words {
        named = named.find_subcommand_mut(word).expect("these commands are there");
    }
    named.error(clap::error::ErrorKind::ArgumentConflict, why)
}

/// A usage error as JSON tells it.
fn usage(error: &clap::Error) -> ApiError {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    ApiError::new(ErrorCode::BadRequest, first.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether a command line that may not parse asks for JSON.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let ours: Vec<&OsString> = arguments.iter().take_while(|argument| *argument != "--").collect();
    ours.iter().any(|argument| *argument == "--format=json" || *argument == "--json")
        || ours.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

fn become_daemon(daemon: &Path) -> ExitCode {
    let error = error::Io(process::become_daemon(daemon));
    let failure = ApiError::new(ErrorCode::DaemonUnavailable, format!("cannot run {}: {error}", daemon.display()));
    Output { format: Format::Table, quiet: true }.tell(&failure);
    ExitCode::from(error::Statuses::Exec.of(&Failure::from(failure)))
}
