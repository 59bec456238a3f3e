//! How a command that does not succeed ends: what is told, in which words, and the exit status.
//!
//! | status | meaning |
//! |---|---|
//! | the command's own, 128+n for a signal | `run` and `exec` |
//! | 125 | banger failed in `run` or `exec` |
//! | 126, 127 | the program cannot be run, is not there |
//! | 130, 143 | interrupted, terminated |
//! | 141 | nobody reads the output any more |
//! | 2 | usage |
//! | 1 | everything else |

use std::error::Error;
use std::fmt;

pub(crate) use wire::api::chain;
use wire::api::{ApiError, ErrorCode, plain};

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told.
    Told(Box<ApiError>),
    /// Whoever read the output is gone.
    OutputClosed,
    /// A person or the system asked us to end.
    Interrupted {
        /// The signal.
        signal: i32,
    },
}

impl Failure {
    /// A failure with a code and its message.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        Failure::Told(Box::new(ApiError::new(code, message)))
    }

    /// A failure out of `error` and the chain of its causes.
    pub(crate) fn from_error(code: ErrorCode, error: &dyn Error) -> Failure {
        Failure::new(code, chain(error))
    }

    /// The same with a hint, where there is none yet.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        match self {
            Failure::Told(error) if error.hint.is_none() => Failure::Told(Box::new(error.with_hint(hint))),
            other => other,
        }
    }

    /// The same, said to have happened during `act` on `object`, unless it says so itself.
    pub(crate) fn during(self, act: &str, object: &str) -> Failure {
        match self {
            Failure::Told(mut error) if !error.message.starts_with("cannot ") => {
                let cause = error.message.strip_prefix(object).and_then(|rest| rest.strip_prefix(": "));
                error.message = format!("cannot {act}: {}", cause.unwrap_or(&error.message));
                Failure::Told(error)
            }
            other => other,
        }
    }

    /// A failure of the work itself as a part of `act`, which says between what and what it was done.
    pub(crate) fn part_of(self, act: &str) -> Failure {
        match self {
            Failure::Told(mut error) if error.code == ErrorCode::OperationFailed => {
                error.message = format!("cannot {act}: {}", error.message);
                Failure::Told(error)
            }
            other => other,
        }
    }

    /// The kind, when it is one that is told.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Failure::Told(error) => Some(error.code),
            Failure::OutputClosed | Failure::Interrupted { .. } => None,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Told(Box::new(error))
    }
}

/// An I/O error as a person reads it.
#[derive(Debug)]
pub(crate) struct Io(pub(crate) std::io::Error);

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(&self.0.to_string()))
    }
}

impl Error for Io {}

impl From<std::io::Error> for Io {
    fn from(error: std::io::Error) -> Io {
        Io(error)
    }
}

impl From<rustix::io::Errno> for Io {
    fn from(errno: rustix::io::Errno) -> Io {
        Io(errno.into())
    }
}

/// Which statuses a command uses for failures of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statuses {
    /// 1: every command but two.
    Ordinary,
    /// 125 to 127: a guest's command has 0 to 124 for itself.
    Exec,
}

impl Statuses {
    /// The exit status of `failure`.
    pub(crate) fn of(self, failure: &Failure) -> u8 {
        match failure {
            Failure::OutputClosed => 141,
            Failure::Interrupted { signal } => 128_u8.saturating_add(u8::try_from(*signal).unwrap_or(127)),
            Failure::Told(error) => match (self, error.code) {
                (Statuses::Exec, ErrorCode::ProgramNotExecutable) => 126,
                (Statuses::Exec, ErrorCode::ProgramNotFound) => 127,
                (Statuses::Exec, _) => 125,
                (Statuses::Ordinary, _) => 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_act_is_named_once() {
        let message = |text: &str| match Failure::new(ErrorCode::NotFound, text).during("run x in web", "x") {
            Failure::Told(error) => error.message,
            other => panic!("{other:?}"),
        };
        assert_eq!(message("x: not found in the guest"), "cannot run x in web: not found in the guest");
        assert_eq!(message("no such user"), "cannot run x in web: no such user");
        assert_eq!(message("cannot run x: no"), "cannot run x: no");
    }

    #[test]
    fn statuses() {
        let told = |code| Failure::new(code, "x");
        for (statuses, failure, status) in [
            (Statuses::Ordinary, told(ErrorCode::NotFound), 1),
            (Statuses::Exec, told(ErrorCode::NotFound), 125),
            (Statuses::Exec, told(ErrorCode::ProgramNotFound), 127),
            (Statuses::Exec, told(ErrorCode::ProgramNotExecutable), 126),
            (Statuses::Ordinary, told(ErrorCode::ProgramNotFound), 1),
            (Statuses::Ordinary, Failure::OutputClosed, 141),
            (Statuses::Exec, Failure::Interrupted { signal: 2 }, 130),
        ] {
            assert_eq!(statuses.of(&failure), status, "{failure:?}");
        }
    }
}
