//! What a machine's memory is known by: Firecracker keeps track of the pages that were written since the machine began, or was
//! saved last, and saves only those. The rest is in what it began from, or what was saved then.
//!
//! ```text
//! saves/            beside the VM's disk
//!   tracking.json   what the pages that were not written since are in: Since
//!   base            the memory file they are in, by another name of that same file: it stays when its own goes
//!   shared/         /saves in the jail: where Firecracker writes
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::fs::FsError;

use super::jail::Jail;
use crate::model::machine::{DriveRole, MachineSpec, SavedMachine};

/// What holds the pages of a machine that were not written since Firecracker began to keep track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Since {
    /// Nothing: they are zeros.
    Zeros,
    /// The base.
    Base,
    /// Nobody knows: it was being saved when somebody died, or there is no base here. All of them have to be saved.
    Unknown,
}

/// Where a machine is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saves {
    dir: PathBuf,
}

/// The names of what Firecracker writes.
const MEMORY: &str = "memory";
const DEVICES: &str = "devices";

impl Saves {
    /// Beside the disk, on whose filesystem what is saved stays; none for a machine without one.
    pub(super) fn of(spec: &MachineSpec) -> Option<Saves> {
        let disk = spec.drives.iter().find(|drive| drive.serial == DriveRole::Disk)?;
        Some(Saves { dir: disk.path.parent()?.join("saves") })
    }

    /// Those that a jail has.
    pub(super) fn in_jail(jail: &Jail) -> Option<Saves> {
        Some(Saves { dir: jail.saves.as_deref()?.parent()?.to_path_buf() })
    }

    /// What the jail sees of it.
    pub(super) fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    fn record(&self) -> PathBuf {
        self.dir.join("tracking.json")
    }

    /// A machine begins, from this memory or from nothing.
    pub(super) fn begin(&self, memory: Option<&Path>) -> Result<(), FsError> {
        self.end()?;
        sys::fs::create_private_dir(&self.dir)?;
        sys::fs::create_private_dir(&self.shared())?;
        match memory {
            Some(memory) => self.know(memory),
            None => self.note(Since::Zeros),
        }
    }

    /// It has ended.
    pub(super) fn end(&self) -> Result<(), FsError> {
        sys::fs::remove_tree(&self.dir)
    }

    pub(super) fn since(&self) -> Since {
        let noted = std::fs::read(self.record()).ok().and_then(|json| serde_json::from_slice(&json).ok());
        noted.unwrap_or(Since::Unknown)
    }

    fn note(&self, since: Since) -> Result<(), FsError> {
        let json = serde_json::to_vec(&since).expect("a word");
        sys::fs::write_atomic(&self.record(), &json, 0o600)
    }

    /// All that was not written from now on is in `memory`.
    fn know(&self, memory: &Path) -> Result<(), FsError> {
        self.note(Since::Unknown)?;
        sys::fs::remove_file(&self.base())?;
        match sys::fs::link(memory, &self.base()) {
            Ok(()) => self.note(Since::Base),
            // On another filesystem, say: then everything is saved the next time.
            Err(error) => {
                tracing::debug!(%error, "what a machine goes on from is not kept for its next save");
                Ok(())
            }
        }
    }

    /// Puts what was not written since where Firecracker writes the rest into; blocks for as long as a copy takes.
    pub(super) fn make_ready(&self) -> Result<(), FsError> {
        let shared = self.shared().join(MEMORY);
        sys::fs::remove_file(&shared)?;
        if self.since() != Since::Base {
            return Ok(());
        }
        let ready = self.dir.join("ready");
        sys::fs::remove_file(&ready)?;
        sys::fs::copy_sparse(&self.base(), &ready, 0o600)?;
        // Firecracker syncs it, while the machine stands still: there is to be little left to do.
        sys::fs::sync(&ready)?;
        sys::fs::rename(&ready, &shared)
    }

    /// A machine is about to be saved: `whole` when everything of it is.
    pub(super) fn open(&self, whole: bool) -> Result<(), FsError> {
        if whole {
            sys::fs::remove_file(&self.shared().join(MEMORY))?;
        }
        sys::fs::remove_file(&self.shared().join(DEVICES))?;
        // Firecracker begins to keep track anew with this, whether or not what it writes gets anywhere.
        self.note(Since::Unknown)
    }

    /// Whether the pages that were not written since are where Firecracker writes the others.
    pub(super) fn is_ready(&self, memory_bytes: u64) -> bool {
        match self.since() {
            Since::Zeros => true,
            Since::Base => is_file_of(&self.shared().join(MEMORY), memory_bytes),
            Since::Unknown => false,
        }
    }

    /// Takes what Firecracker wrote, which nobody in a jail reaches any more then; blocks for as long as a copy takes when it is
    /// `whole`.
    pub(super) fn close(&self, whole: bool, memory_bytes: u64, to: &SavedMachine) -> Result<(), FsError> {
        sys::fs::rename(&self.shared().join(DEVICES), &to.devices)?;
        let taken = if whole { self.dir.join("whole") } else { to.memory.clone() };
        sys::fs::rename(&self.shared().join(MEMORY), &taken)?;
        // Whoever took the VMM over may have put anything there: a name of a file of ours, say.
        if !is_file_of(&taken, memory_bytes) || !is_file(&to.devices) {
            let source = std::io::Error::other("the VMM did not write what it said");
            return Err(FsError { act: "take what was saved from", path: self.shared(), source });
        }
        if whole {
            let file = sys::fs::create_new(&to.memory, 0o600)?;
            file.set_len(memory_bytes).map_err(|source| FsError { act: "extend", path: to.memory.clone(), source })?;
            sys::holes::write_sparsely(&taken, &file, 0)?;
            sys::fs::remove_file(&taken)?;
        }
        self.know(&to.memory)
    }
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn is_file_of(path: &Path, bytes: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 3 * 4096;

    struct World {
        dir: tempfile::TempDir,
        saves: Saves,
    }

    impl World {
        fn begun(memory: Option<&[u8]>) -> World {
            let dir = tempfile::tempdir().unwrap();
            let saves = Saves { dir: dir.path().join("saves") };
            let from = memory.map(|bytes| {
                let path = dir.path().join("from");
                std::fs::write(&path, bytes).unwrap();
                path
            });
            saves.begin(from.as_deref()).unwrap();
            World { dir, saves }
        }

        /// As Firecracker writes: only `pages`, each of one byte; all there are when `whole`.
        fn write(&self, pages: &[(u64, u8)]) {
            use std::os::unix::fs::FileExt;

            let path = self.saves.shared().join(MEMORY);
            let file = std::fs::File::options().create(true).truncate(false).write(true).open(path).unwrap();
            file.set_len(BYTES).unwrap();
            for (page, byte) in pages {
                file.write_all_at(&[*byte; 4096], page * 4096).unwrap();
            }
            std::fs::write(self.saves.shared().join(DEVICES), "state").unwrap();
        }

        fn to(&self, name: &str) -> SavedMachine {
            let dir = self.dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            SavedMachine::in_dir(&dir)
        }
    }

    fn pages(saved: &SavedMachine) -> Vec<u8> {
        std::fs::read(&saved.memory).unwrap().chunks(4096).map(|page| page[0]).collect()
    }

    #[test]
    fn what_was_not_written_is_in_what_was_saved_before() {
        let world = World::begun(None);
        let saves = &world.saves;
        assert!(saves.since() == Since::Zeros && saves.is_ready(BYTES));
        saves.make_ready().unwrap();
        saves.open(false).unwrap();
        assert_eq!(saves.since(), Since::Unknown, "whatever becomes of it");
        world.write(&[(1, 7)]);
        let first = world.to("first");
        saves.close(false, BYTES, &first).unwrap();
        assert_eq!(pages(&first), [0, 7, 0]);

        // The first save is removed by its owner: the second one has it all the same, and does not change it.
        let kept = std::fs::File::open(&first.memory).unwrap();
        std::fs::remove_file(&first.memory).unwrap();
        assert!(!saves.is_ready(BYTES), "before it is made ready everything has to be saved");
        saves.make_ready().unwrap();
        assert!(saves.is_ready(BYTES));
        saves.open(false).unwrap();
        world.write(&[(2, 9)]);
        let second = world.to("second");
        saves.close(false, BYTES, &second).unwrap();
        assert_eq!(pages(&second), [0, 7, 9]);
        let mut old = Vec::new();
        std::io::Read::read_to_end(&mut &kept, &mut old).unwrap();
        assert_eq!(old[2 * 4096], 0);
        saves.end().unwrap();
        assert!(!saves.dir.exists());
    }

    #[test]
    fn a_machine_that_went_on_is_told_from_what_it_went_on_from() {
        let world = World::begun(Some(&[5; 3 * 4096]));
        assert_eq!(world.saves.since(), Since::Base);
        world.saves.make_ready().unwrap();
        world.saves.open(false).unwrap();
        world.write(&[(0, 1)]);
        let to = world.to("to");
        world.saves.close(false, BYTES, &to).unwrap();
        assert_eq!(pages(&to), [1, 5, 5]);
    }

    #[test]
    fn a_save_that_got_nowhere_makes_the_next_one_whole() {
        let world = World::begun(None);
        world.saves.open(false).unwrap();
        world.write(&[(0, 1)]);
        assert!(!world.saves.is_ready(BYTES));
        world.saves.open(true).unwrap();
        world.write(&[(0, 1), (1, 0), (2, 3)]);
        let to = world.to("to");
        world.saves.close(true, BYTES, &to).unwrap();
        assert_eq!(pages(&to), [1, 0, 3]);
        assert_eq!(sys::fs::allocated_bytes(&to.memory), 2 * 4096, "zeros take no room");
        assert_eq!(world.saves.since(), Since::Base);
    }

    #[test]
    fn what_is_no_memory_is_not_taken() {
        let world = World::begun(None);
        let secret = world.dir.path().join("secret");
        std::fs::write(&secret, vec![1; usize::try_from(BYTES).unwrap()]).unwrap();
        world.saves.open(false).unwrap();
        std::os::unix::fs::symlink(&secret, world.saves.shared().join(MEMORY)).unwrap();
        std::fs::write(world.saves.shared().join(DEVICES), "").unwrap();
        let error = world.saves.close(false, BYTES, &world.to("link")).unwrap_err();
        assert!(wire::api::chain(&error).contains("did not write what it said"), "{error}");
        std::fs::write(world.saves.shared().join(MEMORY), "short").unwrap();
        std::fs::write(world.saves.shared().join(DEVICES), "").unwrap();
        assert!(world.saves.close(false, BYTES, &world.to("short")).is_err());
        assert_eq!(world.saves.since(), Since::Unknown);
    }
}
