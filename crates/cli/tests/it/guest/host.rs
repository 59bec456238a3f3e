//! A host of its own for one test, and the proof that the test left nothing on it.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

/// How long one `banger` command may take here: a boot under load on two cores, several times over.
const COMMAND_DEADLINE: Duration = Duration::from_secs(240);

/// A `BANGER_HOME` with a daemon of its own.
pub(crate) struct Host {
    home: TempDir,
    prefix: PathBuf,
    /// What runs its VMs: `qemu` unless `BANGER_TEST_VMM` names another, or `sim`.
    vmm: String,
    path: OsString,
    /// What stands for the host's `/` where its daemon looks at the host itself.
    root: Option<PathBuf>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output as text without the final newline.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// The same run, which must have ended with `code`.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

fn from_environment(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} is not set: run these tests with `make test`, which makes what they need")
    });
    PathBuf::from(value)
}

impl Host {
    /// A host that has the default image and kernel: linked, because both never change.
    pub(crate) fn new() -> Host {
        Host::bare().with_artifacts()
    }

    /// The same, with the default image and kernel.
    fn with_artifacts(self) -> Host {
        let host = self;
        host.configure("");
        let seed = from_environment("BANGER_TEST_HOME");
        let state = host.state();
        fs::create_dir_all(&state).unwrap();
        for shared in ["images", "kernels"] {
            std::os::unix::fs::symlink(seed.join("state").join(shared), state.join(shared)).unwrap();
        }
        std::os::unix::fs::symlink(seed.join("cache"), host.home.path().join("cache")).unwrap();
        for file in ["state.db", "state.db-wal"] {
            let from = seed.join("state").join(file);
            if from.exists() {
                fs::copy(from, state.join(file)).unwrap();
            }
        }
        host
    }

    /// As [`Host::new`], with guests that are processes instead of machines.
    pub(crate) fn simulated() -> Host {
        let mut host = Host::new();
        host.vmm = "sim".to_owned();
        host
    }

    /// As [`Host::simulated`], on a host of its own boots: they are files below [`Host::root`], a new one a
    /// [`Host::reboot`].
    pub(crate) fn simulated_to_reboot() -> Host {
        let mut host = Host::simulated();
        let root = host.home.path().join("root");
        fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        fs::create_dir_all(root.join("proc/sys/kernel/random")).unwrap();
        fs::write(root.join("proc/sys/kernel/random/boot_id"), "first\n").unwrap();
        host.root = Some(root);
        host
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().expect("this host has a root of its own")
    }

    /// Takes the power from everything that runs, and boots anew.
    pub(crate) fn reboot(&self) {
        for (pid, _) in self.processes() {
            kill(pid, Signal::KILL);
        }
        eventually("nothing runs", || self.processes().is_empty());
        fs::remove_dir_all(self.home.path().join("run")).unwrap();
        let id = self.root().join("proc/sys/kernel/random/boot_id");
        let before = fs::read_to_string(&id).unwrap();
        fs::write(id, format!("after {before}")).unwrap();
    }

    /// Takes a program away from this host, before its daemon starts: `PATH` becomes a directory of links to all others.
    pub(super) fn hide(&mut self, program: &str) {
        let bin = self.home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for dir in std::env::split_paths(&path()).filter(|dir| dir.is_dir()) {
            for entry in fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_name() != program) {
                let link = bin.join(entry.file_name());
                if !link.is_symlink() {
                    std::os::unix::fs::symlink(entry.path(), link).unwrap();
                }
            }
        }
        self.path = bin.into();
    }

    /// A host with nothing.
    pub(crate) fn bare() -> Host {
        // In /tmp, because a Unix socket's address is short.
        Host::below(Path::new("/tmp"))
    }

    /// A host whose files are on the filesystem of `dir`, with the default image and kernel.
    pub(crate) fn on(dir: &Path) -> Host {
        Host::below(dir).with_artifacts()
    }

    /// A host with nothing whose files are on the filesystem of `dir`.
    pub(crate) fn below(dir: &Path) -> Host {
        let home = tempfile::Builder::new().prefix("bt").tempdir_in(dir).unwrap();
        let vmm = std::env::var("BANGER_TEST_VMM").unwrap_or_else(|_| "qemu".to_owned());
        Host { home, prefix: from_environment("BANGER_TEST_PREFIX"), vmm, path: path(), root: None }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Writes `config.toml`, before the daemon starts. Without templates: to make one is a second machine beside the test's.
    pub(crate) fn configure(&self, text: &str) {
        self.write_config(&format!("templates = false\n{text}"));
    }

    /// Has fresh VMs go on from templates, before the daemon starts.
    pub(crate) fn use_templates(&self) {
        self.write_config("templates = true\n");
    }

    fn write_config(&self, text: &str) {
        let dir = self.home.path().join("config");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.toml"), text).unwrap();
    }

    /// `banger` with a clean environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        self.surround(&mut command);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `banger` itself.
    pub(crate) fn program(&self) -> PathBuf {
        self.prefix.join("bin/banger")
    }

    /// Gives a command this host's environment and nothing else.
    pub(crate) fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.home.path())
            .env("BANGER_HOME", self.home.path())
            .env("BANGER_VMM", &self.vmm)
            .current_dir(self.home.path());
        if let Some(root) = &self.root {
            command.env("BANGER_HOST_ROOT", root);
        }
    }

    /// Runs `banger` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args).spawn().unwrap(), &format!("banger {args:?}"))
    }

    /// Runs `banger`, which must succeed, and gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.run(args).code(0).text()
    }

    /// Runs `banger` with bytes on its standard input.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that ends early closes its end; what it printed tells the rest.
                let written = stdin.write_all(input);
                assert!(written.is_ok() || written.is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe));
            });
            finish(child, &format!("banger {args:?}"))
        })
    }

    /// The running daemon's process, if one runs: it has no arguments, unlike the launchers of VMMs.
    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        self.processes().into_iter().find(|(_, line)| line.trim_end().ends_with("bangerd")).map(|(pid, _)| pid)
    }

    /// Kills the daemon as a crash would: SIGKILL.
    pub(crate) fn kill_daemon(&self) {
        end(&[self.daemon_pid().expect("a daemon runs")]);
    }

    /// Whether its guests are machines.
    pub(crate) fn is_real(&self) -> bool {
        self.vmm != "sim"
    }

    /// A VM's record.
    #[track_caller]
    pub(crate) fn show(&self, vm: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["vm", "show", vm, "--format", "json"])).unwrap()
    }

    /// The process of a VM's VMM.
    #[track_caller]
    pub(crate) fn vmm_pid(&self, vm: &str) -> u32 {
        let shown = self.show(vm);
        u32::try_from(shown["boot"]["pid"].as_u64().unwrap_or_else(|| panic!("{vm} does not run: {shown}"))).unwrap()
    }

    /// Sends a signal to everything that runs for this host.
    fn signal_all(&self, signal: Signal) {
        for (pid, _) in self.processes() {
            kill(pid, signal);
        }
    }

    /// Takes the power away: whatever runs for this host ends at once and unasked, and its runtime directory, which is in
    /// memory, is gone. What was written stays.
    pub(crate) fn lose_power(&self) {
        self.kill_everything();
        fs::remove_dir_all(self.home.path().join("run")).unwrap();
    }

    /// Ends whatever runs for this host, none having time to act on the end of another.
    pub(crate) fn kill_everything(&self) {
        self.signal_all(Signal::STOP);
        let running: Vec<u32> = self.processes().into_iter().map(|(pid, _)| pid).collect();
        end(&running);
        eventually("nothing runs any more", || self.processes().is_empty());
    }

    /// Copies the state directory as it is at one moment, and gives the copy's place.
    pub(crate) fn copy_state(&self) -> PathBuf {
        let copy = self.home.path().join("state-of-an-hour-ago");
        self.signal_all(Signal::STOP);
        let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(self.state()).arg(&copy).output().unwrap();
        self.signal_all(Signal::CONT);
        assert!(copied.status.success(), "{copied:?}");
        copy
    }

    /// The processes that guests run in: VMMs, or the agents that stand in for them.
    pub(crate) fn vmms(&self) -> Vec<u32> {
        let mark = match self.vmm.as_str() {
            "sim" => "--serve",
            // The launcher of the jail, which ends with it; what is inside has no word of the home.
            "firecracker" => "bangerd vmm-jail",
            // Not one that is asked for its version: a daemon that starts does.
            _ => " -nodefaults ",
        };
        self.processes().into_iter().filter(|(_, line)| line.contains(mark)).map(|(pid, _)| pid).collect()
    }

    /// How many guests run.
    pub(crate) fn guests(&self) -> usize {
        self.vmms().len()
    }

    /// Ends the daemon and starts one that kills itself at `fault`, which is `<operation>/<step>:<point>`.
    pub(crate) fn daemon_that_dies_at(&self, fault: &str) -> u32 {
        self.ok(&["daemon", "stop"]);
        eventually("the daemon has ended", || self.daemon_pid().is_none());
        let started = self.command(&["ps"]).env("BANGER_FAULT", fault).output().unwrap();
        assert!(started.status.success(), "{started:?}");
        self.daemon_pid().expect("a daemon runs")
    }

    /// The steps of the newest operation of this kind.
    pub(crate) fn steps_of(&self, kind: &str) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_str(&self.ok(&["ops", "list", "--format", "json"])).unwrap();
        let found = list["operations"].as_array().unwrap().iter().find(|op| op["kind"] == kind).expect(kind);
        found["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The VM's record once no operation holds it and its state is a lasting one; none when there is no such VM.
    pub(crate) fn settled(&self, vm: &str) -> Option<serde_json::Value> {
        let mut record = None;
        eventually("the VM has settled", || {
            let shown = self.run(&["vm", "show", vm, "--format", "json"]);
            let value: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
            let is_gone = value["error"]["code"] == "not_found";
            let lasts = matches!(value["state"].as_str(), Some("running" | "stopped" | "created"));
            record = (!is_gone).then(|| value.clone());
            is_gone || (value["operation"].is_null() && lasts)
        });
        record
    }

    /// Processes that belong to this host: their environment or command line names its home.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let home = self.home.path().to_str().unwrap();
        let own = std::process::id();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let read = |file: &str| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let line = read("cmdline");
            if pid != own && !line.is_empty() && (line.contains(home) || read("environ").contains(home)) {
                found.push((pid, line));
            }
        }
        found
    }

    /// Deletes what is left, ends the daemon, and proves that nothing of this host remains.
    #[track_caller]
    pub(crate) fn leaves_nothing(self) {
        let names = self.ok(&["vm", "list", "--format", "name"]);
        for name in names.lines() {
            self.ok(&["vm", "delete", name]);
        }
        self.ends_clean();
    }

    /// As [`Host::leaves_nothing`], and there must be no VM to delete.
    #[track_caller]
    pub(crate) fn ends_clean(self) {
        assert_eq!(self.ok(&["vm", "list", "--format", "name"]), "", "VMs are left");
        let entries = |dir: &str| -> Vec<OsString> {
            let found = fs::read_dir(self.home.path().join(dir)).into_iter().flatten().flatten();
            found.map(|entry| entry.file_name()).collect()
        };
        for dir in ["state/vms", "run/boots"] {
            assert!(entries(dir).is_empty(), "{dir} holds {:?}", entries(dir));
        }
        if let Some(pid) = self.daemon_pid() {
            kill(pid, Signal::TERM);
        }
        eventually("every process of this host has ended", || self.processes().is_empty());
        let left: Vec<_> =
            entries("run").into_iter().filter(|name| name != "bangerd.lock" && name != "boots").collect();
        assert!(left.is_empty(), "run holds {left:?}");
    }
}

impl Drop for Host {
    /// A failed test must not leave guests running either.
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            kill(pid, Signal::KILL);
        }
    }
}

/// Waits for the end of a command, with a deadline.
fn finish(child: Child, what: &str) -> Ran {
    let pid = child.id();
    let (done, watched) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let is_late = watched.recv_timeout(COMMAND_DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout);
        if is_late {
            kill(pid, Signal::KILL);
        }
        is_late
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    drop(done);
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!watchdog.join().unwrap(), "{what} did not end within {COMMAND_DEADLINE:?}: {stderr}");
    Ran { code: status.code().unwrap_or(-1), stdout, stderr }
}

/// Kills processes and waits until they have ended: pidfd_open(2). A process shows no command line from its first moment of
/// dying on, while whoever holds its pidfd still sees it live.
pub(crate) fn end(pids: &[u32]) {
    let open = |pid: &u32| {
        let pid = Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(rustix::io::Errno::SRCH) => None,
            Err(errno) => panic!("cannot open {pid:?}: {errno}"),
        }
    };
    let dying: Vec<OwnedFd> = pids.iter().filter_map(open).collect();
    for pidfd in &dying {
        match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => panic!("cannot kill {pidfd:?}: {errno}"),
        }
    }
    for pidfd in &dying {
        eventually("a killed process has ended", || {
            rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
        });
    }
}

/// Sends a signal; a process that has ended is none of our business.
pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => panic!("cannot signal {pid:?}: {errno}"),
    }
}

/// How much a soak is to do: the N of `make soak N=…`; none outside a soak.
pub(crate) fn soak() -> Option<usize> {
    match std::env::var("BANGER_SOAK").ok().as_deref() {
        None | Some("" | "0") => None,
        Some(text) => Some(text.parse().ok().filter(|number| *number > 1).unwrap_or(200)),
    }
}

/// Waits until something holds, at most a minute.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(Duration::from_secs(60), what, holds);
}

/// Waits until something holds. Whoever looks takes a quarter of a processor at most: what is waited for may have no other one.
#[track_caller]
pub(crate) fn eventually_within(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + deadline;
    loop {
        let looked = Instant::now();
        if holds() {
            return;
        }
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(10).max(looked.elapsed() * 3));
    }
}
