//! Files of a guest that has no git, and the patch that they make.
//!
//! What is known of them is what the agent tells: which ones changed. They are added to an index of the commit they were
//! sent from, with the conversions that git has built in, as the host's configuration and their attributes have them;
//! filters there are none.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use tree::unpack::{Policy, unpack};
use wire::agent::workspace::FileMode;

use super::{Quarantine, QuarantineError, reading, run};
use crate::model::digest::Digest;

/// Objects read at once.
const OBJECTS_AT_ONCE: usize = 64;
/// What decides which files git ignores.
const IGNORE: &[u8] = b".gitignore";
/// Settings of the host's repository that decide how files become objects.
const CONVERSIONS: [&str; 2] = ["core.autocrlf", "core.eol"];

/// The files of a guest, gathered in a quarantine.
#[derive(Debug)]
pub struct Files {
    quarantine: Quarantine,
    base: String,
    conversions: Vec<(&'static str, String)>,
}

impl Files {
    /// Begins with what the commit has; without one, with nothing.
    ///
    /// # Errors
    /// When the host does not have the commit.
    pub fn of(quarantine: Quarantine, commit: Option<&str>) -> Result<Files, QuarantineError> {
        let base = match commit {
            Some(commit) if quarantine.host_has(commit)? => commit.to_owned(),
            Some(commit) => {
                let path = quarantine.host.directory().to_owned();
                return Err(QuarantineError::NoBase { commit: commit.to_owned(), path });
            }
            None => {
                let tree = run(&mut quarantine.git(&["hash-object", "-t", "tree", "/dev/null"]), "make a patch")?;
                String::from_utf8_lossy(tree.trim_ascii_end()).into_owned()
            }
        };
        let mut conversions = Vec::new();
        for name in CONVERSIONS {
            let value = quarantine.host.line(&["config", "--get", name])?;
            conversions.extend(value.map(|value| (name, String::from_utf8_lossy(&value).into_owned())));
        }
        let files = Files { quarantine, base, conversions };
        std::fs::create_dir(files.directory()).map_err(QuarantineError::Scratch)?;
        if let Ok(exclude) = std::fs::read(files.quarantine.host_path("info/exclude")?) {
            std::fs::create_dir_all(files.quarantine.git_dir().join("info")).map_err(QuarantineError::Scratch)?;
            files.quarantine.write("git/info/exclude", &exclude)?;
        }
        run(&mut files.git(&["read-tree", &files.base]), "make a patch")?;
        let listed = run(&mut files.git(&["ls-files", "-z", "--", ".gitignore", "**/.gitignore"]), "make a patch")?;
        let listed = files.quarantine.write("listed", &listed)?;
        run(files.git(&["checkout-index", "-z", "-q", "--stdin"]).stdin(reading(&listed)?), "make a patch")?;
        Ok(files)
    }

    /// Unpacks a tar stream of the guest's files; `bytes_max` bounds what they have together.
    ///
    /// # Errors
    /// When a name leads elsewhere, the stream is malformed, or it is too much.
    pub fn unpack(&self, from: impl Read, bytes_max: u64) -> Result<(), QuarantineError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(self.directory(), flags, Mode::empty())
            .map_err(|errno| QuarantineError::Scratch(errno.into()))?;
        unpack(directory, Policy::hostile(false), from).map_err(QuarantineError::Unpack)?;
        // Holes cost nothing until git reads them.
        let bytes = apparent_bytes(&self.directory()).map_err(QuarantineError::Scratch)?;
        if bytes > bytes_max { Err(QuarantineError::TooMuch { bytes_max }) } else { Ok(()) }
    }

    /// Takes away files that the guest removed, as far as they matter for what is ignored.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove_ignores(&self, removed: &[Vec<u8>]) -> Result<(), QuarantineError> {
        for path in removed.iter().filter(|path| is_ignore(path)) {
            sys::fs::remove_file(&self.directory().join(OsStr::from_bytes(path)))
                .map_err(|error| QuarantineError::Scratch(error.source))?;
        }
        Ok(())
    }

    /// Those of the paths that git ignores.
    ///
    /// # Errors
    /// When git cannot tell.
    pub fn ignored(&self, paths: &[Vec<u8>]) -> Result<HashSet<Vec<u8>>, QuarantineError> {
        let listed = self.quarantine.write("candidates", &joined(paths))?;
        let mut git = self.git(&["check-ignore", "--no-index", "-z", "--stdin"]);
        let answer = self.quarantine.dir.path().join("ignored");
        let to = File::create(&answer).map_err(QuarantineError::Scratch)?;
        let none_ignored = 1;
        self.quarantine.answer(git.stdin(reading(&listed)?), to, "see what is ignored", &[0, none_ignored])?;
        let ignored = std::fs::read(&answer).map_err(QuarantineError::Scratch)?;
        Ok(ignored.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// Those of the files that are not as the commit has them, by their digests and modes. One that goes through a filter
    /// counts as if it were: nobody here can tell.
    ///
    /// # Errors
    /// When git cannot tell.
    pub fn uncommitted(&self, files: &HashMap<Vec<u8>, (FileMode, Digest)>) -> Result<Vec<Vec<u8>>, QuarantineError> {
        let mut left: HashMap<&[u8], &(FileMode, Digest)> =
            files.iter().map(|(path, file)| (path.as_slice(), file)).collect();
        let tree = self.quarantine.host.tell(&["ls-tree", "-r", "-z", &self.base])?;
        let entries = tree.split(|byte| *byte == 0).filter_map(entry);
        let entries: Vec<Entry<'_>> = entries.filter(|entry| left.contains_key(entry.path)).collect();
        let mut objects = self.quarantine.host.objects("--batch")?;
        for entries in entries.chunks(OBJECTS_AT_ONCE) {
            let names: Vec<&str> = entries.iter().map(|entry| entry.object).collect();
            for (entry, object) in entries.iter().zip(objects.read(&names)?) {
                let Some((mode, digest)) = left.get(entry.path) else { continue };
                if entry.mode == *mode && object.is_some_and(|object| Digest::of(&object.content) == *digest) {
                    left.remove(entry.path);
                }
            }
        }
        let paths: Vec<Vec<u8>> = left.into_keys().map(<[u8]>::to_vec).collect();
        let listed = self.quarantine.write("candidates", &joined(&paths))?;
        let mut git = self.git(&["check-attr", "-z", "--stdin", "filter"]);
        let answer = self.quarantine.dir.path().join("attributes");
        let to = File::create(&answer).map_err(QuarantineError::Scratch)?;
        self.quarantine.output_to(git.stdin(reading(&listed)?), to, "see what is filtered")?;
        let answer = std::fs::read(&answer).map_err(QuarantineError::Scratch)?;
        let fields: Vec<&[u8]> = answer.split(|byte| *byte == 0).collect();
        let unfiltered = fields.chunks_exact(3).filter(|field| matches!(field[2], b"unspecified" | b"unset" | b"set"));
        Ok(unfiltered.map(|field| field[0].to_vec()).collect())
    }

    /// The patch that leads from `base`, or else from what it began with, to the same with `changed` files as they were
    /// unpacked and without `removed` ones: an open file, and how many files differ.
    ///
    /// # Errors
    /// When git cannot make it.
    pub fn patch(
        &self,
        base: Option<&str>,
        changed: &[Vec<u8>],
        removed: &[Vec<u8>],
    ) -> Result<(File, u64), QuarantineError> {
        const FORM: [&str; 10] = [
            "--binary",
            "--full-index",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--submodule=short",
            "-U3",
            "--inter-hunk-context=0",
        ];
        let removed = self.quarantine.write("removed", &joined(removed))?;
        run(self.git(&["update-index", "--force-remove", "-z", "--stdin"]).stdin(reading(&removed)?), "make a patch")?;
        let changed = self.quarantine.write("changed", &joined(changed))?;
        run(
            self.git(&["update-index", "--add", "--replace", "-z", "--stdin"]).stdin(reading(&changed)?),
            "take the guest's files",
        )?;
        let base = base.unwrap_or(&self.base);
        let renames = self.renames(base)?;
        let compare = [&["diff", "--cached", "--name-only", "-z"], renames, &[base, "--"]].concat();
        let names = run(&mut self.git(&compare), "compare")?;
        let path = self.quarantine.dir.path().join("patch");
        let to = File::create(&path).map_err(QuarantineError::Scratch)?;
        let args = [&["diff", "--cached"][..], &FORM, renames, &[base, "--"]].concat();
        self.quarantine.output_to(&mut self.git(&args), to, "make a patch")?;
        let file = File::open(&path).map_err(QuarantineError::Scratch)?;
        Ok((file, names.iter().filter(|byte| **byte == 0).count() as u64))
    }

    /// How renames are told: not at all where a link is gone. A patch does not say of a link that is renamed as it is that it
    /// is one, and git apply takes a file in its place for one behind it.
    fn renames(&self, base: &str) -> Result<&'static [&'static str], QuarantineError> {
        let gone = ["diff", "--cached", "--raw", "--no-renames", "--diff-filter=D", base, "--"];
        let gone = run(&mut self.git(&gone), "compare")?;
        let is_link = |line: &[u8]| line.starts_with(b":120000 ");
        Ok(if gone.split(|byte| *byte == b'\n').any(is_link) { &["--no-renames"] } else { &["-M", "-l400"] })
    }

    fn directory(&self) -> PathBuf {
        self.quarantine.dir.path().join("files")
    }

    fn git(&self, args: &[&str]) -> Command {
        let settings = self.conversions.iter().map(|(name, value)| format!("{name}={value}"));
        let settings: Vec<String> = settings.chain(["core.safecrlf=false".to_owned()]).collect();
        let mut all: Vec<&str> = settings.iter().flat_map(|setting| ["-c", setting]).collect();
        all.extend(args);
        let mut git = self.quarantine.git_in(&self.directory(), &all);
        git.env("GIT_INDEX_FILE", self.quarantine.dir.path().join("index")).env("GIT_WORK_TREE", self.directory());
        git
    }
}

impl Quarantine {
    /// Runs it with its output in a file.
    pub(super) fn output_to(&self, git: &mut Command, to: File, act: &'static str) -> Result<(), QuarantineError> {
        self.answer(git, to, act, &[0])
    }

    /// The same; these statuses are no failures.
    fn answer(&self, git: &mut Command, to: File, act: &'static str, fine: &[i32]) -> Result<(), QuarantineError> {
        let output = git.stdout(to).stderr(Stdio::piped()).spawn().and_then(|child| child.wait_with_output());
        let output = output.map_err(QuarantineError::Scratch)?;
        if output.status.code().is_some_and(|code| fine.contains(&code)) {
            return Ok(());
        }
        Err(QuarantineError::refused(act, &String::from_utf8_lossy(&output.stderr)))
    }
}

/// A file of a tree.
struct Entry<'a> {
    mode: FileMode,
    object: &'a str,
    path: &'a [u8],
}

/// Reads `mode kind object⇥path`; none for what is no file.
fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let mut words = std::str::from_utf8(&line[..tab]).ok()?.split(' ');
    let mode = match words.next()? {
        "100644" => FileMode::Plain,
        "100755" => FileMode::Executable,
        "120000" => FileMode::Link,
        _ => return None,
    };
    Some(Entry { mode, object: words.nth(1)?, path: &line[tab + 1..] })
}

/// Whether the file says what is ignored.
#[must_use]
pub fn is_ignore(path: &[u8]) -> bool {
    path.strip_suffix(IGNORE).is_some_and(|directory| directory.is_empty() || directory.ends_with(b"/"))
}

fn joined(paths: &[Vec<u8>]) -> Vec<u8> {
    paths.iter().flat_map(|path| [path.as_slice(), b"\0"]).collect::<Vec<_>>().concat()
}

/// What the files below a directory say that they have.
fn apparent_bytes(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0_u64;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                waiting.push(entry.path());
            } else {
                bytes = bytes.saturating_add(meta.len());
            }
        }
    }
    Ok(bytes)
}
