//! What travels in `Hello`, `Event`, `Open`, `Control` and `Reply` frames, as JSON.
//!
//! | request | input channel | output channels | final reply |
//! |---|---|---|---|
//! | [`Request::Configure`] | – | – | [`Reply::Configured`] |
//! | [`Request::Exec`] | stdin | stdout or terminal; stderr | [`Reply::Started`], then [`Reply::Exited`] |
//! | [`Request::PutTree`] | tar | – | [`Reply::Done`] |
//! | [`Request::GetTree`] | – | tar | [`Reply::Done`] |
//! | [`Request::Await`] | – | – | [`Reply::Ready`] |
//! | [`Request::Session`] | | | see [`super::session`] |
//! | [`Request::Changes`] | – | records | [`Reply::Done`] |
//! | [`Request::Layer`] | – | tar | [`Reply::Done`] |
//! | [`Request::Stat`] | – | – | [`Reply::Stat`] |
//! | [`Request::Remove`] | paths | – | [`Reply::Done`] |
//! | [`Request::Settle`] | records | – | [`Reply::Done`] |
//! | [`Request::Survey`] | – | records | [`Reply::Surveyed`] |
//! | [`Request::GetFiles`] | paths | tar | [`Reply::Done`] |
//! | [`Request::Renew`] | – | – | [`Reply::Renewed`] |
//! | everything else | – | – | [`Reply::Done`] or its own |
//!
//! Any request may end in [`Reply::Failed`]. Unknown fields are ignored by whoever is older; unknown requests are
//! answered with [`Failure::Unsupported`].

pub use super::failure::Failure;
pub use super::file::{FileKind, FileStat};
pub use super::listening::{LISTENERS_MAX, Listeners, ListeningSocket, Protocol};
use serde::{Deserialize, Serialize};

use super::renewal::{Renewal, Renewed};
use super::session::{SessionReply, SessionRequest};
use super::workspace::{Added, Surveyed};

/// The agent's first words on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks: see [`super::GENERATION`].
    pub generation: u32,
    /// The agent's own version, for people.
    pub version: String,
    /// The VM id of the kernel command line; empty outside a VM.
    pub vm: String,
    /// The boot id of the kernel command line; empty outside a VM.
    pub boot: String,
    /// How far the guest is.
    pub stage: Stage,
    /// CLOCK_BOOTTIME, for the boot's timeline.
    pub uptime_ms: u64,
    /// The [`BootConfig::channel_secret`] that the agent was given last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// How far a guest is when it says hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// In the initramfs: it wants `Configure` and answers nothing else.
    Unconfigured,
    /// The root is there: everything is answered.
    Serving,
}

/// Something the guest tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The guest is about to power off or reboot, its disk is unmounted.
    Ending {
        /// What it will do next.
        how: Ending,
    },
    /// The agent met something a person should know; printable text, not trusted.
    Warning {
        /// One line.
        message: String,
    },
}

/// How a guest ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It stays off.
    PowerOff,
    /// It wants a new boot.
    Reboot,
}

/// What a stream is opened for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Builds the root, applies identity and hands over to the image's init: once, in stage `Unconfigured`. Asked again it
    /// changes nothing, and the answer is the same.
    Configure(Box<BootConfig>),
    /// Runs a command.
    Exec(Box<ExecRequest>),
    /// Unpacks a tar stream below `path`, as root, with owners, modes, times, links, xattrs and holes.
    PutTree {
        /// Absolute; made when missing.
        path: String,
    },
    /// Packs `path` (a file or a tree) as a tar stream whose entries are relative to its parent.
    GetTree {
        /// Absolute.
        path: String,
        /// When it is a symbolic link, what it leads to is packed, under the link's name.
        #[serde(default)]
        follow: bool,
    },
    /// Says what is at a path; answered with [`Reply::Stat`].
    Stat {
        /// Absolute.
        path: String,
        /// When it is a symbolic link, what it leads to is meant.
        #[serde(default)]
        follow: bool,
    },
    /// Tells the changes of the system layer: on the output channel `A`, `M` or `D`, the absolute path, a zero, for
    /// each change; [`Reply::Done`] when all were told.
    Changes,
    /// Packs the changes of the system layer as a layer: a tar stream with whiteouts as the OCI image specification has
    /// them ("Representing changes"), what says who this guest is left out. [`Reply::Done`] counts the bytes of content.
    Layer,
    /// Removes files and links below `path`, and the directories that are empty then: relative paths come on the input
    /// channel, each with a zero behind it. What is not there is no error; directories with something in them stay.
    /// [`Reply::Done`] counts the files and links.
    Remove {
        /// Absolute.
        path: String,
    },
    /// Takes down what was sent to the workspace at `path`: records of [`super::workspace::Settled`] for all its files,
    /// and fills in what its index lacks about those that are clean, so that git need not read them. [`Reply::Done`] counts
    /// the entries that were filled in.
    Settle {
        /// Absolute.
        path: String,
    },
    /// Tells how the files of the workspace at `path` differ from what was sent: records of
    /// [`super::workspace::Surveyable`]. Of one that is unfinished they are told as well, when there are notes.
    Survey {
        /// Absolute.
        path: String,
        /// What is told of files that were not sent, ignored ones included; of those of git directories nothing ever is.
        #[serde(default)]
        added: Added,
    },
    /// Packs the files and links below `path` whose relative paths come on the input channel, each with a zero behind it,
    /// when all have come. What is not there is left out, and of each file its owner and attributes.
    GetFiles {
        /// Absolute.
        path: String,
    },
    /// Waits until the guest is ready to `level`. The host resets the stream when it has waited enough.
    Await {
        /// How ready.
        level: Level,
    },
    /// Writes everything to the disk: sync(2).
    Sync,
    /// Asks the init to end the guest; `Done` means asked, not ended.
    Shutdown {
        /// What to end in.
        how: Ending,
    },
    /// Sets the guest's clock.
    SetClock {
        /// Nanoseconds since 1970, UTC.
        unix_ns: u64,
    },
    /// How the guest is.
    Health,
    /// Which sockets wait for somebody.
    Listeners,
    /// Grows the filesystem of the VM's disk to its device, once that has so many bytes.
    GrowDisk {
        /// What the host made the device.
        bytes: u64,
    },
    /// Something about sessions.
    Session(SessionRequest),
    /// The guest's memory is about to be saved: everything is written to the disk. Answered with [`Reply::Done`].
    Freeze {
        /// Nobody works in the guest, and what is saved is for others: the NIC is taken down, its addresses and routes go, so
        /// that no guest made of it ever speaks with them. Only [`Request::Renew`] brings it up again.
        quiesce: bool,
    },
    /// The channel may break now, because its VMM is about to save the guest: after `Done` the agent says nothing until it hears
    /// from its host again. Where that is on a new connection whose preamble has the nonce of this one, everything goes on
    /// where it was, the agent's words after its hello; any other preamble begins anew, as always. The host, too, says
    /// nothing between this request and that: so that nothing is on its way when the channel breaks.
    Hold,
    /// The guest was restored and is another machine from now on; before anything else, in stage `Serving`.
    /// [`Reply::Failed`]: it may still be mistaken for its parent, and must not run.
    Renew(Box<Renewal>),
}

/// How ready a guest can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The image's init says that it finished booting.
    System,
    /// Something answers as SSH on the guest's port 22.
    Ssh,
}

/// Everything about one boot that the kernel command line does not carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct BootConfig {
    /// The guest's host name: the VM's name.
    pub hostname: String,
    /// 32 hexadecimal digits: machine-id(5).
    pub machine_id: String,
    /// The NIC; none when the VM has none.
    pub network: Option<GuestNetwork>,
    /// SSH host keys, written to `/etc/ssh` when the image has that directory.
    #[serde(default)]
    pub ssh_host_keys: Vec<SshHostKey>,
    /// Lines of root's `authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// Who root's git commits are by.
    pub git_identity: Option<GitIdentity>,
    /// Files put below `/root` at every boot.
    #[serde(default)]
    pub files: Vec<SyncedFile>,
    /// Empties the system layer (not `/root`, not the direct paths) before the root is mounted.
    #[serde(default)]
    pub reset_system: bool,
    /// The host's clock, nanoseconds since 1970, UTC.
    pub unix_ns: u64,
    /// Fresh random bytes for the kernel's pool, hexadecimal.
    pub entropy_hex: String,
    /// The image's `Env`: what every exec begins with.
    #[serde(default)]
    pub image_env: Vec<(String, String)>,
    /// The image's `User`.
    pub image_user: Option<String>,
    /// The image's `WorkingDir`.
    pub image_workdir: Option<String>,
    /// What every later Hello says, so that no other program of the guest passes for the agent: up to 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_secret: Option<String>,
}

/// The guest's one NIC: static, because whoever made the network knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// Which NIC: its MAC address, `52:54:00:…`.
    pub mac: String,
    /// Addresses with prefix length: `10.0.2.15/24`, `fd00::2/64`.
    pub addresses: Vec<String>,
    /// Default gateways, one per family; none when the network is closed.
    pub gateways: Vec<String>,
    /// Name servers of resolv.conf(5).
    pub dns: Vec<String>,
}

/// One SSH host key in the files' own formats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshHostKey {
    /// As in `/etc/ssh/ssh_host_<algorithm>_key`: `ed25519`.
    pub algorithm: String,
    /// The private key file.
    pub private: String,
    /// The public key file.
    pub public: String,
}

/// Who commits are by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitIdentity {
    /// `user.name`.
    pub name: String,
    /// `user.email`.
    pub email: String,
}

/// One file of `file_sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedFile {
    /// Absolute, below `/root`, without `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its bytes, hexadecimal.
    pub content_hex: String,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ExecRequest {
    /// The program, searched in `PATH` when it has no slash, and its arguments; never empty.
    pub argv: Vec<String>,
    /// A program and its first arguments that run `argv`, or the shell: they are shown to nobody. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<String>,
    /// Set over the default environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory; else the image's, else the user's home.
    pub cwd: Option<String>,
    /// `name|uid[:group|gid]`; else the image's, else root.
    pub user: Option<String>,
    /// A terminal of this size, instead of pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether bytes come on the input channel; else stdin is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Runs the user's login shell with the command, or alone when `argv` is empty.
    #[serde(default)]
    pub login: bool,
    /// The host's clock, nanoseconds since 1970: a guest that is behind it, because its machine was paused or its host
    /// slept, is set before the command runs.
    pub unix_ns: u64,
    /// The operation or request this belongs to, for the logs.
    #[serde(default)]
    pub op: String,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// What may be told to a running exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum Control {
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// Sends a signal to the command's process group.
    Signal {
        /// Linux x86-64 signal number, 1 to 64.
        signal: i32,
    },
}

/// What the agent answers on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The root is built and the init is about to run.
    Configured(Configured),
    /// The command runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// The command ended and its output is complete.
    Exited(ExitStatus),
    /// The level was reached.
    Ready(Readiness),
    /// How the guest is.
    Health(Health),
    /// What listens.
    Listeners(Listeners),
    /// About sessions.
    Session(SessionReply),
    /// What is at a path.
    Stat(FileStat),
    /// What is where a workspace should be.
    Surveyed(Surveyed),
    /// The guest is another machine.
    Renewed(Renewed),
    /// Done; `bytes` counts what a tree transfer moved, or what the request says.
    Done {
        /// Bytes of file content.
        #[serde(default)]
        bytes: u64,
    },
    /// It failed.
    Failed(Failure),
}

/// What `Configure` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Configured {
    /// The init that takes over, none when the agent stays process 1.
    pub init: Option<String>,
    /// CLOCK_BOOTTIME at each stage, in order: name, milliseconds.
    pub timeline: Vec<(String, u64)>,
    /// Things left undone that a person should know.
    pub warnings: Vec<String>,
}

/// How ready a guest is, when waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Readiness {
    /// Units that failed, when the init is systemd.
    pub failed_units: Vec<String>,
    /// Why the level could only be taken for reached: an init that does not tell.
    pub note: Option<String>,
    /// CLOCK_BOOTTIME when it was reached.
    pub uptime_ms: u64,
}

/// How a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Health {
    /// CLOCK_BOOTTIME.
    pub uptime_ms: u64,
    /// The guest's clock, nanoseconds since 1970.
    pub unix_ns: u64,
    /// Commands running for the host.
    pub execs: u32,
    /// Sessions whose command runs; part of a guest's being in use, as `execs` are.
    #[serde(default)]
    pub sessions: u32,
    /// `MemTotal` of proc(5), KiB.
    pub memory_total_kib: u64,
    /// `MemAvailable` of proc(5), KiB.
    pub memory_available_kib: u64,
    /// The kernel's `/proc/sys/kernel/random/boot_id`.
    pub kernel_boot_id: String,
    /// Bytes that the NICs of the machine received, none without NICs; absent of an older agent.
    #[serde(default)]
    pub received_bytes: Option<u64>,
    /// Bytes that they sent.
    #[serde(default)]
    pub sent_bytes: Option<u64>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited.
    Code {
        /// 0 to 255.
        code: u8,
    },
    /// A signal killed it.
    Signal {
        /// Its number.
        signal: i32,
    },
}

impl ExitStatus {
    /// The status a shell would show: the code, or 128 plus the signal.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code { code } => code,
            ExitStatus::Signal { signal } => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_a_shell_shows_them() {
        assert_eq!(ExitStatus::Code { code: 42 }.shell_code(), 42);
        assert_eq!(ExitStatus::Signal { signal: 9 }.shell_code(), 137);
    }

    #[test]
    fn the_forms_on_the_wire() {
        let open = Request::Exec(Box::new(ExecRequest { argv: vec!["true".into()], ..ExecRequest::default() }));
        let json = serde_json::to_value(&open).unwrap();
        assert_eq!(json["request"], "exec");
        assert_eq!(json["argv"][0], "true");
        let reply = serde_json::to_string(&Reply::Exited(ExitStatus::Code { code: 1 })).unwrap();
        assert_eq!(reply, r#"{"reply":"exited","ended":"code","code":1}"#);
    }

    #[test]
    fn a_newer_peer_may_add_fields() {
        let hello = r#"{"generation":2,"version":"9","vm":"","boot":"","stage":"serving","uptime_ms":1,"new":true}"#;
        assert_eq!(serde_json::from_str::<Hello>(hello).unwrap().generation, 2);
    }
}
