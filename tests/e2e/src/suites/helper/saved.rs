//! Machines that are saved in jails of the helper's, and go on in others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{GONE_MAX, NAME, System, jails, nothing_left, status};
use crate::home::Home;
use crate::processes::Process;
use crate::suites::saved::forks_are_whole;
use crate::wait;

/// How long a template may take: another boot, at a niceness, beside the VM it was asked for.
const TEMPLATE_MAX: Duration = Duration::from_secs(600);
/// What templates need, of what homes are configured with.
const WITH_TEMPLATES: &str = "boot_timeout_s = 180\ntemplates = true\n";
/// Counts in memory, for ever.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; sleep 0.1; done";

impl System {
    /// A VM with a command under way, and a word in its memory that no disk has.
    fn counting(&self) -> Result<String> {
        self.home.ok(&["create", "--quiet", "--name", NAME, "--memory", "256M", "--wait", "agent"])?;
        self.home.ok(&["exec", "-d", "--name", "counter", NAME, "--", "sh", "-c", COUNT])?;
        self.told(NAME, "cat /proc/sys/kernel/random/uuid | tee /dev/shm/token")
    }

    fn told(&self, vm: &str, script: &str) -> Result<String> {
        self.home.ok(&["exec", vm, "--", "sh", "-c", script])
    }

    /// It has the same memory, and what ran in it runs.
    fn goes_on(&self, vm: &str, token: &str) -> Result<()> {
        ensure!(self.told(vm, "cat /dev/shm/token")? == token, "{vm} has another memory");
        let count = || self.told(vm, "cat /dev/shm/count")?.parse::<u64>().context("a count");
        let before = count()?;
        wait::until("what ran goes on", GONE_MAX, || {
            let now = count()?;
            ensure!(now > before, "{vm}: {now}, and {before} before");
            Ok(())
        })
    }
}

/// Which file a VMM has at this place in its jail; none where nothing is there.
fn file_of(vmm: &Process, name: &str) -> Option<(u64, u64)> {
    let meta = fs::metadata(format!("/proc/{}/root/{name}", vmm.pid)).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// No VM has a second name for what it went on from.
fn names_are_gone(home: &Home) -> Result<()> {
    let vms = fs::read_dir(home.path().join("state/vms")).context("cannot list the VMs' directories")?;
    for vm in vms.flatten() {
        let left = vm.path().join("saves/from");
        ensure!(!left.exists(), "{}", left.display());
    }
    Ok(())
}

pub(in crate::suites) fn saved() -> Result<()> {
    let system = System::install()?;
    let home = &system.home;
    let token = system.counting()?;
    let first = system.vmm(NAME)?;
    ensure!(file_of(&first, "save-memory").is_some() && file_of(&first, "memory").is_none(), "it booted");
    home.ok(&["suspend", "--quiet", NAME])?;
    nothing_left().context("a suspended VM takes nothing of the host's")?;
    home.ok(&["resume", "--quiet", NAME])?;
    system.goes_on(NAME, &token).context("resumed")?;
    ensure!(file_of(&system.vmm(NAME)?, "memory").is_some(), "it went on");
    names_are_gone(home)?;

    home.ok(&["snapshot", "create", "--quiet", NAME, "one"])?;
    system.goes_on(NAME, &token).context("it goes on behind a snapshot")?;
    system.told(NAME, "echo later >/dev/shm/token; echo later >/root/file; sync")?;
    for _ in 0..2 {
        home.ok(&["snapshot", "restore", "--quiet", "--force", NAME, "one"])?;
        system.goes_on(NAME, &token).context("restored")?;
        ensure!(system.told(NAME, "test -e /root/file || echo gone")? == "gone", "the disk is what it was");
    }

    home.ok(&["fork", "--quiet", NAME, "--name", "try", "-n", "3"])?;
    let (mut uids, mut memories) = (BTreeSet::new(), BTreeSet::new());
    for vm in ["try-1", "try-2", "try-3"] {
        system.goes_on(vm, &token).context("forked")?;
        ensure!(system.told(vm, "hostname")? == vm, "{vm} is called something else");
        let vmm = system.vmm(vm)?;
        ensure!(uids.insert(status(&vmm, "Uid")?), "{vm} has another's user id");
        memories.insert(file_of(&vmm, "memory"));
    }
    ensure!(memories.len() == 1 && !memories.contains(&None), "they map one file: {memories:?}");
    names_are_gone(home)?;
    system.goes_on(NAME, &token).context("the source")?;
    home.ok(&["fork", "--quiet", "try-1"]).context("a fork of a fork")?;
    system.goes_on("try-1-1", &token)?;
    home.ok(&["delete", "--quiet", NAME, "try-1", "try-1-1", "try-2", "try-3"])?;
    nothing_left()?;
    system.end()
}

pub(in crate::suites) fn fork_killed() -> Result<()> {
    let system = System::install()?;
    let home = &system.home;
    home.ok(&["create", "--quiet", "--name", NAME, "--memory", "256M", "--wait", "agent"])?;
    forks_are_whole(home, NAME, &["make_ready", "save_machine", "make_vms"])?;
    home.ok(&["delete", "--quiet", NAME])?;
    wait::until("nothing is left", GONE_MAX, nothing_left)?;
    system.end()
}

pub(in crate::suites) fn template() -> Result<()> {
    let system = System::install()?;
    let home = &system.home;
    home.configure(WITH_TEMPLATES)?;
    let create = |name: &str| {
        home.ok(&["create", "--quiet", "--name", name, "--memory", "256M", "--wait", "agent"])?;
        system.vmm(name)
    };
    let list = || -> Result<Value> {
        serde_json::from_str(&home.ok(&["template", "list", "--format", "json"])?).context("a list is JSON")
    };
    ensure!(file_of(&create("first")?, "memory").is_none(), "there is none yet: it booted");
    wait::until("there is a template", TEMPLATE_MAX, || {
        let list = list()?;
        ensure!(list["templates"][0].is_object(), "{list}");
        // Its machine is gone with it.
        ensure!(jails()?.len() == 1, "{:?}", jails()?);
        Ok(())
    })?;
    let vms = fs::read_dir(home.path().join("state/vms")).context("cannot list the VMs' directories")?;
    ensure!(vms.count() == 1, "the template's machine left its directory");
    for name in ["second", "third"] {
        ensure!(file_of(&create(name)?, "memory").is_some(), "{name} booted");
        ensure!(system.told(name, "hostname")? == name, "{name} is called something else");
    }
    let said = list()?;
    ensure!(said["templates"][0]["uses"] == 2 && said["fell_back"] == 0, "{said}");
    // What is written since the template is saved into a copy of it.
    let token = system.told("second", "cat /proc/sys/kernel/random/uuid | tee /dev/shm/token")?;
    home.ok(&["suspend", "--quiet", "second"])?;
    home.ok(&["template", "prune", "--all"])?;
    home.ok(&["resume", "--quiet", "second"])?;
    ensure!(system.told("second", "cat /dev/shm/token")? == token, "it has another memory");
    ensure!(system.told("third", "hostname")? == "third", "it has the template mapped");
    home.ok(&["delete", "--quiet", "first", "second", "third"])?;
    wait::until("nothing is left", GONE_MAX, nothing_left)?;
    system.end()
}
