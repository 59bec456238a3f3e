//! Settings for the image's init and managers: files below `/run` only, gone with the boot.
//!
//! `/run` is between `/etc`, where the image's owner overrules us, and `/usr/lib`, whose defaults we overrule.

use wire::agent::message::{BootConfig, GuestNetwork};

use super::Report;
use super::devices::release;
use super::handover::Init;
use super::root::DIRECT;
use crate::root_dir::RootDir;

/// A service that waits for a network which is there before any service starts, and would wait for ever for managers that
/// leave it alone.
const NOTHING_TO_WAIT_FOR: &str = "[Service]\nExecStart=\nExecStart=/bin/true\n";
/// Services as above.
const WAITERS: [&str; 3] =
    ["systemd-networkd-wait-online.service", "NetworkManager-wait-online.service", "ifupdown-wait-online.service"];
/// A guest that is told to stop is waited for this long; the host kills it later than that.
const SYSTEM: &str = "[Manager]\nDefaultTimeoutStopSec=20s\n";
/// The image's line for `/tmp` without its `D`: what commands put there before the init got so far stays.
const TMPFILES: &str = "q /tmp 1777 root root 10d\nq /var/tmp 1777 root root 30d\n";

/// Mounts of ours are nothing for the init to undo one by one with a process each: they are undone at the very end.
const NOT_YOURS: &str = "[Unit]\nDefaultDependencies=no\n";

/// Writes them.
pub fn write(root: &RootDir, config: &BootConfig, init: Option<&Init>, report: &mut Report) {
    let is_systemd = init.is_some_and(|init| init.is_systemd);
    if is_systemd {
        write_all(root, files(), report);
    }
    if let Some(network) = &config.network {
        // A NIC that is not there has been told of already.
        let name = super::network::find(&network.mac).map(|nic| nic.name).ok();
        write_network(root, network, name.as_deref(), is_systemd, report);
    }
}

/// Writes those that keep managers off the NIC. They know it by its name as well, because that stays when a restored guest
/// gets another address.
pub fn write_network(
    root: &RootDir,
    network: &GuestNetwork,
    name: Option<&str>,
    is_systemd: bool,
    report: &mut Report,
) {
    write_all(root, network_files(network, name, is_systemd), report);
}

fn write_all(root: &RootDir, files: Vec<(String, String)>, report: &mut Report) {
    for (path, text) in files {
        report.note(&format!("write {path}"), root.write(&path, text.as_bytes(), 0o644));
    }
}

/// Paths and content, for systemd.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut add = |path: &str, text: &str| files.push((path.to_owned(), text.to_owned()));
    add("/run/systemd/system.conf.d/50-banger.conf", SYSTEM);
    add("/run/tmpfiles.d/tmp.conf", TMPFILES);
    let release = release();
    let modules = ["/lib/modules", "/usr/lib/modules"].map(|directory| format!("{directory}/{release}"));
    for point in DIRECT.into_iter().chain(["/root"]).chain(modules.iter().map(String::as_str)) {
        add(&format!("/run/systemd/system/{}.mount.d/50-banger.conf", escaped(point)), NOT_YOURS);
    }
    files
}

/// Paths and content, about the NIC.
fn network_files(network: &GuestNetwork, name: Option<&str>, is_systemd: bool) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut add = |path: &str, text: &str| files.push((path.to_owned(), text.to_owned()));
    let mac = &network.mac;
    let named = name.map(|name| format!(";interface-name:{name}")).unwrap_or_default();
    add(
        "/run/NetworkManager/conf.d/50-banger.conf",
        &format!("[keyfile]\nunmanaged-devices=mac:{mac}{named}\n\n[main]\ndns=none\n"),
    );
    if is_systemd {
        for waiter in WAITERS {
            add(&format!("/run/systemd/system/{waiter}.d/50-banger.conf"), NOTHING_TO_WAIT_FOR);
        }
        let matched = |key: &str, name: Option<&str>| match name {
            Some(name) => format!("[Match]\n{key}={name}\n\n"),
            None => format!("[Match]\nMACAddress={mac}\n\n"),
        };
        // Without a policy that applies the kernel's name stays.
        let link = format!("{}[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n", matched("OriginalName", name));
        add("/run/systemd/network/00-banger.link", &link);
        add("/run/systemd/network/00-banger.network", &format!("{}[Link]\nUnmanaged=yes\n", matched("Name", name)));
    }
    files
}

/// A path as systemd names its mount unit: systemd.unit(5), "string escaping".
fn escaped(path: &str) -> String {
    let mut name = String::new();
    for (at, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' => name.push(char::from(byte)),
            b'.' if at > 0 => name.push('.'),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> GuestNetwork {
        GuestNetwork { mac: "52:54:00:00:00:01".into(), addresses: vec![], gateways: vec![], dns: vec![] }
    }

    #[test]
    fn everything_is_below_run() {
        let mut files = files();
        files.extend(network_files(&network(), Some("eth0"), true));
        assert!(files.len() > 6);
        assert!(files.iter().all(|(path, _)| path.starts_with("/run/")));
    }

    #[test]
    fn the_nic_is_known_by_its_name_or_else_by_its_address() {
        let texts =
            |name| -> String { network_files(&network(), name, true).into_iter().map(|(_, text)| text).collect() };
        let named = texts(Some("eth0"));
        for part in ["OriginalName=eth0\n", "[Match]\nName=eth0\n", "=mac:52:54:00:00:00:01;interface-name:eth0\n"] {
            assert!(named.contains(part), "{part}");
        }
        assert!(texts(None).contains("MACAddress=52:54:00:00:00:01"));
    }

    #[test]
    fn mount_units_are_named_as_systemd_names_them() {
        assert_eq!(escaped("/var/lib/docker"), "var-lib-docker");
        assert_eq!(escaped("/usr/lib/modules/6.1.0-56"), "usr-lib-modules-6.1.0\\x2d56");
    }

    #[test]
    fn an_init_that_is_not_systemd_gets_no_units() {
        assert!(network_files(&network(), None, false).iter().all(|(path, _)| !path.contains("systemd")));
    }
}
