//! The configuration, word for word and against Firecracker's own description of it.

use serde_json::Value;

use super::super::schema::{faults, faults_of};
use super::*;
use crate::model::machine::NicSpec;

pub(in crate::vmm::firecracker) fn spec() -> MachineSpec {
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
            drive(DriveRole::Disk, "/state/vms/a/disk.ext4"),
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

const TAP_TO_NOWHERE: NicAttachment = NicAttachment::Tap { uplink: None };

#[test]
fn an_old_one() {
    let config = config(&spec(), &TAP_TO_NOWHERE, super::super::features::OLDEST);
    insta::assert_snapshot!(serde_json::to_string_pretty(&config).unwrap());
}

#[test]
fn a_newer_one_gives_memory_back() {
    let config = config(&spec(), &TAP_TO_NOWHERE, Version::new(1, 14));
    let balloon = serde_json::to_value(config.balloon).unwrap();
    assert_eq!(balloon["free_page_reporting"], Value::Bool(true));
    assert_eq!(balloon["amount_mib"], 0, "it never takes any");
}

#[test]
fn every_part_is_one_that_firecracker_knows() {
    for version in [super::super::features::OLDEST, Version::new(1, 12), Version::new(1, 17)] {
        let config = serde_json::to_value(config(&spec(), &TAP_TO_NOWHERE, version)).unwrap();
        assert_eq!(faults_of("FullVmConfiguration", &config), Vec::<String>::new(), "{version}");
        for (request, part) in [
            ("PUT /boot-source", &config["boot-source"]),
            ("PUT /machine-config", &config["machine-config"]),
            ("PUT /drives/{drive_id}", &config["drives"][1]),
            ("PUT /network-interfaces/{iface_id}", &config["network-interfaces"][0]),
            ("PUT /vsock", &config["vsock"]),
            ("PUT /entropy", &config["entropy"]),
            ("PUT /metrics", &config["metrics"]),
        ] {
            assert_eq!(faults(request, part), Vec::<String>::new(), "{version}");
        }
    }
}

#[test]
fn nothing_of_the_host_and_nothing_typed_is_in_it() {
    let text = serde_json::to_string(&config(&spec(), &TAP_TO_NOWHERE, Version::new(1, 12))).unwrap();
    for path in ["/state", "/cache", "/run/boots"] {
        assert!(!text.contains(path), "{text}");
    }
    let line = command_line(&spec());
    let ours: Vec<&str> = line.split(' ').filter(|word| word.starts_with("banger.")).collect();
    assert_eq!(
        ours,
        [
            "banger.vm=00112233445566aa",
            "banger.boot=fedcba9876543210",
            "banger.transport=vsock",
            "banger.drives=rootfs,disk,modules"
        ]
    );
}

#[test]
fn only_the_disk_is_written() {
    let config = config(&spec(), &TAP_TO_NOWHERE, Version::new(1, 12));
    let drives: Vec<_> = config
        .drives
        .iter()
        .map(|drive| (drive.path_on_host.as_str(), drive.is_read_only, drive.cache_type.as_str()))
        .collect();
    assert_eq!(drives, [("/rootfs", true, "Unsafe"), ("/disk", false, "Writeback"), ("/modules", true, "Unsafe")]);
}
