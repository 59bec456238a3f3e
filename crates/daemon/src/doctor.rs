//! What this host can do for banger, and the one command that improves each thing.
//!
//! [`probe`] looks, changing nothing; [`report`] judges what was found and is pure.

pub mod autostart;
mod machines;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sys::process::find_program;
use wire::api::{Check, CheckStatus, DoctorReport};
use wire::size::human;

pub use machines::{Firecracker, Mode};

use crate::model::autostart::Autostart;

/// Room below which a build or a first boot is likely to fail.
const FREE_BYTES_COMFORT: u64 = 6 << 30;
/// Memory below which a default guest does not fit.
const MEMORY_MIB_COMFORT: u64 = 1024;

/// What was found on this host.
#[derive(Debug, Clone)]
pub struct Findings {
    /// `x86_64`.
    pub arch: String,
    /// Whether processors offer hardware virtualisation and `/dev/kvm` opens; else why not.
    pub kvm: Result<(), String>,
    /// Who makes jails, and why.
    pub mode: Mode,
    /// Firecracker, and why it is used or not.
    pub firecracker: Firecracker,
    /// The VMM that boots guests where Firecracker does not, with its version line.
    pub qemu: Option<(PathBuf, String)>,
    /// Programs that parts of banger need, and whether they are there.
    pub programs: Vec<(Need, bool)>,
    /// Memory that a new guest could take.
    pub memory_available_mib: u64,
    /// Where state is kept and how much room is left there.
    pub state: (PathBuf, Result<u64, String>),
    /// The default image's name and whether it is there.
    pub image: (String, bool),
    /// The default kernel's name and whether it is there.
    pub kernel: (String, bool),
    /// What starts the daemon when the host boots.
    pub autostart: Autostart,
    /// VMs that need that.
    pub restarting: Vec<String>,
    /// Operations whose undo failed.
    pub stuck: Vec<String>,
    /// Machines that fresh VMs go on from; none where they are off.
    pub templates: Option<TemplateFacts>,
}

/// What is known of templates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TemplateFacts {
    /// How many there are.
    pub count: usize,
    /// What they take on the disk.
    pub bytes: u64,
    /// How many VMs went on from them.
    pub uses: u64,
    /// How many booted instead, because one could not be used.
    pub fell_back: u64,
}

/// A program that some part of banger runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The program.
    pub program: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// A program that will do in its place.
    pub instead: Option<&'static str>,
    /// What does not work without it.
    pub purpose: &'static str,
    /// Whether VMs cannot be used at all without it.
    pub is_vital: bool,
}

impl Need {
    const fn of(program: &'static str, package: &'static str, purpose: &'static str) -> Need {
        Need { program, package, instead: None, purpose, is_vital: false }
    }
}

/// The programs besides the VMM.
pub const NEEDS: [Need; 5] = [
    Need { instead: Some("slirp4netns"), ..Need::of("passt", "passt", "--nat (guests that reach the outside)") },
    Need::of("mmdebstrap", "mmdebstrap", "banger image build"),
    Need::of("npm", "npm", "the variant full of the default image"),
    Need::of("depmod", "kmod", "banger kernel import"),
    Need::of("apt-get", "apt", "importing a kernel from Debian's archive"),
];

/// Where the parts that only the daemon knows come from.
#[derive(Debug, Clone)]
pub struct Known {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The default image's name and whether it is there.
    pub image: (String, bool),
    /// The default kernel's name and whether it is there.
    pub kernel: (String, bool),
    /// VMs with a restart policy.
    pub restarting: Vec<String>,
    /// Operations whose undo failed.
    pub stuck: Vec<String>,
    /// As in [`Findings::templates`].
    pub templates: Option<TemplateFacts>,
}

/// Looks at the host; `path` is the value of `PATH`. Runs `qemu --version`, changes nothing.
#[must_use]
pub fn probe(
    known: Known,
    path: &OsStr,
    kvm: Result<(), String>,
    (mode, firecracker): (Mode, Firecracker),
    autostart: Autostart,
) -> Findings {
    let qemu = find_program("qemu-system-x86_64", path).map(|program| {
        let version = sys::process::run(sys::process::command(&program).arg("--version"))
            .map_or_else(|error| error.to_string(), |out| first_line(&String::from_utf8_lossy(&out)));
        (program, version)
    });
    // depmod and the like live in sbin, which a user's PATH often leaves out.
    let mut wide = path.to_owned();
    wide.push(":/usr/sbin:/sbin");
    Findings {
        arch: std::env::consts::ARCH.to_owned(),
        kvm,
        mode,
        firecracker,
        qemu,
        programs: NEEDS.map(|need| (need, is_met(&need, &wide))).to_vec(),
        memory_available_mib: memory_available_mib(),
        state: free_room(&known.state_dir),
        image: known.image,
        kernel: known.kernel,
        autostart,
        restarting: known.restarting,
        stuck: known.stuck,
        templates: known.templates,
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn free_room(dir: &Path) -> (PathBuf, Result<u64, String>) {
    let free = sys::fs::available_bytes(dir).map_err(|error| error.source.kind().to_string());
    (dir.to_path_buf(), free)
}

/// `MemAvailable` of proc(5).
#[must_use]
pub fn memory_available_mib() -> u64 {
    meminfo_mib("MemAvailable:")
}

/// `MemTotal` of proc(5).
#[must_use]
pub fn memory_total_mib() -> u64 {
    meminfo_mib("MemTotal:")
}

fn meminfo_mib(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|l| l.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Judges what was found.
#[must_use]
pub fn report(found: &Findings) -> DoctorReport {
    let mut checks =
        vec![architecture(&found.arch), machines::mode(&found.mode), machines::kvm(&found.kvm), machines::vmm(found)];
    checks.extend(found.programs.iter().map(|(need, is_there)| program(need, *is_there)));
    checks.push(memory(found.memory_available_mib));
    checks.push(state(&found.state));
    checks.push(artifact("default image", &found.image, "banger image build"));
    checks.push(artifact("default kernel", &found.kernel, "banger kernel import"));
    checks.push(templates(found.templates));
    checks.push(start_at_boot(&found.autostart, &found.restarting));
    checks.extend(found.stuck.iter().map(|operation| stuck(operation)));
    DoctorReport { checks }
}

fn check(name: &str, status: CheckStatus, message: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, message: message.into(), fix: None }
}

fn fixed_by(mut check: Check, fix: impl Into<String>) -> Check {
    check.fix = Some(fix.into());
    check
}

fn install(package: &str) -> String {
    format!("apt-get install {package}")
}

fn architecture(arch: &str) -> Check {
    if arch == "x86_64" {
        check("architecture", CheckStatus::Pass, arch)
    } else {
        check("architecture", CheckStatus::Fail, format!("{arch}: only x86_64 is supported"))
    }
}

fn is_met(need: &Need, path: &std::ffi::OsStr) -> bool {
    [Some(need.program), need.instead].into_iter().flatten().any(|program| find_program(program, path).is_some())
}

fn program(need: &Need, is_there: bool) -> Check {
    if is_there {
        let words = need.instead.map_or("installed".to_owned(), |instead| format!("it or {instead} is installed"));
        return check(need.program, CheckStatus::Pass, words);
    }
    let status = if need.is_vital { CheckStatus::Fail } else { CheckStatus::Warn };
    fixed_by(
        check(need.program, status, format!("not installed: without it no {}", need.purpose)),
        install(need.package),
    )
}

fn memory(available_mib: u64) -> Check {
    let text = format!("{} available for guests", human(available_mib << 20));
    if available_mib >= MEMORY_MIB_COMFORT {
        check("memory", CheckStatus::Pass, text)
    } else {
        fixed_by(check("memory", CheckStatus::Warn, text), "stop VMs, or give new ones less with --memory")
    }
}

fn state((dir, free): &(PathBuf, Result<u64, String>)) -> Check {
    match free {
        Ok(free) if *free >= FREE_BYTES_COMFORT => {
            check("state", CheckStatus::Pass, format!("{}, {} free", dir.display(), human(*free)))
        }
        Ok(free) => fixed_by(
            check("state", CheckStatus::Warn, format!("{}, only {} free", dir.display(), human(*free))),
            "free some room, or put state elsewhere with BANGER_HOME",
        ),
        Err(why) => check("state", CheckStatus::Fail, format!("{}: {why}", dir.display())),
    }
}

fn artifact(what: &str, (name, is_there): &(String, bool), fix: &str) -> Check {
    if *is_there {
        check(what, CheckStatus::Pass, name.clone())
    } else {
        fixed_by(check(what, CheckStatus::Warn, format!("{name} is not here yet; the first `banger run` gets it")), fix)
    }
}

fn templates(facts: Option<TemplateFacts>) -> Check {
    let Some(TemplateFacts { count, bytes, uses, fell_back }) = facts else {
        return check("templates", CheckStatus::Pass, "off in config.toml: every start boots");
    };
    let fallen = if fell_back == 0 { String::new() } else { format!("; {fell_back} VMs booted instead") };
    let message = format!("{count} of {}, {uses} VMs went on from them{fallen}", human(bytes));
    check("templates", CheckStatus::Pass, message)
}

/// Only VMs that want to be started again need it, so without any its lack is no finding.
fn start_at_boot(autostart: &Autostart, restarting: &[String]) -> Check {
    if autostart.is_set_up() {
        return check("start at boot", CheckStatus::Pass, autostart.found());
    }
    let (lack, commands) = (autostart.lack(), autostart.commands().join("\n"));
    let found = if restarting.is_empty() {
        check("start at boot", CheckStatus::Pass, format!("not set up ({lack}); run --restart needs it"))
    } else {
        let message = format!("{lack}: after a reboot nobody starts {}", restarting.join(", "));
        check("start at boot", CheckStatus::Warn, message)
    };
    match (commands.is_empty(), found.status) {
        (false, _) => fixed_by(found, commands),
        (true, CheckStatus::Pass) => found,
        (true, _) => fixed_by(found, "start them yourself after a reboot"),
    }
}

fn stuck(operation: &str) -> Check {
    let found = check("operation", CheckStatus::Fail, format!("{operation} is stuck: an undo failed"));
    fixed_by(found, format!("banger op show {operation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn healthy() -> Findings {
        Findings {
            arch: "x86_64".into(),
            kvm: Ok(()),
            mode: Mode::System,
            firecracker: Firecracker::Unused { why: "it is not installed".into() },
            qemu: Some(("/usr/bin/qemu-system-x86_64".into(), "QEMU emulator version 7.2".into())),
            programs: NEEDS.map(|need| (need, true)).to_vec(),
            memory_available_mib: 8000,
            state: ("/s".into(), Ok(100 << 30)),
            image: ("debian-bookworm".into(), true),
            kernel: ("k".into(), true),
            autostart: Autostart { has_systemd: true, has_user_unit: true, lingers: true, ..Autostart::default() },
            restarting: vec!["web".into()],
            stuck: vec![],
            templates: Some(TemplateFacts::default()),
        }
    }

    fn bad(found: &Findings) -> Vec<(String, CheckStatus)> {
        report(found)
            .checks
            .into_iter()
            .filter(|check| check.status != CheckStatus::Pass)
            .inspect(|check| assert!(check.fix.is_some() || check.status == CheckStatus::Fail, "{check:?}"))
            .map(|check| (check.name, check.status))
            .collect()
    }

    #[test]
    fn a_healthy_host_passes() {
        assert_eq!(bad(&healthy()), []);
    }

    #[test]
    fn each_lack_is_one_finding() {
        type Spoil = fn(&mut Findings);
        let cases: [(Spoil, &str, CheckStatus); 12] = [
            (|f| f.mode = Mode::Refused { why: "no helper is installed".into() }, "mode", CheckStatus::Fail),
            (|f| f.arch = "aarch64".into(), "architecture", CheckStatus::Fail),
            (|f| f.kvm = Err("no vmx".into()), "kvm", CheckStatus::Warn),
            (|f| f.qemu = None, "vmm", CheckStatus::Fail),
            (|f| f.firecracker = Firecracker::Unusable { why: "no KVM".into() }, "vmm", CheckStatus::Fail),
            (|f| f.programs[0].1 = false, "passt", CheckStatus::Warn),
            (|f| f.memory_available_mib = 100, "memory", CheckStatus::Warn),
            (|f| f.state.1 = Ok(1), "state", CheckStatus::Warn),
            (|f| f.image.1 = false, "default image", CheckStatus::Warn),
            (|f| f.autostart.lingers = false, "start at boot", CheckStatus::Warn),
            (|f| f.autostart.has_systemd = false, "start at boot", CheckStatus::Warn),
            (|f| f.stuck = vec!["op-1".into()], "operation", CheckStatus::Fail),
        ];
        for (spoil, name, status) in cases {
            let mut found = healthy();
            spoil(&mut found);
            assert_eq!(bad(&found), [(name.to_owned(), status)]);
        }
    }

    #[test]
    fn templates_are_counted() {
        let facts = TemplateFacts { count: 2, bytes: 300 << 20, uses: 7, fell_back: 1 };
        let message = templates(Some(facts)).message;
        assert_eq!(message, "2 of 300 MiB, 7 VMs went on from them; 1 VMs booted instead");
        assert!(templates(None).message.contains("config.toml"));
    }

    #[test]
    fn how_the_daemon_would_start_at_boot_is_told_to_everybody() {
        let found = Findings {
            autostart: Autostart { has_systemd: true, ..Autostart::default() },
            restarting: vec![],
            ..healthy()
        };
        let checks = report(&found).checks;
        let check = checks.iter().find(|check| check.name == "start at boot").unwrap();
        assert_eq!(check.status, CheckStatus::Pass, "nobody needs it");
        assert!(check.message.contains("--restart"), "{check:?}");
        let fix = check.fix.as_deref().unwrap();
        assert_eq!(fix.lines().last(), Some("loginctl enable-linger"));
        assert!(fix.contains("banger daemon unit > ~/.config/systemd/user/bangerd.service"), "{fix}");
    }
}
