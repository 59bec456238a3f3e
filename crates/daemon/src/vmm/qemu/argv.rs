//! QEMU's command line, a pure function of what was planned and what the host is.
//!
//! The machine is `microvm`: no PCI, no firmware to speak of, virtio over MMIO, found by the kernel through ACPI. Options
//! of one argument are separated by commas; a comma in a value is doubled (qemu(1), "Syntax").

use std::path::{Path, PathBuf};

use wire::agent::PORT_NAME;
use wire::id::{BootId, VmId};

use super::{Accel, Host};
use crate::model::machine::{DriveRole, DriveSpec, MachineSpec, NicAttachment, NicSpec};

/// Everything that needs no number of the VM.
const FIXED: [&str; 7] = [
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    // The guest's reboot ends the process: every boot is a new one.
    "-no-reboot",
    // A guest that takes over QEMU finds no exec, no fork and no privileges to gain.
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// The arguments behind the program's name.
pub(super) fn arguments(spec: &MachineSpec, nic: &NicAttachment, host: &Host) -> Vec<String> {
    let boot_dir = &spec.boot_dir;
    let mut argv: Vec<String> = FIXED.map(str::to_owned).to_vec();
    let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    option("-name", format!("guest=banger-{},debug-threads=on", spec.vm));
    option("-M", machine(spec));
    option("-accel", accel(host).to_owned());
    option("-cpu", cpu(host.accel).to_owned());
    option("-smp", spec.vcpus.to_string());
    option("-m", format!("{}M", spec.memory_mib));
    option("-kernel", text(&spec.vmlinux));
    option("-initrd", text(&spec.initramfs));
    option("-append", command_line(spec, host));
    option("-chardev", format!("file,id=console,path={},append=on", value(&spec.console_log)));
    option("-serial", "chardev:console".to_owned());
    option("-chardev", listening("agent", &boot_dir.join("agent.sock")));
    option("-device", "virtio-serial-device,max_ports=2".to_owned());
    option("-device", format!("virtserialport,chardev=agent,name={PORT_NAME}"));
    option("-chardev", listening("qmp", &super::super::qmp_socket(boot_dir)));
    option("-mon", "chardev=qmp,mode=control".to_owned());
    for drive in &spec.drives {
        let [file, device] = drive_options(drive);
        option("-drive", file);
        option("-device", device);
    }
    option("-netdev", netdev(nic));
    option("-device", format!("virtio-net-device,netdev=nic,mac={}", spec.nic.mac));
    option("-object", "rng-random,id=rng,filename=/dev/urandom".to_owned());
    option("-device", "virtio-rng-device,rng=rng".to_owned());
    if let Some(saved) = &spec.saved {
        // Mapped copy-on-write: what the guest writes is its own, and the file is never written.
        let (size, path) = (spec.memory_mib, value(&saved.memory));
        option("-object", format!("memory-backend-file,id=ram,size={size}M,mem-path={path},share=off"));
        // `xen-save-devices-state` writes devices only, without the section that tells the machine type.
        option("-global", "migration.send-configuration=off".to_owned());
        option("-incoming", format!("fd:{SAVED_FD}"));
        argv.push("-S".to_owned());
    }
    argv
}

/// The descriptor that the saved devices are read from: standard input.
const SAVED_FD: u8 = 0;

fn machine(spec: &MachineSpec) -> String {
    let backend = if spec.saved.is_some() { ",memory-backend=ram,suppress-vmdesc=on" } else { "" };
    format!("microvm,dump-guest-core=off{backend}")
}

/// The same machine as any other of its shape: no id, no path, and booting.
pub(super) fn shape(spec: &MachineSpec, nic: &NicAttachment, host: &Host) -> String {
    let nobody = MachineSpec {
        vm: VmId::from_random([0; 8]),
        boot: BootId::from_random([0; 8]),
        vmlinux: PathBuf::new(),
        initramfs: PathBuf::new(),
        drives: spec.drives.iter().map(|drive| DriveSpec { path: PathBuf::new(), ..drive.clone() }).collect(),
        nic: NicSpec { mac: String::new(), nat: spec.nic.nat, publish: Vec::new() },
        boot_dir: PathBuf::new(),
        console_log: PathBuf::new(),
        vmm_log: PathBuf::new(),
        saved: None,
        slot: None,
        ..*spec
    };
    let nic = match nic {
        NicAttachment::QemuUser { .. } => NicAttachment::QemuUser { publish: Vec::new() },
        NicAttachment::StreamSocket { .. } => NicAttachment::StreamSocket { path: PathBuf::new() },
        NicAttachment::Tap { .. } => NicAttachment::Tap { uplink: None },
    };
    // Measured anew by every daemon: a few kHz are no other machine. The processor it is measured on is told of beside this.
    let host = Host { tsc_khz: host.tsc_khz.map(|_| 0), ..*host };
    arguments(&nobody, &nic, &host).join(" ")
}

fn accel(host: &Host) -> &'static str {
    match (host.accel, host.is_parallel) {
        (Accel::Kvm, _) => "kvm",
        (Accel::Tcg, true) => "tcg,thread=multi",
        (Accel::Tcg, false) => "tcg,thread=single",
    }
}

fn cpu(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "host",
        // Told of fast string instructions, the kernel copies with `rep movsb`, which the emulator runs byte by byte.
        Accel::Tcg => "max,-erms,-fsrm",
    }
}

/// `CONFIG_HZ` of Debian's kernels. With another, `bogomips` in `/proc/cpuinfo` is off and nothing else: delays go by the
/// TSC.
const TICKS_PER_SECOND: u64 = 250;

/// The kernel's options. Nothing a person typed is among them: all that comes over the agent's channel.
fn command_line(spec: &MachineSpec, host: &Host) -> String {
    let mut words = vec![
        "console=ttyS0".to_owned(),
        // Each character on the console leaves the guest: a talkative kernel boots five times as long.
        "quiet".to_owned(),
        // Through the triple fault, which ends QEMU with -no-reboot; after a panic too.
        "reboot=t".to_owned(),
        "panic=-1".to_owned(),
        // Trees from OCI layers carry no labels.
        "selinux=0".to_owned(),
        // Self-tests of crypto code: a quarter of a second under TCG.
        "cryptomgr.notests".to_owned(),
    ];
    if let Some(khz) = host.tsc_khz {
        // The machine has no clock to calibrate the TSC by; a busy host makes the attempt spin for ever. Trusted, or the
        // kernel falls back to jiffies that run slow.
        words.push(format!("tsc_early_khz={khz}"));
        words.push("tsc=reliable".to_owned());
        // Each further processor would measure this against ticks, for tens of milliseconds; on a busy host for ever.
        words.push(format!("lpj={}", khz * 1000 / TICKS_PER_SECOND));
    }
    if host.accel == Accel::Tcg {
        // QEMU keys translated code by its address in the guest: a new layout for each process translates libc anew.
        words.push("norandmaps".to_owned());
    }
    words.push(format!("banger.vm={}", spec.vm));
    words.push(format!("banger.boot={}", spec.boot));
    words.push("banger.transport=virtio-serial".to_owned());
    words.join(" ")
}

fn listening(id: &str, path: &Path) -> String {
    format!("socket,id={id},path={},server=on,wait=off", value(path))
}

fn drive_options(drive: &DriveSpec) -> [String; 2] {
    let serial = drive.serial.serial();
    // Flushes of the guest are flushes on the host; what the guest discards or fills with zeros is given back to it. A full
    // host disk is a write error in the guest: by itself QEMU pauses the machine, and nothing in it answers any more.
    let access = if drive.serial.is_read_only() {
        "readonly=on"
    } else {
        "readonly=off,cache=writeback,discard=unmap,detect-zeroes=unmap,werror=report,rerror=report"
    };
    [
        format!("if=none,id={serial},file={},format=raw,{access}", value(&drive.path)),
        format!("virtio-blk-device,drive={serial},serial={serial}"),
    ]
}

fn netdev(nic: &NicAttachment) -> String {
    match nic {
        NicAttachment::QemuUser { publish } => {
            // Restricted: the guest reaches nothing, not even the host's loopback behind 10.0.2.2. The address is named
            // because an empty one binds every interface.
            let forwards = publish.iter().map(|p| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", p.host_port, p.guest_port));
            format!("user,id=nic,restrict=on,ipv6=off{}", forwards.collect::<String>())
        }
        NicAttachment::StreamSocket { path } => {
            format!("stream,id=nic,server=off,addr.type=unix,addr.path={}", value(path))
        }
        // Refused before; this one carries nothing.
        NicAttachment::Tap { .. } => "user,id=nic,restrict=on,ipv6=off".to_owned(),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path as the value of an option.
fn value(path: &Path) -> String {
    text(path).replace(',', ",,")
}

/// The VM's own disk in a command line of ours.
pub(super) fn disk(argv: &[String]) -> Option<PathBuf> {
    let begin = format!("if=none,id={},file=", DriveRole::Disk.serial());
    let rest = argv.iter().find_map(|word| word.strip_prefix(&begin))?;
    let mut path = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(char) = chars.next() {
        // A comma that is not doubled ends the value.
        if char == ',' && chars.next_if_eq(&',').is_none() {
            break;
        }
        path.push(char);
    }
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests;
