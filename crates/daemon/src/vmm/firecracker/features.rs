//! What a Firecracker can do, by its version: pure.
//!
//! The versions are those of its changelog. One that is newer than all of them is taken to do what they do.

use std::fmt;
use std::path::Path;

/// A Firecracker's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 since 2022.
    pub major: u32,
    /// What features go by.
    pub minor: u32,
    /// Corrections.
    pub patch: u32,
}

/// The oldest that is used.
pub const OLDEST: Version = Version::new(1, 5);

impl Version {
    /// The first of a minor version.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Version {
        Version { major, minor, patch: 0 }
    }

    /// What `firecracker --version` begins with: `Firecracker v1.12.1`; what a build that is no release adds is skipped.
    #[must_use]
    pub fn parse(said: &str) -> Option<Version> {
        let word = said.lines().next()?.trim().strip_prefix("Firecracker v")?;
        let mut numbers = word.split(['.', '-', '+', ' ']).map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Version { major, minor, patch })
    }

    /// Whether it is used at all; else why not, in words.
    pub(super) fn check(self, program: &Path) -> Result<(), String> {
        if self < OLDEST {
            return Err(format!("{} is version {self}, and {OLDEST} is the oldest that is used", program.display()));
        }
        Ok(())
    }

    /// Why one without [`Feature::Acpi`] is used only where it is asked for: it tells the kernel of devices on its command
    /// line, and Debian's does not listen (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`).
    #[must_use]
    pub fn why_unasked(self) -> String {
        format!("version {self} is installed, and Debian's kernels find devices from {} on", Feature::Acpi.since())
    }

    /// Whether it can do this.
    #[must_use]
    pub fn has(self, feature: Feature) -> bool {
        self >= feature.since()
    }

    /// What a newer one would bring, each with the version that has it.
    #[must_use]
    pub fn lacks(self) -> Vec<Feature> {
        Feature::ALL.into_iter().filter(|feature| !self.has(*feature)).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What not every Firecracker can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Guest memory in pages of 2 MiB.
    HugePages,
    /// Devices are found through ACPI.
    Acpi,
    /// What was written since a machine was saved last can be written into a copy of what was saved then.
    MergedDiffs,
    /// A restored machine's NIC may be another tap than the saved one's.
    NetworkOverrides,
    /// Devices on a PCI bus.
    Pci,
    /// Only written memory is in a snapshot, without the cost of tracking what is written.
    SparseSnapshots,
    /// The balloon gives memory that the guest does not use back to the host.
    FreePageReporting,
    /// The serial console goes to a file of its own.
    SerialFile,
    /// A restored machine's vsock may be another socket than the saved one's.
    VsockOverride,
    /// The guest's connections to its host survive a snapshot that was taken while it sent.
    VsockAfterRestore,
}

impl Feature {
    /// All of them, by version.
    pub const ALL: [Feature; 10] = [
        Feature::HugePages,
        Feature::Acpi,
        Feature::MergedDiffs,
        Feature::NetworkOverrides,
        Feature::Pci,
        Feature::SparseSnapshots,
        Feature::FreePageReporting,
        Feature::SerialFile,
        Feature::VsockOverride,
        Feature::VsockAfterRestore,
    ];

    /// The first version that has it.
    #[must_use]
    pub const fn since(self) -> Version {
        match self {
            Feature::HugePages => Version::new(1, 7),
            Feature::Acpi => Version::new(1, 8),
            Feature::MergedDiffs => Version::new(1, 9),
            Feature::NetworkOverrides => Version::new(1, 12),
            Feature::Pci | Feature::SparseSnapshots => Version::new(1, 13),
            Feature::FreePageReporting | Feature::SerialFile => Version::new(1, 14),
            Feature::VsockOverride => Version::new(1, 16),
            Feature::VsockAfterRestore => Version { patch: 1, ..Version::new(1, 16) },
        }
    }

    /// What it is good for, to end a sentence that begins "version X would bring".
    #[must_use]
    pub const fn brings(self) -> &'static str {
        match self {
            Feature::HugePages => "huge pages",
            Feature::Acpi => "devices that ordinary distributions' kernels find (ACPI)",
            Feature::MergedDiffs => "forks that stop their source for less long",
            Feature::NetworkOverrides => "snapshots whose network may change",
            Feature::Pci => "PCI devices",
            Feature::SparseSnapshots => "snapshots of written memory only",
            Feature::FreePageReporting => "idle guests that give memory back",
            Feature::SerialFile => "a console without the VMM's own messages",
            Feature::VsockOverride => "snapshots whose sockets may move",
            Feature::VsockAfterRestore => "snapshots taken while the guest sends",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let parse = Version::parse;
        assert_eq!(parse("Firecracker v1.12.1\n\nmore"), Some(Version { patch: 1, ..Version::new(1, 12) }));
        assert_eq!(parse("Firecracker v1.17.0-dev\n"), Some(Version::new(1, 17)));
        assert_eq!(parse("Firecracker v2.0"), Some(Version::new(2, 0)));
        for other in ["", "QEMU emulator version 7.2", "Firecracker v", "Firecracker vX.1", "Firecracker v1"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert!(Version::new(1, 5) < Version::new(1, 12) && Version::new(1, 16) < Version::new(2, 0));
    }

    #[test]
    fn what_most_kernels_find_no_disk_on_is_to_be_asked_for() {
        let program = Path::new("/x/firecracker");
        assert_eq!(
            Version::new(1, 4).check(program).unwrap_err(),
            "/x/firecracker is version 1.4.0, and 1.5.0 is the oldest that is used"
        );
        assert!(OLDEST.check(program).is_ok() && !OLDEST.has(Feature::Acpi) && Version::new(1, 8).has(Feature::Acpi));
        assert!(OLDEST.why_unasked().ends_with("find devices from 1.8.0 on"));
    }

    #[test]
    fn features_come_with_versions() {
        assert_eq!(OLDEST.lacks(), Feature::ALL);
        let later = Version { patch: 1, ..Version::new(1, 12) };
        assert!(later.has(Feature::NetworkOverrides) && !later.has(Feature::Pci));
        assert_eq!(Version::new(1, 16).lacks(), [Feature::VsockAfterRestore]);
        assert_eq!(Version::new(3, 0).lacks(), []);
        let mut since: Vec<Version> = Feature::ALL.map(Feature::since).to_vec();
        since.sort();
        assert_eq!(since, Feature::ALL.map(Feature::since), "in order of their versions");
    }
}
