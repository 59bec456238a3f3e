//! What went wrong, for every boundary that people or programs see.

use serde::{Deserialize, Serialize};

use crate::id::OpId;

/// One failure: what was being done to what and why it failed, once; a hint apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct ApiError {
    /// What kind, for programs.
    pub code: ErrorCode,
    /// The act, its object and the chain of causes, lower case, no final period. May quote a guest: escape before printing.
    pub message: String,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The operation that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OpId>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

impl ApiError {
    /// An error with neither hint nor operation.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), hint: None, operation: None, retryable: false }
    }

    /// An error whose message is `error` and the chain of its sources, joined by `: `, each once.
    #[must_use]
    pub fn from_chain(code: ErrorCode, error: &dyn std::error::Error) -> ApiError {
        ApiError::new(code, chain(error))
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, part of an operation.
    #[must_use]
    pub fn with_operation(mut self, operation: OpId) -> ApiError {
        self.operation = Some(operation);
        self
    }

    /// The same error, worth another try.
    #[must_use]
    pub fn retryable(mut self) -> ApiError {
        self.retryable = true;
        self
    }
}

/// `error` and its causes, joined by `: `, each once and without numbers of errno(3) and SQLite.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut message = plain(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let text = plain(&cause.to_string());
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

/// `text` without ` (os error N)` and `Error code N: `, its first letter lower when it begins an ordinary word.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.find(" (os error ") {
        let Some(end) = text[start..].find(')') else { break };
        text.replace_range(start..=start + end, "");
    }
    if let Some((_, rest)) = text.strip_prefix("Error code ").and_then(|rest| rest.split_once(": ")) {
        text = rest.to_owned();
    }
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if first.is_ascii_uppercase() && second.is_ascii_lowercase() => {
            text.replace_range(..1, &first.to_ascii_lowercase().to_string());
        }
        _ => {}
    }
    text
}

/// Kinds of failure; the text is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense.
    BadRequest,
    /// No such thing.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// An id prefix fits several.
    Ambiguous,
    /// Another operation holds it.
    Busy,
    /// It is not in the state the request needs.
    WrongState,
    /// Something still uses it.
    InUse,
    /// This host or this build cannot do it.
    Unsupported,
    /// Disk, memory or another resource is used up.
    Exhausted,
    /// It was cancelled.
    Cancelled,
    /// The guest did not answer in time.
    Timeout,
    /// The guest cannot be talked to.
    GuestUnreachable,
    /// The program is not there in the guest.
    ProgramNotFound,
    /// The program cannot be run in the guest.
    ProgramNotExecutable,
    /// The daemon cannot be reached or is of another version.
    DaemonUnavailable,
    /// A step failed.
    OperationFailed,
    /// A defect of banger.
    Internal,
}

/// The body of an answer outside 2xx, and of `--format json` on failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// The failure.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot make a disk for web")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_is_printed_once() {
        let error = Outer(std::io::Error::other("no space left"));
        let api = ApiError::from_chain(ErrorCode::Exhausted, &error);
        assert_eq!(api.message, "cannot make a disk for web: no space left");
        let json = serde_json::to_string(&ErrorBody { error: api }).unwrap();
        assert_eq!(
            json,
            r#"{"error":{"code":"exhausted","message":"cannot make a disk for web: no space left","retryable":false}}"#
        );
    }
    #[test]
    fn numbers_are_left_out_and_causes_told_once() {
        let error = Outer(std::io::Error::from_raw_os_error(2));
        assert_eq!(chain(&error), "cannot make a disk for web: no such file or directory");
        let error = Outer(std::io::Error::other("Error code 26: cannot make a disk"));
        assert_eq!(chain(&error), "cannot make a disk for web");
        assert_eq!(plain("HTTP went wrong"), "HTTP went wrong");
    }
}
