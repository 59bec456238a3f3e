//! banger-helper: the only program of banger that runs as root.
//!
//! It answers a closed list of verbs, on ids and descriptors, for the daemon of a system install. Session mode needs
//! no root and starts no helper, and this build has no verbs: it tells its version and refuses everything else.
//! It exists so that an installed tree is whole and its list of dependencies (`dependencies.txt`, checked by
//! `cargo xtask tidy`) is guarded from the first day.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// sysexits(3) aside, banger's programs answer wrong usage with 2.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match answer(&arguments) {
        Answer::Version(line) => {
            let mut stdout = std::io::stdout().lock();
            match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Answer::Refused(line) => {
            // Nowhere is left to report that stderr is closed; the status tells it all the same.
            drop(writeln!(std::io::stderr().lock(), "{line}"));
            ExitCode::from(USAGE)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Version(String),
    Refused(&'static str),
}

fn answer(arguments: &[OsString]) -> Answer {
    match arguments {
        [only] if only == "--version" => Answer::Version(format!("banger-helper {}", env!("CARGO_PKG_VERSION"))),
        _ => Answer::Refused(
            "banger-helper: this build's helper has no verbs, because session mode needs none; \
             the only argument it takes is --version",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_is_answered() {
        let version = Answer::Version(format!("banger-helper {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(answer(&["--version".into()]), version);
        for refused in [&[][..], &["serve"], &["--version", "--version"], &[""]] {
            let arguments: Vec<OsString> = refused.iter().map(OsString::from).collect();
            assert!(matches!(answer(&arguments), Answer::Refused(_)), "{refused:?} was not refused");
        }
    }
}
