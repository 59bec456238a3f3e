//! Why an agent did not do what it was asked.

use serde::{Deserialize, Serialize};

/// Why a request failed, for the program that asked; the text is the guest's and not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum Failure {
    /// No such program.
    #[error("{program}: not found in the guest")]
    ProgramNotFound {
        /// As asked.
        program: String,
    },
    /// It is there and cannot be run.
    #[error("{program}: cannot be run in the guest: {why}")]
    ProgramNotExecutable {
        /// As asked.
        program: String,
        /// Why.
        why: String,
    },
    /// No such user or group in the guest.
    #[error("no user {user:?} in the guest")]
    NoSuchUser {
        /// As asked.
        user: String,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter {path:?} in the guest: {why}")]
    Directory {
        /// As asked.
        path: String,
        /// Why.
        why: String,
    },
    /// A system call failed.
    #[error("{act}: {why}")]
    Os {
        /// What was being done to what.
        act: String,
        /// Why.
        why: String,
    },
    /// The request does not fit the stage, or says nonsense.
    #[error("the guest agent refused: {why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// No such session.
    #[error("there is no session {name} in the guest")]
    NoSuchSession {
        /// As asked.
        name: String,
    },
    /// A session of that name runs.
    #[error("a session {name} runs already in the guest")]
    SessionExists {
        /// As asked.
        name: String,
    },
    /// The session's command has ended.
    #[error("the session {name} has ended")]
    SessionOver {
        /// As asked.
        name: String,
    },
    /// The session's command runs.
    #[error("the session {name} still runs")]
    SessionRuns {
        /// As asked.
        name: String,
    },
    /// As many sessions run as an agent keeps.
    #[error("{SESSIONS} sessions run in the guest already", SESSIONS = super::session::SESSIONS_MAX)]
    SessionsFull,
    /// Too many streams.
    #[error("the guest agent is serving {STREAMS} requests already", STREAMS = super::STREAMS_MAX)]
    Busy,
    /// A newer host asks what this agent does not know.
    #[error("the guest agent does not know this request")]
    Unsupported,
}
