//! What dies, and what must not.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::session::NAME;
use crate::home::Home;
use crate::wait;

pub(super) fn daemon_killed(home: &Home) -> Result<()> {
    let (daemon, vmm) = (home.daemon()?, home.vmm(NAME)?);
    let token = home.ok(&["exec", NAME, "--", "sh", "-c", "cat /proc/sys/kernel/random/uuid | tee /run/token"])?;
    daemon.kill()?;
    wait::until("the daemon ends", Duration::from_secs(10), || {
        ensure!(!daemon.is_alive(), "{daemon:?}");
        Ok(())
    })?;
    ensure!(vmm.is_alive(), "the VMM outlives the daemon");
    ensure!(home.ok(&["exec", NAME, "--", "cat", "/run/token"])? == token, "the same boot answers");
    ensure!(home.vmm(NAME)? == vmm, "and the same VMM");
    ensure!(home.daemon()? != daemon, "under a new daemon");
    Ok(())
}

pub(super) fn vmm_killed() -> Result<()> {
    let home = Home::new("firecracker")?;
    home.ok(&["create", "--quiet", "--name", NAME, "--memory", "512M", "--wait", "agent"])?;
    home.vmm(NAME)?.kill()?;
    wait::until("the VM is off", Duration::from_secs(30), || {
        let shown = home.show(NAME)?;
        ensure!(shown["state"] == "stopped", "{shown}");
        Ok(())
    })?;
    home.ok(&["start", "--quiet", "--wait", "agent", NAME])?;
    home.ok(&["exec", NAME, "--", "true"])?;
    home.ok(&["delete", "--quiet", NAME])?;
    home.end()
}
