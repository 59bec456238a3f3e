//! Commits of a guest's into a branch of the host's repository.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use wire::naming::VmName;

use super::{Quarantine, QuarantineError, reading, run};

/// What the branch's log says of each export; by it a later one knows that the branch is ours.
const LOGGED: &str = "banger: exported";

impl Quarantine {
    /// Takes in the objects of a pack, which may be thin. Every object is checked as `git fsck` does, and that
    /// those it names are there.
    ///
    /// # Errors
    /// When git finds fault with it.
    pub fn take_pack(&self, pack: File) -> Result<(), QuarantineError> {
        let mut git = self.git(&["index-pack", "--strict", "--fix-thin", "--stdin"]);
        run(git.stdin(pack), "take the guest's commits").map(|_name| ())
    }

    /// Makes `head`, a commit whose pack was taken, the branch `banger/<vm>` of the host's repository; the branch's name.
    /// All that leads from it down to `base` must be there.
    ///
    /// # Errors
    /// When something is missing, the branch is checked out, or has commits of somebody else's.
    pub fn make_branch(&self, head: &str, base: Option<&str>, vm: &VmName) -> Result<String, QuarantineError> {
        let mut walk = self.git(&["rev-list", "--objects", "--quiet", head]);
        if let Some(base) = base {
            walk.arg(format!("^{base}"));
        }
        run(&mut walk, "take the guest's commits")?;
        let branch = format!("banger/{vm}");
        let name = format!("refs/heads/{branch}");
        if let Some(path) = self.checked_out(&name)? {
            return Err(QuarantineError::CheckedOut { branch, path });
        }
        let old = self.host.line(&["rev-parse", "-q", "--verify", &name])?;
        let old = old.map(|old| String::from_utf8_lossy(&old).into_owned());
        if old.as_deref() == Some(head) {
            return Ok(branch);
        }
        if let Some(old) = &old
            && !self.leads_to(old, head)
            && !self.is_ours(&name)?
        {
            return Err(QuarantineError::NotOurs { branch });
        }
        self.hand_over(head, base)?;
        let old = old.unwrap_or_else(|| "0".repeat(head.len()));
        let message = format!("{LOGGED} from the VM {vm}");
        let args = ["update-ref", "--no-deref", "--create-reflog", "-m", &message, &name, head, &old];
        run(&mut self.host.command(&args.map(OsStr::new)), "write the branch")?;
        Ok(branch)
    }

    /// Where the branch is checked out.
    fn checked_out(&self, name: &str) -> Result<Option<PathBuf>, QuarantineError> {
        let list = self.host.tell(&["worktree", "list", "--porcelain"])?;
        let mut tree = None;
        for line in list.split(|byte| *byte == b'\n') {
            if let Some(path) = line.strip_prefix(b"worktree ") {
                tree = Some(PathBuf::from(OsStr::from_bytes(path)));
            } else if line.strip_prefix(b"branch ") == Some(name.as_bytes()) {
                return Ok(tree);
            }
        }
        Ok(None)
    }

    /// Whether `head` has all that `old` has. One that is not there to look at has not.
    fn leads_to(&self, old: &str, head: &str) -> bool {
        run(&mut self.git(&["merge-base", "--is-ancestor", old, head]), "compare commits").is_ok()
    }

    /// Whether the last that happened to the branch was an export.
    fn is_ours(&self, name: &str) -> Result<bool, QuarantineError> {
        let last = self.host.line(&["reflog", "show", "--max-count=1", "--no-decorate", "--format=%gs", name, "--"])?;
        Ok(last.is_some_and(|last| last.starts_with(LOGGED.as_bytes())))
    }

    /// Puts the objects into the host's repository, where nothing refers to them yet.
    fn hand_over(&self, head: &str, base: Option<&str>) -> Result<(), QuarantineError> {
        let wanted = base.map_or_else(|| format!("{head}\n"), |base| format!("{head}\n^{base}\n"));
        let wanted = self.write("wanted", wanted.as_bytes())?;
        let pack = self.dir.path().join("pack");
        let to = File::create(&pack).map_err(QuarantineError::Scratch)?;
        let mut git = self.git(&["pack-objects", "--revs", "--thin", "--local", "--stdout", "-q"]);
        self.output_to(git.stdin(reading(&wanted)?), to, "pack the guest's commits")?;
        let args = ["index-pack", "--fix-thin", "--stdin"].map(OsStr::new);
        run(self.host.command(&args).stdin(reading(&pack)?), "add the guest's commits").map(|_name| ())
    }
}
