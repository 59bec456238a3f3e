//! System mode: VMs in jails that the helper makes, each with a user id of its own.

pub(super) mod saved;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::NAME;
use crate::command::{self, shell};
use crate::home::{Home, UID, USER, as_user};
use crate::processes::Process;
use crate::wait;

/// The helper's units, without whose VMs they serve; `cargo xtask dist` puts them there.
const TEMPLATES: &str = "/usr/local/share/banger/systemd";
/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";
const SOCKET: &str = "banger-helper.socket";
const SERVICE: &str = "banger-helper.service";
/// Where the helper keeps what is left of a jail outside it.
const RUN: &str = "/run/banger";
/// The user ids of VMs begin here.
const VM_UID_BASE: u32 = 1_900_000_000;
/// How long a start may take that another daemon goes on with.
const BOOT_MAX: Duration = Duration::from_secs(240);
/// How long what ends may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(30);

/// The helper, installed for one home.
struct System {
    home: Home,
    _units: Units,
}

/// The units, which are taken away again however the scenario ends.
struct Units;

impl System {
    fn install() -> Result<System> {
        let home = Home::whole("firecracker")?;
        let units = Units;
        for unit in [SOCKET, SERVICE] {
            let template = Path::new(TEMPLATES).join(unit);
            let mut text =
                fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
            for (word, value) in [
                ("@UID@", UID.to_string()),
                ("@GID@", UID.to_string()),
                ("@STATE@", home.path().join("state").display().to_string()),
                ("@CACHE@", home.path().join("cache").display().to_string()),
                ("@FIRECRACKER@", "/usr/local/bin/firecracker".to_owned()),
                ("@JAILER@", "/usr/local/bin/jailer".to_owned()),
            ] {
                text = text.replace(word, &value);
            }
            ensure!(!text.contains('@'), "{unit} has something left to fill in: {text}");
            fs::write(Path::new(UNITS).join(unit), text).context("cannot write a unit")?;
        }
        shell(&format!("systemctl daemon-reload && systemctl start {SOCKET}"))?;
        Ok(System { home, _units: units })
    }

    fn create(&self, name: &str) -> Result<Process> {
        self.home.ok(&["create", "--quiet", "--name", name, "--memory", "384M", "--wait", "agent"])?;
        self.vmm(name)
    }

    /// The VMM of a VM: it carries no path of the home.
    fn vmm(&self, name: &str) -> Result<Process> {
        let shown = self.home.show(name)?;
        let pid = shown["boot"]["pid"].as_u64().with_context(|| format!("{name} runs: {shown}"))?;
        Process::read(u32::try_from(pid)?).with_context(|| format!("there is a process {pid}"))
    }

    fn end(self) -> Result<()> {
        let System { home, _units: units } = self;
        // It is a process of the home, too: its arguments say so.
        shell(&format!("systemctl stop {SERVICE}"))?;
        home.end()?;
        ensure!(jails()?.is_empty(), "{:?}", jails()?);
        drop(units);
        Ok(())
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let left = format!(
            "systemctl kill --signal KILL 'banger-vm-*.scope'; systemctl stop {SOCKET} {SERVICE}; rm -f {UNITS}/{SOCKET} {UNITS}/{SERVICE}; systemctl daemon-reload; \
             systemctl stop banger.slice; rm -rf {RUN}"
        );
        if let Err(error) = shell(&left) {
            eprintln!("e2e: the helper stays installed: {error:#}");
        }
    }
}

/// What jails there are.
fn jails() -> Result<Vec<String>> {
    let dir = Path::new(RUN).join("jails");
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Nothing of any VM is left, by whatever the helper makes.
fn nothing_left() -> Result<()> {
    ensure!(jails()?.is_empty(), "jails: {:?}", jails()?);
    let links = shell("ls /sys/class/net")?;
    ensure!(!links.contains("banger"), "{links}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    ensure!(!mounts.contains(RUN), "{mounts}");
    let scopes = shell("find /sys/fs/cgroup -type d -name 'banger-vm-*'")?;
    ensure!(scopes.is_empty(), "{scopes}");
    let processes = shell("ps -eo uid=,args=")?;
    let of_vms = |line: &&str| line.split_whitespace().next().and_then(|uid| uid.parse().ok()) >= Some(VM_UID_BASE);
    let left: Vec<&str> = processes.lines().filter(of_vms).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

pub(super) fn session() -> Result<()> {
    let system = System::install()?;
    let home = &system.home;
    let said = home.ok(&["doctor", "--format", "json"])?;
    ensure!(said.contains("system: the helper makes the jails") && said.contains("under its jailer"), "{said}");
    let first = system.create(NAME)?;
    ensure!(first.arguments[0] == "/firecracker", "{first:?}");
    ensure!(home.ok(&["exec", NAME, "--", "id", "-u"])? == "0");
    let said = home.banger(&["exec", NAME, "--", "sh", "-c", "echo kept > /root/kept; exit 42"])?;
    said.ended_with(42)?;
    // Its jail is gone, and its number free, before it starts again.
    home.ok(&["restart", "--quiet", "--wait", "agent", NAME])?;
    ensure!(system.vmm(NAME)? != first && !first.is_alive());
    ensure!(home.ok(&["exec", NAME, "--", "cat", "/root/kept"])? == "kept", "the disk is the same");
    home.ok(&["kill", "--quiet", NAME])?;
    nothing_left()?;
    let refused = home.banger(&["create", "--quiet", "--name", "open", "--nat"])?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("mode = \"session\""), "{refused:?}");
    home.ok(&["delete", "--quiet", NAME])?;
    system.end()
}

pub(super) fn survives() -> Result<()> {
    let system = System::install()?;
    let (home, vmm) = (&system.home, system.create(NAME)?);
    let token = home.ok(&["exec", NAME, "--", "sh", "-c", "cat /proc/sys/kernel/random/uuid | tee /run/token"])?;
    let answers = |after: &str| {
        ensure!(vmm.is_alive(), "the VMM lives after {after}");
        ensure!(home.ok(&["exec", NAME, "--", "cat", "/run/token"])? == token, "the same boot answers after {after}");
        ensure!(system.vmm(NAME)? == vmm, "the same VMM after {after}");
        Ok(())
    };
    home.daemon()?.kill()?;
    answers("SIGKILL for the daemon")?;
    shell(&format!("systemctl restart {SERVICE}"))?;
    answers("a restart of the helper")?;
    shell(&format!("systemctl kill --signal KILL {SERVICE}"))?;
    answers("SIGKILL for the helper")?;
    let daemon = home.daemon()?;
    shell(&format!("env kill -TERM -- -{}", daemon.pid))?;
    wait::until("the daemon ends", GONE_MAX, || {
        ensure!(!daemon.is_alive(), "{daemon:?}");
        Ok(())
    })?;
    answers("SIGTERM for the daemon's process group")?;
    // It was asked something, so it runs.
    shell(&format!("systemctl start {SERVICE}; env kill -TERM -- -$(systemctl show -P MainPID {SERVICE})"))?;
    answers("SIGTERM for the helper's process group")?;
    shell(&format!("systemctl stop {SERVICE}"))?;
    answers("the helper's end, and the sweep behind it")?;
    home.ok(&["delete", "--quiet", NAME])?;
    ensure!(!vmm.is_alive(), "{vmm:?}");
    nothing_left()?;
    system.end()
}

/// A line of `/proc/PID/status`.
fn status(vmm: &Process, name: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{}/status", vmm.pid)).context("cannot read its status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("{name} in {text}"))?.split_whitespace().map(str::to_owned).collect())
}

pub(super) fn walls() -> Result<()> {
    let system = System::install()?;
    let vmms = [system.create(NAME)?, system.create("other")?];
    let mut uids = BTreeSet::new();
    for vmm in &vmms {
        let uid = status(vmm, "Uid")?;
        ensure!(uid.iter().all(|one| *one == uid[0]) && status(vmm, "Gid")? == uid, "{uid:?}");
        ensure!(uid[0].parse::<u32>()? >= VM_UID_BASE && uids.insert(uid[0].clone()), "{uid:?} beside {uids:?}");
        for (name, value) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            ensure!(status(vmm, name)? == [value], "{name} is {:?}", status(vmm, name)?);
        }
        sees_its_own(vmm)?;
    }
    for uid in &uids {
        cannot_reach(&system, uid)?;
    }
    system.home.ok(&["delete", "--quiet", NAME, "other"])?;
    nothing_left()?;
    system.end()
}

/// What is in a VMM's filesystem, its network and its namespaces.
fn sees_its_own(vmm: &Process) -> Result<()> {
    let root = PathBuf::from(format!("/proc/{}/root", vmm.pid));
    let entries = fs::read_dir(&root).context("cannot look into its root")?;
    let names: BTreeSet<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    // What it was given; what the jailer makes in memory: devices, its copy of the program and that one's number.
    let given = ["disk", "image", "initramfs", "kernel", "metrics", "modules", "save-devices", "save-memory", "sock"];
    let made = ["dev", "firecracker", "firecracker.pid", "run"];
    let known: BTreeSet<String> = given.into_iter().chain(made).map(str::to_owned).collect();
    ensure!(names == known, "{names:?} instead of {known:?}");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", vmm.pid)).context("cannot read its mounts")?;
    for name in ["image", "initramfs", "kernel", "modules"] {
        let place = format!("/{name}");
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&place));
        let options = line.and_then(|line| line.split(' ').nth(5)).with_context(|| format!("{place} in {mounts}"))?;
        ensure!(options.split(',').any(|option| option == "ro"), "{place} is mounted {options}");
    }
    let interfaces = fs::read_to_string(format!("/proc/{}/net/dev", vmm.pid)).context("cannot read its network")?;
    let interfaces: BTreeSet<&str> =
        interfaces.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    ensure!(interfaces == BTreeSet::from(["lo", "tap0"]), "{interfaces:?}");
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).context("cannot read a namespace");
        ensure!(of(&vmm.pid.to_string())? != of("1")?, "its {kind} namespace is the host's");
    }
    Ok(())
}

/// What a VMM's user could do if it were outside the jail: nothing to anybody else.
fn cannot_reach(system: &System, uid: &str) -> Result<()> {
    let (state, daemon) = (system.home.path().join("state"), system.home.daemon()?);
    let lists = format!("ls {}", state.display());
    let signals = format!("kill -0 {}", daemon.pid);
    let connects = format!("echo | socat - UNIX-CONNECT:{}", system.home.path().join("run/bangerd.sock").display());
    let asks = format!("ls {RUN}/jails || ls {RUN}/jails/{}/sock", jails()?.join(&format!("/sock {RUN}/jails/")));
    for act in [&lists, &signals, &connects, &asks] {
        let tries = format!("setpriv --reuid {uid} --regid {uid} --clear-groups -- sh -c '{act}'");
        let ran = command::run(std::process::Command::new("sh").args(["-c", &tries]), GONE_MAX)?;
        ensure!(ran.code != Some(0), "{act} works: {ran:?}");
        // The same is no mistake of this test: whoever may, can.
        let mut owner = as_user("sh", &["-c", act]);
        if *act != asks {
            command::run(&mut owner, GONE_MAX)?.ok().with_context(|| format!("as {USER}"))?;
        }
    }
    Ok(())
}

pub(super) fn swept() -> Result<()> {
    let system = System::install()?;
    let home = &system.home;
    let die = |vmm: &Process| {
        let daemon = home.daemon()?;
        daemon.kill()?;
        vmm.kill()?;
        wait::until("both end", GONE_MAX, || {
            ensure!(!daemon.is_alive() && !vmm.is_alive(), "{daemon:?} {vmm:?}");
            Ok(())
        })
    };
    die(&system.create(NAME)?)?;
    ensure!(jails()?.len() == 1, "nobody has looked yet: {:?}", jails()?);
    let shown = home.show(NAME)?;
    ensure!(shown["state"] == "stopped", "{shown}");
    wait::until("the daemon has looked", GONE_MAX, nothing_left)?;

    home.ok(&["start", "--quiet", "--wait", "agent", NAME])?;
    home.ok(&["exec", NAME, "--", "true"])?;
    die(&system.vmm(NAME)?)?;
    // Without a daemon the helper's own sweep is there.
    shell(&format!("systemctl start {SERVICE} && systemctl stop {SERVICE}"))?;
    wait::until("the helper has looked", GONE_MAX, nothing_left)?;
    home.ok(&["delete", "--quiet", NAME])?;
    system.end()
}

pub(super) fn crashes() -> Result<()> {
    let system = System::install()?;
    let home = &system.home;
    home.ok(&["create", "--quiet", "--name", NAME, "--memory", "384M", "--no-start"])?;
    for fault in ["spawn_vmm:kill-before", "spawn_vmm:kill-after", "configure:kill-before"] {
        home.arm(&format!("vm.start/{fault}"))?;
        let daemon = home.daemon()?;
        // How the command ends depends on whether the next daemon has come as far.
        home.banger(&["start", "--quiet", "--wait", "agent", NAME])?;
        ensure!(!daemon.is_alive(), "{fault} ended nobody");
        let is_running = wait::until("the start is over", BOOT_MAX, || {
            let shown = home.show(NAME)?;
            ensure!(shown["operation"].is_null() && shown["state"] != "starting", "{shown}");
            Ok(shown["state"] == "running")
        })?;
        ensure!(jails()?.len() == usize::from(is_running), "{fault}: {:?}, running: {is_running}", jails()?);
        if is_running {
            home.ok(&["exec", NAME, "--", "true"])?;
            home.ok(&["kill", "--quiet", NAME])?;
        }
        nothing_left().context(fault)?;
    }
    home.ok(&["delete", "--quiet", NAME])?;
    system.end()
}
