//! Developer glue, run as `cargo xtask COMMAND`: what make(1) calls and shell would do badly.
//!
//! | command | file | what |
//! |---|---|---|
//! | `tidy` | `tidy.rs`, one check per file in `tidy/` | house rules that rustc and clippy cannot know |
//! | `bench` | `bench.rs`, one group of figures per file in `bench/` | measures, each figure beside its floor or peer |
//! | `bench-e2e` | `bench_e2e.rs` | the same of Firecracker, inside a test host |
//! | `dist` | `dist.rs` | builds every program and lays out an installed tree |
//! | `e2e` | `e2e.rs`, `coverage.rs` | the scenarios of `tests/e2e`, in a test host of their own |
//! | `testhost` | `testhost.rs`, its parts in `testhost/` | the disposable test host: builds, boots, fills and ends it |
//!
//! It runs on the developer's machine only, so the gates that `clippy.toml` guards for the product do not apply.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "developer glue: runs cargo, writes files and talks to a terminal, and is never shipped"
)]

mod bench;
mod bench_e2e;
mod coverage;
mod dist;
mod e2e;
mod root;
mod testhost;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer glue: tidy, dist, bench, test host")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the house rules that rustc and clippy cannot know
    Tidy,
    /// Measure, each figure beside its floor or its peer
    Bench(bench::Args),
    /// Measure Firecracker inside a test host, each figure beside its floor
    BenchE2e(bench_e2e::Args),
    /// Build every program and lay out an installed tree
    Dist(dist::Args),
    /// Run the end-to-end scenarios in a test host of their own
    E2e(e2e::Args),
    /// The disposable test host: a whole Debian with KVM, systemd and Firecracker
    Testhost(testhost::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Tidy => tidy::run(),
        Command::Bench(args) => bench::run(&args),
        Command::BenchE2e(args) => bench_e2e::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Testhost(args) => testhost::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(err) => {
            eprintln!("xtask: {err:#}");
            ExitCode::FAILURE
        }
    }
}
