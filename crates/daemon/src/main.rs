//! `bangerd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == daemon::network::filter::VERB) {
        return daemon::network::filter::run(arguments);
    }
    ExitCode::SUCCESS
}
