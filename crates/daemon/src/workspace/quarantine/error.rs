//! Why what came out of a guest does not become part of a repository.

use std::io;
use std::path::PathBuf;

use sys::process::RunError;
use tree::TreeError;
use wire::api::ErrorCode;

use super::super::WorkspaceError;
use super::super::git::first_line;

/// What came out of a guest was refused, or could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// git cannot be asked about the host's repository.
    #[error(transparent)]
    Host(#[from] WorkspaceError),
    /// The workspace's repository is gone.
    #[error("there is no git repository at {} any more", path.display())]
    NoRepository {
        /// Where it was.
        path: PathBuf,
    },
    /// A file of our own cannot be written or read.
    #[error("cannot keep what comes out of the guest")]
    Scratch(#[source] io::Error),
    /// git cannot be run.
    #[error("cannot {act}")]
    Run {
        /// What was to be done.
        act: &'static str,
        /// Why not.
        #[source]
        source: Box<RunError>,
    },
    /// git refused.
    #[error("cannot {act}: git: {said}")]
    Refused {
        /// What was to be done.
        act: &'static str,
        /// What git says, escaped: it may quote the guest.
        said: String,
    },
    /// The host lacks what the guest's work is based on.
    #[error("there is no commit {commit} in {} any more", path.display())]
    NoBase {
        /// The commit.
        commit: String,
        /// The host's repository.
        path: PathBuf,
    },
    /// Somebody works in the branch.
    #[error("cannot write the branch {branch}: it is checked out at {}", path.display())]
    CheckedOut {
        /// Its name.
        branch: String,
        /// Where.
        path: PathBuf,
    },
    /// The branch has commits that came from elsewhere.
    #[error("cannot write the branch {branch}: it has commits that are not the guest's")]
    NotOurs {
        /// Its name.
        branch: String,
    },
    /// The guest's files are no stream of files, or do not fit.
    #[error("cannot take the guest's files")]
    Unpack(#[source] TreeError),
    /// A file out of the guest is larger than all of it may be.
    #[error("the guest's files have over {bytes_max} bytes, more than is taken")]
    TooMuch {
        /// The limit.
        bytes_max: u64,
    },
}

impl QuarantineError {
    pub(super) fn from_run(error: RunError, act: &'static str) -> QuarantineError {
        match error {
            RunError::Failed { stderr, .. } => QuarantineError::refused(act, &stderr),
            other => QuarantineError::Run { act, source: Box::new(other) },
        }
    }

    pub(super) fn refused(act: &'static str, stderr: &str) -> QuarantineError {
        QuarantineError::Refused { act, said: tree::shown(first_line(stderr).as_bytes()) }
    }

    /// How an API client is told apart from others.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            QuarantineError::Host(error) => error.code(),
            QuarantineError::NoRepository { .. } | QuarantineError::NoBase { .. } => ErrorCode::NotFound,
            QuarantineError::Scratch(error) if error.kind() == io::ErrorKind::StorageFull => ErrorCode::Exhausted,
            QuarantineError::Scratch(_)
            | QuarantineError::Unpack(_)
            | QuarantineError::Run { .. }
            | QuarantineError::Refused { .. }
            | QuarantineError::TooMuch { .. } => ErrorCode::OperationFailed,
            QuarantineError::CheckedOut { .. } => ErrorCode::InUse,
            QuarantineError::NotOurs { .. } => ErrorCode::WrongState,
        }
    }

    /// What may help, for a person.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            QuarantineError::CheckedOut { .. } => Some("check out another branch there, then export again"),
            QuarantineError::NotOurs { .. } => Some("rename it with git branch -m, then export again"),
            QuarantineError::NoBase { .. } | QuarantineError::NoRepository { .. } => {
                Some("--format patch needs neither")
            }
            QuarantineError::Host(_)
            | QuarantineError::Scratch(_)
            | QuarantineError::Unpack(_)
            | QuarantineError::Run { .. }
            | QuarantineError::Refused { .. }
            | QuarantineError::TooMuch { .. } => None,
        }
    }
}
