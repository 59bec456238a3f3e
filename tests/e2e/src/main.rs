//! `e2e`: scenarios against the real programs, run as root inside the disposable test host and nowhere else.
//!
//! | file | what |
//! |---|---|
//! | `suites/` | the scenarios; `suites/mod.rs` is the whole list |
//! | `scenario.rs` | what a scenario is: name, description, tags, class |
//! | `select.rs` | `--filter` |
//! | `runner.rs` | who runs when: side by side, in order on one fixture, alone |
//! | `slate.rs` | what a host must look like afterwards: as before |
//! | `report.rs`, `junit.rs` | what is told of a run |
//! | `home.rs`, `command.rs`, `processes.rs`, `wait.rs` | what scenarios are written with |
//! | `init.rs` | the smallest guest there can be |
//! | `bench/` | `--bench`: measures instead |
//!
//! Status: 0 all passed, 1 some failed, 2 called wrongly, 77 not run because this is no test host.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program: it arranges and inspects the real world of a machine that is thrown away"
)]

mod bench;
mod command;
mod home;
mod init;
mod junit;
mod processes;
mod report;
mod runner;
mod scenario;
mod select;
mod slate;
mod suites;
mod wait;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

const STATUS_USAGE: u8 = 2;
const STATUS_SKIPPED: u8 = 77;

/// Only the test host's image has this program, and a scenario may take over the machine it runs on.
const MARK: &str = "/usr/local/sbin/testhost-ready";

#[derive(Parser)]
#[command(name = "e2e", about = "Run end-to-end scenarios inside the disposable test host")]
struct Cli {
    /// List the scenarios instead of running them
    #[arg(long)]
    list: bool,
    /// Only those whose name contains a word of these, or that carry it as a tag
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    filter: Vec<String>,
    /// How many run side by side [default: what memory allows; one
    /// where the host's processor is emulated]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Where the report goes, as JUnit
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Where what scenarios leave to be read goes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/e2e")]
    artifacts: PathBuf,
    /// Measure instead, and print the figures as JSON
    #[arg(long, conflicts_with_all = ["list", "filter", "jobs", "junit"])]
    bench: bool,
    /// Measure only these groups of figures: starts, fork, memory
    #[arg(long, value_delimiter = ',', value_name = "A,B", requires = "bench")]
    only: Vec<String>,
    /// How many turns a ratio is the median of
    #[arg(long, default_value_t = 5, value_name = "N", requires = "bench", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let chosen = match select::select(suites::ALL, &cli.filter) {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("e2e: {error}");
            return ExitCode::from(STATUS_USAGE);
        }
    };
    if cli.list {
        print!("{}", report::list(&chosen));
        return ExitCode::SUCCESS;
    }
    if !Path::new(MARK).exists() || !rustix::process::geteuid().is_root() {
        eprintln!("e2e: this is not the test host, or not its root; `make e2e` runs the scenarios there");
        return ExitCode::from(STATUS_SKIPPED);
    }
    let outcome = if cli.bench { measure(&cli) } else { run(&cli, &chosen) };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> anyhow::Result<ExitCode> {
    let report = bench::run(&cli.only, cli.runs as usize)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(ExitCode::SUCCESS)
}

fn run(cli: &Cli, chosen: &[&'static scenario::Scenario]) -> anyhow::Result<ExitCode> {
    let jobs = cli.jobs.map_or_else(runner::jobs_of_this_host, |jobs| Ok(jobs as usize))?;
    let outcomes = runner::run(chosen, jobs, &cli.artifacts)?;
    if let Some(path) = &cli.junit {
        std::fs::write(path, junit::render(&outcomes))?;
    }
    print!("{}", report::closing(&outcomes));
    let is_success = outcomes.iter().all(|outcome| outcome.failure.is_none());
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
