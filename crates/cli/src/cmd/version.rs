//! `banger version`: which build this is. Asks nobody, so it answers at once.

use serde::Serialize;

use crate::args::Record;
use crate::error::Failure;
use crate::output::Output;
use crate::table::pairs;

/// The commit, or `unknown`: see `build.rs`.
const COMMIT: &str = env!("BANGER_COMMIT");

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How to print it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) record: Record,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    commit: &'static str,
    arch: &'static str,
    api: &'static str,
    attach: &'static str,
    agent_generation: u32,
}

/// `banger --version`, after the name.
pub(crate) fn one_line() -> String {
    format!("{VERSION} (commit {})", COMMIT.get(..8).unwrap_or(COMMIT))
}

/// Prints it.
pub(crate) fn run(_: &Args, output: Output) -> Result<u8, Failure> {
    let version = Version {
        version: VERSION,
        commit: COMMIT,
        arch: std::env::consts::ARCH,
        api: wire::api::BASE.trim_start_matches('/'),
        attach: wire::attach::PROTOCOL,
        agent_generation: wire::agent::GENERATION,
    };
    output.record(
        &version,
        |version| {
            pairs(&[
                ("banger", version.version.to_owned()),
                ("commit", version.commit.to_owned()),
                ("architecture", version.arch.to_owned()),
                ("api", format!("{}, {}", version.api, version.attach)),
                ("agent generation", version.agent_generation.to_string()),
            ])
        },
        |version| format!("{}\n", version.version),
    )?;
    Ok(0)
}
