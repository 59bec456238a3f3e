//! `bangerd`: reads what there is to read once, chooses drivers, wires, runs, ends when nobody needs it.
//!
//! ```text
//! environment ─► directories ─► lock (one daemon a user) ─► config ─► database ─► drivers ─► Host, Engine
//!   ─► recover open operations ─► take over running VMs ─► sweep ─► listen ─► … ─► idle, SIGTERM or asked ─► end
//! ```
//! VMs outlive it: they run in sessions of their own, and the next daemon takes them over.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

mod lock;
mod serve;
mod setup;

use std::process::ExitCode;

use daemon::network::filter;
use setup::Surroundings;

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == filter::VERB) {
        return filter::run(arguments.drain(..).skip(1));
    }
    if !arguments.is_empty() {
        return about(&arguments);
    }
    sys::memory::keep_little();
    // Nothing this process makes is anybody else's to read, from the first moment on.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let outcome = Surroundings::read().and_then(|surroundings| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .enable_all()
            .build()
            .map_err(setup::StartError::Runtime)?;
        runtime.block_on(serve::run(surroundings))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: it is quoted by whoever started this daemon.
            let text = wire::api::chain(&error);
            say(&format!("bangerd: {}", text.split_whitespace().collect::<Vec<_>>().join(" ")));
            ExitCode::FAILURE
        }
    }
}

/// Threads that drive connections and operations: the work is waiting, and long work has threads of its own.
const WORKERS: usize = 2;
/// Threads for blocking work, made when needed and ended when idle.
const BLOCKING_THREADS_MAX: usize = 16;

fn about(arguments: &[std::ffi::OsString]) -> ExitCode {
    let version = setup::version();
    if arguments == ["--version"] {
        let commit: String = version.commit.chars().take(8).collect();
        print(&format!("bangerd {} (commit {commit})", version.version));
        return ExitCode::SUCCESS;
    }
    say(
        "usage: bangerd [--version]\nIt is started by banger when needed and configured by config.toml and the environment.",
    );
    ExitCode::from(2)
}

#[expect(clippy::print_stdout, reason = "what --version asks for")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the last words of a daemon that does not run; its log is this stream")]
fn say(text: &str) {
    eprintln!("{text}");
}
