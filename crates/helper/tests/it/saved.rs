//! A jail whose machine goes on from a saved one and may be saved: code in it can write what is saved, and nothing of what others
//! go on from too.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use wire::helper::*;
use wire::naming;

use crate::ground::{Ground, Machine, OWNER, Probe, is_root, own, processes_of};

const FROM: [JailFile; 2] = [JailFile::Memory {}, JailFile::Devices {}];
const TO: [JailFile; 2] = [JailFile::SaveMemory {}, JailFile::SaveDevices {}];

/// Where a file of the machine's jail is on the host.
fn place(ground: &Ground, machine: &Machine, file: &JailFile) -> PathBuf {
    ground.state().join(file.place(&machine.vm, &machine.boot).1)
}

/// What was saved once, which others go on from as well.
fn template(ground: &Ground) -> PathBuf {
    ground.state().join("template")
}

/// The files as the daemon makes them, and descriptors for them.
fn files(ground: &Ground, machine: &Machine) -> (Vec<JailFile>, Vec<OwnedFd>) {
    let template = template(ground);
    fs::write(&template, vec![b'm'; 8192]).unwrap();
    // Anybody may write to it: what holds is how it is mounted.
    own(&template, 0o666);
    for file in FROM.iter().chain(&TO) {
        let path = place(ground, machine, file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match file.access() {
            Access::Shared => fs::hard_link(&template, &path).unwrap(),
            Access::Private => fs::write(&path, "").unwrap(),
        }
        own(&path, if file.access() == Access::Shared { 0o666 } else { 0o660 });
    }
    let (mut files, mut fds) = ground.files(machine);
    for file in FROM.into_iter().chain(TO) {
        fds.push(open(&place(ground, machine, &file), file.access()));
        files.push(file);
    }
    (files, fds)
}

fn open(path: &Path, access: Access) -> OwnedFd {
    OpenOptions::new().read(true).write(access == Access::Private).open(path).unwrap().into()
}

/// What it goes on from is not changed, by whatever way.
fn is_only_read(probe: &mut Probe, name: &str) {
    for flags in [libc::O_RDWR, libc::O_WRONLY | libc::O_CREAT, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(probe.open(&format!("/{name}"), flags), Err(libc::EROFS), "{name} {flags}");
    }
    let (at, remount) = (libc::AT_FDCWD, libc::MS_REMOUNT | libc::MS_BIND);
    for (what, number, arguments) in [
        ("cut", libc::SYS_truncate, format!("s:/{name} 0")),
        ("another mode", libc::SYS_fchmodat, format!("{at} s:/{name} 0666")),
        ("removed", libc::SYS_unlinkat, format!("{at} s:/{name} 0")),
        ("moved", libc::SYS_rename, format!("s:/{name} s:/other")),
        ("remounted", libc::SYS_mount, format!("s:none s:/{name} s:none {remount} 0")),
        ("unmounted", libc::SYS_umount2, format!("s:/{name} 2")),
    ] {
        let result = probe.call(number, &arguments);
        assert!(result.is_err(), "{name} {what}: {result:?}");
    }
}

#[test]
fn only_what_is_saved_is_written() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(110), ground.client());
    client.create(&machine).unwrap();
    let (wanted, fds) = files(&ground, &machine);
    ground.spawn(&client, &machine, wanted, fds, Nic::Closed).unwrap();
    let mut probe = ground.probe(&machine);
    let (at, uid) = (libc::AT_FDCWD, naming::vm_uid(machine.slot));
    let pid = processes_of(&uid.to_string())[0];
    let mut names: Vec<_> = fs::read_dir(format!("/proc/{pid}/root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let given = ["devices", "disk", "firecracker", "firecracker.pid", "image", "memory", "run"];
    assert_eq!(names, [&["dev"][..], &given, &["save-devices", "save-memory", "sock"]].concat());

    for name in ["memory", "devices"] {
        is_only_read(&mut probe, name);
    }
    let memory = probe.open("/memory", libc::O_RDONLY).unwrap();
    let (read_write, private, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, libc::MAP_SHARED);
    let mapped = |how| format!("0 4096 {read_write} {how} {memory} 0");
    assert_eq!(probe.call(libc::SYS_mmap, &mapped(shared)), Err(libc::EACCES));
    probe.call(libc::SYS_mmap, &mapped(private)).unwrap();

    // The names on the host are needed no longer, and it has the file all the same.
    fs::remove_dir_all(place(&ground, &machine, &FROM[0]).parent().unwrap()).unwrap();
    assert!(probe.open("/memory", libc::O_RDONLY).is_ok());

    // As Firecracker writes: what is there is opened, or would be made, and cut to its length.
    for (file, bytes) in TO.iter().zip(["MEM", "DEV"]) {
        let name = format!("/{}", file.name_in_jail());
        let fd = probe.open(&name, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC).unwrap();
        assert_eq!(probe.call(libc::SYS_ftruncate, &format!("{fd} 8192")), Ok(0));
        assert_eq!(probe.call(libc::SYS_pwrite64, &format!("{fd} s:{bytes} 3 4096")), Ok(3));
        assert_eq!(probe.call(libc::SYS_fsync, &fd.to_string()), Ok(0));
        let path = place(&ground, &machine, file);
        let (host, meta) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap());
        assert_eq!((host.len(), &host[4096..4099]), (8192, bytes.as_bytes()));
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (OWNER.0, uid, 0o660));
        for (what, number, arguments) in [
            ("another mode", libc::SYS_fchmod, format!("{fd} 0666")),
            ("another owner", libc::SYS_fchown, format!("{fd} {uid} {uid}")),
            ("removed", libc::SYS_unlinkat, format!("{at} s:{name} 0")),
            ("moved away", libc::SYS_rename, format!("s:{name} s:/other")),
            ("replaced", libc::SYS_rename, format!("s:/firecracker.pid s:{name}")),
            ("a second name", libc::SYS_linkat, format!("{at} s:{name} {at} s:/other 0")),
        ] {
            let result = probe.call(number, &arguments);
            assert!(result.is_err(), "{name} {what}: {result:?}");
        }
        // Taken and emptied by its owner, it is the same file.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(probe.call(libc::SYS_lseek, &format!("{fd} 0 {}", libc::SEEK_END)), Ok(0));
    }
    assert_eq!(fs::read(template(&ground)).unwrap(), vec![b'm'; 8192]);
    let meta = fs::metadata(template(&ground)).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (OWNER.0, OWNER.1, 0o666), "no VM's group has it");
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}

#[test]
fn a_saved_machine_comes_in_by_the_same_rules() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(112), ground.client());
    client.create(&machine).unwrap();
    drop(files(&ground, &machine));
    let refusal =
        |file: &JailFile, fd: OwnedFd| match ground.spawn(&client, &machine, vec![file.clone()], vec![fd], Nic::None) {
            Err(Failure::Denied { rule }) => rule,
            other => panic!("not refused: {other:?}"),
        };
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for file in FROM {
        let (path, name) = (place(&ground, &machine, &file), || file.name_in_jail().to_owned());
        mode(&path, 0o640);
        assert_eq!(refusal(&file, open(&path, Access::Shared)), Rule::Kind { file: name() }, "no VM can read it");
        mode(&path, 0o644);
        let disk = naming::vm_disk(&ground.state(), &machine.vm);
        assert_eq!(refusal(&file, open(&disk, Access::Shared)), Rule::OtherFile { file: name() });
        fs::remove_file(&path).unwrap();
        symlink(template(&ground), &path).unwrap();
        assert_eq!(refusal(&file, open(&path, Access::Shared)), Rule::Path { file: name() }, "a link");
    }
    for file in TO {
        let (path, name) = (place(&ground, &machine, &file), || file.name_in_jail().to_owned());
        assert_eq!(refusal(&file, File::open(&path).unwrap().into()), Rule::Rights { file: name() });
        let second = path.with_file_name("second");
        fs::hard_link(&path, &second).unwrap();
        assert_eq!(refusal(&file, open(&path, Access::Private)), Rule::Kind { file: name() }, "two names");
        fs::remove_file(&second).unwrap();
        mode(&path, 0o664);
        assert_eq!(refusal(&file, open(&path, Access::Private)), Rule::Kind { file: name() }, "others can read it");
    }
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}
