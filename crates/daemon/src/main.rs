//! `bangerd`: reads what there is to read once, chooses drivers, wires, runs, ends when nobody needs it.
//!
//! ```text
//! environment ─► directories ─► lock (one daemon a user) ─► config ─► database ─► drivers ─► Host, Engine
//!   ─► take over running VMs ─► end unknown ones ─► recover open operations ─► listen ─► sweep ─► …
//!   ─► idle, SIGTERM or asked ─► end
//! ```
//! VMs outlive it: they run in sessions of their own, and the next daemon takes them over.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests arrange and inspect the real world"))]

mod lock;
mod serve;
mod setup;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use daemon::image::rootfs;
use daemon::model::progress::Watcher;
use daemon::network::filter;
use daemon::store::schema::{self, Standing};
use daemon::vmm::firecracker::jail;
use setup::Surroundings;

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == filter::VERB) {
        return filter::run(arguments.drain(..).skip(1));
    }
    if arguments.first().is_some_and(|first| first == jail::VERB) {
        return jail::run(arguments.drain(..).skip(1));
    }
    if arguments.first().is_some_and(|first| first == MAKE_ROOTFS) {
        return make_rootfs(&arguments[1..]);
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
            // A line each: they are quoted by whoever started this daemon.
            say(&format!("bangerd: {}", one_line(&wire::api::chain(&error))));
            if let Some(hint) = error.hint() {
                say(&format!("hint: {}", one_line(&hint)));
            }
            ExitCode::FAILURE
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What `--check-migrations` says and how it ends: 0 compatible, 1 pending, 2 newer, 3 when it cannot tell.
fn check_migrations() -> ExitCode {
    let checked = Surroundings::read().and_then(|surroundings| {
        let path = surroundings.dirs.database();
        Ok((schema::standing(&path)?, path))
    });
    let known = schema::known();
    match checked {
        Ok((Standing::Absent, path)) => {
            print(&format!("compatible: there is no {} yet, this bangerd makes schema {known}", path.display()));
            ExitCode::SUCCESS
        }
        Ok((Standing::Compatible, path)) => {
            print(&format!("compatible: {} is of schema {known}, as this bangerd's", path.display()));
            ExitCode::SUCCESS
        }
        Ok((Standing::Pending { found }, path)) => {
            print(&format!("pending: {} is of schema {found}, this bangerd brings it to {known}", path.display()));
            ExitCode::from(1)
        }
        Ok((Standing::Newer { found }, path)) => {
            print(&format!("newer: {} is of schema {found}, this bangerd knows up to {known}", path.display()));
            ExitCode::from(2)
        }
        Err(error) => {
            say(&format!("bangerd: {}", one_line(&wire::api::chain(&error))));
            ExitCode::from(3)
        }
    }
}

/// The first argument that has a root filesystem made of an archive, and nothing else done: `bangerd make-rootfs TAR EXT4`.
/// For `banger internal make-bundle`, which has no daemon.
const MAKE_ROOTFS: &str = "make-rootfs";

/// Makes it and prints what a bundle's manifest says of it, as JSON.
fn make_rootfs(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [tar, image] = arguments else {
        say(USAGE);
        return ExitCode::from(2);
    };
    match rootfs::write(Path::new(tar), Path::new(image), Watcher::none()) {
        Ok(made) => {
            let init = made.init.map(|init| format!("/{}", init.trim_start_matches('/')));
            let facts = serde_json::json!({
                "init": init,
                "packages": made.packages,
                "content_bytes": made.content_bytes,
                "entries": made.entries,
            });
            print(&facts.to_string());
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("bangerd: {}", one_line(&wire::api::chain(&error))));
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
    if arguments == ["--check-migrations"] {
        return check_migrations();
    }
    say(USAGE);
    ExitCode::from(2)
}

const USAGE: &str = "\
usage: bangerd [--version | --check-migrations]
It is started by banger when needed and configured by config.toml and the environment.
--check-migrations prints how the database stands to this bangerd and changes nothing:
exit status 0 compatible, 1 pending, 2 newer, 3 when it cannot be read.";

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn print(text: &str) {
    println!("{text}");
}

/// The last words of a daemon that does not run; its log is this stream. A log that takes none, because the disk is full,
/// is no reason to panic.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
