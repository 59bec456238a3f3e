//! The daemon as a process: where its socket is, and how it is started when nobody listens there.
//!
//! Two commands at once may both start one: the daemon holds a lock, the loser ends with status 0 and both commands find
//! the winner's socket. What answers must run as this user or as root.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use tokio::net::UnixStream;
use wire::api::ErrorCode;
use wire::layout::{HomeError, Install, UserDirs};

use crate::error::{Failure, Io};
use crate::output::printable;
use crate::settings::Settings;
use crate::{clock, process};

/// How long a daemon may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What helps when no daemon can be started on a full disk.
const MAKE_ROOM: &str = "make some room on that disk, then try again";

/// Between two looks at the socket.
const POLL: Duration = Duration::from_millis(5);

/// How much of the log's end is read for its last line.
const LOG_TAIL_BYTES: u64 = 4096;

/// Where the daemon is, and how to start it.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    dirs: UserDirs,
    exe: Option<PathBuf>,
    uid: u32,
    start: Start,
}

/// What to do when nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Start a daemon.
    OnDemand,
    /// Say so.
    Never,
}

/// Why there is no daemon to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// No directory for its files.
    #[error("cannot find the daemon")]
    Home(#[source] HomeError),
    /// Nobody listens and nobody was to be started.
    #[error("the daemon is not running")]
    NotRunning,
    /// The socket is there and cannot be used.
    #[error("cannot connect to the daemon at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        #[source]
        source: Io,
    },
    /// Somebody else answers.
    #[error("cannot trust the daemon at {}: it runs as user {uid}", socket.display())]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// Whose process.
        uid: u32,
    },
    /// No such program.
    #[error("cannot start the daemon: there is no {}", tried.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" and no "))]
    Missing {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// Its log cannot be written.
    #[error("cannot start the daemon: cannot open its log {}", log.display())]
    Log {
        /// The log.
        log: PathBuf,
        #[source]
        source: Io,
    },
    /// It cannot be run.
    #[error("cannot start the daemon {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        #[source]
        source: Io,
    },
    /// It ended instead of listening, and said why.
    #[error("cannot start the daemon: {reason}")]
    Refused {
        /// What it said.
        reason: String,
        /// What it says can be done about it.
        hint: Option<String>,
    },
    /// It ended instead of listening, and its log takes not a byte.
    #[error("cannot start the daemon: the disk that holds {} is full", log.display())]
    Full {
        /// Its log.
        log: PathBuf,
    },
    /// It ended instead of listening.
    #[error("cannot start the daemon {}: it ended with {status}{}", program.display(), said(last_line))]
    Ended {
        /// The program.
        program: PathBuf,
        /// How.
        status: String,
        /// The end of its log.
        last_line: Option<String>,
    },
    /// It runs and does not listen.
    #[error("cannot start the daemon {}: it did not listen within {} s{}", program.display(), START_TIMEOUT.as_secs(), said(last_line))]
    Slow {
        /// The program.
        program: PathBuf,
        /// The end of its log.
        last_line: Option<String>,
    },
}

fn said(last_line: &Option<String>) -> String {
    last_line.as_ref().map_or_else(String::new, |line| format!(", saying: {line}"))
}

impl DaemonError {
    fn into_failure(self, dirs: &UserDirs) -> Failure {
        let failure = Failure::from_error(ErrorCode::DaemonUnavailable, &self);
        match self {
            DaemonError::Refused { hint: Some(hint), .. } => failure.hint(hint),
            DaemonError::Full { .. } => failure.hint(MAKE_ROOM),
            DaemonError::Log { source, .. } => match source.0.kind() {
                ErrorKind::StorageFull => failure.hint(MAKE_ROOM),
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                    failure.hint("banger must be able to write there; BANGER_HOME names another place")
                }
                _ => failure,
            },
            DaemonError::Refused { hint: None, .. }
            | DaemonError::Ended { .. }
            | DaemonError::Slow { .. }
            | DaemonError::Spawn { .. } => failure.hint(format!("its log: {}", dirs.daemon_log().display())),
            DaemonError::Missing { .. } => {
                failure.hint("install banger whole, for example: make install PREFIX=$HOME/.local")
            }
            DaemonError::Home(_) => failure.hint("set HOME, or BANGER_HOME to a directory of its own"),
            DaemonError::NotRunning => {
                failure.hint("it starts with the first command that needs it, for example: banger ps")
            }
            DaemonError::Connect { .. } | DaemonError::Foreign { .. } => failure,
        }
    }
}

impl Daemon {
    /// The daemon of this user.
    ///
    /// # Errors
    /// When no home directory is known.
    pub(crate) fn of(settings: &Settings, start: Start) -> Result<Daemon, Failure> {
        let dirs = settings.dirs().map_err(|error| {
            Failure::from_error(ErrorCode::DaemonUnavailable, &DaemonError::Home(error))
                .hint("set HOME, or BANGER_HOME to a directory of its own")
        })?;
        Ok(Daemon { dirs, exe: settings.exe.clone(), uid: settings.uid(), start })
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dirs.daemon_socket()
    }

    /// Where this user's files are that must last.
    pub(crate) fn state(&self) -> &Path {
        &self.dirs.state
    }

    /// Its log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dirs.daemon_log()
    }

    /// Its program.
    ///
    /// # Errors
    /// When there is none beside this one.
    pub(crate) fn installed(&self) -> Result<PathBuf, Failure> {
        self.program().map(|(_, program)| program).map_err(|error| error.into_failure(&self.dirs))
    }

    /// Makes its log, and the directory of that, for whoever opens it before the daemon runs.
    pub(crate) fn make_log(&self) -> Result<(), Failure> {
        self.open_log().map(drop).map_err(|error| error.into_failure(&self.dirs))
    }

    /// Whether somebody listens on its socket.
    pub(crate) async fn is_listening(&self) -> bool {
        matches!(self.try_connect().await, Ok(Some(_)))
    }

    /// A connection, with a daemon started for it where that is wanted.
    pub(crate) async fn connect(&self) -> Result<UnixStream, Failure> {
        self.connect_or_start().await.map_err(|error| error.into_failure(&self.dirs))
    }

    async fn connect_or_start(&self) -> Result<UnixStream, DaemonError> {
        match self.try_connect().await? {
            Some(stream) => Ok(stream),
            None if self.start == Start::Never => Err(DaemonError::NotRunning),
            None => self.start_and_connect().await,
        }
    }

    /// A connection; none when nobody listens.
    async fn try_connect(&self) -> Result<Option<UnixStream>, DaemonError> {
        let socket = self.socket();
        match UnixStream::connect(&socket).await {
            Ok(stream) => {
                let uid = stream
                    .peer_cred()
                    .map_err(|e| DaemonError::Connect { socket: socket.clone(), source: Io(e) })?
                    .uid();
                if uid == self.uid || uid == 0 { Ok(Some(stream)) } else { Err(DaemonError::Foreign { socket, uid }) }
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(DaemonError::Connect { socket, source: Io(error) }),
        }
    }

    async fn start_and_connect(&self) -> Result<UnixStream, DaemonError> {
        let (own_exe, program) = self.program()?;
        let log_path = self.log();
        let log = self.open_log()?;
        let log_start = log.metadata().map_or(0, |meta| meta.len());
        let mut child = process::spawn_daemon(own_exe, &program, &log)
            .map_err(|source| DaemonError::Spawn { program: program.clone(), source: Io(source) })?;
        let deadline = clock::now() + START_TIMEOUT;
        loop {
            if let Some(stream) = self.try_connect().await? {
                return Ok(stream);
            }
            if let Some(status) = ended_badly(&mut child) {
                return Err(match last_words(&log_path, log_start) {
                    Some((reason, hint)) => DaemonError::Refused { reason, hint },
                    None if is_full(&log_path) => DaemonError::Full { log: log_path },
                    None => {
                        let last_line = last_line(&log_path, log_start);
                        DaemonError::Ended { program, status, last_line }
                    }
                });
            }
            if clock::now() > deadline {
                let last_line = last_line(&log_path, log_start);
                return Err(DaemonError::Slow { program, last_line });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// This program and the daemon beside it: in an installed tree, or in a build directory.
    fn program(&self) -> Result<(&Path, PathBuf), DaemonError> {
        let exe = self.exe.as_deref().ok_or(DaemonError::Missing { tried: vec![PathBuf::from("bangerd")] })?;
        Ok((exe, program(exe)?))
    }

    fn open_log(&self) -> Result<File, DaemonError> {
        let path = self.log();
        let open = || {
            if let Some(dir) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)
        };
        open().map_err(|source| DaemonError::Log { log: path.clone(), source: Io(source) })
    }
}

/// The daemon beside the program `exe`: in an installed tree, or in a build directory.
///
/// # Errors
/// When there is none.
pub(crate) fn program(exe: &Path) -> Result<PathBuf, DaemonError> {
    let installed = Install::around(exe).map(|tree| tree.daemon());
    let beside = exe.parent().map(|dir| dir.join("bangerd"));
    let tried: Vec<PathBuf> = installed.into_iter().chain(beside).collect();
    match tried.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(DaemonError::Missing { tried }),
    }
}

/// How `child` ended, unless it runs on or gave way to another daemon.
fn ended_badly(child: &mut Child) -> Option<String> {
    match child.try_wait() {
        Ok(Some(status)) if !status.success() => {
            Some(match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
                (Some(code), _) => format!("status {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "no status".to_owned(),
            })
        }
        _ => None,
    }
}

/// Whether the filesystem of `path` has no room left.
fn is_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_bavail == 0)
}

/// Why a daemon ended, and its hint, when these are its last lines.
fn last_words(log: &Path, start: u64) -> Option<(String, Option<String>)> {
    let lines = last_lines(log, start);
    let (last, before) = lines.split_last()?;
    let (reason, hint) = match last.strip_prefix("hint: ") {
        Some(hint) => (before.last()?, Some(hint.to_owned())),
        None => (last, None),
    };
    Some((reason.strip_prefix("bangerd: ")?.to_owned(), hint))
}

fn last_line(log: &Path, start: u64) -> Option<String> {
    last_lines(log, start).pop()
}

/// The last lines of the daemon's log beyond its first `start` bytes, which an earlier daemon wrote. A daemon begins a log
/// anew that grew too long.
fn last_lines(log: &Path, start: u64) -> Vec<String> {
    read_end(log, start).map_or_else(Vec::new, |text| {
        text.lines().map(|line| printable(line.trim())).filter(|line| !line.is_empty()).collect()
    })
}

fn read_end(log: &Path, start: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    let start = if start <= length { start } else { 0 };
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES).max(start))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
