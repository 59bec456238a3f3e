//! Session mode: an ordinary user, no root, no installation.

use anyhow::{Context, Result, ensure};

use crate::home::Home;
use crate::scenario::Fixture;

/// The VM of the fixture.
pub(super) const NAME: &str = "web";

/// A home with one running VM.
pub(super) static VM: Fixture = Fixture { name: "vm", make: vm };

fn vm() -> Result<Home> {
    let home = Home::new("firecracker")?;
    home.ok(&["create", "--quiet", "--name", NAME, "--memory", "512M", "--wait", "agent"])?;
    Ok(home)
}

pub(super) fn run() -> Result<()> {
    let home = Home::new("firecracker")?;
    home.ok(&["run", "--quiet", "--rm", "--memory", "512M", "--", "true"])?;
    let said = home.banger(&[
        "run",
        "--quiet",
        "--rm",
        "--memory",
        "512M",
        "--wait",
        "agent",
        "--",
        "sh",
        "-c",
        "id -u; exit 42",
    ])?;
    ensure!(said.ended_with(42)? == "0", "{said:?}");
    ensure!(home.ok(&["list", "--format", "name"])?.is_empty(), "no VM is left");
    let disks = home.path().join("state/vms");
    let left: Vec<_> = std::fs::read_dir(&disks).context("cannot list the disks")?.flatten().collect();
    ensure!(left.is_empty(), "{left:?}");
    home.end()
}

pub(super) fn stop_start(home: &Home) -> Result<()> {
    let boot = |home: &Home| home.ok(&["exec", NAME, "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    let (before, vmm) = (boot(home)?, home.vmm(NAME)?);
    home.ok(&["exec", NAME, "--", "sh", "-c", "echo kept > /root/kept"])?;
    home.ok(&["stop", "--quiet", NAME])?;
    ensure!(!vmm.is_alive(), "{vmm:?} is alive");
    home.ok(&["start", "--quiet", "--wait", "agent", NAME])?;
    ensure!(boot(home)? != before, "a start is a new boot");
    ensure!(home.ok(&["exec", NAME, "--", "cat", "/root/kept"])? == "kept", "the disk is the same");
    Ok(())
}

pub(super) fn delete(home: &Home) -> Result<()> {
    let vmm = home.vmm(NAME)?;
    home.ok(&["delete", "--quiet", NAME])?;
    ensure!(!vmm.is_alive(), "{vmm:?} is alive");
    let said = home.banger(&["exec", NAME, "--", "true"])?;
    ensure!(said.code != Some(0) && said.stderr.contains(NAME), "{said:?}");
    Ok(())
}
