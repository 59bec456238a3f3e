//! Jails come, go, and leave nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;

use wire::helper::*;
use wire::naming::{self, Slot};

use crate::ground::{Ground, OWNER, is_root, processes_of};

#[test]
fn a_jail_may_be_made_and_removed_twice() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(1), ground.client());
    for _ in 0..2 {
        assert_eq!(client.create(&machine).unwrap().uid, naming::vm_uid(machine.slot));
    }
    let owners = |path: &std::path::Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    let dir = naming::jail_dir(&ground.run_dir(), &machine.boot);
    assert_eq!(owners(&dir), (0, OWNER.1, 0o750));
    assert_eq!(owners(&dir.join("jail.json")), (0, 0, 0o600));
    assert_eq!(owners(&dir.join("sock")), (naming::vm_uid(machine.slot), OWNER.1, 0o2770));

    let other_slot = CreateJail { slot: Slot::try_from(1).unwrap(), ..wanted(&machine) };
    assert_eq!(client.call(other_slot, &[]).unwrap_err(), Failure::Denied { rule: Rule::OtherJail });
    let other = crate::ground::Machine { slot: machine.slot, ..ground.machine(2) };
    assert_eq!(client.create(&other).unwrap_err(), Failure::SlotTaken { slot: machine.slot });

    for _ in 0..2 {
        client.destroy(&machine).unwrap();
    }
    client.create(&other).expect("the slot is free again");
    client.destroy(&other).unwrap();
    ground.assert_clean();
}

fn wanted(machine: &crate::ground::Machine) -> CreateJail {
    CreateJail { vm: machine.vm.clone(), boot: machine.boot.clone(), slot: machine.slot }
}

#[test]
fn a_vmm_lives_in_its_jail_and_goes_with_it() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(3), ground.client());
    let (files, fds) = ground.files(&machine);
    assert_eq!(ground.spawn(&client, &machine, files, fds, Nic::None).unwrap_err(), Failure::NoJail);

    let (runs, pidfd) = ground.boot(&client, &machine, Nic::None);
    let pid = i32::try_from(runs.pid).unwrap();
    ground.probe(&machine);
    assert_eq!(processes_of(&naming::vm_uid(machine.slot).to_string()), [pid]);
    let (again, _) = ground.boot(&client, &machine, Nic::None);
    assert_eq!(again, runs, "a second one is the first one");
    assert!(fs::read_to_string(ground.console(&machine)).unwrap().contains("probe: listening"));

    for _ in 0..2 {
        client.call(KillVmm { boot: machine.boot.clone() }, &[]).unwrap();
    }
    assert!(is_readable(&pidfd), "it has ended when the answer comes");
    let (third, _) = ground.boot(&client, &machine, Nic::None);
    assert_ne!(third, runs);
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}

/// Whether a process of that user and group can connect to the socket.
fn may_connect(path: &std::path::Path, uid: u32, gid: u32) -> bool {
    let script = "import socket,sys;socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"])
        .args(["/usr/bin/env", "python3", "-c", script])
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("PermissionError"), "{said}");
    output.status.success()
}

#[test]
fn the_owner_and_the_vmm_reach_each_others_sockets() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, other, client) = (ground.machine(11), ground.machine(12), ground.client());
    ground.boot(&client, &machine, Nic::None);
    let mut probe = ground.probe(&machine);
    let sockets = naming::jail_sockets_dir(&ground.run_dir(), &machine.boot);
    let api = sockets.join(naming::API_SOCKET);
    assert!(may_connect(&api, OWNER.0, OWNER.1));
    for (uid, gid) in [(OWNER.0 + 7, OWNER.0 + 7), (65534, 65534)] {
        assert!(!may_connect(&api, uid, gid), "uid {uid}");
    }
    let others = naming::vm_uid(other.slot);
    assert!(!may_connect(&api, others, others), "another VM, were it to see the host");

    let agent = sockets.join("agent.sock_1");
    let _listener = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    std::os::unix::fs::chown(&agent, Some(OWNER.0), Some(OWNER.1)).unwrap();
    let mut connect = |mode: u32| {
        fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let socket = probe.call(libc::SYS_socket, &format!("{} {} 0", libc::AF_UNIX, libc::SOCK_STREAM)).unwrap();
        let address: String = b"\x01\0/sock/agent.sock_1\0".iter().map(|byte| format!("{byte:02x}")).collect();
        probe.call(libc::SYS_connect, &format!("{socket} b:{address} {}", address.len() / 2))
    };
    assert_eq!(connect(0o600), Err(libc::EACCES));
    assert_eq!(connect(0o666), Ok(0), "the directory keeps everybody else out");
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}

#[test]
fn there_is_an_end_to_jails() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(10), ground.client());
    let jails = naming::jails_dir(&ground.run_dir());
    for number in 0..LIVE_MAX {
        fs::create_dir(jails.join(format!("{number:016x}"))).unwrap();
    }
    assert_eq!(client.create(&machine).unwrap_err(), Failure::Denied { rule: Rule::TooMany });
    fs::remove_dir(jails.join(format!("{:016x}", 0))).unwrap();
    client.create(&machine).unwrap();
    client.create(&machine).expect("the same one again");
    let (swept, _) = client.call(Sweep { live: Vec::new() }, &[]).unwrap();
    assert_eq!(swept.jails, u32::try_from(LIVE_MAX).unwrap());
    ground.assert_clean();
}

fn is_readable(pidfd: &std::os::fd::OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
}

#[test]
fn a_sweep_removes_what_is_not_live() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let client = ground.client();
    let (live, dead, idle) = (ground.machine(4), ground.machine(5), ground.machine(6));
    for machine in [&live, &dead, &idle] {
        client.call(EnsureTap { slot: machine.slot }, &[]).unwrap();
        client.create(machine).unwrap();
    }
    let (runs, _) = ground.boot(&client, &live, Nic::Slots);
    ground.boot(&client, &dead, Nic::Slots);
    let keep = Sweep { live: vec![Live { boot: live.boot.clone(), slot: live.slot }] };
    let (swept, _) = client.call(keep.clone(), &[]).unwrap();
    assert_eq!(swept, Swept { jails: 2, taps: 2 });
    assert_eq!(client.call(keep, &[]).unwrap().0, Swept { jails: 0, taps: 0 });
    assert_eq!(ground.boot(&client, &live, Nic::Slots).0, runs, "the live one is untouched");
    assert!(ground.interfaces().contains(&naming::tap_name(live.slot)));
    let (swept, _) = client.call(Sweep { live: Vec::new() }, &[]).unwrap();
    assert_eq!(swept, Swept { jails: 1, taps: 1 });
    ground.assert_clean();
}

#[test]
fn the_sweep_after_the_helper_spares_what_runs() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let client = ground.client();
    let (live, dead) = (ground.machine(7), ground.machine(8));
    client.create(&dead).unwrap();
    let half_made = naming::jails_dir(&ground.run_dir()).join("ffffffffffffffff");
    fs::create_dir(&half_made).unwrap();
    let (runs, _) = ground.boot(&client, &live, Nic::None);
    // The jailer is another user's until it has become the VMM.
    ground.probe(&live);
    assert!(!sweep(&ground).success(), "a helper works there");
    ground.stop();
    assert!(sweep(&ground).success());
    assert!(!half_made.exists());
    let left: Vec<_> =
        fs::read_dir(naming::jails_dir(&ground.run_dir())).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [live.boot.as_str()]);
    assert_eq!(processes_of(&naming::vm_uid(live.slot).to_string()), [i32::try_from(runs.pid).unwrap()]);
}

fn sweep(ground: &Ground) -> std::process::ExitStatus {
    // Taps have no directory: in this machine's own network namespace those of a real helper would go.
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--net", env!("CARGO_BIN_EXE_banger-helper"), "sweep", "--run"])
        .arg(ground.run_dir())
        .status()
        .unwrap()
}

#[test]
fn the_real_firecracker_answers_in_its_jail() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::with(|programs| {
        fs::copy(crate::ground::firecracker().join("firecracker"), programs.join("firecracker")).unwrap();
    });
    let (machine, client) = (ground.machine(9), ground.client());
    ground.boot(&client, &machine, Nic::None);
    let path = naming::jail_sockets_dir(&ground.run_dir(), &machine.boot).join(naming::API_SOCKET);
    let mut stream = crate::ground::until("the API", || std::os::unix::net::UnixStream::connect(&path).ok());
    std::io::Write::write_all(&mut stream, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 512];
    let count = std::io::Read::read(&mut stream, &mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.contains("firecracker_version"), "{answer}");
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}
