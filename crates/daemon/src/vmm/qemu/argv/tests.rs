//! The command line, word for word.

use super::*;
use crate::model::machine::NicSpec;
use wire::api::Publish;

fn spec() -> MachineSpec {
    let vm = "00112233445566aa".parse().unwrap();
    let drive = |serial, path: &str| DriveSpec { serial, path: path.into() };
    MachineSpec {
        boot: "fedcba9876543210".parse().unwrap(),
        vcpus: 2,
        memory_mib: 1024,
        vmlinux: "/state/kernels/k/vmlinux".into(),
        initramfs: "/cache/initramfs/i".into(),
        drives: vec![
            drive(DriveRole::Rootfs, "/state/images/i/rootfs.ext4"),
            drive(DriveRole::Disk, "/state/vms/a,b/disk.ext4"),
            drive(DriveRole::Modules, "/state/kernels/k/modules.ext4"),
        ],
        nic: NicSpec { mac: NicSpec::mac_of(&vm), nat: false, publish: Vec::new() },
        boot_dir: "/run/boots/fedcba98".into(),
        console_log: "/state/vms/a/logs/f.console.log".into(),
        vmm_log: "/state/vms/a/logs/f.vmm.log".into(),
        saved: None,
        slot: None,
        vm,
    }
}

/// One option a line.
fn lines(argv: &[String]) -> String {
    argv.iter().fold(String::new(), |text, word| text + if word.starts_with('-') { "\n" } else { " " } + word)
}

#[test]
fn a_closed_guest_under_tcg() {
    let nic = NicAttachment::QemuUser { publish: vec![Publish { host_port: 8080, guest_port: 80 }] };
    let host = Host { accel: Accel::Tcg, is_parallel: true, tsc_khz: Some(2_900_000) };
    insta::assert_snapshot!(lines(&arguments(&spec(), &nic, &host)));
}

#[test]
fn an_open_guest_under_kvm() {
    let nic = NicAttachment::StreamSocket { path: "/run/boots/fedcba98/passt.sock".into() };
    let host = Host { accel: Accel::Kvm, is_parallel: true, tsc_khz: None };
    insta::assert_snapshot!(lines(&arguments(&spec(), &nic, &host)));
}

#[test]
fn processors_take_turns_where_they_must() {
    let nic = NicAttachment::QemuUser { publish: Vec::new() };
    let host = |accel, is_parallel| Host { accel, is_parallel, tsc_khz: None };
    let said = |host: Host| lines(&arguments(&spec(), &nic, &host));
    assert!(said(host(Accel::Tcg, false)).contains("\n-accel tcg,thread=single\n"));
    assert!(said(host(Accel::Tcg, true)).contains("\n-accel tcg,thread=multi\n"));
    assert!(said(host(Accel::Kvm, true)).contains("\n-accel kvm\n"));
}

#[test]
fn another_measurement_is_no_other_machine() {
    let nic = NicAttachment::QemuUser { publish: Vec::new() };
    let host = |tsc_khz| Host { accel: Accel::Tcg, is_parallel: true, tsc_khz };
    let one = shape(&spec(), &nic, &host(Some(2_600_000)));
    assert_eq!(one, shape(&spec(), &nic, &host(Some(2_599_999))));
    assert_ne!(one, shape(&spec(), &nic, &host(None)));
    assert_ne!(one, shape(&MachineSpec { vcpus: 3, ..spec() }, &nic, &host(Some(2_600_000))));
    let mut other = spec();
    (other.vm, other.boot) = ("ffeeddccbbaa0011".parse().unwrap(), "0123456789abcdef".parse().unwrap());
    (other.boot_dir, other.console_log) = ("/elsewhere".into(), "/elsewhere/log".into());
    assert_eq!(one, shape(&other, &nic, &host(Some(2_600_000))), "no id and no path is in it");
}

#[test]
fn nothing_typed_reaches_the_kernel() {
    let host = Host { accel: Accel::Tcg, is_parallel: true, tsc_khz: Some(1) };
    let line = command_line(&spec(), &host);
    let ours: Vec<&str> = line.split(' ').filter(|word| word.starts_with("banger.")).collect();
    assert_eq!(ours, ["banger.vm=00112233445566aa", "banger.boot=fedcba9876543210", "banger.transport=virtio-serial"]);
}

#[test]
fn the_disk_is_found_again() {
    let nic = NicAttachment::QemuUser { publish: Vec::new() };
    let host = Host { accel: Accel::Tcg, is_parallel: true, tsc_khz: None };
    let argv = arguments(&spec(), &nic, &host);
    assert_eq!(disk(&argv), Some("/state/vms/a,b/disk.ext4".into()));
    assert_eq!(disk(&argv[..4]), None);
}
