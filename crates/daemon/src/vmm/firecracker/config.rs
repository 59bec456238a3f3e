//! What Firecracker is asked to run, a pure function of what was planned and of its version.
//!
//! Every path is one inside the jail ([`super::jail`]), the same for each VM, and every name is a constant: a machine that is
//! saved can go on in another jail. The whole is Firecracker's configuration file, whose parts are the bodies of its API.

use serde::{Deserialize, Serialize};
use wire::agent::{TRANSPORT, Transport};
use wire::id::{BootId, VmId};

use super::features::{Feature, Version};
use crate::model::machine::{DriveRole, DriveSpec, MachineSpec, NicAttachment, NicSpec};

/// The NIC's tap, in a network namespace of its own.
pub(super) const TAP: &str = "tap0";
/// The guest's own address on its vsock. Sockets on the host tell guests apart, so all have the same.
const CID: u32 = 3;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Config {
    pub(super) boot_source: BootSource,
    pub(super) drives: Vec<Drive>,
    pub(super) machine_config: MachineConfig,
    pub(super) network_interfaces: Vec<NetworkInterface>,
    pub(super) vsock: Vsock,
    pub(super) entropy: Entropy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) balloon: Option<Balloon>,
    pub(super) metrics: Metrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BootSource {
    pub(super) kernel_image_path: String,
    pub(super) initrd_path: String,
    pub(super) boot_args: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drive {
    pub(super) drive_id: String,
    pub(super) path_on_host: String,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: bool,
    pub(super) cache_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineConfig {
    pub(super) vcpu_count: u16,
    pub(super) mem_size_mib: u64,
    pub(super) smt: bool,
    pub(super) track_dirty_pages: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkInterface {
    pub(super) iface_id: String,
    pub(super) guest_mac: String,
    pub(super) host_dev_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vsock {
    pub(super) guest_cid: u32,
    pub(super) uds_path: String,
}

/// A source of random bytes, without a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entropy {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Balloon {
    pub(super) amount_mib: u64,
    pub(super) deflate_on_oom: bool,
    pub(super) stats_polling_interval_s: u64,
    pub(super) free_page_reporting: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metrics {
    pub(super) metrics_path: String,
}

/// The configuration of any machine like `spec`'s: no id and no address.
pub(super) fn shape(spec: &MachineSpec, nic: &NicAttachment, version: Version) -> Config {
    let nobody = MachineSpec {
        vm: VmId::from_random([0; 8]),
        boot: BootId::from_random([0; 8]),
        nic: NicSpec { mac: String::new(), ..spec.nic.clone() },
        ..spec.clone()
    };
    config(&nobody, nic, version)
}

/// The configuration of `spec`'s machine.
pub(super) fn config(spec: &MachineSpec, nic: &NicAttachment, version: Version) -> Config {
    let has_tap = matches!(nic, NicAttachment::Tap { .. });
    let nic = has_tap.then(|| NetworkInterface {
        iface_id: "nic".to_owned(),
        guest_mac: spec.nic.mac.clone(),
        host_dev_name: TAP.to_owned(),
    });
    // Empty for ever: it only tells which pages the guest has freed.
    let balloon = version.has(Feature::FreePageReporting).then_some(Balloon {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_polling_interval_s: 0,
        free_page_reporting: true,
    });
    Config {
        boot_source: BootSource {
            kernel_image_path: super::jail::KERNEL.to_owned(),
            initrd_path: super::jail::INITRAMFS.to_owned(),
            boot_args: command_line(spec),
        },
        drives: spec.drives.iter().map(drive).collect(),
        machine_config: MachineConfig {
            vcpu_count: spec.vcpus,
            mem_size_mib: spec.memory_mib,
            smt: false,
            // What was not written since it began or was saved last, is not written when it is saved.
            track_dirty_pages: true,
        },
        network_interfaces: nic.into_iter().collect(),
        // Relative to the directory Firecracker runs in, so that a saved machine finds it in another jail too.
        vsock: Vsock { guest_cid: CID, uds_path: crate::vmm::VSOCK_SOCKET.to_owned() },
        entropy: Entropy {},
        balloon,
        metrics: Metrics { metrics_path: super::jail::METRICS.to_owned() },
    }
}

fn drive(drive: &DriveSpec) -> Drive {
    Drive {
        drive_id: drive.serial.serial().to_owned(),
        path_on_host: super::jail::drive(drive.serial),
        is_root_device: false,
        is_read_only: drive.serial.is_read_only(),
        // Flushes of the guest are flushes on the host; a drive that is never written has none.
        cache_type: if drive.serial == DriveRole::Disk { "Writeback" } else { "Unsafe" }.to_owned(),
    }
}

/// The kernel's options. Nothing a person typed is among them: all that comes over the agent's channel.
fn command_line(spec: &MachineSpec) -> String {
    let fixed = [
        "console=ttyS0",
        // Each character on the console leaves the guest.
        "quiet",
        // Through the keyboard controller, which ends Firecracker; after a panic too.
        "reboot=k",
        "panic=-1",
        // Trees from OCI layers carry no labels.
        "selinux=0",
        // Self-tests of crypto code.
        "cryptomgr.notests",
        // KVM's clock goes on by the time that a saved machine lay there (before Firecracker 1.15), the TSC does not: timers
        // of days would be due at once, systemd would kill services whose watchdog it had not heard. Nobody may compare
        // the two, and the scheduler's clock, which is KVM's all the same, jumps: a processor that seems stuck is not.
        "clocksource=tsc",
        "tsc=reliable",
        "nosoftlockup",
        // There is no bus to look for, one serial port of the usual four, and a keyboard controller with nothing attached.
        "pci=off",
        "8250.nr_uarts=1",
        "i8042.noaux",
        "i8042.nomux",
        "i8042.dumbkbd",
    ];
    // Firecracker names drives after files of the host; the guest goes by their order.
    let drives: Vec<&str> = spec.drives.iter().map(|drive| drive.serial.serial()).collect();
    let ours = [
        format!("banger.vm={}", spec.vm),
        format!("banger.boot={}", spec.boot),
        format!("{TRANSPORT}={}", Transport::Vsock.name()),
        format!("{}={}", wire::agent::DRIVES, drives.join(",")),
    ];
    fixed.iter().map(|word| (*word).to_owned()).chain(ours).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(super) mod tests;
