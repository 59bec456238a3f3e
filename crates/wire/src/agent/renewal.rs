//! A guest whose memory was saved, and is now another machine: [`Request::Freeze`] before, [`Request::Renew`] after.
//!
//! ```text
//! host                                   guest
//!   ── Freeze ──────────────────────────►   everything on the disk; a template's NIC is bare and down
//!   ◄───────────────────────────── Done ─
//!      the VMM stops, saves and restores: the channel closes and opens, the host sends a preamble
//!   ── Renew ───────────────────────────►   clock, randomness, NIC, connections, names, keys, ids, services
//!   ◄────────────────────────── Renewed ─   from here on every Hello has the new names
//! ```
//!
//! [`Request::Freeze`]: super::message::Request::Freeze
//! [`Request::Renew`]: super::message::Request::Renew

use serde::{Deserialize, Serialize};

use super::message::BootConfig;

/// Services that hold on to who the guest was, and are told or restarted where they run: what a host sends as
/// [`Renewal::services`] unless it knows better.
pub const SERVICES: [&str; 8] = [
    "ssh.service",
    "sshd.service",
    "systemd-journald.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-networkd.service",
    "systemd-hostnamed.service",
    "NetworkManager.service",
];

/// Most services a renewal takes; the rest is left alone, with a warning.
pub const SERVICES_MAX: usize = 64;

/// Who a restored guest is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Renewal {
    /// The VM id that every later Hello says.
    pub vm: String,
    /// The boot id that every later Hello says.
    pub boot: String,
    /// What `/proc/sys/kernel/random/boot_id` shows from now on: a UUID in lower case with its four dashes. None: what it does.
    #[serde(default)]
    pub boot_uuid: Option<String>,
    /// As for a boot; `reset_system` is ignored, because the layers are in use.
    pub config: BootConfig,
    /// The filesystem of the VM's disk is grown to its device, once that has so many bytes; none: it is left as it is.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Units of systemd, as [`SERVICES`]; those that do not run are left alone.
    #[serde(default)]
    pub services: Vec<String>,
}

/// What a renewal did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Renewed {
    /// CLOCK_BOOTTIME when each part was done, in order: name, milliseconds.
    pub timeline: Vec<(String, u64)>,
    /// Things left undone that a person should know, and that do not let the guest be mistaken for its parent.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::message::{Reply, Request};

    #[test]
    fn the_forms_on_the_wire() {
        let freeze = serde_json::to_string(&Request::Freeze { quiesce: true }).unwrap();
        assert_eq!(freeze, r#"{"request":"freeze","quiesce":true}"#);
        let renewal = Renewal { vm: "1".into(), boot: "2".into(), ..Renewal::default() };
        let json = serde_json::to_value(Request::Renew(Box::new(renewal.clone()))).unwrap();
        assert_eq!((&json["request"], &json["boot"]), (&"renew".into(), &"2".into()));
        assert_eq!(serde_json::from_value::<Request>(json).unwrap(), Request::Renew(Box::new(renewal)));
        let reply = serde_json::to_string(&Reply::Renewed(Renewed::default())).unwrap();
        assert_eq!(reply, r#"{"reply":"renewed","timeline":[],"warnings":[]}"#);
    }
}
