//! The end of a boot: `vm stop`, against the guest's own way to power off.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use figures::{Row, pairs};

use super::host::{Host, rest, runs, time, until};

pub(super) fn rows(host: &Host, count: usize) -> Result<Vec<Row>> {
    host.ok(&["vm", "create", "--no-start", "--name", "off"])?;
    let stop = || {
        boot(host)?;
        time(&mut host.banger(&["vm", "stop", "off"]))
    };
    let power_off = || {
        boot(host)?;
        let pid = host.show("off")?["boot"]["pid"].as_u64().context("the VM runs")?;
        let begun = Instant::now();
        // The guest may be gone before it could say how that command ended.
        let mut asked = host.banger(&["vm", "exec", "off", "--", "systemctl", "poweroff"]);
        let mut asked = asked.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let ended = until("the VMM has ended", || Ok(!runs(pid)));
        let took = begun.elapsed();
        asked.wait()?;
        ended?;
        until("the daemon has seen it", || Ok(host.show("off")?["state"] == "stopped"))?;
        Ok(took)
    };
    let measured: Vec<(Duration, Duration)> = pairs(count, stop, power_off)?;
    host.ok(&["vm", "delete", "off"])?;
    Ok(vec![Row::ratio("`vm stop` of an idle guest", "its own `systemctl poweroff`, until QEMU ends", 1.3, &measured)])
}

/// Starts the VM and waits until its guest idles: booted, with nothing left to do.
fn boot(host: &Host) -> Result<()> {
    host.ok(&["vm", "start", "off"])?;
    host.ok(&["vm", "exec", "off", "--", "sh", "-c", IDLE])?;
    rest();
    Ok(())
}

/// Until systemd has no job left; what the boot wrote is on the disk.
const IDLE: &str = "systemctl is-system-running --wait >/dev/null; sync";
