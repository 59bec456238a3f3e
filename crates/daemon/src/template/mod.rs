//! Templates: fresh machines that were saved as soon as they had booted, from which later ones go on instead of booting.
//!
//! A template is a directory below `state/templates/`, called by its key: the digest of everything that the saved machine depends
//! on. It is a cache: nothing is lost with one, what does not fit is never used, and the least used ones go first.
//!
//! ```text
//! templates/<key>/memory          the guest's memory, with holes; mapped copy-on-write, never written again
//!                 devices         processors and devices
//!                 disk.ext4       the VM's disk at that moment
//!                 manifest.json   what it is, last: a directory that has one is whole
//!                 used            how often it was used; its age is the last time
//!           fell-back             how often one could not be used
//! ```

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use wire::id::{BootId, ImageId, KernelId, VmId};

use crate::model::digest::Digest;
use crate::model::machine::{MachineShape, SavedMachine};

/// Most templates that are kept.
pub const COUNT_MAX: usize = 8;
/// Most bytes that templates take on the disk.
pub const BYTES_MAX: u64 = 4 << 30;
/// Most memory that a machine may have written for a template to be made of it.
pub const WRITTEN_BYTES_MAX: u64 = 2 << 30;

/// What a template's name is a digest of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredients {
    /// The image, which is named by its content.
    pub image: ImageId,
    /// The kernel, which is named by its content.
    pub kernel: KernelId,
    /// The initramfs, named by its content: the agent and the modules it loads.
    pub initramfs: String,
    /// The disk's size.
    pub disk_bytes: u64,
    /// The machine, its VMM, its processor, the kernel's options.
    pub shape: MachineShape,
}

impl Ingredients {
    /// The template's name: 16 hexadecimal digits.
    #[must_use]
    pub fn key(&self) -> String {
        let json = serde_json::to_vec(self).expect("plain fields have a form in JSON");
        Digest::of(&json).id_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is on record of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What it was made of.
    pub ingredients: Ingredients,
    /// The VM that the saved guest takes itself for.
    pub vm: VmId,
    /// The same of its boot.
    pub boot: BootId,
    /// The program that became the init, if the image has one.
    pub init: Option<String>,
    /// Virtual processors.
    pub vcpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// Whether its network is open.
    pub nat: bool,
    /// When it was made.
    pub created_at_ms: u64,
}

/// One that is whole.
#[derive(Debug, Clone)]
pub struct Template {
    /// Its name.
    pub key: String,
    /// Where it is.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// What it takes on the disk.
    pub bytes: u64,
    /// How many machines went on from it.
    pub uses: u64,
    /// When it was used last, or made.
    pub used_at_ms: u64,
}

impl Template {
    /// The saved machine.
    #[must_use]
    pub fn saved(&self) -> SavedMachine {
        SavedMachine::in_dir(&self.dir)
    }

    /// The disk at that moment.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join(DISK)
    }
}

/// The disk's file in a template.
pub const DISK: &str = "disk.ext4";
const MANIFEST: &str = "manifest.json";
const USED: &str = "used";
const FELL_BACK: &str = "fell-back";

/// All of them.
#[derive(Debug, Clone)]
pub struct Templates {
    dir: PathBuf,
}

impl Templates {
    /// Those below `dir`, which need not be there.
    #[must_use]
    pub fn in_dir(dir: PathBuf) -> Templates {
        Templates { dir }
    }

    /// Holds them.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The one of this name; none when there is none, or it is damaged.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<Template> {
        let dir = self.dir.join(key);
        let manifest: Manifest = serde_json::from_slice(&std::fs::read(dir.join(MANIFEST)).ok()?).ok()?;
        let files = ["memory", "devices", DISK];
        if manifest.ingredients.key() != key || !files.iter().all(|file| dir.join(file).is_file()) {
            return None;
        }
        let bytes = files.iter().map(|file| sys::fs::allocated_bytes(&dir.join(file))).sum();
        let used_at_ms = modified_ms(&dir.join(USED)).unwrap_or(manifest.created_at_ms);
        let uses = count(&dir.join(USED));
        Some(Template { key: key.to_owned(), dir, manifest, bytes, uses, used_at_ms })
    }

    /// All that are whole, the last used first.
    #[must_use]
    pub fn all(&self) -> Vec<Template> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Template> = names.filter_map(|name| self.find(&name)).collect();
        all.sort_by_key(|template| std::cmp::Reverse(template.used_at_ms));
        all
    }

    /// How often one could not be used, and a machine booted instead.
    #[must_use]
    pub fn fell_back(&self) -> u64 {
        count(&self.dir.join(FELL_BACK))
    }

    /// Notes that a machine went on from it; nothing where it is gone since.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn note_use(&self, key: &str) -> Result<(), sys::fs::FsError> {
        let dir = self.dir.join(key);
        if dir.join(MANIFEST).exists() { count_up(&dir.join(USED)) } else { Ok(()) }
    }

    /// Notes that it could not be used, and drops it: what failed once would fail again.
    ///
    /// # Errors
    /// When it cannot be removed, or that cannot be written.
    pub fn give_up(&self, key: &str) -> Result<(), sys::fs::FsError> {
        self.remove(key)?;
        count_up(&self.dir.join(FELL_BACK))
    }

    /// Makes what is in `staging` the template that `manifest` tells of. Unless there is one already: then nothing changes.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn publish(&self, staging: &Path, manifest: &Manifest) -> Result<(), sys::fs::FsError> {
        let key = manifest.ingredients.key();
        if self.find(&key).is_some() {
            return sys::fs::remove_tree(staging);
        }
        let json = serde_json::to_vec_pretty(manifest).expect("plain fields have a form in JSON");
        sys::fs::write_atomic(&staging.join(MANIFEST), &json, 0o600)?;
        // A damaged one of that name.
        sys::fs::remove_tree(&self.dir.join(&key))?;
        sys::fs::rename(staging, &self.dir.join(key))
    }

    /// Removes one. Machines that went on from it keep what they have mapped. Idempotent.
    ///
    /// # Errors
    /// When something is left.
    pub fn remove(&self, key: &str) -> Result<(), sys::fs::FsError> {
        let dir = self.dir.join(key);
        // Without it nobody takes the rest for a template.
        sys::fs::remove_file(&dir.join(MANIFEST))?;
        sys::fs::remove_tree(&dir)
    }

    /// Removes those that `is_gone` says the time has come for; their directories.
    ///
    /// # Errors
    /// When something is left.
    pub fn remove_where(&self, is_gone: impl Fn(&Ingredients) -> bool) -> Result<Vec<PathBuf>, sys::fs::FsError> {
        let mut removed = Vec::new();
        for template in self.all().into_iter().filter(|template| is_gone(&template.manifest.ingredients)) {
            self.remove(&template.key)?;
            removed.push(template.dir);
        }
        Ok(removed)
    }

    /// Those that have to go for the rest to be within the bounds: of the ones used longest ago.
    #[must_use]
    pub fn beyond(&self, count_max: usize, bytes_max: u64) -> Vec<Template> {
        let mut bytes = 0;
        let mut kept = 0;
        let mut beyond = Vec::new();
        for template in self.all() {
            if kept < count_max && bytes + template.bytes <= bytes_max {
                kept += 1;
                bytes += template.bytes;
            } else {
                beyond.push(template);
            }
        }
        beyond
    }

    /// Removes what is beyond the bounds; those that went.
    ///
    /// # Errors
    /// When something is left.
    pub fn keep_within(&self, count_max: usize, bytes_max: u64) -> Result<Vec<Template>, sys::fs::FsError> {
        let beyond = self.beyond(count_max, bytes_max);
        for template in &beyond {
            self.remove(&template.key)?;
        }
        Ok(beyond)
    }
}

/// A count is as many bytes as were counted: one more is one byte appended, which no crash can halve.
fn count(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn count_up(path: &Path) -> Result<(), sys::fs::FsError> {
    if let Some(dir) = path.parent() {
        sys::fs::create_private_dir(dir)?;
    }
    let written = sys::fs::append(path, 0o600)?;
    let failed = |source| sys::fs::FsError { act: "write", path: path.to_path_buf(), source };
    std::io::Write::write_all(&mut &written, b".").map_err(failed)
}

fn modified_ms(path: &Path) -> Option<u64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    u64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests;
