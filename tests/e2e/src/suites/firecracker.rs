//! Firecracker without the product: the floor that the driver stands on.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::command;
use crate::home::{PARTS, UID, USER, as_user};
use crate::init;

/// A boot of an emulated processor on an emulated processor.
const BOOT_MAX: Duration = Duration::from_secs(180);

pub(super) fn bare_boot() -> Result<()> {
    let dir =
        tempfile::Builder::new().prefix("fc").tempdir_in(format!("/home/{USER}")).context("cannot make a directory")?;
    chown(dir.path(), Some(UID), Some(UID)).context("cannot give the directory to its user")?;
    let (initramfs, config) = (dir.path().join("initramfs"), dir.path().join("config.json"));
    fs::write(&initramfs, figures::lay_over(&[], &init::program(init::SAYS))).context("cannot write the initramfs")?;
    let wanted = json!({
        "boot-source": {
            "kernel_image_path": kernel()?,
            "initrd_path": initramfs,
            "boot_args": "console=ttyS0 quiet reboot=k panic=-1",
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
        "drives": [],
    });
    fs::write(&config, wanted.to_string()).context("cannot write the configuration")?;
    let mut firecracker = as_user("firecracker", &["--no-api", "--level", "Warn", "--config-file"]);
    let ran = command::run(firecracker.arg(&config), BOOT_MAX)?;
    let console = ran.ok()?;
    // The console's line ends in a carriage return and a newline.
    ensure!(console.contains(init::SAYS.trim_end()), "the console says: {console}\n{}", ran.stderr);
    Ok(())
}

/// The product's kernel, unpacked as Firecracker wants it.
fn kernel() -> Result<PathBuf> {
    let dir = Path::new(PARTS).join("state/kernels");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let found = entries.flatten().map(|entry| entry.path().join("vmlinux")).find(|path| path.is_file());
    found.with_context(|| format!("no kernel in {}", dir.display()))
}
