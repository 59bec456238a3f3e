//! Where everything about test hosts is kept, outside the tree.
//!
//! ```text
//! ${BANGER_TEST_CACHE:-$XDG_CACHE_HOME/banger-test}/testhost/
//!     lock                      one builder at a time
//!     debs/  wheels/            what was downloaded and verified
//!     image-<recipe hash>/      disk.ext4, vmlinuz, initrd, qemu/, the client's key, known_hosts, build.log
//!     parts-<key>.ext4          what guests inside boot from, made of a banger home
//!     hosts/<name>/             a running test host: pid, port, image, console.log, qemu.log, mailbox
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// How long an image or parts that nobody asked for are kept.
const UNUSED_MAX: Duration = Duration::from_hours(48);

/// The cache's directory.
#[derive(Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this machine, made if it is not there.
    pub(crate) fn open() -> Result<Cache> {
        let root = test_cache().join("testhost");
        fs::create_dir_all(root.join("hosts")).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Cache { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn image(&self, hash: &str) -> PathBuf {
        self.root.join(format!("image-{hash}"))
    }

    pub(crate) fn parts(&self, key: &str) -> PathBuf {
        self.root.join(format!("parts-{key}.ext4"))
    }

    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.root.join("hosts").join(name)
    }

    /// The names of the hosts that left something, running or not.
    pub(crate) fn host_names(&self) -> Result<Vec<String>> {
        let dir = self.root.join("hosts");
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
            let name = entry.file_name().into_string().ok();
            names.extend(name.map(|name| name.trim_end_matches(".lock").to_owned()));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Waits until no other process builds; the lock ends with the file.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// Deletes what begins with this and nobody used for long, but for the one named. Another checkout may use its own.
    pub(crate) fn prune(&self, prefix: &str, keep: &Path) -> Result<()> {
        for entry in fs::read_dir(&self.root).with_context(|| format!("cannot list {}", self.root.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", self.root.display()))?.path();
            let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
            if !is_ours || path == keep {
                continue;
            }
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let is_old =
                used.is_ok_and(|used| SystemTime::now().duration_since(used).is_ok_and(|age| age > UNUSED_MAX));
            if is_old {
                super::build::discard(&path)?;
            }
        }
        Ok(())
    }
}

/// Where the tests of this project keep what takes long to make.
pub(crate) fn test_cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("BANGER_TEST_CACHE").unwrap_or_else(|| {
        from("XDG_CACHE_HOME")
            .or_else(|| from("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("banger-test")
    })
}

/// Notes that something of the cache was used now.
pub(crate) fn touch(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.set_modified(SystemTime::now()).with_context(|| format!("cannot touch {}", path.display()))
}
