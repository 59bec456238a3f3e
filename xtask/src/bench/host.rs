//! A banger home for measurements, with the tests' image and kernel, and stopwatches.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::root;

/// VMs that one command is about.
const AT_ONCE: usize = 50;
/// How long what must happen soon may take on a machine under load.
const SOON: Duration = Duration::from_secs(60);

/// A `BANGER_HOME` of its own.
pub(super) struct Host {
    pub(super) home: PathBuf,
    prefix: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Host {
    /// The home of most rows, with the release programs.
    pub(super) fn new() -> Result<Host> {
        Host::of("BANGER_BENCH_PREFIX", "dist", "main")
    }

    /// Another home with the release programs.
    pub(super) fn another(name: &str) -> Result<Host> {
        Host::of("BANGER_BENCH_PREFIX", "dist", name)
    }

    /// Another home whose guests are processes instead of machines. Only a debug build does that.
    pub(super) fn simulated(name: &str) -> Result<Host> {
        Ok(Host::of("BANGER_BENCH_SIM_PREFIX", "dist-test", name)?.with("BANGER_VMM", "sim"))
    }

    /// A home with nothing in it, with the release programs.
    pub(super) fn empty(name: &str) -> Result<Host> {
        let prefix = std::env::var_os("BANGER_BENCH_PREFIX").map_or_else(|| root::target().join("dist"), PathBuf::from);
        let host = Host { home: home_of(name), prefix, environment: Vec::new() };
        host.use_templates(false)?;
        Ok(host)
    }

    /// The same home, whose programs find this in their environment: set before its daemon starts.
    pub(super) fn with(mut self, variable: &'static str, value: impl Into<OsString>) -> Host {
        self.environment.push((variable, value.into()));
        self
    }

    fn of(prefix: &str, default: &str, name: &str) -> Result<Host> {
        let seed = PathBuf::from(std::env::var_os("BANGER_TEST_HOME").context("run this with `make bench`")?);
        let prefix = std::env::var_os(prefix).map_or_else(|| root::target().join(default), PathBuf::from);
        let home = home_of(name);
        let state = home.join("state");
        std::fs::create_dir_all(&state)?;
        for shared in ["images", "kernels"] {
            std::os::unix::fs::symlink(seed.join("state").join(shared), state.join(shared))?;
        }
        std::os::unix::fs::symlink(seed.join("cache"), home.join("cache"))?;
        for file in ["state.db", "state.db-wal"] {
            let from = seed.join("state").join(file);
            if from.exists() {
                std::fs::copy(from, state.join(file))?;
            }
        }
        let host = Host { home, prefix, environment: Vec::new() };
        host.use_templates(false)?;
        Ok(host)
    }

    /// Whether fresh VMs go on from templates, and a first boot is followed by another that makes one. Before the daemon starts.
    pub(super) fn use_templates(&self, is_on: bool) -> Result<()> {
        let dir = self.home.join("config");
        std::fs::create_dir_all(&dir)?;
        Ok(std::fs::write(dir.join("config.toml"), format!("templates = {is_on}\n"))?)
    }

    pub(super) fn program(&self) -> PathBuf {
        self.prefix.join("bin/banger")
    }

    pub(super) fn banger(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(args).env("BANGER_HOME", &self.home).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `banger`, which must succeed, and gives what it printed.
    pub(super) fn ok(&self, args: &[&str]) -> Result<String> {
        output(&mut self.banger(args))
    }

    /// The daemon's process id.
    pub(super) fn daemon_pid(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.ok(&["daemon", "status", "--format", "json"])?)?;
        status["pid"].as_u64().context("a daemon has a pid")
    }

    /// A field of `vm show`.
    pub(super) fn show(&self, vm: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ok(&["vm", "show", vm, "--format", "json"])?)?)
    }

    /// Creates VMs of these names, two at a time.
    pub(super) fn create(&self, names: &[String], options: &[&str]) -> Result<()> {
        let make = |names: &[String]| -> Result<()> {
            for name in names {
                self.ok(&[&["vm", "create", "--name", name], options].concat())?;
            }
            Ok(())
        };
        let (one, other) = names.split_at(names.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| make(other));
            make(one)?;
            other.join().map_err(|_| anyhow!("the thread that creates VMs panicked"))?
        })
    }

    /// A verb on VMs of these names, many in one command.
    pub(super) fn each(&self, verb: &str, names: &[String]) -> Result<()> {
        for some in names.chunks(AT_ONCE) {
            let names: Vec<&str> = some.iter().map(String::as_str).collect();
            self.ok(&[&["vm", verb], &names[..]].concat())?;
        }
        Ok(())
    }

    /// Kills the daemon as a crash would; VMs go on.
    pub(super) fn kill_daemon(&self) -> Result<()> {
        let pid = self.daemon_pid()?;
        output(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
        until("the daemon is dead", || Ok(!runs(pid)))
    }

    /// Does `act` with this home, and ends it whatever comes of that.
    pub(super) fn used<T>(self, act: impl FnOnce(&Host) -> Result<T>) -> Result<T> {
        let result = act(&self);
        let ended = self.end();
        let value = result?;
        ended?;
        Ok(value)
    }

    /// Deletes everything and ends the daemon.
    pub(super) fn end(&self) -> Result<()> {
        let names: Vec<String> = self.ok(&["vm", "list", "--format", "name"])?.lines().map(str::to_owned).collect();
        self.each("delete", &names)?;
        self.ok(&["daemon", "stop"])?;
        std::fs::remove_dir_all(&self.home)?;
        Ok(())
    }
}

/// Whether a process runs; one that ended and was not collected does not.
pub(super) fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Looks every millisecond until it is so.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("waited {SOON:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits for commands that run at the same time and gives how many did not succeed.
pub(super) fn failures(children: Vec<Child>) -> Result<usize> {
    let mut failed = 0;
    for mut child in children {
        failed += usize::from(!child.wait()?.success());
    }
    Ok(failed)
}

/// Runs a command that must succeed and gives what it printed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} failed ({}): {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// How long a command takes from outside, which must succeed; what it prints is thrown away.
pub(super) fn time(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let took = begun.elapsed();
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(took)
}

/// How long the machine rests before a turn that takes hundreds of MiB of memory.
const REST: Duration = Duration::from_secs(4);

/// Lets the machine come to rest, so that both sides of a pair begin alike.
///
/// A machine that is itself a guest gives memory back to its host two seconds after it was freed (free page reporting of
/// virtio-balloon, `mm/page_reporting.c`), and getting a page again costs ten times what one at hand costs. Without a rest
/// that moment falls into the middle of one side's turn, always the same one's.
pub(super) fn rest() {
    std::thread::sleep(REST);
}

/// Compiles a static C program of the bench's own into `target/bench/`.
pub(super) fn compile(source: &str) -> Result<PathBuf> {
    compile_as(source, &["-static"])
}

/// The same, as a library that the dynamic linker can be told to load first.
pub(super) fn compile_preload(source: &str) -> Result<PathBuf> {
    compile_as(source, &["-shared", "-fPIC"])
}

fn compile_as(source: &str, kind: &[&str]) -> Result<PathBuf> {
    let from = root::repository().join("xtask/src/bench").join(source);
    let dir = scratch()?;
    let to = dir.join(Path::new(source).with_extension(""));
    output(Command::new("gcc").arg("-O2").args(kind).arg("-o").arg(&to).arg(&from))?;
    Ok(to)
}

/// In /tmp, because a Unix socket's address is short.
fn home_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/tmp/bench-{}-{name}", std::process::id()))
}

/// `target/bench/`: where the bench's own things are, on a disk and not in memory.
pub(super) fn scratch() -> Result<PathBuf> {
    let dir = root::target().join("bench");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// A field of a `/proc/<pid>/status` that counts memory, MiB.
pub(super) fn memory_mib(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let line = line.with_context(|| format!("a process has {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
