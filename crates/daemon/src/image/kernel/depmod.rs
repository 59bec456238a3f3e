//! Runs depmod(8) of the kmod package: the one program that writes every index modprobe reads.

use std::path::Path;

use super::KernelError;

/// Where depmod is: an ordinary user's `PATH` often lacks the `sbin` directories.
const PLACES: &[&str] = &["/usr/sbin/depmod", "/sbin/depmod", "/usr/bin/depmod", "/bin/depmod"];

/// Indexes `<base>/lib/modules/<release>`.
pub(super) fn run(base: &Path, release: &str) -> Result<(), KernelError> {
    let program = PLACES.iter().map(Path::new).find(|place| place.exists()).ok_or(KernelError::NoDepmod)?;
    let mut depmod = sys::process::command(program);
    depmod.env("LC_ALL", "C").arg("-b").arg(base).arg(release);
    sys::process::run(&mut depmod).map_err(KernelError::Depmod)?;
    Ok(())
}
