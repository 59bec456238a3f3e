//! What can go wrong between host and guest about a workspace.

use std::io;
use std::time::Duration;

use wire::api::ErrorCode;

use crate::guest::GuestError;
use crate::workspace::WorkspaceError;
use crate::workspace::quarantine::QuarantineError;

/// An exchange that failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The guest failed, or is gone.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// It says nothing.
    #[error("the guest said nothing for {} s", waited.as_secs())]
    Silent {
        /// How long it was waited for.
        waited: Duration,
    },
    /// It does not end.
    #[error("the guest sent over {bytes_max} bytes, more than is taken")]
    TooMuch {
        /// The limit.
        bytes_max: u64,
    },
    /// It answered something else.
    #[error("the guest answered nonsense where git was asked")]
    Nonsense,
    /// There is no git in it; answered by other means where there are some.
    #[error("there is no git in the guest")]
    NoGit,
    /// What was asked for cannot be had without git.
    #[error("cannot export {what}: there is no git in the guest")]
    NeedsGit {
        /// What was asked for.
        what: &'static str,
    },
    /// git in the guest failed.
    #[error("git in the guest failed: {said}")]
    Git {
        /// Its last words, harmless.
        said: String,
    },
    /// No repository where one should be.
    #[error("there is no git repository at {path} in the guest{}", behind(said))]
    NoRepository {
        /// Where.
        path: String,
        /// What git says about it, harmless.
        said: String,
    },
    /// Nothing that was sent is there.
    #[error("there is no workspace at {path} in the guest")]
    NotSent {
        /// Where.
        path: String,
    },
    /// It was being sent.
    #[error("the workspace at {path} in the guest never arrived whole")]
    Unfinished {
        /// Where.
        path: String,
    },
    /// Text that names no commit.
    #[error("{0:?} names no commit: 4 to 64 hexadecimal digits do")]
    NoCommit(String),
    /// A commit that the guest does not have.
    #[error("the guest has no commit {commit}")]
    NoBase {
        /// As asked.
        commit: String,
    },
    /// The host does not know what it sent.
    #[error("cannot make a patch without git in the guest: what was sent there is not known any more")]
    NoNotes,
    /// Nothing to put into a branch.
    #[error("there are no commits in the guest after {base}")]
    NoCommits {
        /// The commit it was put at, or "the beginning".
        base: String,
    },
    /// A file of our own failed us.
    #[error("cannot keep what comes out of the guest")]
    Scratch(#[source] io::Error),
    /// A repository's name that no guest's API can spell.
    #[error("cannot send a submodule whose path is no text")]
    Name,
    /// A defect.
    #[error("a worker thread panicked; see the daemon's log")]
    Panicked,
    /// The repository failed us, or stands against what the guest has.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The host's side failed.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
}

fn behind(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

impl ExchangeError {
    /// How an API client is told apart from others; of what the guest did, the caller knows better.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            ExchangeError::Guest(_) => ErrorCode::GuestUnreachable,
            ExchangeError::Silent { .. } => ErrorCode::Timeout,
            ExchangeError::Scratch(error) if error.kind() == io::ErrorKind::StorageFull => ErrorCode::Exhausted,
            ExchangeError::TooMuch { .. }
            | ExchangeError::Nonsense
            | ExchangeError::Git { .. }
            | ExchangeError::Scratch(_) => ErrorCode::OperationFailed,
            ExchangeError::NoGit | ExchangeError::NeedsGit { .. } => ErrorCode::Unsupported,
            ExchangeError::NoRepository { .. } | ExchangeError::NotSent { .. } | ExchangeError::NoBase { .. } => {
                ErrorCode::NotFound
            }
            ExchangeError::Unfinished { .. } | ExchangeError::NoNotes | ExchangeError::NoCommits { .. } => {
                ErrorCode::WrongState
            }
            ExchangeError::NoCommit(_) | ExchangeError::Name => ErrorCode::BadRequest,
            ExchangeError::Panicked => ErrorCode::Internal,
            ExchangeError::Workspace(error) => error.code(),
            ExchangeError::Quarantine(error) => error.code(),
        }
    }

    /// What may help, for a person.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ExchangeError::NoGit | ExchangeError::NeedsGit { .. } => {
                Some("a patch can be had without: --format patch; or install git in the guest")
            }
            ExchangeError::NoRepository { .. } | ExchangeError::NotSent { .. } => {
                Some("--guest-path says where it is, banger vm workspace prepare puts one there")
            }
            ExchangeError::Unfinished { .. } | ExchangeError::NoNotes => {
                Some("send it again with: banger vm workspace prepare")
            }
            ExchangeError::NoBase { .. } => {
                Some("it has the commits that were sent, to the depth that was asked for, and its own")
            }
            ExchangeError::NoCommits { .. } => Some("changes that are not committed come back with --format patch"),
            ExchangeError::Quarantine(error) => error.hint(),
            ExchangeError::Guest(_)
            | ExchangeError::Silent { .. }
            | ExchangeError::TooMuch { .. }
            | ExchangeError::Nonsense
            | ExchangeError::Git { .. }
            | ExchangeError::Scratch(_)
            | ExchangeError::Name
            | ExchangeError::Panicked
            | ExchangeError::Workspace(_)
            | ExchangeError::NoCommit(_) => None,
        }
    }
}
