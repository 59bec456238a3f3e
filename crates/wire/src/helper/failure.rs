//! Why the helper did not do it: data, never prose to parse.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::naming::Slot;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "failure", rename_all = "snake_case", deny_unknown_fields)]
pub enum Failure {
    /// The packet is no request, or is not allowed at this point of the connection.
    #[error("the helper could not make sense of the request")]
    Malformed,
    /// The two programs come from different builds.
    #[error("the helper is of another build: {helper}")]
    Build {
        /// The helper's, see [`super::build_id`].
        helper: String,
    },
    /// A rule forbids it.
    #[error("the helper refuses: {rule}")]
    Denied {
        /// Which one.
        rule: Rule,
    },
    /// Another jail has the slot.
    #[error("slot {slot} belongs to another jail")]
    SlotTaken {
        /// The slot.
        slot: Slot,
    },
    /// There is no such jail.
    #[error("the boot has no jail")]
    NoJail,
    /// The VMM did not end in time.
    #[error("the VMM does not end")]
    StillRunning,
    /// The kernel, or the service manager, refused.
    #[error("cannot {act}: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// What was being done.
        act: Act,
        /// Why not.
        errno: i32,
    },
}

/// What the helper refuses by policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// The program, or a directory on the way to it, is not root's alone to change, or is none.
    Program {
        /// Which program.
        program: Program,
    },
    /// The number of descriptors is not what the request needs.
    Descriptors,
    /// An output is not a regular file open for appending only.
    Output,
    /// A file is asked for twice.
    Twice {
        /// Its name in the jail.
        file: String,
    },
    /// The file is not there, or the way to it leads over a symbolic link or to another filesystem.
    Path {
        /// Its name in the jail.
        file: String,
    },
    /// The descriptor is of another file.
    OtherFile {
        /// Its name in the jail.
        file: String,
    },
    /// The descriptor does not show that its holder may do with the file what the jail would.
    Rights {
        /// The file's name in the jail.
        file: String,
    },
    /// It is not a regular file with one name, of the right owner, and with a mode that lets this VM in and nobody else.
    Kind {
        /// The file's name in the jail.
        file: String,
    },
    /// The boot has a jail already, of another VM or slot.
    OtherJail,
    /// There are [`super::LIVE_MAX`] jails already.
    TooMany,
    /// Limits need a service manager, and the helper was started without one.
    Limits,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Program { program } => {
                write!(f, "{program} must be a regular file that only root can change, as must be the way to it")
            }
            Rule::Descriptors => f.write_str("descriptors are missing, or there are too many"),
            Rule::Output => f.write_str("the VMM's output must be a regular file open for appending only"),
            Rule::Twice { file } => write!(f, "{file} is asked for twice"),
            Rule::Path { file } => write!(f, "{file} is not where it belongs"),
            Rule::OtherFile { file } => write!(f, "the descriptor for {file} is of another file"),
            Rule::Rights { file } => write!(f, "the descriptor for {file} does not show the right to use it so"),
            Rule::Kind { file } => write!(f, "{file} has an owner, a mode or another name that it must not have"),
            Rule::OtherJail => f.write_str("the boot has a jail of another VM or slot"),
            Rule::TooMany => f.write_str("there are too many jails"),
            Rule::Limits => f.write_str("limits need systemd"),
        }
    }
}

/// A program that runs as root, or becomes a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// Firecracker itself.
    Firecracker,
    /// Its jailer.
    Jailer,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Firecracker => "firecracker",
            Program::Jailer => "jailer",
        })
    }
}

/// What the helper was doing when the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Making a jail's directories.
    MakeJail,
    /// Removing them.
    RemoveJail,
    /// Reading what a jail is.
    ReadJail,
    /// Looking at a file, or giving it to the VM's group.
    UseFile,
    /// Making a process for the VMM.
    MakeProcess,
    /// Writing down which process it is.
    RecordProcess,
    /// Giving the process a scope of its own.
    MakeScope,
    /// Making the jail's own view of the filesystem.
    Mount,
    /// Giving up what the VMM may not have.
    Restrict,
    /// Becoming the jailer.
    Exec,
    /// Signalling the VMM.
    Kill,
    /// Making a tap.
    MakeTap,
    /// Removing one.
    RemoveTap,
}

impl Act {
    /// All of them.
    pub const ALL: [Act; 13] = [
        Act::MakeJail,
        Act::RemoveJail,
        Act::ReadJail,
        Act::UseFile,
        Act::MakeProcess,
        Act::RecordProcess,
        Act::MakeScope,
        Act::Mount,
        Act::Restrict,
        Act::Exec,
        Act::Kill,
        Act::MakeTap,
        Act::RemoveTap,
    ];
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Act::MakeJail => "make the jail",
            Act::RemoveJail => "remove the jail",
            Act::ReadJail => "read what the jail is",
            Act::UseFile => "use a file of the VM",
            Act::MakeProcess => "make a process for the VMM",
            Act::RecordProcess => "record the VMM's process",
            Act::MakeScope => "make the VMM's scope",
            Act::Mount => "mount what the jail holds",
            Act::Restrict => "restrict the VMM",
            Act::Exec => "run the jailer",
            Act::Kill => "kill the VMM",
            Act::MakeTap => "make the tap",
            Act::RemoveTap => "remove the tap",
        })
    }
}
