//! Errors of stores, drivers and guests as causes: a code for programs, one sentence for people, a hint where one helps.

use wire::api::{ApiError, ErrorCode};

use crate::guest::GuestError;
use crate::model::vm::Refused;
use crate::network::NetworkError;
use crate::saga::{CANCELLED, Cause, INTERNAL};
use crate::storage::StorageError;
use crate::store::StoreError;
use crate::vmm::VmmError;

/// What helps when the disk is full. Each of these works on a disk without a free byte.
pub const MAKE_ROOM: &str =
    "make room on it, for example with `banger prune`, `banger rm VM` or `banger image delete IMAGE`";

/// The stable text of a code.
#[must_use]
pub fn code_name(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => INTERNAL.to_owned(),
    }
}

fn code_of(name: &str) -> ErrorCode {
    serde_json::from_value(serde_json::Value::from(name)).unwrap_or(ErrorCode::OperationFailed)
}

/// A refusal of ours.
#[must_use]
pub fn refused(code: ErrorCode, message: impl Into<String>) -> Cause {
    Cause::new(code_name(code), message)
}

/// `error` and the chain of its sources as a cause.
#[must_use]
pub fn caused(code: ErrorCode, error: &dyn std::error::Error) -> Cause {
    Cause::new(code_name(code), ApiError::from_chain(code, error).message)
}

/// A full disk.
fn full(error: &dyn std::error::Error) -> Cause {
    caused(ErrorCode::Exhausted, error).with_hint(MAKE_ROOM).retryable()
}

impl Cause {
    /// Whether this is its code.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        code_of(&self.code) == code
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Cause {
        self.hint = Some(hint.into());
        self
    }

    /// The same, worth another try.
    #[must_use]
    pub fn retryable(mut self) -> Cause {
        self.is_retryable = true;
        self
    }
}

impl From<Cause> for ApiError {
    fn from(cause: Cause) -> ApiError {
        let code = if cause.code == CANCELLED { ErrorCode::Cancelled } else { code_of(&cause.code) };
        ApiError { code, message: cause.message, hint: cause.hint, operation: None, retryable: cause.is_retryable }
    }
}

impl From<StoreError> for Cause {
    fn from(error: StoreError) -> Cause {
        match &error {
            StoreError::NotFound { .. } => caused(ErrorCode::NotFound, &error),
            StoreError::Ambiguous { .. } => caused(ErrorCode::Ambiguous, &error),
            StoreError::NameTaken { .. } => caused(ErrorCode::AlreadyExists, &error),
            StoreError::Busy { operation, .. } => {
                let hint = format!("watch it with `banger op watch {operation}`, or try again when it is over");
                caused(ErrorCode::Busy, &error).with_hint(hint).retryable()
            }
            StoreError::InUse { .. } => caused(ErrorCode::InUse, &error),
            StoreError::Refused { name, refused: Refused::Paused | Refused::Suspended } => {
                caused(ErrorCode::WrongState, &error).with_hint(format!("banger resume {name}"))
            }
            StoreError::Refused { .. } => caused(ErrorCode::WrongState, &error),
            StoreError::Full { .. } => full(&error),
            StoreError::Open { .. }
            | StoreError::Unusable { .. }
            | StoreError::Locked { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Newer { .. }
            | StoreError::Migrate { .. }
            | StoreError::Sql { .. }
            | StoreError::Damaged { .. }
            | StoreError::Closed => {
                let cause = caused(ErrorCode::Internal, &error);
                match error.hint() {
                    Some(hint) => cause.with_hint(hint),
                    None => cause,
                }
            }
        }
    }
}

impl From<VmmError> for Cause {
    fn from(error: VmmError) -> Cause {
        match &error {
            VmmError::Missing { package, .. } => {
                caused(ErrorCode::Unsupported, &error).with_hint(format!("apt-get install {package}"))
            }
            VmmError::Refused { .. } => caused(ErrorCode::Unsupported, &error),
            VmmError::File(file) if file.is_full() => full(&error),
            VmmError::Memory { .. } => {
                let hint = "ask for less with --memory, or stop another VM";
                caused(ErrorCode::Exhausted, &error).with_hint(hint).retryable()
            }
            VmmError::Privileged { source, .. } => {
                let cause = caused(ErrorCode::OperationFailed, &error);
                match source.hint() {
                    Some(hint) => cause.with_hint(hint),
                    None => cause,
                }
            }
            VmmError::Spawn { .. }
            | VmmError::EndedEarly { .. }
            | VmmError::NotUp { .. }
            | VmmError::FileMissing { .. }
            | VmmError::Watch { .. }
            | VmmError::File(_)
            | VmmError::Control { .. }
            | VmmError::Signal { .. }
            | VmmError::Kill { .. } => caused(ErrorCode::OperationFailed, &error),
        }
    }
}

impl From<NetworkError> for Cause {
    fn from(error: NetworkError) -> Cause {
        match &error {
            NetworkError::Missing { package, .. } => {
                caused(ErrorCode::Unsupported, &error).with_hint(format!("apt-get install {package}"))
            }
            NetworkError::Refused { .. } => caused(ErrorCode::Unsupported, &error),
            NetworkError::Port { .. } => caused(ErrorCode::InUse, &error).with_hint("publish another host port"),
            NetworkError::File(file) if file.is_full() => full(&error),
            NetworkError::Process { .. } | NetworkError::File(_) => caused(ErrorCode::OperationFailed, &error),
        }
    }
}

impl From<StorageError> for Cause {
    fn from(error: StorageError) -> Cause {
        match &error {
            StorageError::Full { .. } => full(&error),
            StorageError::Template(source)
            | StorageError::Disk { source, .. }
            | StorageError::Blank { source, .. }
            | StorageError::Copy { source, .. }
            | StorageError::Grow { source, .. }
            | StorageError::Delete { source, .. }
                if source.is_full() =>
            {
                full(&error)
            }
            StorageError::Missing { package, .. } => {
                caused(ErrorCode::Unsupported, &error).with_hint(format!("apt-get install {package}"))
            }
            StorageError::Size { .. } => caused(ErrorCode::BadRequest, &error),
            StorageError::Format(_)
            | StorageError::Template(_)
            | StorageError::Disk { .. }
            | StorageError::Blank { .. }
            | StorageError::Copy { .. }
            | StorageError::Grow { .. }
            | StorageError::Delete { .. } => caused(ErrorCode::OperationFailed, &error),
        }
    }
}

impl From<GuestError> for Cause {
    fn from(error: GuestError) -> Cause {
        let code = match &error {
            GuestError::Unanswered { .. } | GuestError::Stuck { .. } => ErrorCode::Timeout,
            GuestError::Failed(_) | GuestError::TooLarge { .. } | GuestError::Read(_) => ErrorCode::OperationFailed,
            GuestError::Connect { .. }
            | GuestError::Closed
            | GuestError::Channel(_)
            | GuestError::CutOff(_)
            | GuestError::Unexpected { .. }
            | GuestError::GaveUp
            | GuestError::Records(_)
            | GuestError::Busy
            | GuestError::Listen { .. }
            | GuestError::Secret { .. } => ErrorCode::GuestUnreachable,
        };
        let cause = caused(code, &error);
        match error {
            GuestError::Stuck { .. } => cause.with_hint("banger logs shows its console, banger kill ends it"),
            _ => cause,
        }
    }
}

impl From<sys::fs::FsError> for Cause {
    fn from(error: sys::fs::FsError) -> Cause {
        if error.is_full() { full(&error) } else { caused(ErrorCode::OperationFailed, &error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_their_text() {
        for code in [ErrorCode::Busy, ErrorCode::AlreadyExists, ErrorCode::Internal, ErrorCode::Cancelled] {
            assert_eq!(code_of(&code_name(code)), code);
        }
        assert_eq!(code_of("injected"), ErrorCode::OperationFailed);
        assert_eq!(ApiError::from(Cause::cancelled()).code, ErrorCode::Cancelled);
    }
}
