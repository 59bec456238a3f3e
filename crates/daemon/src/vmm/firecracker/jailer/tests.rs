//! What is planned for a jail of the helper's, and what a Firecracker in it is asked.

use super::*;
use crate::model::machine::DriveSpec;
use crate::vmm::firecracker::schema::faults;

fn ground(dir: &Path) -> Ground {
    Ground {
        program: "/x/firecracker".into(),
        version: Version::new(1, 14),
        state: dir.join("state"),
        cache: dir.join("cache"),
        run: "/run/banger".into(),
    }
}

pub(super) fn driver(dir: &Path) -> Jailer {
    Jailer { helper: Helper::at(Path::new("/none")), ground: Ok(ground(dir)) }
}

/// A machine whose files are where the helper looks.
pub(super) fn machine(dir: &Path) -> MachineSpec {
    let mut spec = config::tests::spec();
    let (state, cache) = (dir.join("state"), dir.join("cache"));
    let (kernel, image) = ("0123456789abcdef".parse().unwrap(), "fedcba9876543210".parse().unwrap());
    spec.vmlinux = naming::kernel_file(&state, &kernel);
    spec.initramfs = naming::initramfs_file(&cache, &"0".repeat(64));
    spec.drives = vec![
        DriveSpec { serial: DriveRole::Rootfs, path: naming::image_rootfs(&state, &image) },
        DriveSpec { serial: DriveRole::Disk, path: naming::vm_disk(&state, &spec.vm) },
        DriveSpec { serial: DriveRole::Modules, path: naming::modules_file(&state, &kernel) },
    ];
    for path in spec.drives.iter().map(|drive| &drive.path).chain([&spec.vmlinux, &spec.initramfs]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"\x7fELF").unwrap();
    }
    spec.console_log = naming::console_log(&state, &spec.vm, &spec.boot);
    spec.vmm_log = naming::vmm_log(&state, &spec.vm, &spec.boot);
    spec.boot_dir = naming::boot_dir(dir, &spec.boot);
    spec.memory_mib = 128;
    spec.slot = Slot::try_from(7).ok();
    spec
}

pub(super) const NOWHERE: NicAttachment = NicAttachment::Tap { uplink: None };

#[test]
fn a_launch_says_what_the_helper_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let spec = machine(dir.path());
    let launch = driver(dir.path()).plan(&spec, &NOWHERE).unwrap();
    let jailed = jailed_of(&launch).unwrap();
    let names: Vec<&str> = jailed.files.iter().map(JailFile::name_in_jail).collect();
    assert_eq!(names, ["kernel", "initramfs", "metrics", "image", "disk", "modules", "save-memory", "save-devices"]);
    assert_eq!((jailed.slot.to_string().as_str(), jailed.has_tap), ("7", true));
    assert_eq!(boot_of(&launch), Some(spec.boot.clone()));
    assert_eq!(launch.agent_socket(), spec.boot_dir.join("vmm/vsock_1024"));
    let sees: Vec<String> = jailed.config.drives.iter().map(|drive| drive.path_on_host.clone()).collect();
    assert_eq!(sees, ["/image", "/disk", "/modules"], "as the helper calls them");
    assert_eq!(jailed.config.vsock.uds_path, "/sock/vsock");
    assert!(jailed.config.machine_config.track_dirty_pages, "or it would be saved whole every time");
}

#[test]
fn what_cannot_run_is_refused_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let spec = machine(dir.path());
    let refusal = |spec: &MachineSpec, nic: &NicAttachment| driver(dir.path()).plan(spec, nic).unwrap_err().to_string();
    let open = NicAttachment::Tap { uplink: Some("/x".into()) };
    assert!(refusal(&spec, &open).contains("mode = \"session\""), "{}", refusal(&spec, &open));
    assert!(refusal(&MachineSpec { slot: None, ..spec.clone() }, &NOWHERE).contains("is taken"));
    let elsewhere = MachineSpec { vmm_log: dir.path().join("vmm.log"), ..spec.clone() };
    assert!(refusal(&elsewhere, &NOWHERE).contains("does not look for files of VMs at"));
    let none = Jailer::unused(Path::new("/none"), "no helper is installed".into());
    assert!(none.plan(&spec, &NOWHERE).unwrap_err().to_string().ends_with("no helper is installed"));
}

#[test]
fn every_request_is_one_that_firecracker_knows() {
    let dir = tempfile::tempdir().unwrap();
    let jailed = jailed_of(&driver(dir.path()).plan(&machine(dir.path()), &NOWHERE).unwrap()).unwrap();
    let all = requests(&jailed.config).unwrap();
    for (path, body) in &all {
        let name = match path.split('/').nth(1).unwrap() {
            "drives" => "/drives/{drive_id}",
            "network-interfaces" => "/network-interfaces/{iface_id}",
            _ => path,
        };
        assert_eq!(faults(&format!("PUT {name}"), body), Vec::<String>::new(), "{path}");
    }
    let names: Vec<&str> = all.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names.first(), Some(&"/logger"));
    assert_eq!(names.last(), Some(&"/actions"), "nothing can be told after it runs");
    assert!(names.contains(&"/network-interfaces/nic") && names.contains(&"/balloon"), "{names:?}");
}

#[test]
fn whatever_takes_the_helper_says_so_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(dir.path());
    let launch = driver.plan(&machine(dir.path()), &NOWHERE).unwrap();
    let error = driver.signal(&launch, KillSignal::Term).unwrap_err();
    assert!(matches!(error, VmmError::Privileged { .. }), "{error:?}");
    assert!(wire::api::chain(&error).contains("cannot reach the helper at /none"), "{error:?}");
}
