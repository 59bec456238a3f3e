//! Why a repository cannot be read or sent.

use std::io;
use std::path::PathBuf;

use sys::fs::FsError;
use tree::TreeError;
use wire::api::ErrorCode;

use crate::model::progress::is_cancelled;

/// Paths an error names.
const NAMED_MAX: usize = 10;

/// A workspace that cannot be read, or not be sent.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// It is not there.
    #[error("cannot use {} as a workspace", path.display())]
    Path {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a file.
    #[error("cannot use {} as a workspace: not a directory", path.display())]
    NotDirectory {
        /// As given.
        path: PathBuf,
    },
    /// No repository around it.
    #[error("cannot use {} as a workspace: not inside a git work tree", path.display())]
    NotWorkTree {
        /// As given.
        path: PathBuf,
    },
    /// A repository without files.
    #[error("cannot use {} as a workspace: a bare repository, or its git directory", path.display())]
    Bare {
        /// As given.
        path: PathBuf,
    },
    /// A path in it that leads nowhere, or to too much of itself.
    #[error("cannot use {} as a workspace: submodules are nested deeper than {max}", path.display())]
    TooDeep {
        /// The submodule.
        path: PathBuf,
        /// How deep they may be.
        max: usize,
    },
    /// What was asked for is no commit of it.
    #[error("cannot use {from:?} of {} as a workspace: it names no commit there", path.display())]
    NoCommit {
        /// The work tree.
        path: PathBuf,
        /// As given.
        from: String,
    },
    /// git has no branch of this name anywhere.
    #[error("cannot make a branch {branch:?}: git has no such names")]
    BranchName {
        /// As given.
        branch: String,
    },
    /// git is not there.
    #[error("cannot look at {}: cannot run git", path.display())]
    Git {
        /// The work tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// git failed.
    #[error("cannot look at {}: git: {said}", path.display())]
    GitSaid {
        /// The work tree.
        path: PathBuf,
        /// Its words.
        said: String,
    },
    /// git's answer is not understood.
    #[error("cannot look at {}: cannot understand what git says of {about}", path.display())]
    GitAnswer {
        /// The work tree.
        path: PathBuf,
        /// What it was asked.
        about: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of our own cannot be written or read.
    #[error(transparent)]
    Own(#[from] FsError),
    /// The notes about what was sent cannot be understood.
    #[error("cannot understand {}", path.display())]
    Notes {
        /// Their file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The stream broke off, or a file of it.
    #[error(transparent)]
    Stream(TreeError),
    /// Whoever asked changed their mind.
    #[error("cannot send the workspace: cancelled")]
    Cancelled,
    /// Something is there that no host sent.
    #[error("cannot put the workspace there: the guest has files in its place{}", below(at))]
    Foreign {
        /// Which repository of it, relative to the top; empty: the top.
        at: String,
    },
    /// Both sides have changed the same thing.
    #[error("cannot bring the workspace up to date: {}", conflict(paths, reasons))]
    Conflict {
        /// Files that both sides have changed, relative to the top; all of them.
        paths: Vec<String>,
        /// What else both sides have changed.
        reasons: Vec<String>,
    },
}

fn below(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!(": {at}") }
}

fn conflict(paths: &[String], reasons: &[String]) -> String {
    let mut parts = reasons.to_vec();
    if !paths.is_empty() {
        let named: Vec<&str> = paths.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = paths.len().saturating_sub(NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        parts.push(format!("changed on both sides: {}{more}", named.join(", ")));
    }
    parts.join("; ")
}

impl WorkspaceError {
    /// How an API client is told apart from others.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            WorkspaceError::Git { .. } => ErrorCode::Unsupported,
            WorkspaceError::Own(error) if error.is_full() => ErrorCode::Exhausted,
            WorkspaceError::Own(_) | WorkspaceError::Notes { .. } | WorkspaceError::Stream(_) => {
                ErrorCode::OperationFailed
            }
            WorkspaceError::Cancelled => ErrorCode::Cancelled,
            WorkspaceError::Foreign { .. } | WorkspaceError::Conflict { .. } => ErrorCode::WrongState,
            WorkspaceError::Path { .. }
            | WorkspaceError::NotDirectory { .. }
            | WorkspaceError::NotWorkTree { .. }
            | WorkspaceError::Bare { .. }
            | WorkspaceError::TooDeep { .. }
            | WorkspaceError::NoCommit { .. }
            | WorkspaceError::BranchName { .. }
            | WorkspaceError::GitSaid { .. }
            | WorkspaceError::GitAnswer { .. }
            | WorkspaceError::Read { .. } => ErrorCode::BadRequest,
        }
    }

    /// What may help, for a person.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            WorkspaceError::NotWorkTree { .. } => {
                "make it one with: git init && git add . (only tracked files are copied), or leave the path out"
            }
            WorkspaceError::Bare { .. } => "give the path of a checkout of it",
            WorkspaceError::Git { .. } => "install git: apt-get install git",
            WorkspaceError::GitSaid { path, said } if said.contains("dubious ownership") => {
                let path = path.display();
                return Some(format!("if you trust its owner: git config --global --add safe.directory {path}"));
            }
            WorkspaceError::Foreign { .. } | WorkspaceError::Conflict { .. } => {
                "export the guest's work first, or overwrite it with --force"
            }
            WorkspaceError::Path { .. }
            | WorkspaceError::NotDirectory { .. }
            | WorkspaceError::TooDeep { .. }
            | WorkspaceError::NoCommit { .. }
            | WorkspaceError::BranchName { .. }
            | WorkspaceError::GitSaid { .. }
            | WorkspaceError::GitAnswer { .. }
            | WorkspaceError::Read { .. }
            | WorkspaceError::Own(_)
            | WorkspaceError::Notes { .. }
            | WorkspaceError::Stream(_)
            | WorkspaceError::Cancelled => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<TreeError> for WorkspaceError {
    fn from(error: TreeError) -> WorkspaceError {
        if is_cancelled(&error) { WorkspaceError::Cancelled } else { WorkspaceError::Stream(error) }
    }
}
