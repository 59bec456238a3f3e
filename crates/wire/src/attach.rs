//! The stream of an `exec` or a session between `banger` and `bangerd`: what both speak after the HTTP upgrade to [`PROTOCOL`].
//!
//! ```text
//! offset 0     1          4        8
//!        kind  reserved   length   payload …
//! ```
//! Little endian; both ends are one user on one host, so the framing is plain. Input flows only as far as the guest's
//! process reads: the daemon grants it by [`Kind::InputCredit`], so a signal never waits behind bytes nobody takes.
//! Output is held back by the socket itself.

use serde::{Deserialize, Serialize};

use crate::agent::message::{ExitStatus, TerminalSize};

/// The protocol's name in the `Upgrade` header.
pub const PROTOCOL: &str = "banger-attach/1";

/// The header of an upgrade's answer that tells of a VM with a workspace in it, so that whoever runs a command there can
/// ask how that stands to its repository.
pub const WORKSPACE_HEADER: &str = "banger-workspace";

/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;

/// Most payload bytes of one message.
pub const PAYLOAD_MAX: usize = 64 * 1024;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// CLI → daemon: bytes for the command.
    Input = 1,
    /// CLI → daemon: no more input.
    InputEof = 2,
    /// CLI → daemon: JSON [`TerminalSize`].
    Resize = 3,
    /// CLI → daemon: one byte, a signal number.
    Signal = 4,
    /// daemon → CLI: bytes of standard output, or of the terminal.
    Output = 16,
    /// daemon → CLI: bytes of standard error.
    Error = 17,
    /// daemon → CLI: four bytes, how many more input bytes may be sent.
    InputCredit = 18,
    /// daemon → CLI: JSON [`Ended`]; the last message.
    Ended = 19,
    /// daemon → CLI: eight bytes, how many bytes of a session's output are missing here, because they came faster than
    /// they were taken.
    Skipped = 20,
}

/// How an exec, or looking at a session, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum Ended {
    /// The command ran and ended.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// Everything that was asked for of a session was sent; its command may go on.
    Read,
    /// It did not run, or nobody can tell how it ended.
    Failed {
        /// Why.
        error: crate::api::ApiError,
    },
}

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// An unknown kind.
    #[error("an unknown message of kind {kind}")]
    Kind {
        /// The kind byte.
        kind: u8,
    },
    /// Too long.
    #[error("a message of {length} bytes where at most {PAYLOAD_MAX} are allowed")]
    TooLong {
        /// Announced bytes.
        length: u32,
    },
}

/// The header of a message whose payload has `length` bytes.
#[must_use]
pub fn header(kind: Kind, length: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = kind as u8;
    bytes[4..].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Reads a header: kind and payload length.
///
/// # Errors
/// When the kind is unknown or the length above [`PAYLOAD_MAX`].
pub fn parse_header(bytes: [u8; HEADER_BYTES]) -> Result<(Kind, usize), AttachError> {
    let kind = match bytes[0] {
        1 => Kind::Input,
        2 => Kind::InputEof,
        3 => Kind::Resize,
        4 => Kind::Signal,
        16 => Kind::Output,
        17 => Kind::Error,
        18 => Kind::InputCredit,
        19 => Kind::Ended,
        20 => Kind::Skipped,
        kind => return Err(AttachError::Kind { kind }),
    };
    let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    match usize::try_from(length) {
        Ok(len) if len <= PAYLOAD_MAX => Ok((kind, len)),
        _ => Err(AttachError::TooLong { length }),
    }
}

/// What a client asks when it opens an exec: the body of the upgrade request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// The program and its arguments; empty means the user's shell.
    pub argv: Vec<String>,
    /// Set over the guest's default environment: name, value.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory in the guest; else the recorded workspace, else the image's, else the home.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `name|uid[:group|gid]`.
    #[serde(default)]
    pub user: Option<String>,
    /// A terminal instead of pipes.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub terminal: Option<TerminalSize>,
    /// Whether input follows.
    #[serde(default)]
    pub stdin: bool,
    /// A login shell.
    #[serde(default)]
    pub login: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(parse_header(header(Kind::Signal, 1)), Ok((Kind::Signal, 1)));
        assert_eq!(parse_header([0, 0, 0, 0, 0, 0, 0, 0]), Err(AttachError::Kind { kind: 0 }));
        assert_eq!(parse_header(header(Kind::Input, u32::MAX)), Err(AttachError::TooLong { length: u32::MAX }));
    }
}
