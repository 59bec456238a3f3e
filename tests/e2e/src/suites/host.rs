//! The test host itself: what it must be for the other suites to mean anything, and what a full disk may not stop.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::NAME;
use crate::command::{self, shell};
use crate::home::{Home, UID, as_user};
use crate::runner;

/// What the full disk's filler is called.
const FILLER: &str = "/var/tmp/e2e-filler";

pub(super) fn kvm() -> Result<()> {
    let home = Home::new("firecracker")?;
    home.configure("templates = false\n")?;
    let said = home.ok(&["doctor", "--format", "json"])?;
    let report: serde_json::Value = serde_json::from_str(&said).context("doctor prints JSON")?;
    let checks = report["checks"].as_array().context("doctor has checks")?;
    let kvm = checks.iter().find(|check| check["name"] == "kvm").context("doctor looks at KVM")?;
    ensure!(kvm["status"] == "pass", "{kvm}");
    // A guest on a processor that is itself a program gets the patience of one without KVM.
    let settings: serde_json::Value = serde_json::from_str(&home.ok(&["config", "show", "--format", "json"])?)?;
    let patience =
        settings["settings"].as_array().and_then(|all| all.iter().find(|one| one["key"] == "boot_timeout_s"));
    let patience = patience.context("config shows boot_timeout_s")?;
    ensure!(patience["value"] == if runner::is_emulated()? { "90" } else { "30" }, "{patience}");
    home.end()
}

pub(super) fn system() -> Result<()> {
    ensure!(shell("stat -f -c %T /sys/fs/cgroup")? == "cgroup2fs", "cgroups are version 2");
    ensure!(shell("systemctl is-system-running")? == "running", "systemd is up");
    let service = format!("/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service/cgroup.controllers");
    let controllers = std::fs::read_to_string(&service).with_context(|| format!("cannot read {service}"))?;
    for controller in ["memory", "pids", "cpu"] {
        ensure!(controllers.split_whitespace().any(|word| word == controller), "{controller} in {controllers}");
    }
    let mut scope =
        as_user("systemd-run", &["--user", "--quiet", "--wait", "--collect", "-p", "MemoryMax=64M", "true"]);
    command::run(&mut scope, Duration::from_secs(60))?.ok()?;
    ensure!(shell("systemctl is-active systemd-resolved")? == "active", "systemd-resolved is active");
    ensure!(shell("resolvectl query --legend=no localhost")?.contains("127.0.0.1"), "names are resolved");
    shell("nft add table inet e2e && nft delete table inet e2e")?;
    shell("dmsetup create e2e --table '0 8 zero' && dmsetup remove e2e")?;
    Ok(())
}

/// Takes every free byte of the host's disk, and gives it back when dropped.
struct Filler;

impl Filler {
    fn fill() -> Result<Filler> {
        let filler = Filler;
        // Large pieces, then ever smaller ones, until not even a block is left.
        shell(&format!(
            "n=0; for size in 1G 64M 4M 256K 4K; do while fallocate -l $size {FILLER}.$n 2>/dev/null; do n=$((n+1)); done; \
             rm -f {FILLER}.$n; done; ! fallocate -l 4K {FILLER}.last 2>/dev/null"
        ))?;
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = shell(&format!("rm -f {FILLER}.*")) {
            eprintln!("e2e: the disk stays full: {error:#}");
        }
    }
}

pub(super) fn full_disk() -> Result<()> {
    let home = Home::new("firecracker")?;
    home.ok(&["create", "--quiet", "--name", NAME, "--memory", "512M", "--wait", "agent"])?;
    home.ok(&["create", "--quiet", "--name", "other", "--no-start"])?;
    let filler = Filler::fill()?;
    home.ok(&["stop", "--quiet", NAME])?;
    home.ok(&["delete", "--quiet", NAME, "other"])?;
    ensure!(home.ok(&["list", "--format", "name"])?.is_empty(), "no VM is left");
    drop(filler);
    home.end()
}
