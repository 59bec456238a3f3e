//! An ordinary user's banger home in the test host, with the kernels and images of the parts disk.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::command::{self, Ran};
use crate::processes::{self, Process};
use crate::wait;

/// The ordinary user: in group kvm, with a user manager and ranges of ids.
pub(crate) const USER: &str = "tester";
/// Its user and group id.
pub(crate) const UID: u32 = 1000;
/// What its services find at run time.
pub(crate) const RUNTIME_DIR: &str = "/run/user/1000";
/// Where what guests boot from is.
pub(crate) const PARTS: &str = "/srv/parts/home";

/// The longest that one command of ours may take: a boot on an emulated machine that does other things too.
const COMMAND_MAX: Duration = Duration::from_secs(240);
/// How long processes may take to be gone after the command that ended them.
const GONE_MAX: Duration = Duration::from_secs(20);

/// What a home is configured with. A guest's processor may be emulated by one that is emulated itself; and only a scenario
/// about templates wants VMs that nobody asked for.
const SETTINGS: &str = "boot_timeout_s = 180\ntemplates = false\n";

/// Where logs are kept; set once, by the runner.
pub(crate) static ARTIFACTS: OnceLock<PathBuf> = OnceLock::new();

/// A home of its own. [`Home::end`] is the end of a scenario that went well.
pub(crate) struct Home {
    dir: TempDir,
    vmm: &'static str,
}

impl Home {
    /// A home whose VMs run under this VMM.
    pub(crate) fn new(vmm: &'static str) -> Result<Home> {
        // Below the user's own home and with a short name: the address of a Unix socket is short.
        let dir =
            tempfile::Builder::new().prefix("h").tempdir_in(format!("/home/{USER}")).context("cannot make a home")?;
        chown(dir.path(), Some(UID), Some(UID)).context("cannot give the home to its user")?;
        let home = Home { dir, vmm };
        let path = home.path().to_string_lossy().into_owned();
        home.run_as_user("testhost-home", &[&path])?.ok()?;
        home.configure(SETTINGS)?;
        Ok(home)
    }

    /// The same with kernels and images of its own: what is behind links is not given to jails of the helper's.
    pub(crate) fn whole(vmm: &'static str) -> Result<Home> {
        let home = Home::new(vmm)?;
        let copy = "for part in state/images state/kernels cache; do rm \"$1/$part\"; \
                    cp --recursive --sparse=always \"$2/$part\" \"$1/$part\"; done";
        let path = home.path().to_string_lossy().into_owned();
        home.run_as_user("sh", &["-euc", copy, "sh", &path, PARTS])?.ok()?;
        Ok(home)
    }

    /// Replaces the settings; a daemon reads them when it starts.
    pub(crate) fn configure(&self, settings: &str) -> Result<()> {
        let dir = self.path().join("config");
        fs::create_dir_all(&dir).context("cannot make the configuration's directory")?;
        fs::write(dir.join("config.toml"), settings).context("cannot write the configuration")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `banger` with these arguments, to its end.
    pub(crate) fn banger(&self, arguments: &[&str]) -> Result<Ran> {
        self.run_as_user("banger", arguments)
    }

    /// The same, and it must end with status 0.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.banger(arguments)?.ok()?.to_owned())
    }

    /// Starts a daemon that ends on the spot at `fault`, as SIGKILL would.
    pub(crate) fn arm(&self, fault: &str) -> Result<()> {
        self.ok(&["daemon", "stop"])?;
        wait::until("the daemon has ended", GONE_MAX, || {
            ensure!(self.daemon().is_err(), "{:?}", self.daemon());
            Ok(())
        })?;
        let mut command = self.command("banger", &["list"]);
        command.env("BANGER_FAULT", fault);
        command::run(&mut command, COMMAND_MAX)?.ok().map(drop)
    }

    /// A program for this home, started by a thread that is the user already.
    pub(crate) fn direct_command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = as_user_thread(program, arguments);
        command.env("BANGER_HOME", self.path()).env("BANGER_VMM", self.vmm).current_dir(self.path());
        command
    }

    fn run_as_user(&self, program: &str, arguments: &[&str]) -> Result<Ran> {
        command::run(&mut self.command(program, arguments), COMMAND_MAX)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = as_user(program, arguments);
        command.env("BANGER_HOME", self.path()).env("BANGER_VMM", self.vmm).current_dir(self.path());
        command
    }

    /// The daemon's process.
    pub(crate) fn daemon(&self) -> Result<Process> {
        // Jails and filters of running VMs are the same program, called by a word.
        self.process("bangerd", |process| {
            process.arguments.iter().any(|word| word.contains("bangerd"))
                && !process.arguments.iter().any(|word| word == "vmm-jail" || word == "net-filter")
        })
    }

    /// The VMM's process of a VM.
    pub(crate) fn vmm(&self, name: &str) -> Result<Process> {
        let id = self.show(name)?["id"].as_str().context("a VM has an id")?.to_owned();
        // Of Firecracker's it is the jail's launcher, which ends with it.
        self.process(&format!("the VMM of {name}"), |process| process.arguments.iter().any(|word| word.contains(&id)))
    }

    /// What `banger show` tells of a VM.
    pub(crate) fn show(&self, name: &str) -> Result<serde_json::Value> {
        let said = self.ok(&["show", name, "--format", "json"])?;
        serde_json::from_str(&said).context("show prints JSON")
    }

    /// The one process of this home that is so.
    fn process(&self, what: &str, is_it: impl Fn(&Process) -> bool) -> Result<Process> {
        let mut found = processes::of_home(self.path())?;
        found.retain(is_it);
        ensure!(found.len() == 1, "{what} in {}: {found:?}", self.path().display());
        found.pop().context("one is one")
    }

    /// Stops the daemon and says what is left: nothing may be.
    pub(crate) fn end(self) -> Result<()> {
        self.ok(&["daemon", "stop"])?;
        wait::until("no process of the home is left", GONE_MAX, || {
            let left = processes::of_home(self.path())?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        let path = self.path().to_string_lossy().into_owned();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&path)).collect();
        ensure!(left.is_empty(), "mounts are left: {left:#?}");
        Ok(())
    }

    /// Keeps the daemon's log and the consoles of the VMs that are still there.
    fn keep_logs(&self) -> Result<()> {
        let (Some(artifacts), Some(name)) = (ARTIFACTS.get(), self.path().file_name()) else {
            return Ok(());
        };
        let to = artifacts.join("homes").join(name);
        fs::create_dir_all(&to)?;
        let script = "cd \"$1/state\" && find . -name '*.log' -size -4M -print0 | tar --create --null --files-from - | \
                      tar --extract --directory \"$2\" --no-same-owner";
        let mut command = Command::new("sh");
        command.args(["-euc", script, "sh"]).arg(self.path()).arg(to);
        command::run(&mut command, Duration::from_secs(60))?.ok().map(drop)
    }
}

impl Drop for Home {
    /// What a scenario that failed left is taken away, so that it fails alone.
    fn drop(&mut self) {
        if let Err(error) = self.keep_logs() {
            eprintln!("e2e: the logs of {} are lost: {error:#}", self.path().display());
        }
        for process in processes::of_home(self.path()).unwrap_or_default() {
            if let Err(error) = process.kill() {
                eprintln!("e2e: {error:#}");
            }
        }
    }
}

/// A program run by the ordinary user, with a clean environment.
pub(crate) fn as_user(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--", program]).args(arguments);
    surround(&mut command);
    command
}

/// The same, started by a thread that is this user already.
pub(crate) fn as_user_thread(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    surround(&mut command);
    command
}

fn surround(command: &mut Command) {
    command.env_clear();
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
        ("HOME", "/home/tester"),
        ("USER", USER),
        ("XDG_RUNTIME_DIR", RUNTIME_DIR),
        ("LANG", "C.UTF-8"),
    ] {
        command.env(name, value);
    }
    // Where instrumented programs write what they did; see `make e2e COVERAGE=1`.
    if let Some(file) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", file);
    }
    command.current_dir("/");
}
