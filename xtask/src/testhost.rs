//! `cargo xtask testhost`: the disposable test host, a whole Debian with systemd, KVM and Firecracker in one QEMU process.
//!
//! | file | what |
//! |---|---|
//! | `testhost/recipe.rs` | the recipe of `tests/testhost/` and its hash |
//! | `testhost/build.rs` | the image, built once per recipe |
//! | `testhost/cache.rs` | where all of it is kept, outside the tree |
//! | `testhost/machine.rs` | QEMU's arguments |
//! | `testhost/host.rs` | a running host: started, found, filled, ended |
//! | `testhost/parts.rs` | the disk with the kernels and images that guests inside boot from |
//! | `testhost/ssh.rs` | ssh's arguments |
//! | `testhost/failure.rs` | what goes wrong with the host itself |
//!
//! docs/testhost.md says how it is used.

mod build;
mod cache;
mod emulator;
mod failure;
mod host;
mod machine;
mod parts;
mod recipe;
mod ssh;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use sys::kvm::Kvm;

use crate::{dist, root};
pub(crate) use cache::Cache;
pub(crate) use failure::{HostFailed, STATUS_SKIPPED, Unavailable};
pub(crate) use host::{Host, Keep, tied_name};
pub(crate) use ssh::quoted;

use host::Shape;

/// What is said of a failure of the host itself.
const FAILED: &str = "the test host failed";

/// Memory of a test host.
const MEMORY_MIB: u32 = 4096;

/// Where programs are installed in a test host.
pub(crate) const PREFIX: &str = "/usr/local";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the image, unless the one of this recipe is there
    Build,
    /// Start a host and keep it warm
    Up {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        shape: ShapeArgs,
    },
    /// Log in to a warm host, or run a command there
    Ssh {
        #[command(flatten)]
        name: Name,
        /// As whom: root, or tester who is an ordinary user
        #[arg(long, default_value = "root")]
        user: String,
        /// What to run, in the shell there; without it, a login
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Put the product's programs into a warm host, below /usr/local
    Sync {
        #[command(flatten)]
        name: Name,
        /// An installed tree instead of a new build with the dev profile
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
        /// Where to, in the host
        #[arg(long, value_name = "DIR", default_value = PREFIX)]
        to: String,
    },
    /// Start a host of its own, run a command there, end the host
    Run {
        #[command(flatten)]
        shape: ShapeArgs,
        /// As whom: root, or tester who is an ordinary user
        #[arg(long, default_value = "root")]
        user: String,
        /// An installed tree to put below /usr/local, instead of a new build with the dev profile
        #[arg(long, value_name = "DIR", conflicts_with = "no_sync")]
        tree: Option<PathBuf>,
        /// Put no programs of ours into it
        #[arg(long)]
        no_sync: bool,
        /// What to run
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// End a warm host
    Down {
        #[command(flatten)]
        name: Name,
        /// End all of them
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// List the warm hosts
    List,
}

#[derive(clap::Args)]
struct Name {
    /// Which warm host
    #[arg(long, default_value = "default")]
    name: String,
}

/// What a host is made with, as people say it.
#[derive(Clone, clap::Args)]
pub(crate) struct ShapeArgs {
    /// Memory of the host [default: 4096; 8192 where it is measured]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Processors of the host [default: 2; 1 where they are emulated]
    #[arg(long)]
    cpus: Option<u32>,
    /// The banger home whose kernels and images guests inside boot from [default: the test cache's
    /// newest]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

/// Runs one command; what goes wrong with a host is said as such, apart from how the command in it ended.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match dispatch(&args.command) {
        Ok(code) => Ok(code),
        Err(error) => match error.downcast_ref::<Unavailable>() {
            Some(unavailable) => {
                eprintln!("testhost: {unavailable}");
                Ok(ExitCode::from(STATUS_SKIPPED))
            }
            None => Err(error),
        },
    }
}

fn dispatch(command: &Command) -> Result<ExitCode> {
    let cache = Cache::open()?;
    match command {
        Command::Build => {
            println!("{}", image(&cache)?.display());
        }
        Command::Up { name, shape } => {
            check_tools()?;
            let host = Host::up(&cache, valid(&name.name)?, &image(&cache)?, &shape.shape(&cache)?, Keep::Warm);
            let host = host.context(FAILED)?;
            println!("{}", host.port());
        }
        Command::Ssh { name, user, command } => return login(&warm(&cache, &name.name)?, user, command),
        Command::Sync { name, tree, to } => {
            let host = warm(&cache, &name.name)?;
            sync(&cache, &host, tree.as_deref(), to)?;
        }
        Command::Run { shape, user, tree, no_sync, command } => {
            check_tools()?;
            let host = Host::up(&cache, &tied_name(), &image(&cache)?, &shape.shape(&cache)?, Keep::Tied);
            let host = host.context(FAILED)?;
            let outcome = match no_sync {
                true => Ok(()),
                false => sync(&cache, &host, tree.as_deref(), PREFIX),
            };
            let outcome = outcome.and_then(|()| status(host.ssh(user).arg(quoted(command))));
            host.down(&cache)?;
            return outcome;
        }
        Command::Down { name, all } => {
            let names = if *all { cache.host_names()? } else { vec![name.name.clone()] };
            for name in names {
                match Host::find(&cache, valid(&name)?)? {
                    Some(host) => {
                        host.down(&cache)?;
                        eprintln!("testhost: {name} is down");
                    }
                    None => sys::fs::remove_tree(&cache.host(&name))?,
                }
            }
        }
        Command::List => list(&cache)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl ShapeArgs {
    /// The same with this home, unless another was asked for.
    pub(crate) fn with_home(mut self, home: PathBuf) -> Self {
        self.home.get_or_insert(home);
        self
    }

    /// The same with so much memory, in MiB, unless something else was asked for.
    pub(crate) fn with_memory(mut self, memory_mib: u32) -> Self {
        self.memory.get_or_insert(memory_mib);
        self
    }

    pub(crate) fn shape(&self, cache: &Cache) -> Result<Shape> {
        let home = match &self.home {
            Some(home) => Some(home.clone()),
            None => parts::newest_home()?,
        };
        if home.is_none() {
            eprintln!(
                "testhost: no home in the test cache, so guests inside have nothing to boot from (scripts/test-cache.sh)"
            );
        }
        let parts = home.map(|home| parts::ensure_parts(cache, &home)).transpose()?;
        // Several that are emulated side by side let kernels fault: docs/testhost.md.
        let cpus = self.cpus.unwrap_or(if sys::kvm::probe() == Kvm::Usable { 2 } else { 1 });
        Ok(Shape { memory_mib: self.memory.unwrap_or(MEMORY_MIB), cpus, parts })
    }
}

/// The image of the repository's recipe, built if it is not there.
pub(crate) fn image(cache: &Cache) -> Result<PathBuf> {
    build::ensure_image(cache, &recipe::read(&root::repository())?)
}

fn warm(cache: &Cache, name: &str) -> Result<Host> {
    let found = Host::find(cache, valid(name)?)?;
    found.with_context(|| format!("no test host {name} is up: `cargo xtask testhost up --name {name}`"))
}

/// Names become directories.
fn valid(name: &str) -> Result<&str> {
    let is_valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_valid { Ok(name) } else { bail!("{name:?} is not a name: letters, digits and hyphens only") }
}

/// Fills a host with a tree, or with what `dist` makes for it.
fn sync(cache: &Cache, host: &Host, tree: Option<&Path>, to: &str) -> Result<()> {
    match tree {
        Some(tree) => put(cache, host, tree, to),
        None => put(cache, host, &built_tree(false)?, to),
    }
}

/// Puts a tree below a directory of a host.
pub(crate) fn put(cache: &Cache, host: &Host, tree: &Path, to: &str) -> Result<()> {
    let from = Instant::now();
    let bytes = host.put(cache, tree, to)?;
    eprintln!("testhost: {} MiB put into {to} of {}, {:.1} s", bytes >> 20, host.name, from.elapsed().as_secs_f64());
    Ok(())
}

/// The product's programs, laid out for their place in the host.
pub(crate) fn built_tree(is_instrumented: bool) -> Result<PathBuf> {
    let name = if is_instrumented { "testhost-coverage" } else { "testhost" };
    let stage = dist::target_directory(&root::repository()).join(name);
    let args = dist::Args::staged(&stage, Path::new(PREFIX));
    dist::run(&if is_instrumented { args.instrumented() } else { args })?;
    Ok(stage.join(PREFIX.trim_start_matches('/')))
}

fn login(host: &Host, user: &str, command: &[String]) -> Result<ExitCode> {
    let mut ssh = host.ssh(user);
    // As ssh itself does it: the words are one line for the shell there.
    ssh.args(command);
    if command.is_empty() && std::io::stdin().is_terminal() {
        ssh.arg("-t");
    }
    status(&mut ssh)
}

/// The status of a command in a host is that of this one.
fn status(ssh: &mut Process) -> Result<ExitCode> {
    let status = ssh.status().context("cannot run ssh")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).context("ssh was killed")?;
    Ok(ExitCode::from(code))
}

fn list(cache: &Cache) -> Result<()> {
    for name in cache.host_names()? {
        if let Some(host) = Host::find(cache, &name)? {
            println!("{name}\tport {}\t{}\t{}", host.port(), host.image().display(), host.console().display());
        }
    }
    Ok(())
}

/// Whether this machine has what every host needs.
pub(crate) fn check_tools() -> Result<()> {
    need("ssh", "openssh-client")
}

/// The programs a host needs come with packages that this machine may lack.
fn need(program: &str, package: &str) -> Result<()> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    match sys::process::find_program(program, &path) {
        Some(_) => Ok(()),
        None => Err(Unavailable::new(format!("{program} is missing"), format!("apt-get install {package}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_directory_of_its_own() {
        assert!(valid("driver-2").is_ok());
        for bad in ["", "..", "a/b", "a.lock", "a b"] {
            assert!(valid(bad).is_err(), "{bad}");
        }
    }
}
