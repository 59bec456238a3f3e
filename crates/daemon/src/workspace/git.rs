//! The one gate to the git CLI. The repository is only read, and nothing that its configuration names is run: no hook,
//! no file system monitor, no filter, no helper. What decides which repository git sees is ours alone.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use super::WorkspaceError;

/// What decides which repository git sees, or how: set inside hooks, and never meant for us (git(1)).
const GIT_LOCAL: [&str; 20] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INDEX_VERSION",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_ATTR_SOURCE",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_DEFAULT_HASH",
];

/// Settings of git for all that we ask: nothing is run, written or fetched.
const SETTINGS: [(&str, &str); 8] = [
    ("core.fsmonitor", ""),
    ("core.hooksPath", "/dev/null"),
    ("core.untrackedCache", "false"),
    ("protocol.allow", "never"),
    ("maintenance.auto", "false"),
    ("gc.auto", "0"),
    ("submodule.recurse", "false"),
    ("advice.graftFileDeprecated", "false"),
];

/// Bytes kept of what git complains.
const STDERR_BYTES_MAX: u64 = 64 * 1024;

/// git, asked about one work tree.
#[derive(Debug, Clone)]
pub(super) struct Git {
    directory: PathBuf,
    settings: Vec<(OsString, OsString)>,
    environment: Vec<(&'static str, OsString)>,
}

/// What git answered.
pub(super) struct Answer {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// Its standard output.
    pub(super) stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub(super) stderr: String,
}

impl Git {
    /// git in the directory.
    pub(super) fn at(directory: &Path) -> Git {
        let settings = SETTINGS.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect();
        Git { directory: directory.to_owned(), settings, environment: Vec::new() }
    }

    /// Where.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// With the filters of these names (gitattributes(5), `filter`) doing nothing.
    pub(super) fn without_filters<'a>(&mut self, names: impl IntoIterator<Item = &'a [u8]>) {
        for name in names {
            for (key, value) in [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")] {
                let key = [b"filter.", name, b".", key.as_bytes()].concat();
                self.settings.push((OsStr::from_bytes(&key).to_owned(), OsString::from(value)));
            }
        }
    }

    /// With another index and another work tree, which are ours to write, of the same repository.
    pub(super) fn elsewhere(&self, git_dir: &Path, index: &Path, work_tree: &Path) -> Git {
        let mut git = Git { directory: work_tree.to_owned(), ..self.clone() };
        git.environment =
            vec![("GIT_DIR", git_dir.into()), ("GIT_INDEX_FILE", index.into()), ("GIT_WORK_TREE", work_tree.into())];
        git
    }

    /// With one more setting.
    pub(super) fn with(&mut self, key: &str, value: &str) {
        self.settings.push((key.into(), value.into()));
    }

    /// With another directory to write objects to.
    pub(super) fn with_objects(&mut self, objects: &Path) {
        self.environment.push(("GIT_OBJECT_DIRECTORY", objects.into()));
    }

    /// The command, for who needs more than an answer.
    pub(super) fn command(&self, args: &[&OsStr]) -> Command {
        let mut command = sys::process::command("git");
        for name in GIT_LOCAL {
            command.env_remove(name);
        }
        // As pairs of the environment and not as options: a name may hold any letter there.
        command.env("GIT_CONFIG_COUNT", self.settings.len().to_string());
        for (at, (key, value)) in self.settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), key).env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_GRAFT_FILE", "/dev/null")
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("-C")
            .arg(&self.directory)
            .args(args);
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) fn ask(&self, args: &[&str]) -> Result<Answer, WorkspaceError> {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        self.ask_os(&args)
    }

    /// The same with arguments that need be no text.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) fn ask_os(&self, args: &[&OsStr]) -> Result<Answer, WorkspaceError> {
        let mut command = self.command(args);
        tracing::debug!(?args, directory = %self.directory.display(), "running git");
        let ran = (|| {
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            let (mut out, err) = (child.stdout.take(), child.stderr.take());
            let mut stdout = Vec::new();
            let stderr = std::thread::scope(|scope| {
                let complaint = scope.spawn(move || err.map_or_else(|| Ok(Vec::new()), read_head));
                if let Some(out) = &mut out {
                    out.read_to_end(&mut stdout)?;
                }
                complaint.join().unwrap_or_else(|_| Ok(Vec::new()))
            })?;
            Ok(Answer { status: child.wait()?, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
        })();
        ran.map_err(|source| self.not_run(source))
    }

    /// Runs it to its end, which is success.
    ///
    /// # Errors
    /// When it cannot be run, or fails.
    pub(super) fn tell(&self, args: &[&str]) -> Result<Vec<u8>, WorkspaceError> {
        let answer = self.ask(args)?;
        if answer.status.success() { Ok(answer.stdout) } else { Err(self.failed(&answer.stderr)) }
    }

    /// What one line of its output says; none when it fails, or says nothing.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) fn line(&self, args: &[&str]) -> Result<Option<Vec<u8>>, WorkspaceError> {
        let answer = self.ask(args)?;
        let line = answer.stdout.strip_suffix(b"\n").unwrap_or(&answer.stdout);
        Ok((answer.status.success() && !line.is_empty()).then(|| line.to_vec()))
    }

    /// Starts `git cat-file`, with `--batch`, or with `--batch-check` for all but the contents.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) fn objects(&self, option: &str) -> Result<Objects, WorkspaceError> {
        let args = ["cat-file", option].map(OsStr::new);
        let started = self.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.map_err(|source| self.not_run(source))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.not_run(io::ErrorKind::BrokenPipe.into()));
        };
        let from = io::BufReader::with_capacity(64 * 1024, from);
        Ok(Objects { git: self.clone(), child, to: Some(to), from, has_content: option == "--batch" })
    }

    pub(super) fn not_run(&self, source: io::Error) -> WorkspaceError {
        WorkspaceError::Git { path: self.directory.clone(), source }
    }

    pub(super) fn failed(&self, stderr: &str) -> WorkspaceError {
        WorkspaceError::GitSaid { path: self.directory.clone(), said: first_line(stderr) }
    }

    pub(super) fn odd(&self, about: &'static str) -> WorkspaceError {
        WorkspaceError::GitAnswer { path: self.directory.clone(), about }
    }
}

/// The first line of what git complains, of those that say why.
pub(super) fn first_line(text: &str) -> String {
    let said = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
    let line = text.lines().find(said).or_else(|| text.lines().next()).unwrap_or("no reason given");
    line.trim_start_matches("fatal: ").trim_start_matches("error: ").to_owned()
}

fn read_head(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    from.by_ref().take(STDERR_BYTES_MAX).read_to_end(&mut kept)?;
    io::copy(&mut from, &mut io::sink())?;
    Ok(kept)
}

/// Objects, read one after the other.
pub(super) struct Objects {
    git: Git,
    child: Child,
    to: Option<ChildStdin>,
    from: io::BufReader<ChildStdout>,
    has_content: bool,
}

/// An object.
pub(super) struct Object {
    /// `commit`, `tree`, `blob` or `tag`.
    pub(super) kind: Vec<u8>,
    /// How long it is.
    pub(super) bytes: u64,
    /// What is in it, where that was asked.
    pub(super) content: Vec<u8>,
}

impl Objects {
    /// Objects asked for at once: their names fit into a pipe.
    const AT_ONCE: usize = 256;

    /// Reads the objects of these names; one that is not there is none.
    ///
    /// # Errors
    /// When git breaks off, or answers something else.
    pub(super) fn read(&mut self, names: &[impl std::fmt::Display]) -> Result<Vec<Option<Object>>, WorkspaceError> {
        let mut objects = Vec::with_capacity(names.len());
        for names in names.chunks(Self::AT_ONCE) {
            let asked: String = names.iter().map(|name| format!("{name}\n")).collect();
            let to = self.to.as_mut().ok_or_else(|| self.git.odd("its objects"))?;
            // git answers as it reads: with as many names as a pipe holds, none of us waits for the other for ever.
            to.write_all(asked.as_bytes()).map_err(|_| self.git.odd("its objects"))?;
            for _ in names {
                objects.push(self.one()?);
            }
        }
        Ok(objects)
    }

    fn one(&mut self) -> Result<Option<Object>, WorkspaceError> {
        let wrong = |_| self.git.odd("its objects");
        let mut line = Vec::new();
        io::BufRead::read_until(&mut self.from, b'\n', &mut line).map_err(wrong)?;
        let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
        let (Some(_), Some(kind)) = (words.next(), words.next()) else { return Err(self.git.odd("its objects")) };
        let Some(length) = words.next() else { return Ok(None) };
        let length = std::str::from_utf8(length).ok().and_then(|digits| digits.parse::<usize>().ok());
        let Some(length) = length else { return Err(self.git.odd("its objects")) };
        let (kind, bytes) = (kind.to_vec(), length as u64);
        if !self.has_content {
            return Ok(Some(Object { kind, bytes, content: Vec::new() }));
        }
        let mut content = vec![0; length + 1];
        self.from.read_exact(&mut content).map_err(wrong)?;
        content.pop();
        Ok(Some(Object { kind, bytes, content }))
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.to = None;
        // It ends with its input; what it still says is nobody's.
        if let Err(error) = io::copy(&mut self.from, &mut io::sink()).and_then(|_| self.child.wait()) {
            tracing::warn!(%error, "git cat-file did not end well");
        }
    }
}

/// An open file that a command reads instead of the keyboard.
pub(super) fn input(path: &Path) -> Result<Stdio, WorkspaceError> {
    let opened = File::open(path).map_err(|source| WorkspaceError::Read { path: path.to_owned(), source });
    opened.map(Stdio::from)
}
