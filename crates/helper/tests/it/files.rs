//! The files of a jail: which one comes in is decided by an id, a descriptor that shows a right, and the file itself.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use wire::helper::*;
use wire::naming;

use crate::ground::{Ground, Machine, OWNER, image, is_root, own};

fn open(path: &Path) -> OwnedFd {
    OpenOptions::new().read(true).write(true).open(path).unwrap().into()
}

/// Why a VMM with these files does not start; it must not.
fn refusal(ground: &Ground, machine: &Machine, files: Vec<JailFile>, fds: Vec<OwnedFd>) -> Rule {
    let client = ground.client();
    client.create(machine).unwrap();
    match ground.spawn(&client, machine, files, fds, Nic::None) {
        Err(Failure::Denied { rule }) => rule,
        other => panic!("not refused: {other:?}"),
    }
}

/// Why a VMM with this disk does not start.
fn disk_refusal(ground: &Ground, machine: &Machine, disk: impl Into<OwnedFd>) -> Rule {
    refusal(ground, machine, vec![JailFile::Disk {}], vec![disk.into()])
}

fn file() -> String {
    "disk".to_owned()
}

#[test]
fn a_descriptor_must_be_of_that_file_and_show_the_right() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, other) = (ground.machine(20), ground.machine(21));
    let disk = naming::vm_disk(&ground.state(), &machine.vm);
    let others = naming::vm_disk(&ground.state(), &other.vm);

    assert_eq!(disk_refusal(&ground, &machine, open(&others)), Rule::OtherFile { file: file() });
    for path in ["/etc/shadow", "/dev/null", "/"] {
        let fd = File::open(path).unwrap();
        assert_eq!(disk_refusal(&ground, &machine, fd), Rule::OtherFile { file: file() }, "{path}");
    }
    let only_read = File::open(&disk).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, only_read), Rule::Rights { file: file() });
    let only_write = OpenOptions::new().write(true).open(&disk).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, only_write), Rule::Rights { file: file() });
    let no_right = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&disk).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, no_right), Rule::Rights { file: file() });

    let twice = refusal(&ground, &machine, vec![JailFile::Disk {}, JailFile::Disk {}], vec![open(&disk), open(&disk)]);
    assert_eq!(twice, Rule::Twice { file: file() });
    assert_eq!(refusal(&ground, &machine, vec![JailFile::Disk {}], Vec::new()), Rule::Descriptors);
    assert_eq!(refusal(&ground, &machine, Vec::new(), vec![open(&disk)]), Rule::Descriptors);
    let meta = fs::metadata(&disk).unwrap();
    assert_eq!((meta.uid(), meta.gid()), OWNER, "a refused file is left alone");
}

#[test]
fn no_link_leads_anywhere() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, other) = (ground.machine(22), ground.machine(23));
    let disk = naming::vm_disk(&ground.state(), &machine.vm);
    let others = naming::vm_disk(&ground.state(), &other.vm);
    let gone = Rule::Path { file: file() };

    fs::remove_file(&disk).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, open(&others)), gone, "nothing there");
    for target in [others.clone(), "../../../secret".into(), "/etc/passwd".into()] {
        symlink(&target, &disk).unwrap();
        assert_eq!(disk_refusal(&ground, &machine, open(&others)), gone, "a link to {}", target.display());
        fs::remove_file(&disk).unwrap();
    }
    let dir = disk.parent().unwrap();
    fs::remove_dir(dir).unwrap();
    symlink(others.parent().unwrap(), dir).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, open(&others)), gone, "a link on the way");
    fs::remove_file(dir).unwrap();
    let vms = naming::vms_dir(&ground.state());
    fs::rename(&vms, ground.state().join("moved")).unwrap();
    symlink("moved", &vms).unwrap();
    let moved = ground.state().join("moved").join(other.vm.as_str()).join(naming::DISK_FILE);
    assert_eq!(disk_refusal(&ground, &other, open(&moved)), gone, "a link further up");
}

#[test]
fn a_file_must_be_this_vms_alone() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let machine = ground.machine(24);
    let disk = naming::vm_disk(&ground.state(), &machine.vm);
    let kind = Rule::Kind { file: file() };

    let link = ground.state().join("second-name");
    fs::hard_link(&disk, &link).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, open(&disk)), kind, "two names");
    fs::remove_file(&link).unwrap();
    for mode in [0o600, 0o640, 0o664, 0o662, 0o666] {
        fs::set_permissions(&disk, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(disk_refusal(&ground, &machine, open(&disk)), kind, "mode {mode:o}");
    }
    own(&disk, 0o660);
    for uid in [0, OWNER.0 + 1, naming::vm_uid(machine.slot)] {
        chown(&disk, Some(uid), None).unwrap();
        assert_eq!(disk_refusal(&ground, &machine, open(&disk)), kind, "owner {uid}");
    }
    fs::remove_file(&disk).unwrap();
    fs::create_dir(&disk).unwrap();
    assert_eq!(disk_refusal(&ground, &machine, File::open(&disk).unwrap()), Rule::Rights { file: file() });
    fs::remove_dir(&disk).unwrap();

    let base = naming::image_rootfs(&ground.state(), &image());
    let with_base = |ground: &Ground| {
        refusal(ground, &machine, vec![JailFile::Image { image: image() }], vec![File::open(&base).unwrap().into()])
    };
    fs::set_permissions(&base, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(with_base(&ground), Rule::Kind { file: "image".into() }, "no VM could read it");
    own(&base, 0o644);
    chown(&base, Some(OWNER.0 + 1), None).unwrap();
    assert_eq!(with_base(&ground), Rule::Kind { file: "image".into() }, "somebody else's");
}

#[test]
fn outputs_can_only_be_appended_to() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(25), ground.client());
    client.create(&machine).unwrap();
    let good = || ground.output(&machine);
    let path = ground.console(&machine);
    drop(good());
    let bad: [(&str, OwnedFd); 5] = [
        ("a directory", File::open("/").unwrap().into()),
        ("for reading", File::open(&path).unwrap().into()),
        ("for both", OpenOptions::new().read(true).append(true).open(&path).unwrap().into()),
        ("anywhere", OpenOptions::new().write(true).open(&path).unwrap().into()),
        ("a device", OpenOptions::new().append(true).open("/dev/null").unwrap().into()),
    ];
    let request = SpawnVmm { boot: machine.boot.clone(), files: Vec::new(), nic: Nic::None, limits: Limits::default() };
    for (what, fd) in bad {
        for fds in [[good(), fd.try_clone().unwrap()], [fd.try_clone().unwrap(), good()]] {
            let refused = client.call(request.clone(), &fds).unwrap_err();
            assert_eq!(refused, Failure::Denied { rule: Rule::Output }, "{what}");
        }
    }
    let limits = Limits { memory_mib_max: Some(64), cpu_percent_max: None };
    let limited = SpawnVmm { limits, ..request };
    assert_eq!(client.call(limited, &[good(), good()]).unwrap_err(), Failure::Denied { rule: Rule::Limits });
}

#[test]
fn programs_must_be_roots_alone() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let machine = ground.machine(26);
    for (name, program) in [("firecracker", Program::Firecracker), ("jailer", Program::Jailer)] {
        let path = ground.program(name);
        let aside = ground.program("aside");
        let unfit = |ground: &Ground, why: &str| {
            let client = ground.stranger();
            let (welcome, _) = client.call(Hello { build: crate::ground::build() }, &[]).unwrap();
            let denied = Failure::Denied { rule: Rule::Program { program } };
            assert_eq!(welcome.unfit, Some(denied), "{why}");
            assert_eq!(refusal(ground, &machine, Vec::new(), Vec::new()), Rule::Program { program }, "{why}");
        };
        for mode in [0o775, 0o757, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            unfit(&ground, &format!("mode {mode:o}"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(OWNER.0), None).unwrap();
        unfit(&ground, "another's");
        chown(&path, Some(0), None).unwrap();
        fs::rename(&path, &aside).unwrap();
        unfit(&ground, "not there");
        symlink(&aside, &path).unwrap();
        unfit(&ground, "a link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        unfit(&ground, "a directory");
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let (dir, fit) = (ground.program(""), fs::Permissions::from_mode(0o755));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let program = Program::Firecracker;
    assert_eq!(refusal(&ground, &machine, Vec::new(), Vec::new()), Rule::Program { program }, "anybody can replace it");
    fs::set_permissions(&dir, fit).unwrap();
    let client = ground.client();
    ground.boot(&client, &machine, Nic::None);
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}

#[test]
fn a_jailer_that_cannot_run_leaves_nothing() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(27), ground.client());
    fs::write(ground.program("jailer"), "no program\n").unwrap();
    client.create(&machine).unwrap();
    let (files, fds) = ground.files(&machine);
    let failure = ground.spawn(&client, &machine, files, fds, Nic::None).unwrap_err();
    assert_eq!(failure, Failure::Os { act: Act::Exec, errno: libc::ENOEXEC });
    assert!(!naming::jail_dir(&ground.run_dir(), &machine.boot).join("vmm.pid").exists());
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}
