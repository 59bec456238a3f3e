//! Whether the host can run guests in hardware.

use std::arch::x86_64::__cpuid;
use std::fmt;
use std::fs::OpenOptions;

/// Whether KVM is worth using.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// The processor virtualises and `/dev/kvm` opens.
    Usable,
    /// It is not, and why.
    Unusable(Why),
}

/// Why KVM is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The processor shows neither `vmx` nor `svm`. A `/dev/kvm` that is there all the same is para-virtual: it exists in
    /// cloud VMs, accepts every call, and hangs ordinary kernels.
    NoHardware {
        /// Whether `/dev/kvm` is there.
        device_present: bool,
    },
    /// There is no `/dev/kvm`.
    NoDevice,
    /// `/dev/kvm` does not open for reading and writing.
    Denied,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NoHardware { device_present: false } => "the processor shows no virtualisation (vmx, svm)",
            Why::NoHardware { device_present: true } => {
                "the processor shows no virtualisation (vmx, svm); the /dev/kvm here is para-virtual and hangs ordinary kernels"
            }
            Why::NoDevice => "there is no /dev/kvm",
            Why::Denied => "/dev/kvm does not open for reading and writing (group kvm)",
        })
    }
}

/// Looks. Cheap, changes nothing.
#[must_use]
pub fn probe() -> Kvm {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    judge(&cpuinfo, &device.map(|_| ()).map_err(|error| error.kind()))
}

/// The host's processor as far as a guest may rely on it: its model, microcode and features, as `/proc/cpuinfo` tells them of
/// the first. Empty when it cannot be read.
#[must_use]
pub fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let told = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"];
    let first = cpuinfo.lines().take_while(|line| !line.is_empty());
    let lines = first.filter(|line| line.split_once(':').is_some_and(|(name, _)| told.contains(&name.trim())));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether the processor that this runs on is itself a program: QEMU's translator (TCG), which says so in CPUID leaf
/// 0x40000000 (`cpu_x86_cpuid` in target/i386/cpu.c of QEMU) where the bit for hypervisors is set.
#[must_use]
pub fn is_translated() -> bool {
    const HYPERVISOR: u32 = 1 << 31;
    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return false;
    }
    let leaf = __cpuid(0x4000_0000);
    let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
    signature == b"TCGTCGTCGTCG"
}

fn judge(cpuinfo: &str, device: &Result<(), std::io::ErrorKind>) -> Kvm {
    let absent = *device == Err(std::io::ErrorKind::NotFound);
    if !has_virtualisation(cpuinfo) {
        return Kvm::Unusable(Why::NoHardware { device_present: !absent });
    }
    match device {
        Ok(()) => Kvm::Usable,
        Err(_) if absent => Kvm::Unusable(Why::NoDevice),
        Err(_) => Kvm::Unusable(Why::Denied),
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_ascii_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn a_translated_processor_is_one_under_a_hypervisor() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has_hypervisor = cpuinfo.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
        assert!(has_hypervisor || !is_translated());
    }

    #[test]
    fn a_device_node_alone_is_not_trusted() {
        let (with, without) = ("flags\t\t: fpu vmx sse", "flags\t\t: fpu vmxx sse\nvmx flags : vmx");
        let table = [
            (with, Ok(()), Kvm::Usable),
            (with, Err(ErrorKind::NotFound), Kvm::Unusable(Why::NoDevice)),
            (with, Err(ErrorKind::PermissionDenied), Kvm::Unusable(Why::Denied)),
            (without, Ok(()), Kvm::Unusable(Why::NoHardware { device_present: true })),
            (without, Err(ErrorKind::NotFound), Kvm::Unusable(Why::NoHardware { device_present: false })),
        ];
        for (cpuinfo, device, expected) in table {
            assert_eq!(judge(cpuinfo, &device), expected, "{cpuinfo} {device:?}");
        }
    }
}
