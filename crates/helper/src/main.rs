//! banger-helper: the only program of banger that runs as root.
//!
//! It answers a closed list of verbs ([`wire::helper::Request`]), on ids and descriptors, for the daemon of a system
//! install. Session mode needs no root and starts no helper.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the command line: the only thing that names paths |
//! | [`serve`] | connections: who may ask, of which build, one packet at a time |
//! | [`dispatch`] | one line per verb |
//! | [`policy`] | what is refused: programs, files, descriptors |
//! | [`verbs`] | jails, VMMs, taps, the sweep |
//! | [`enter`] | the VMM's process between its birth and the jailer |
//!
//! One thread, no state but `/run/banger`: whatever kills it, the next one goes on.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

mod config;
mod dispatch;
mod enter;
mod policy;
mod serve;
mod verbs;

use std::io::{self, Write as _};
use std::process::ExitCode;

use config::Command;

/// sysexits(3) aside, banger's programs answer wrong usage with 2.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let command = match config::parse(&arguments) {
        Ok(command) => command,
        Err(error) => {
            say(&format!("{error}\n{}", config::USAGE));
            return ExitCode::from(USAGE);
        }
    };
    let done = match command {
        Command::Version => writeln!(io::stdout().lock(), "banger-helper {}", env!("CARGO_PKG_VERSION")),
        Command::Serve(config) => is_for_us().and_then(|()| serve::run(config)),
        Command::Sweep { run } => verbs::sweep::what_nobody_uses(&run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("banger-helper: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether the socket that was passed on is meant for this process: `sd_listen_fds`(3).
#[expect(clippy::disallowed_methods, reason = "this is main, where the environment is read")]
fn is_for_us() -> io::Result<()> {
    let own = std::process::id().to_string();
    let says = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if says("LISTEN_PID", &own) && says("LISTEN_FDS", "1") {
        return Ok(());
    }
    Err(io::Error::other("no socket was passed on: it is started by banger-helper.socket, not by hand"))
}

/// One line for the journal. When standard error is closed, nobody is left to be told.
fn say(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
