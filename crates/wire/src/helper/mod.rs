//! The daemon asks, the helper does: everything root may be asked to do, as one closed list.
//!
//! A connection is a Unix socket of whole packets (`SOCK_SEQPACKET`). The daemon begins with [`Hello`]; from then on one
//! packet is one [`Envelope`] and one packet is its [`Answer`], both JSON, with descriptors beside them (`SCM_RIGHTS`).
//! Both ends come from one build or do not talk. A caller spells ids and small numbers, never a name or a path; what they
//! are called on the host follows from [`crate::naming`]. Every verb may be repeated: it makes sure of a state.
//!
//! Adding a variant to [`Request`] is a security review.

mod failure;
mod file;

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use failure::{Act, Failure, Program, Rule};
pub use file::{Access, InitramfsKey, JailFile, Root};

use crate::id::{BootId, OpId, VmId};
use crate::naming::Slot;

/// Most bytes of one request or answer. A list of every VM there can be fits.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Most descriptors beside one request: standard output, standard error and each [`JailFile`] once.
pub const DESCRIPTORS_MAX: usize = 16;

/// Most jails at once, and most VMs that [`Sweep`] is told of.
pub const LIVE_MAX: usize = 1000;

/// What identifies a build: `version` is that of the package, `commit` the one it was built from.
#[must_use]
pub fn build_id(version: &str, commit: &str) -> String {
    format!("{version}+{commit}")
}

/// A request with the operation it is part of, which the helper's log names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The operation; none for what no operation asks, such as a sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OpId>,
    /// What is asked.
    pub request: Request,
}

impl Envelope {
    /// Reads a packet.
    ///
    /// # Errors
    /// [`Failure::Malformed`] for whatever is no request.
    pub fn parse(packet: &[u8]) -> Result<Envelope, Failure> {
        if packet.len() > PACKET_BYTES_MAX {
            return Err(Failure::Malformed);
        }
        let envelope: Envelope = serde_json::from_slice(packet).map_err(|_| Failure::Malformed)?;
        match &envelope.request {
            Request::SpawnVmm(spawn) if spawn.files.len() + SpawnVmm::OUTPUTS > DESCRIPTORS_MAX => {
                Err(Failure::Malformed)
            }
            Request::Sweep(sweep) if sweep.live.len() > LIVE_MAX => Err(Failure::Malformed),
            _ => Ok(envelope),
        }
    }
}

/// What comes back for a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<R> {
    /// It is so now.
    Done(R),
    /// It is not, and why.
    Refused(Failure),
}

/// A request whose type says what its answer is.
pub trait Call: Into<Request> {
    /// What comes back when it worked.
    type Reply: Serialize + DeserializeOwned;
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $request:ident => $reply:ident),* $(,)?) => {
        /// Everything root may be asked to do.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "verb", rename_all = "snake_case")]
        pub enum Request {
            $($(#[$doc])* $request($request),)*
        }

        $(
            impl From<$request> for Request {
                fn from(request: $request) -> Request {
                    Request::$request(request)
                }
            }

            impl Call for $request {
                type Reply = $reply;
            }
        )*
    };
}

verbs! {
    /// The first request of a connection.
    Hello => Welcome,
    /// Make a place for one boot's VMM.
    CreateJail => JailReady,
    /// End what runs there and remove the place.
    DestroyJail => Gone,
    /// Start the VMM in its jail.
    SpawnVmm => VmmRuns,
    /// End the VMM and wait until it has ended.
    KillVmm => Gone,
    /// Make the host's side of a VM's NIC.
    EnsureTap => TapReady,
    /// Remove it.
    DeleteTap => Gone,
    /// Remove whatever is ours and belongs to no live VM.
    Sweep => Swept,
}

/// Says which build the daemon is; another one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// See [`build_id`].
    pub build: String,
}

/// The helper is of the same build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// See [`build_id`].
    pub build: String,
    /// Why a VMM would be refused if one were to be started now.
    pub unfit: Option<Failure>,
    /// The directories that files of jails are below, as its unit says: it serves no daemon with others.
    pub state: PathBuf,
    /// The same, of what can be made again.
    pub cache: PathBuf,
    /// The Firecracker that it starts.
    pub firecracker: PathBuf,
    /// Where its jails are, for whoever uses the sockets in them.
    pub run: PathBuf,
}

/// Makes the jail of one boot. With the same numbers again: makes sure of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateJail {
    /// Whose disk and logs may come into it.
    pub vm: VmId,
    /// Which run of that VM; the jail's name.
    pub boot: BootId,
    /// Gives the VMM its user id. No two jails share one.
    pub slot: Slot,
}

/// The jail is there; [`crate::naming::jail_sockets_dir`] is where its sockets will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailReady {
    /// The user and group id of its VMM.
    pub uid: u32,
}

/// Ends the boot's VMM, if it runs, and removes its jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyJail {
    /// Which one.
    pub boot: BootId,
}

/// Starts the VMM. Where it already runs, the answer is that one.
///
/// Beside it come the descriptors for the VMM's standard output and standard error, regular files open for appending
/// only, and then one for each of `files`, in their order, open for what the jail will do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnVmm {
    /// In whose jail.
    pub boot: BootId,
    /// What it finds there; each at most once.
    pub files: Vec<JailFile>,
    /// What it has for its guest's NIC.
    pub nic: Nic,
    /// What it may use of the host.
    pub limits: Limits,
}

/// What a VMM has for its guest's NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nic {
    /// Nothing, in an empty network namespace.
    None,
    /// A tap called [`crate::naming::TAP_IN_JAIL`], in a network namespace where there is nothing else: nobody is at its other
    /// end.
    Closed,
    /// The slot's tap, in the host's network namespace.
    Slots,
}

impl SpawnVmm {
    /// Descriptors that come before those of the files.
    pub const OUTPUTS: usize = 2;
}

/// What a VMM may use of the host; enforced by its systemd scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of guest and VMM together.
    pub memory_mib_max: Option<u32>,
    /// Processor time in hundredths of one processor.
    pub cpu_percent_max: Option<u32>,
}

/// It runs. A pidfd comes beside this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmRuns {
    /// Its process id.
    pub pid: u32,
    /// Its start in clock ticks since the host booted, which tells it from a later process of the same id.
    pub start_ticks: u64,
}

/// Kills the boot's VMM; none running is fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillVmm {
    /// Of which boot.
    pub boot: BootId,
}

/// It is gone, now or since before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {}

/// Makes sure of a tap that only the slot's user id can open, and that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureTap {
    /// Whose; [`crate::naming::tap_name`] is its name.
    pub slot: Slot,
}

/// The tap is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapReady {
    /// The interface's index.
    pub index: u32,
}

/// Removes the slot's tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteTap {
    /// Whose.
    pub slot: Slot,
}

/// Ends and removes every jail and tap of ours but those of `live`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// What stays; at most [`LIVE_MAX`].
    pub live: Vec<Live>,
}

/// A boot whose parts stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Its jail.
    pub boot: BootId,
    /// Its tap.
    pub slot: Slot,
}

/// What a sweep removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {
    /// Jails, running or not.
    pub jails: u32,
    /// Taps.
    pub taps: u32,
}

#[cfg(test)]
mod tests;
