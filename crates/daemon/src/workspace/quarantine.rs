//! A repository of our own between a guest and the host's: what comes out of a guest becomes git objects here first, where
//! nothing refers to them, no configuration but ours is read, and no hook or filter exists.
//!
//! ```text
//!   guest ── pack ──► quarantine: fsck, connectivity ──► pack ──► host's objects, then refs/heads/banger/<vm>
//!   guest ── files ─► quarantine: index of the base, with them in it ──► patch
//! ```
//! The host's objects are its alternates, so that thin packs and bases are understood. Of the host's repository it reads
//! objects, and writes objects and that one branch.

mod branch;
mod error;
mod files;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::git::{self, Git};

pub use error::QuarantineError;
pub use files::{Files, is_ignore};

/// A quarantine. Its files go when it is dropped.
#[derive(Debug)]
pub struct Quarantine {
    dir: TempDir,
    host: Git,
}

impl Quarantine {
    /// Makes one for the repository around `host`, a directory, in the directory `scratch`.
    ///
    /// # Errors
    /// When there is no repository, or no room.
    pub fn new(host: &Path, scratch: &Path) -> Result<Quarantine, QuarantineError> {
        let host = Git::at(host);
        let format = host.line(&["rev-parse", "--show-object-format"])?;
        let format = format.ok_or_else(|| QuarantineError::NoRepository { path: host.directory().to_owned() })?;
        let dir =
            tempfile::Builder::new().prefix("quarantine-").tempdir_in(scratch).map_err(QuarantineError::Scratch)?;
        let quarantine = Quarantine { dir, host };
        let mut init = quarantine.git(&["init", "--quiet", "--bare", "--template="]);
        if format != b"sha1" {
            init.arg("--object-format").arg(OsStr::from_bytes(&format));
        }
        run(init.arg(quarantine.git_dir()), "make a quarantine")?;
        let objects = quarantine.host_path("objects")?;
        quarantine.write("git/objects/info/alternates", &quoted(objects.as_os_str().as_bytes()))?;
        if let Ok(shallow) = std::fs::read(quarantine.host_path("shallow")?) {
            quarantine.write("git/shallow", &shallow)?;
        }
        Ok(quarantine)
    }

    /// Whether the host's repository has the commit.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn host_has(&self, commit: &str) -> Result<bool, QuarantineError> {
        Ok(self.host.line(&["rev-parse", "-q", "--verify", &format!("{commit}^{{commit}}")])?.is_some())
    }

    fn git_dir(&self) -> PathBuf {
        self.dir.path().join("git")
    }

    /// A path of the host's git directory.
    fn host_path(&self, name: &str) -> Result<PathBuf, QuarantineError> {
        let path = self.host.line(&["rev-parse", "--path-format=absolute", "--git-path", name])?;
        let path = path.ok_or_else(|| QuarantineError::NoRepository { path: self.host.directory().to_owned() })?;
        Ok(PathBuf::from(OsStr::from_bytes(&path)))
    }

    /// Writes a small file of our own.
    fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, QuarantineError> {
        let path = self.dir.path().join(name);
        let written = File::create(&path).and_then(|mut file| file.write_all(content));
        written.map_err(QuarantineError::Scratch).map(|()| path)
    }

    /// git in the quarantine, with no configuration but its own.
    fn git(&self, args: &[&str]) -> Command {
        self.git_in(self.dir.path(), args)
    }

    /// The same in a directory.
    fn git_in(&self, directory: &Path, args: &[&str]) -> Command {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        let mut command = Git::at(directory).command(&args);
        command
            .env("GIT_DIR", self.git_dir())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1");
        command
    }
}

/// Runs it, and gives what it printed.
fn run(command: &mut Command, act: &'static str) -> Result<Vec<u8>, QuarantineError> {
    sys::process::run(command).map_err(|error| QuarantineError::from_run(error, act))
}

/// A file that a command reads.
fn reading(path: &Path) -> Result<Stdio, QuarantineError> {
    Ok(git::input(path)?)
}

/// A line of a list of alternates, whatever is in the path.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut line = vec![b'"'];
    for byte in path {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', *byte]),
            b'\n' => line.extend(*b"\\n"),
            _ => line.push(*byte),
        }
    }
    line.extend(*b"\"\n");
    line
}
