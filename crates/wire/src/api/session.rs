//! Sessions: commands of a guest that go on without anybody attached.

use serde::{Deserialize, Serialize};

use crate::agent::message::TerminalSize;
use crate::attach::ExecSpec;

/// A session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// The name of the VM it runs in.
    pub vm: String,
    /// Its name, unique in its VM.
    pub name: String,
    /// What it is doing.
    pub state: SessionState,
    /// What runs, for people: cut when long. May hold what a guest made up: escape before printing.
    pub command: String,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Its process id in the guest.
    pub pid: u32,
    /// How it ended, as a shell shows it: the command's status, or 128 and the signal that killed it.
    pub exit_status: Option<u8>,
    /// When it was started, by the guest's clock.
    pub started_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// Bytes it has printed; the last of them are kept.
    pub output_bytes: u64,
    /// Clients that look at it now.
    pub clients: u32,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Its command runs.
    Running,
    /// Its command has ended; its last output is kept.
    Ended,
}

/// The sessions of a VM's present boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionList {
    /// In the order in which they were started.
    pub sessions: Vec<Session>,
}

/// Starts a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartSession {
    /// What to call it: a-z, 0-9 and -; else the guest chooses. The name of one that has ended is free.
    #[serde(default)]
    pub name: Option<String>,
    /// What runs. Its input stays open whatever `stdin` says.
    pub command: ExecSpec,
}

/// Looks at a session: the body of the upgrade request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachSession {
    /// Whether input follows. Its end is not the end of the command's input.
    #[serde(default)]
    pub stdin: bool,
    /// Whether to go on behind what is kept, until the command ends.
    #[serde(default)]
    pub follow: bool,
    /// Begin with so many lines of what is kept; else with all of it.
    #[serde(default)]
    pub tail: Option<u64>,
    /// A new size for its terminal, if it has one.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub terminal: Option<TerminalSize>,
}

/// How bytes go into a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
pub struct SendQuery {
    /// Whether the command's input ends with them.
    #[serde(default)]
    pub eof: bool,
}

/// What a session was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sent {
    /// Bytes the command's input took.
    pub bytes: u64,
}

/// Ends a session's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StopSession {
    /// How long it may take to end before it is killed; ten seconds when left out, an hour at most.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Sends a session's command a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignalSession {
    /// Linux x86-64 signal number, 1 to 31. SIGKILL (9) reaches everything the command started.
    pub signal: u8,
}
