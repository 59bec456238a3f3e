//! What guests inside a test host boot from: a banger home with kernels and images, as a read-only disk.
//!
//! The home is one that `scripts/test-cache.sh` made. Its files become those of the host's ordinary user.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::build::as_root;
use super::cache::{self, Cache};
use super::recipe::hex;

/// Copies what a home's guests need (its cache of built initramfs and packages is left out: the first depends on the
/// agent, the second is for building), with the kernel package, and makes a file system of it.
const SCRIPT: &str = r#"
home=$1 deb=$2 work=$3 disk=$4
mkdir -p "$work/home/state" "$work/home/cache"
cp -a --sparse=always "$home/state/images" "$home/state/kernels" "$home"/state/state.db* "$work/home/state/"
for file in "$home"/cache/disk-template-*; do [ ! -e "$file" ] || cp -a --sparse=always "$file" "$work/home/cache/"; done
[ -z "$deb" ] || cp "$deb" "$work/"
chown -R 1000:1000 "$work"
kib=$(du -sk "$work" | cut -f1)
truncate -s $((kib * 5 / 4 + 65536))K "$disk"
PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -L parts -O ^has_journal -m 0 -E root_owner=1000:1000 -d "$work" "$disk"
rm -rf "$work"
"#;

/// The newest complete home of the test cache.
pub(super) fn newest_home() -> Result<Option<PathBuf>> {
    let dir = cache::test_cache();
    let mut newest = None;
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let is_home = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("home-"));
        let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
        if let (true, true, Ok(used)) = (is_home, path.join("complete").exists(), used) {
            newest = newest.max(Some((used, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The disk made of `home`, made if it is not there.
pub(super) fn ensure_parts(cache: &Cache, home: &Path) -> Result<PathBuf> {
    let complete = home.join("complete");
    let made = fs::metadata(&complete).and_then(|metadata| metadata.modified());
    let made = made.with_context(|| format!("{} is not a home that scripts/test-cache.sh made", home.display()))?;
    let disk = cache.parts(&key(home, made.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()));
    let _lock = cache.lock()?;
    if !disk.exists() {
        eprintln!("testhost: making the guests' parts of {} …", home.display());
        let (work, part) = (disk.with_extension("work"), disk.with_extension("part"));
        let deb = kernel_package()?.unwrap_or_default();
        let script = format!("set -eu\nrm -rf \"$3\" \"$4\"\n{SCRIPT}");
        let mut shell = as_root("sh");
        shell.args(["-c", &script, "sh"]).arg(home).arg(deb).arg(work).arg(&part);
        let output = shell.output().context("cannot run sh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot make {}: {}", disk.display(), said.trim());
        fs::rename(&part, &disk).with_context(|| format!("cannot put the parts at {}", disk.display()))?;
    }
    cache::touch(&disk)?;
    cache.prune("parts-", &disk)?;
    Ok(disk)
}

/// Debian's kernel package, as the test cache keeps it.
fn kernel_package() -> Result<Option<PathBuf>> {
    let dir = cache::test_cache().join("kernel");
    if !dir.exists() {
        return Ok(None);
    }
    let files = super::recipe::files_beneath(&dir)?;
    Ok(files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb")))
}

/// Names the disk: by the home, when it was completed, and how a disk is made.
fn key(home: &Path, completed_ns: u128) -> String {
    let mut whole = hex(&Sha256::digest(format!("{}\n{completed_ns}\n{SCRIPT}", home.display())));
    whole.truncate(16);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_by_their_home_and_its_making() {
        let one = key(Path::new("/c/home-1"), 5);
        assert_eq!(one, key(Path::new("/c/home-1"), 5));
        assert_ne!(one, key(Path::new("/c/home-2"), 5));
        assert_ne!(one, key(Path::new("/c/home-1"), 6));
        assert_eq!(one.len(), 16);
    }
}
