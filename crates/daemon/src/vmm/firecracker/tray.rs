//! Where Firecracker leaves what it saves, and how the daemon takes it from there. Whoever took a VMM over can have written
//! anything into it, and may still do so while it is taken.

use std::fs::File;
use std::path::{Path, PathBuf};

use sys::fs::FsError;
use wire::helper::JailFile;
use wire::naming::{DEVICES_FILE, MEMORY_FILE, SAVED_TO};

use super::jail;
use crate::model::machine::SavedMachine;

/// Most bytes of processors and devices: many times what 32 processors take.
const DEVICES_BYTES_MAX: u64 = 64 << 20;

/// What of a machine's `saves` its jail has, to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory. What is made there is taken by its name, and nobody in the jail reaches it any more.
    Directory,
    /// Two files, made before the VMM begins, that keep their names: the VMM keeps them, so they are copied and emptied.
    Files,
}

/// Where a machine's memory and devices are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tray {
    saves: PathBuf,
    kind: Kind,
}

impl Tray {
    /// The one in the directory `saves`.
    pub(super) fn of(saves: &Path, kind: Kind) -> Tray {
        Tray { saves: saves.to_path_buf(), kind }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What the jail has a part of.
    pub(super) fn dir(&self) -> PathBuf {
        self.saves.join(SAVED_TO)
    }

    pub(super) fn memory(&self) -> PathBuf {
        self.dir().join(MEMORY_FILE)
    }

    fn devices(&self) -> PathBuf {
        self.dir().join(DEVICES_FILE)
    }

    /// What Firecracker is told to write memory and devices to.
    pub(super) fn in_jail(&self) -> [String; 2] {
        match self.kind {
            Kind::Directory => [MEMORY_FILE, DEVICES_FILE].map(|name| format!("{}/{name}", jail::SAVES)),
            Kind::Files => {
                [JailFile::SaveMemory {}, JailFile::SaveDevices {}].map(|file| format!("/{}", file.name_in_jail()))
            }
        }
    }

    /// Makes it, for a machine that begins.
    pub(super) fn make(&self) -> Result<(), FsError> {
        sys::fs::create_private_dir(&self.dir())?;
        if self.kind == Kind::Files {
            for path in [self.memory(), self.devices()] {
                sys::fs::create_new(&path, 0o600)?;
            }
        }
        Ok(())
    }

    /// Says that what is in a file that keeps its name is all of the copy it is to be.
    fn mark(&self) -> PathBuf {
        self.saves.join("filled")
    }

    /// Has no memory in it.
    pub(super) fn clear_memory(&self) -> Result<(), FsError> {
        sys::fs::remove_file(&self.mark())?;
        self.clear(&self.memory())
    }

    /// Has no devices in it.
    pub(super) fn clear_devices(&self) -> Result<(), FsError> {
        self.clear(&self.devices())
    }

    fn clear(&self, path: &Path) -> Result<(), FsError> {
        match self.kind {
            Kind::Directory => sys::fs::remove_file(path),
            Kind::Files => empty(path, &sys::fs::open_itself(path)?),
        }
    }

    /// Has a copy of `base` in it, for Firecracker to write into; blocks for as long as a copy takes.
    pub(super) fn fill(&self, base: &Path) -> Result<(), FsError> {
        // Firecracker syncs it, while the machine stands still: there is to be little left to do.
        match self.kind {
            Kind::Directory => {
                let ready = self.saves.join("ready");
                sys::fs::remove_file(&ready)?;
                sys::fs::copy_sparse(base, &ready, 0o600)?;
                sys::fs::sync(&ready)?;
                sys::fs::rename(&ready, &self.memory())
            }
            Kind::Files => {
                let (path, source) = (self.memory(), sys::fs::open(base)?);
                let target = sys::fs::open_itself(&path)?;
                let length = source.metadata().map_err(failed("look at", base))?.len();
                sys::fs::copy_into(&source, &target, length).map_err(failed("copy to", &path))?;
                target.sync_all().map_err(failed("sync", &path))?;
                sys::fs::create_new(&self.mark(), 0o600).map(drop)
            }
        }
    }

    /// Whether a copy of that length is in it, for Firecracker to write into.
    pub(super) fn is_filled(&self, memory_bytes: u64) -> bool {
        let is_complete = self.kind == Kind::Directory || self.mark().exists();
        is_complete && is_file_of(&self.memory(), memory_bytes)
    }

    /// Takes what Firecracker wrote; blocks for as long as a copy takes where it has to be one.
    pub(super) fn take(&self, whole: bool, memory_bytes: u64, to: &SavedMachine) -> Result<(), FsError> {
        match self.kind {
            Kind::Directory => self.rename(whole, memory_bytes, to),
            Kind::Files => self.copy(whole, memory_bytes, to),
        }
    }

    fn rename(&self, whole: bool, memory_bytes: u64, to: &SavedMachine) -> Result<(), FsError> {
        sys::fs::rename(&self.devices(), &to.devices)?;
        let taken = if whole { self.saves.join("whole") } else { to.memory.clone() };
        sys::fs::rename(&self.memory(), &taken)?;
        // A name of a file of ours, say, or a link to one.
        let is_devices = std::fs::symlink_metadata(&to.devices).is_ok_and(|meta| meta.is_file());
        if !is_file_of(&taken, memory_bytes) || !is_devices {
            return Err(self.refused());
        }
        if whole {
            let file = new_file(&to.memory, memory_bytes)?;
            sys::holes::write_sparsely(&taken, &file, 0)?;
            sys::fs::remove_file(&taken)?;
        }
        Ok(())
    }

    fn copy(&self, whole: bool, memory_bytes: u64, to: &SavedMachine) -> Result<(), FsError> {
        let (memory, devices) = (sys::fs::open_itself(&self.memory())?, sys::fs::open_itself(&self.devices())?);
        let length = |file: &File, path: &Path| Ok(file.metadata().map_err(failed("look at", path))?.len());
        let devices_bytes = length(&devices, &self.devices())?;
        // Looked at once: what they are by then is copied, and not a byte more.
        if length(&memory, &self.memory())? != memory_bytes || !(1..=DEVICES_BYTES_MAX).contains(&devices_bytes) {
            return Err(self.refused());
        }
        let file = new_file(&to.devices, devices_bytes)?;
        sys::fs::copy_into(&devices, &file, devices_bytes).map_err(failed("copy to", &to.devices))?;
        let file = new_file(&to.memory, memory_bytes)?;
        let copied = if whole {
            sys::holes::copy_sparsely(&memory, &file, 0, memory_bytes)
        } else {
            sys::fs::copy_into(&memory, &file, memory_bytes)
        };
        copied.map_err(failed("copy to", &to.memory))?;
        self.clear_memory()?;
        self.clear_devices()
    }

    fn refused(&self) -> FsError {
        let source = std::io::Error::other("the VMM did not write what it said");
        FsError { act: "take what was saved from", path: self.dir(), source }
    }
}

fn failed<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> FsError + 'a {
    move |source| FsError { act, path: path.to_path_buf(), source }
}

fn empty(path: &Path, file: &File) -> Result<(), FsError> {
    file.set_len(0).map_err(failed("set the length of", path))
}

fn new_file(path: &Path, bytes: u64) -> Result<File, FsError> {
    let file = sys::fs::create_new(path, 0o600)?;
    file.set_len(bytes).map_err(failed("extend", path))?;
    Ok(file)
}

/// Whether there is a regular file of that length.
fn is_file_of(path: &Path, bytes: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
}
