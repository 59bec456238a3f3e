//! What runs machines on this host: KVM, a VMM, and who makes its jails.

use std::path::PathBuf;

use wire::api::{Check, CheckStatus};

use super::{Findings, check, fixed_by, install};
use crate::model::translation;

/// Who makes the jails of new boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The helper.
    System,
    /// The daemon, without root.
    Session {
        /// Why not the helper; none where nobody looked.
        why: Option<String>,
    },
    /// Nobody: the helper is asked for and does not.
    Refused {
        /// Why.
        why: String,
    },
}

/// Firecracker on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firecracker {
    /// It runs new boots.
    Used {
        /// Where it is.
        program: PathBuf,
        /// Its version.
        version: String,
        /// What newer versions would bring, each with its version.
        news: Vec<(String, &'static str)>,
        /// What it runs in.
        jail: &'static str,
    },
    /// Something else does.
    Unused {
        /// Why.
        why: String,
    },
    /// It is asked for and cannot run.
    Unusable {
        /// Why.
        why: String,
    },
}

pub(super) fn mode(mode: &Mode) -> Check {
    match mode {
        Mode::System => {
            check("mode", CheckStatus::Pass, "system: the helper makes the jails, and each VM has a user id of its own")
        }
        Mode::Session { why: None } => check("mode", CheckStatus::Pass, "session: nothing runs as root"),
        Mode::Session { why: Some(why) } => {
            check("mode", CheckStatus::Pass, format!("session: nothing runs as root ({why})"))
        }
        Mode::Refused { why } => {
            let text = format!("system mode is asked for and cannot be: {why}");
            fixed_by(check("mode", CheckStatus::Fail, text), "mode = \"auto\" in config.toml goes without the helper")
        }
    }
}

pub(super) fn kvm(kvm: &Result<(), String>) -> Check {
    match kvm {
        Ok(()) => check("kvm", CheckStatus::Pass, "hardware-backed and usable"),
        Err(why) => fixed_by(
            check("kvm", CheckStatus::Warn, format!("{why}: guests run in software, several times slower")),
            "use a machine with hardware virtualisation and join the group kvm",
        ),
    }
}

pub(super) fn vmm(found: &Findings) -> Check {
    let why_not = match &found.firecracker {
        Firecracker::Used { program, version, news, jail } => {
            let mut text = format!("firecracker {version}, {}, {jail}", program.display());
            if let Some((newest, _)) = news.last() {
                let brings: Vec<&str> = news.iter().map(|(_, brings)| *brings).collect();
                text.push_str(&format!("; version {newest} would bring {}", brings.join(", ")));
            }
            return check("vmm", CheckStatus::Pass, text);
        }
        Firecracker::Unusable { why } => {
            let text = format!("firecracker is asked for and cannot run: {why}");
            return fixed_by(check("vmm", CheckStatus::Fail, text), "vmm = \"qemu\" in config.toml lets QEMU stand in");
        }
        Firecracker::Unused { why } => why,
    };
    match &found.qemu {
        Some((program, version)) => {
            let text = format!("qemu (microvm): {version}, {}; not firecracker: {why_not}", program.display());
            if found.kvm.is_err() && !translation::locks_pages(version) {
                let text = format!("{text}; without KVM a guest's processors take turns in versions before 8.2");
                return check("vmm", CheckStatus::Pass, text);
            }
            check("vmm", CheckStatus::Pass, text)
        }
        None => fixed_by(
            check("vmm", CheckStatus::Fail, "qemu-system-x86_64 is not installed: no VM can run"),
            install("qemu-system-x86"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report;
    use super::super::tests::healthy;
    use super::*;

    #[test]
    fn the_vmm_is_named_with_the_reason() {
        let words = |firecracker, qemu| {
            let found = Findings { firecracker, qemu, ..healthy() };
            vmm(&found).message
        };
        let news = vec![("1.13.0".to_owned(), "PCI devices"), ("1.14.0".to_owned(), "more")];
        let (program, version, jail) = ("/x/firecracker".into(), "1.12.1".into(), "in a jail without root");
        let used = Firecracker::Used { program, version, news, jail };
        assert_eq!(
            words(used, None),
            "firecracker 1.12.1, /x/firecracker, in a jail without root; version 1.14.0 would bring PCI devices, more"
        );
        let unused = Firecracker::Unused { why: "it is not installed".into() };
        assert!(words(unused, healthy().qemu).ends_with("; not firecracker: it is not installed"));
    }

    #[test]
    fn processors_that_take_turns_are_told_of() {
        let takes_turns = |kvm: Result<(), String>, version: &str| {
            let qemu = Some(("/usr/bin/qemu-system-x86_64".into(), version.to_owned()));
            let firecracker = Firecracker::Unused { why: "there is no KVM".into() };
            vmm(&Findings { kvm, qemu, firecracker, ..healthy() }).message.contains("take turns")
        };
        let none = || Err("no /dev/kvm".to_owned());
        assert!(takes_turns(none(), "QEMU emulator version 7.2.22"));
        assert!(!takes_turns(none(), "QEMU emulator version 10.0.2"));
        assert!(!takes_turns(Ok(()), "QEMU emulator version 7.2.22"));
    }

    #[test]
    fn the_mode_is_told_with_the_reason() {
        let words = |mode| report(&Findings { mode, ..healthy() }).checks[1].message.clone();
        assert!(words(Mode::System).starts_with("system: the helper makes the jails"));
        let none = Mode::Session { why: Some("no helper is installed".into()) };
        assert_eq!(words(none), "session: nothing runs as root (no helper is installed)");
        assert_eq!(words(Mode::Session { why: None }), "session: nothing runs as root");
    }
}
