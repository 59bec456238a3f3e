//! What a machine's memory is known by: Firecracker keeps track of the pages that were written since the machine began, or was
//! saved last, and saves only those. The rest is in what it began from, or what was saved then.
//!
//! ```text
//! saves/            beside the VM's disk
//!   tracking.json   what the pages that were not written since are in: Since
//!   base            the memory file they are in, by another name of that same file: it stays when its own goes
//!   from/           what the machine goes on from, by names of this machine's own, until it has read it; where a helper
//!                   makes the jail
//!   shared/         where Firecracker writes, and the jail sees it: Tray
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::fs::FsError;

use wire::naming::{GONE_ON_FROM, SAVES_DIR};

use super::jail::Jail;
use super::tray::{Kind, Tray};
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
    tray: Tray,
}

impl Saves {
    /// Beside the disk, on whose filesystem what is saved stays; none for a machine without one.
    pub(super) fn of(spec: &MachineSpec) -> Option<Saves> {
        let disk = spec.drives.iter().find(|drive| drive.serial == DriveRole::Disk)?;
        Some(Saves::beside(&disk.path, Kind::Directory))
    }

    /// Beside the disk at `disk`.
    pub(super) fn beside(disk: &Path, kind: Kind) -> Saves {
        Saves::at(disk.with_file_name(SAVES_DIR), kind)
    }

    fn at(dir: PathBuf, kind: Kind) -> Saves {
        Saves { tray: Tray::of(&dir, kind), dir }
    }

    /// Those that a jail has.
    pub(super) fn in_jail(jail: &Jail) -> Option<Saves> {
        Some(Saves::at(jail.saves.as_deref()?.parent()?.to_path_buf(), Kind::Directory))
    }

    /// What the jail sees of it.
    pub(super) fn shared(&self) -> PathBuf {
        self.tray.dir()
    }

    /// What Firecracker is told to write memory and devices to.
    pub(super) fn seen_in_jail(&self) -> [String; 2] {
        self.tray.in_jail()
    }

    /// Holds what the machine goes on from, by names of its own.
    fn from(&self) -> PathBuf {
        self.dir.join(GONE_ON_FROM)
    }

    fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    fn record(&self) -> PathBuf {
        self.dir.join("tracking.json")
    }

    /// A machine begins, from what was saved or from nothing. Blocks for as long as a copy takes, where what was saved has to
    /// be copied.
    pub(super) fn begin(&self, saved: Option<&SavedMachine>) -> Result<(), FsError> {
        self.end()?;
        sys::fs::create_private_dir(&self.dir)?;
        self.tray.make()?;
        match saved {
            None => self.note(Since::Zeros),
            Some(saved) if self.tray.kind() == Kind::Files => self.know(&self.name(saved)?.memory),
            Some(saved) => self.know(&saved.memory),
        }
    }

    /// Gives what was saved names of this machine's own, by which a helper finds it. Machines share what it takes in the
    /// host's memory as long as it is one file.
    fn name(&self, saved: &SavedMachine) -> Result<SavedMachine, FsError> {
        let named = SavedMachine::in_dir(&self.from());
        sys::fs::create_private_dir(&self.from())?;
        for (file, name) in [(&saved.memory, &named.memory), (&saved.devices, &named.devices)] {
            if let Err(error) = sys::fs::link(file, name) {
                tracing::info!(%error, "what a machine goes on from is copied for it");
                sys::fs::copy_sparse(file, name, 0o600)?;
            }
        }
        Ok(named)
    }

    /// The machine has what it goes on from.
    pub(super) fn loaded(&self) -> Result<(), FsError> {
        sys::fs::remove_tree(&self.from())
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
        self.tray.clear_memory()?;
        if self.since() == Since::Base { self.tray.fill(&self.base()) } else { Ok(()) }
    }

    /// A machine is about to be saved: `whole` when everything of it is.
    pub(super) fn open(&self, whole: bool) -> Result<(), FsError> {
        if whole {
            self.tray.clear_memory()?;
        }
        self.tray.clear_devices()?;
        // Firecracker begins to keep track anew with this, whether or not what it writes gets anywhere.
        self.note(Since::Unknown)
    }

    /// Whether the pages that were not written since are where Firecracker writes the others.
    pub(super) fn is_ready(&self, memory_bytes: u64) -> bool {
        match self.since() {
            Since::Zeros => true,
            Since::Base => self.tray.is_filled(memory_bytes),
            Since::Unknown => false,
        }
    }

    /// Takes what Firecracker wrote; blocks for as long as a copy takes where it has to be one.
    pub(super) fn close(&self, whole: bool, memory_bytes: u64, to: &SavedMachine) -> Result<(), FsError> {
        self.tray.take(whole, memory_bytes, to)?;
        self.know(&to.memory)
    }

    /// Nobody takes what Firecracker wrote: it may be all that a full disk had room for.
    pub(super) fn give_up(&self) -> Result<(), FsError> {
        self.tray.clear_memory()?;
        self.tray.clear_devices()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 3 * 4096;

    /// Both ways of taking what was written.
    const KINDS: [Kind; 2] = [Kind::Directory, Kind::Files];

    struct World {
        dir: tempfile::TempDir,
        saves: Saves,
    }

    impl World {
        fn begun(kind: Kind, memory: Option<&[u8]>) -> World {
            let dir = tempfile::tempdir().unwrap();
            let saves = Saves::beside(&dir.path().join("disk.ext4"), kind);
            let from = memory.map(|bytes| {
                let saved = SavedMachine::in_dir(dir.path());
                std::fs::write(&saved.memory, bytes).unwrap();
                std::fs::write(&saved.devices, "state").unwrap();
                saved
            });
            saves.begin(from.as_ref()).unwrap();
            World { dir, saves }
        }

        fn memory(&self) -> PathBuf {
            self.saves.tray.memory()
        }

        fn devices(&self) -> PathBuf {
            self.saves.shared().join(wire::naming::DEVICES_FILE)
        }

        /// As Firecracker writes: only `pages`, each of one byte; all there are when `whole`.
        fn write(&self, pages: &[(u64, u8)]) {
            use std::os::unix::fs::FileExt;

            let file = std::fs::File::options().create(true).truncate(false).write(true).open(self.memory()).unwrap();
            file.set_len(BYTES).unwrap();
            for (page, byte) in pages {
                file.write_all_at(&[*byte; 4096], page * 4096).unwrap();
            }
            std::fs::write(self.devices(), "state").unwrap();
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
        for kind in KINDS {
            saves_twice(&World::begun(kind, None));
        }
    }

    fn saves_twice(world: &World) {
        let saves = &world.saves;
        assert!(saves.since() == Since::Zeros && saves.is_ready(BYTES));
        saves.make_ready().unwrap();
        saves.open(false).unwrap();
        assert_eq!(saves.since(), Since::Unknown, "whatever becomes of it");
        world.write(&[(1, 7)]);
        let first = world.to("first");
        saves.close(false, BYTES, &first).unwrap();
        assert_eq!((pages(&first), std::fs::read(&first.devices).unwrap()), (vec![0, 7, 0], b"state".to_vec()));
        assert_eq!(sys::fs::allocated_bytes(&world.memory()), 0, "what was taken takes no more room");

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
        for kind in KINDS {
            let world = World::begun(kind, Some(&[5; 3 * 4096]));
            assert_eq!(world.saves.since(), Since::Base);
            world.saves.loaded().unwrap();
            world.saves.make_ready().unwrap();
            world.saves.open(false).unwrap();
            world.write(&[(0, 1)]);
            let to = world.to("to");
            world.saves.close(false, BYTES, &to).unwrap();
            assert_eq!(pages(&to), [1, 5, 5]);
        }
    }

    #[test]
    fn a_save_that_got_nowhere_makes_the_next_one_whole() {
        for kind in KINDS {
            let world = World::begun(kind, None);
            world.saves.open(false).unwrap();
            world.write(&[(0, 1)]);
            world.saves.give_up().unwrap();
            assert_eq!(sys::fs::allocated_bytes(&world.memory()), 0, "its room is given back");
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
    }

    #[test]
    fn what_is_no_memory_is_not_taken() {
        for kind in KINDS {
            let world = World::begun(kind, None);
            let saves = &world.saves;
            let secret = world.dir.path().join("secret");
            std::fs::write(&secret, vec![1; usize::try_from(BYTES).unwrap()]).unwrap();
            saves.open(false).unwrap();
            // No jail can do the first where it has files only.
            std::fs::write(world.devices(), "state").unwrap();
            sys::fs::remove_file(&world.memory()).unwrap();
            std::os::unix::fs::symlink(&secret, world.memory()).unwrap();
            assert!(saves.close(false, BYTES, &world.to("link")).is_err());
            std::fs::remove_file(world.memory()).ok();
            std::fs::write(world.memory(), "short").unwrap();
            std::fs::write(world.devices(), "state").unwrap();
            let error = saves.close(false, BYTES, &world.to("short")).unwrap_err();
            assert!(wire::api::chain(&error).contains("did not write what it said"), "{error}");
            std::fs::remove_file(world.memory()).ok();
            assert!(saves.close(false, BYTES, &world.to("missing")).is_err());
            assert_eq!(saves.since(), Since::Unknown);
        }
    }

    #[test]
    fn what_the_vmm_keeps_is_taken_as_it_was_said_to_be() {
        let world = World::begun(Kind::Files, None);
        let take = |name: &str, devices: &[u8]| {
            world.write(&[(0, 1)]);
            std::fs::write(world.devices(), devices).unwrap();
            world.saves.close(false, BYTES, &world.to(name)).map_err(|error| wire::api::chain(&error))
        };
        assert!(take("nothing", b"").unwrap_err().contains("did not write what it said"));
        take("something", b"state").unwrap();
        // What it writes later is nobody's.
        let to = SavedMachine::in_dir(&world.dir.path().join("something"));
        world.write(&[(0, 9)]);
        assert_eq!(pages(&to), [1, 0, 0]);
        let devices = std::fs::File::options().write(true).open(world.devices()).unwrap();
        devices.set_len(1 << 40).unwrap();
        assert!(world.saves.close(false, BYTES, &world.to("endless")).is_err());
    }

    #[test]
    fn a_copy_that_was_broken_off_is_not_written_into() {
        let world = World::begun(Kind::Files, Some(&[5; 3 * 4096]));
        // As long as it has to be, and not complete.
        sys::fs::set_len(&world.memory(), BYTES).unwrap();
        assert!(!world.saves.is_ready(BYTES));
        world.saves.make_ready().unwrap();
        assert!(world.saves.is_ready(BYTES));
        world.saves.open(true).unwrap();
        assert!(!world.saves.is_ready(BYTES));
    }

    #[test]
    fn what_is_gone_on_from_has_names_of_its_own_until_it_is_read() {
        use std::os::unix::fs::MetadataExt;

        let world = World::begun(Kind::Files, Some(&[5; 3 * 4096]));
        let (named, saved) = (SavedMachine::in_dir(&world.saves.from()), SavedMachine::in_dir(world.dir.path()));
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        assert_eq!((inode(&named.memory), inode(&named.devices)), (inode(&saved.memory), inode(&saved.devices)));
        world.saves.loaded().unwrap();
        assert!(!world.saves.from().exists() && saved.memory.exists());
        // Begun anew, nothing of before is there; where no name can be given there is a copy.
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { return };
        let elsewhere = SavedMachine::in_dir(memory.path());
        std::fs::copy(&saved.memory, &elsewhere.memory).unwrap();
        std::fs::copy(&saved.devices, &elsewhere.devices).unwrap();
        std::fs::write(world.memory(), "left").unwrap();
        world.saves.begin(Some(&elsewhere)).unwrap();
        assert_eq!(std::fs::read(&named.memory).unwrap(), [5; 3 * 4096]);
        assert_eq!((world.saves.since(), std::fs::read(world.memory()).unwrap()), (Since::Base, Vec::new()));
    }
}
