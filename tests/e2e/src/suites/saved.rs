//! Firecracker's machines saved, and what keeps them from going on: `black_box.saved` has what goes well.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::home::Home;
use crate::wait;

const NAME: &str = "web";
/// How long operations that a daemon left may take under the next one.
const SETTLED_MAX: Duration = Duration::from_secs(180);
/// The steps of `vm.fork`.
const STEPS: [&str; 7] = ["make_ready", "freeze", "stand_still", "save_machine", "run_on", "make_vms", "remove_saved"];

fn running() -> Result<Home> {
    let home = Home::new("firecracker")?;
    home.ok(&["create", "--quiet", "--name", NAME, "--memory", "256M", "--wait", "agent"])?;
    Ok(home)
}

pub(super) fn refused() -> Result<()> {
    let home = running()?;
    home.ok(&["exec", NAME, "--", "sh", "-c", "echo then >/dev/shm/when"])?;
    home.ok(&["snapshot", "create", "--quiet", NAME, "one"])?;
    home.ok(&["exec", NAME, "--", "sh", "-c", "echo later >/dev/shm/when"])?;
    let path = manifest(home.path())?;
    let kept = fs::read_to_string(&path).context("cannot read what was saved")?;
    // What this host would have written under another Firecracker, or on another processor.
    for (part, other, why) in [
        ("vmm", "Firecracker 1.5.0", "saved by another version of the VMM"),
        ("cpu", "vendor_id : GenuineIntel", "saved on another processor"),
    ] {
        let mut manifest: Value = serde_json::from_str(&kept).context("a manifest is JSON")?;
        let was = manifest["shape"][part].take();
        ensure!(was.as_str().is_some_and(|was| !was.is_empty() && was != other), "{part} is {was}");
        manifest["shape"][part] = other.into();
        fs::write(&path, manifest.to_string()).context("cannot write what was saved")?;
        let said = home.banger(&["snapshot", "restore", "--force", NAME, "one"])?;
        ensure!(said.code == Some(1) && said.stderr.contains(why), "{said:?}");
        ensure!(home.ok(&["exec", NAME, "--", "cat", "/dev/shm/when"])? == "later", "nothing was given up");
    }
    fs::write(&path, kept).context("cannot write what was saved")?;
    home.ok(&["snapshot", "restore", "--quiet", "--force", NAME, "one"])?;
    ensure!(home.ok(&["exec", NAME, "--", "cat", "/dev/shm/when"])? == "then", "it is what it was then");
    home.ok(&["delete", "--quiet", NAME])?;
    home.end()
}

/// The record of the only snapshot of the only VM.
fn manifest(home: &Path) -> Result<PathBuf> {
    let only = |dir: PathBuf| -> Result<PathBuf> {
        let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        ensure!(found.len() == 1, "{found:?}");
        found.pop().context("one is one")
    };
    let vm = only(home.join("state/vms"))?;
    Ok(only(vm.join("snapshots"))?.join("manifest.json"))
}

pub(super) fn fork_killed() -> Result<()> {
    let home = running()?;
    forks_are_whole(&home, NAME, &STEPS)?;
    home.ok(&["delete", "--quiet", NAME])?;
    home.end()
}

/// A fork of `vm` is whole or not there when the daemon is killed around any of these steps, and the source is what it was.
pub(super) fn forks_are_whole(home: &Home, vm: &str, steps: &[&str]) -> Result<()> {
    let token = home.ok(&["exec", vm, "--", "sh", "-c", "cat /proc/sys/kernel/random/uuid | tee /dev/shm/token"])?;
    let told = |vm: &str| home.ok(&["exec", vm, "--", "cat", "/dev/shm/token"]);
    for step in steps {
        for at in ["kill-before", "kill-after"] {
            home.arm(&format!("vm.fork/{step}:{at}"))?;
            let daemon = home.daemon()?;
            // Whoever asked hears that the daemon has died, or of what the next one made of it.
            home.banger(&["fork", "--quiet", vm, "--name", "try"])?;
            ensure!(!daemon.is_alive(), "{step}:{at}: {daemon:?} is alive");
            wait::until("nothing is under way", SETTLED_MAX, || {
                let said = home.ok(&["op", "list", "--format", "json"])?;
                let said: Value = serde_json::from_str(&said).context("operations are JSON")?;
                let operations = said["operations"].as_array().context("there is a list of operations")?;
                ensure!(operations.iter().all(|operation| !operation["ended_at_ms"].is_null()), "{operations:?}");
                Ok(())
            })?;
            ensure!(told(vm)? == token, "{step}:{at}: the source is what it was");
            let vms = home.ok(&["list", "--format", "name"])?;
            if vms.lines().any(|vm| vm == "try") {
                ensure!(told("try")? == token, "{step}:{at}: the fork has its source's memory");
                ensure!(home.ok(&["exec", "try", "--", "hostname"])? == "try", "{step}:{at}: under its own name");
                home.ok(&["delete", "--quiet", "try"])?;
            }
            let saved = home.path().join("state/forks");
            let left: Vec<_> = fs::read_dir(&saved).map(|dir| dir.flatten().collect()).unwrap_or_default();
            ensure!(left.is_empty(), "{step}:{at}: {left:?}");
        }
    }
    Ok(())
}
