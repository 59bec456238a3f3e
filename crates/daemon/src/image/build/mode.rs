//! Decides how mmdebstrap gets the rights it needs: as root, or as root of a user namespace of its own.
//!
//! The second needs newuidmap(1) and newgidmap(1), a range of subordinate ids for the user, subuid(5), and a kernel
//! that lets users make namespaces. What is missing is told by name, with the command that brings it.
//!
//! Either way it gets namespaces of its own for mounts and processes, so that what it mounts is never seen on the host,
//! and killing its first process ends all of them, at once and without a trace.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::runner::Ending;

/// How mmdebstrap runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As root, on a host that keeps even root from making namespaces (some containers do): nothing can be mounted then.
    BareRoot,
    Root,
    Unshare,
}

/// unshare(1)'s words for namespaces of mounts and processes; the first process goes when unshare does.
const APART: [&str; 4] = ["--mount", "--pid", "--fork", "--kill-child=KILL"];

impl Mode {
    /// The value of mmdebstrap's `--mode`.
    pub(super) fn argument(self) -> &'static str {
        match self {
            Self::BareRoot | Self::Root => "root",
            Self::Unshare => "unshare",
        }
    }

    /// How the command is ended, with all it started.
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::BareRoot => Ending::Group,
            Self::Root | Self::Unshare => Ending::Namespace,
        }
    }

    /// The command that runs `program` with these rights.
    ///
    /// The user namespace is made here and not by mmdebstrap: root in its own is nobody to the user's files, and could
    /// not enter a private directory. unshare(1) maps root to the user, and the other ids to the subordinate ones.
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self {
            Self::BareRoot => return sys::process::command(program),
            Self::Root | Self::Unshare => sys::process::command("unshare"),
        };
        if self == Self::Unshare {
            command.args(["--map-root-user", "--map-auto"]);
        }
        command.args(APART).arg("--").arg(program);
        command
    }
}

/// Why an image cannot be built by this user on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRights {
    /// A program is missing.
    #[error("{program} is missing; without root it is needed to build in a user namespace")]
    Program {
        /// The program.
        program: &'static str,
    },
    /// The user has no subordinate ids.
    #[error("user {user} has no range of 65536 ids in {file}; without root one is needed to build in a user namespace")]
    Ids {
        /// The user, by name where it has one.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// The kernel does not let users make namespaces.
    #[error("this kernel lets only root make user namespaces ({setting})")]
    Forbidden {
        /// The setting that says so.
        setting: &'static str,
    },
}

impl NoRights {
    /// The command that brings what is missing.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Program { .. } => "apt-get install uidmap",
            Self::Ids { .. } => "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 <user>, as root",
            Self::Forbidden { .. } => "build as root, or have an administrator change that setting",
        }
    }
}

/// Settings that forbid, each with the value that does.
const SETTINGS: &[(&str, &str)] = &[
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"), // Debian's
    ("/proc/sys/user/max_user_namespaces", "0"),         // user_namespaces(7)
];
/// Ids a Debian tree needs: 65534 is nobody.
const IDS: u64 = 65_536;

/// Decides for the user this process runs as.
pub(super) fn choose() -> Result<Mode, NoRights> {
    if rustix::process::geteuid().is_root() {
        let is_allowed = sys::process::run(&mut Mode::Root.command("true")).is_ok();
        return Ok(if is_allowed { Mode::Root } else { Mode::BareRoot });
    }
    for (setting, forbids) in SETTINGS {
        if fs::read_to_string(setting).is_ok_and(|value| value.trim() == *forbids) {
            return Err(NoRights::Forbidden { setting });
        }
    }
    for program in ["newuidmap", "newgidmap"] {
        if !["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists()) {
            return Err(NoRights::Program { program });
        }
    }
    let uid = rustix::process::geteuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let ranges = fs::read_to_string(file).unwrap_or_default();
        let name = user_name(&passwd, uid);
        if !has_range(&ranges, uid, name) {
            return Err(NoRights::Ids { user: name.map_or_else(|| uid.to_string(), str::to_owned), file });
        }
    }
    Ok(Mode::Unshare)
}

/// The name of a user in passwd(5).
fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// Whether subuid(5) has a range for the user that is large enough.
fn has_range(ranges: &str, uid: u32, name: Option<&str>) -> bool {
    ranges.lines().any(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [owner, _, count] = fields.as_slice() else {
            return false;
        };
        (Some(*owner) == name || owner.parse() == Ok(uid))
            && count.trim().parse::<u64>().is_ok_and(|count| count >= IDS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let ranges = "ann:100000:65536\n1001:165536:65536\nbob:300000:1000\nnoise\n";
        for (uid, name, has) in [
            (1000, Some("ann"), true),
            (1001, Some("eve"), true),
            (1001, None, true),
            (1002, Some("bob"), false),
            (1003, Some("dan"), false),
        ] {
            assert_eq!(has_range(ranges, uid, name), has, "{uid}");
        }
    }

    #[test]
    fn users_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000), Some("ann"));
        assert_eq!(user_name(passwd, 5), None);
    }
}
