//! Code that runs as the VMM, inside its jail, tries to get at what is not its own. It may make any system call.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use wire::helper::Nic;
use wire::naming;

use crate::ground::{Ground, Machine, OWNER, Probe, image, is_root, own};

/// A jail with the probe in it, another VM, and a process of the owner.
struct Scene {
    ground: Ground,
    client: crate::ground::Client,
    machine: Machine,
    other: Machine,
    other_pid: u32,
    owner: std::process::Child,
    probe: Probe,
}

impl Scene {
    fn new(number: u8, nic: Nic) -> Scene {
        let mut ground = Ground::new();
        let client = ground.client();
        let (machine, other) = (ground.machine(number), ground.machine(number + 1));
        // Anybody may write to it: what holds is how it is mounted.
        own(&naming::image_rootfs(&ground.state(), &image()), 0o666);
        ground.boot(&client, &machine, nic);
        let (other_runs, _) = ground.boot(&client, &other, nic);
        let id = OWNER.0.to_string();
        let owner = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let probe = ground.probe(&machine);
        Scene { ground, client, machine, other, other_pid: other_runs.pid, owner, probe }
    }

    fn end(mut self) {
        assert!(self.owner.try_wait().unwrap().is_none(), "the owner's process lives");
        self.owner.kill().unwrap();
        self.owner.wait().unwrap();
        self.ground.probe(&self.other).call(libc::SYS_getpid, "").expect("the other VM lives");
        for machine in [&self.machine, &self.other] {
            self.client.destroy(machine).unwrap();
        }
        self.ground.assert_clean();
    }

    fn refused(&mut self, what: &str, number: libc::c_long, arguments: &str) {
        let result = self.probe.call(number, arguments);
        assert!(result.is_err(), "{what}: {result:?}");
    }
}

#[test]
fn files_are_what_they_should_be_and_nothing_else_is_there() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::new(80, Nic::None);
    let (state, vm) = (scene.ground.state(), scene.machine.vm.clone());
    let at = libc::AT_FDCWD;
    let root_dir =
        format!("/proc/{}/root", crate::ground::processes_of(&naming::vm_uid(scene.machine.slot).to_string())[0]);
    let mut names: Vec<_> =
        fs::read_dir(root_dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["dev", "disk", "firecracker", "firecracker.pid", "image", "run", "sock"]);

    // The disk is its own, and what it writes is on the host.
    let fd = scene.probe.open("/disk", libc::O_RDWR).unwrap();
    assert_eq!(scene.probe.call(libc::SYS_pwrite64, &format!("{fd} s:DISK 4 0")), Ok(4));
    assert_eq!(fs::read(naming::vm_disk(&state, &vm)).unwrap(), b"DISK");
    scene.refused("the disk's mode", libc::SYS_fchmod, &format!("{fd} 04777"));
    scene.refused("the disk's owner", libc::SYS_fchown, &format!("{fd} 0 0"));
    scene.refused("the disk away", libc::SYS_unlinkat, &format!("{at} s:/disk 0"));

    // The base is everybody's, and nobody's to change.
    assert!(scene.probe.open("/image", libc::O_RDONLY).is_ok());
    for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_WRONLY | libc::O_TRUNC, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(scene.probe.open("/image", flags), Err(libc::EROFS), "{flags}");
    }
    scene.refused("the base cut", libc::SYS_truncate, "s:/image 0");
    scene.refused("the base's mode", libc::SYS_fchmodat, &format!("{at} s:/image 0777"));
    let remount = libc::MS_REMOUNT | libc::MS_BIND;
    scene.refused("the base remounted", libc::SYS_mount, &format!("s:none s:/image s:none {remount} 0"));
    scene.refused("the base unmounted", libc::SYS_umount2, "s:/image 2");
    scene.refused("the base unlinked", libc::SYS_unlinkat, &format!("{at} s:/image 0"));
    scene.refused("the base moved", libc::SYS_rename, "s:/image s:/image2");
    assert_eq!(fs::read(naming::image_rootfs(&state, &image())).unwrap(), b"image");

    // No way up, down or beside.
    for path in ["/proc/1/root", "/etc/passwd", "/../etc/passwd", "/sock/../../etc/passwd", "/old_root", "/sys", "/tmp"]
    {
        assert_eq!(scene.probe.open(path, libc::O_RDONLY), Err(libc::ENOENT), "{path}");
    }
    scene.refused("a link into the world", libc::SYS_symlink, "s:/proc/1/root/etc/passwd s:/disk");
    assert_eq!(scene.probe.call(libc::SYS_chdir, "s:/"), Ok(0));
    for _ in 0..4 {
        assert_eq!(scene.probe.call(libc::SYS_chdir, "s:.."), Ok(0));
    }
    assert_eq!(scene.probe.open("etc/passwd", libc::O_RDONLY), Err(libc::ENOENT), "above the root is the root");
    // Nothing but its standard descriptors and its own sockets came with it: the first free number is a small one.
    let free = scene.probe.open("/image", libc::O_RDONLY).unwrap();
    assert!(free < 12, "{free}");
    scene.end();
}

#[test]
fn nobody_else_can_be_signalled_or_looked_into() {
    if !is_root() {
        return;
    }
    for (number, nic) in [(82, Nic::None), (84, Nic::Slots), (96, Nic::Closed)] {
        let mut scene = Scene::new(number, nic);
        let pids = [scene.owner.id(), scene.other_pid, scene.ground.pid(), 2];
        for pid in pids {
            for signal in [0, libc::SIGTERM, libc::SIGKILL] {
                let result = scene.probe.call(libc::SYS_kill, &format!("{pid} {signal}"));
                assert_eq!(result, Err(libc::ESRCH), "signal {signal} to {pid}");
            }
            assert_eq!(scene.probe.call(libc::SYS_pidfd_open, &format!("{pid} 0")), Err(libc::ESRCH));
            let attach = 16;
            scene.refused("tracing", libc::SYS_ptrace, &format!("{attach} {pid} 0 0"));
            scene.refused("priority", libc::SYS_setpriority, &format!("0 {pid} 5"));
            scene.refused("limits", libc::SYS_prlimit64, &format!("{pid} 7 0 b:00000000000000000000000000000000"));
            scene.refused("a namespace", libc::SYS_pidfd_getfd, "0 0 0");
            scene.refused("memory", libc::SYS_process_vm_readv, &format!("{pid} 0 0 0 0 0"));
        }
        // The host's own network is out of reach even where it shares the namespace, for the tap's sake.
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK] {
            let socket = format!("{family} {} 0", libc::SOCK_DGRAM);
            assert_eq!(scene.probe.call(libc::SYS_socket, &socket), Err(libc::EPERM), "family {family}");
        }
        // Everybody that it may signal: nobody, as it is alone with itself.
        assert_eq!(scene.probe.call(libc::SYS_kill, &format!("-1 {}", libc::SIGKILL)), Err(libc::ESRCH));
        scene.end();
    }
}

#[test]
fn no_right_can_be_gained() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::new(86, Nic::None);
    let uid = naming::vm_uid(scene.machine.slot);
    let permission = Err(libc::EPERM);
    for number in [libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid] {
        assert_eq!(scene.probe.call(number, ""), Ok(i64::from(uid)));
    }
    assert_eq!(scene.probe.call(libc::SYS_getgroups, "0 0"), Ok(0), "no group besides");
    for id in [0, OWNER.0, OWNER.1, naming::vm_uid(scene.other.slot)] {
        for number in [libc::SYS_setuid, libc::SYS_setgid] {
            assert_eq!(scene.probe.call(number, &id.to_string()), permission, "{number} {id}");
        }
        assert_eq!(scene.probe.call(libc::SYS_setresuid, &format!("{id} {id} {id}")), permission);
    }
    assert_eq!(scene.probe.call(libc::SYS_setgroups, "0 0"), permission);

    // Version 3 of capget(2): no capability in any set; and none can be added.
    let (header, none) = (format!("b:{}00000000", hex(0x2008_0522)), format!("b:{}", "00".repeat(24)));
    let (result, wrote) = scene.probe.call_whole(libc::SYS_capget, &format!("{header} {none}"));
    assert_eq!((result, &wrote[1]), (Ok(0), &vec![0; 24]));
    let all = format!("b:{}", "ff".repeat(24));
    assert_eq!(scene.probe.call(libc::SYS_capset, &format!("{header} {all}")), permission);
    assert_eq!(scene.probe.call(libc::SYS_prctl, &format!("{} 0 0 0 0", libc::PR_GET_NO_NEW_PRIVS)), Ok(1));
    for capability in 0..=40 {
        let ambient = format!("{} {} {capability} 0 0", libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE);
        assert_eq!(scene.probe.call(libc::SYS_prctl, &ambient), permission, "capability {capability}");
    }

    scene.end();
}

#[test]
fn what_takes_a_right_is_refused() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::new(90, Nic::None);
    let (uid, permission) = (naming::vm_uid(scene.machine.slot), Err(libc::EPERM));
    for namespace in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET] {
        assert_eq!(scene.probe.call(libc::SYS_unshare, &namespace.to_string()), permission, "{namespace:x}");
        let flags = namespace | libc::SIGCHLD;
        assert_eq!(scene.probe.call(libc::SYS_clone, &format!("{flags} 0 0 0 0")), permission, "{namespace:x}");
    }
    assert_eq!(scene.probe.call(libc::SYS_clone3, "0 0"), Err(libc::ENOSYS));
    let node = libc::S_IFBLK | 0o666;
    let at = libc::AT_FDCWD;
    for (what, number, arguments) in [
        ("a device", libc::SYS_mknodat, format!("{at} s:/dev/disk {node} 65024")),
        ("a mount", libc::SYS_mount, "s:proc s:/run s:proc 0 0".to_owned()),
        ("a mount of the old kind of new calls", libc::SYS_fsopen, "s:proc 0".to_owned()),
        ("another root", libc::SYS_chroot, "s:/run".to_owned()),
        ("a pivot", libc::SYS_pivot_root, "s:/ s:/run".to_owned()),
        ("a namespace", libc::SYS_setns, "0 0".to_owned()),
        ("the host's name", libc::SYS_sethostname, "s:x 1".to_owned()),
        ("the clock", libc::SYS_settimeofday, "b:00000000000000000000000000000000 0".to_owned()),
        ("a module", libc::SYS_init_module, "0 0 s:".to_owned()),
        ("a program in the kernel", libc::SYS_bpf, "0 0 0".to_owned()),
        ("a counter", libc::SYS_perf_event_open, "0 0 0 0 0".to_owned()),
        ("a queue of calls", libc::SYS_io_uring_setup, format!("8 b:{}", "00".repeat(120))),
        ("a key", libc::SYS_keyctl, "0 0 0 0 0".to_owned()),
        ("ports", libc::SYS_iopl, "3".to_owned()),
        ("a raw socket", libc::SYS_socket, format!("{} {} 1", libc::AF_INET, libc::SOCK_RAW)),
        ("frames", libc::SYS_socket, format!("{} {} 768", libc::AF_PACKET, libc::SOCK_RAW)),
        ("the kernel's log", libc::SYS_syslog, "3 0 0".to_owned()),
        ("a reboot", libc::SYS_reboot, "0 0 0 0".to_owned()),
        ("a device of memory", libc::SYS_openat, format!("{at} s:/dev/mem 2 0")),
    ] {
        scene.refused(what, number, &arguments);
    }
    // What it makes in its sockets' directory is not a program there, nor anybody else's.
    let file = scene.probe.open("/sock/tool", libc::O_CREAT | libc::O_RDWR).unwrap();
    scene.probe.call(libc::SYS_fchmod, &format!("{file} 06777")).unwrap();
    assert_eq!(scene.probe.call(libc::SYS_execve, "s:/sock/tool 0 0"), Err(libc::EACCES));
    let tool = naming::jail_sockets_dir(&scene.ground.run_dir(), &scene.machine.boot).join("tool");
    let meta = fs::metadata(tool).unwrap();
    assert_eq!(meta.uid(), uid);
    assert_eq!(meta.mode() & 0o2000, 0, "the owner's group does not come with it");
    scene.end();
}

fn hex(number: u32) -> String {
    number.to_ne_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A process in the helper's network namespace that listens at an abstract address, and the address as the kernel takes it.
fn abstract_listener(scene: &Scene) -> (std::process::Child, Vec<u8>) {
    let name = format!("banger-test-{}", std::process::id());
    let script = "import socket,sys,time\n\
        s=socket.socket(socket.AF_UNIX);s.bind('\\0'+sys.argv[1]);s.listen(9);print('ready',flush=True);time.sleep(1000)";
    let mut child = Command::new("nsenter")
        .args(["--net", "-t", &scene.ground.pid().to_string(), "/usr/bin/env", "python3", "-c", script, &name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut address = u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes().to_vec();
    address.push(0);
    address.extend(name.bytes());
    (child, address)
}

#[test]
fn abstract_sockets_of_the_host_are_there_only_with_the_slots_tap() {
    if !is_root() {
        return;
    }
    for (number, nic, expected) in
        [(92, Nic::None, Err(libc::ECONNREFUSED)), (94, Nic::Slots, Ok(0)), (98, Nic::Closed, Err(libc::ECONNREFUSED))]
    {
        let mut scene = Scene::new(number, nic);
        let (mut listener, address) = abstract_listener(&scene);
        let socket = scene.probe.call(libc::SYS_socket, &format!("{} {} 0", libc::AF_UNIX, libc::SOCK_STREAM)).unwrap();
        let text: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
        let result = scene.probe.call(libc::SYS_connect, &format!("{socket} b:{text} {}", address.len()));
        assert_eq!(result, expected, "nic: {nic:?}");
        listener.kill().unwrap();
        listener.wait().unwrap();
        scene.end();
    }
}
