//! A cgroup for every command: what it started can be found and ended, whatever sessions or groups it went into.
//!
//! Directories of commands that ended by themselves are used again, because making one costs more than starting a small
//! program.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Empty cgroups kept for the next commands.
const SPARE_MAX: usize = 4;

/// One command's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
    /// Never used again then: kernels that count kills (`kill_seq`: 6.1.129, 6.6.78, 6.12.14 and later) kill whatever is
    /// born into such a cgroup from one that was not killed as often.
    was_killed: Cell<bool>,
}

impl Cgroup {
    /// To be born in it: clone3(2).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Kills everything in it. A kernel without `cgroup.kill` (before 5.14) kills nothing: the caller signals the process
    /// group as well.
    pub fn kill(&self) {
        self.was_killed.set(true);
        if let Ok(file) = rustix::fs::openat(&self.directory, "cgroup.kill", OFlags::WRONLY, Mode::empty()) {
            let _: std::io::Result<()> = File::from(file).write_all(b"1");
        }
    }

    /// Whether nothing runs in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Ok(file) = rustix::fs::openat(&self.directory, "cgroup.events", OFlags::RDONLY, Mode::empty()) else {
            return true;
        };
        let mut text = String::new();
        let read = File::from(file).take(4096).read_to_string(&mut text);
        read.is_ok() && text.lines().any(|line| line == "populated 0")
    }
}

/// The place for them all; none outside a guest.
#[derive(Debug, Default)]
pub struct Cgroups {
    parent: Option<PathBuf>,
    spare: Vec<Cgroup>,
    /// Left by commands that ended while something they started goes on.
    lingering: Vec<Cgroup>,
    count: u64,
}

impl Cgroups {
    /// Cgroups below `parent`, a directory of a cgroup v2 tree.
    #[must_use]
    pub fn below(parent: &Path) -> Cgroups {
        Cgroups { parent: Some(parent.to_path_buf()), ..Cgroups::default() }
    }

    /// One for the next command; none where there are none or none can be made, and the command runs without.
    pub fn take(&mut self) -> Option<Cgroup> {
        self.spare.pop().or_else(|| self.create())
    }

    /// Makes one ahead of the next command.
    pub fn prepare(&mut self) {
        if self.spare.is_empty() {
            let made = self.create();
            self.spare.extend(made);
        }
    }

    fn create(&mut self) -> Option<Cgroup> {
        let parent = self.parent.as_ref()?;
        self.count += 1;
        let path = parent.join(format!("exec-{}", self.count));
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(_) => return None,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).ok()?;
        Some(Cgroup { path, directory, was_killed: Cell::new(false) })
    }

    /// Takes back the one of a command that has ended.
    pub fn give_back(&mut self, cgroup: Cgroup) {
        self.lingering.push(cgroup);
        for cgroup in std::mem::take(&mut self.lingering) {
            if !cgroup.is_empty() {
                self.lingering.push(cgroup);
            } else if self.spare.len() < SPARE_MAX && !cgroup.was_killed.get() {
                self.spare.push(cgroup);
            } else if rustix::fs::rmdir(&cgroup.path).is_err() {
                self.lingering.push(cgroup);
            }
        }
    }

    /// Lets go of every directory, so that the tree can be unmounted.
    pub fn forget(&mut self) {
        *self = Cgroups::default();
    }
}
