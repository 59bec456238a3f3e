//! Taps, in the network namespace of a helper of our own.

use std::process::Command;

use wire::helper::*;
use wire::naming::{self, Slot};

use crate::ground::{Ground, Probe, is_root};

const TUNSETIFF: u32 = 0x4004_54ca;

/// `struct ifreq` with a name and flags: a tap without packet information, with a header.
fn ifreq(name: &str) -> String {
    let mut bytes = [0; 40];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[16..18].copy_from_slice(&0x5002_u16.to_ne_bytes());
    format!("b:{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn attach(probe: &mut Probe, name: &str) -> Result<i64, i32> {
    let fd = probe.open("/dev/net/tun", libc::O_RDWR).unwrap();
    probe.call(libc::SYS_ioctl, &format!("{fd} {TUNSETIFF} {}", ifreq(name)))
}

#[test]
fn a_tap_is_its_slots_alone() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let client = ground.client();
    let (machine, other) = (ground.machine(60), ground.machine(61));
    let ensure = |slot: Slot| client.call(EnsureTap { slot }, &[]).unwrap().0.index;
    let index = ensure(machine.slot);
    assert_eq!(ensure(machine.slot), index, "a second one is the first one");
    ensure(other.slot);
    ground.boot(&client, &machine, Nic::Slots);
    let mut probe = ground.probe(&machine);
    assert_eq!(attach(&mut probe, &naming::tap_name(other.slot)), Err(libc::EPERM));
    assert_eq!(attach(&mut probe, "banger-t1"), Err(libc::EPERM), "nor can it make one");
    assert_eq!(attach(&mut probe, &naming::tap_name(machine.slot)), Ok(0));
    assert_eq!(ensure(machine.slot), index, "one that is in use stays");

    client.destroy(&machine).unwrap();
    for machine in [&machine, &other, &machine] {
        client.call(DeleteTap { slot: machine.slot }, &[]).unwrap();
    }
    assert!(!ground.interfaces().contains("banger"), "{}", ground.interfaces());
    ground.assert_clean();
}

#[test]
fn what_is_no_tap_is_neither_used_nor_removed() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let client = ground.client();
    let slot = ground.machine(62).slot;
    let name = naming::tap_name(slot);
    let ip = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--net", "-t", &ground.pid().to_string(), "ip"]).args(words);
        assert!(command.status().unwrap().success(), "{words:?}");
    };
    ip(&["tuntap", "add", "dev", &name, "mode", "tun"]);
    let os = |act| Failure::Os { act, errno: libc::EINVAL };
    assert_eq!(client.call(EnsureTap { slot }, &[]).unwrap_err(), os(Act::MakeTap));
    assert_eq!(client.call(DeleteTap { slot }, &[]).unwrap_err(), os(Act::RemoveTap));
    assert_eq!(client.call(Sweep { live: Vec::new() }, &[]).unwrap_err(), os(Act::RemoveTap));
    assert!(ground.interfaces().contains(&name));
    ip(&["link", "del", &name]);
    client.call(DeleteTap { slot }, &[]).unwrap();
}

#[test]
fn without_a_nic_there_is_no_network() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let client = ground.client();
    let machine = ground.machine(63);
    client.call(EnsureTap { slot: machine.slot }, &[]).unwrap();
    ground.boot(&client, &machine, Nic::None);
    let mut probe = ground.probe(&machine);
    assert_eq!(attach(&mut probe, &naming::tap_name(machine.slot)), Err(libc::EPERM), "the tap is elsewhere");
    client.destroy(&machine).unwrap();
    client.call(DeleteTap { slot: machine.slot }, &[]).unwrap();
    ground.assert_clean();
}

#[test]
fn a_closed_nic_is_a_tap_with_nobody_at_its_other_end() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let client = ground.client();
    let machine = ground.machine(64);
    client.call(EnsureTap { slot: machine.slot }, &[]).unwrap();
    let (runs, _pidfd) = ground.boot(&client, &machine, Nic::Closed);
    let mut probe = ground.probe(&machine);
    assert_eq!(attach(&mut probe, &naming::tap_name(machine.slot)), Err(libc::EPERM), "the slot's is elsewhere");
    assert_eq!(attach(&mut probe, "tap1"), Err(libc::EPERM), "nor can it make another");
    assert_eq!(attach(&mut probe, naming::TAP_IN_JAIL), Ok(0));
    let theirs = std::fs::read_to_string(format!("/proc/{}/net/dev", runs.pid)).unwrap();
    let names: Vec<&str> = theirs.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"lo") && names.contains(&naming::TAP_IN_JAIL), "{names:?}");
    // The kernel itself has no address there to be talked to.
    let addresses = std::fs::read_to_string(format!("/proc/{}/net/if_inet6", runs.pid)).unwrap_or_default();
    assert!(!addresses.contains(naming::TAP_IN_JAIL), "{addresses}");
    assert!(!ground.interfaces().contains(naming::TAP_IN_JAIL), "{}", ground.interfaces());
    client.destroy(&machine).unwrap();
    client.call(DeleteTap { slot: machine.slot }, &[]).unwrap();
    ground.assert_clean();
}
