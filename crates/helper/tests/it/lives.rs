//! A VMM outlives the helper that started it.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;
use wire::helper::*;
use wire::naming;

use crate::ground::{Ground, is_root, until};

#[test]
fn it_survives_restarts_and_signals_to_the_helpers_group() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let machine = ground.machine(40);
    let (runs, pidfd) = ground.boot(&ground.client(), &machine, Nic::None);
    let mut probe = ground.probe(&machine);
    for signal in [Signal::TERM, Signal::HUP, Signal::KILL] {
        ground.restart(signal);
        assert_eq!(probe.call(libc::SYS_getpid, ""), Ok(1), "it runs on, as process 1 of its own");
        let (again, _) = ground.boot(&ground.client(), &machine, Nic::None);
        assert_eq!(again, runs, "the next helper knows it");
    }
    let client = ground.client();
    client.call(KillVmm { boot: machine.boot.clone() }, &[]).unwrap();
    until("the first pidfd", || is_over(&pidfd).then_some(()));
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}

fn is_over(pidfd: &std::os::fd::OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
}

#[test]
fn one_that_ends_by_itself_is_collected() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let (machine, client) = (ground.machine(41), ground.client());
    let (runs, pidfd) = ground.boot(&client, &machine, Nic::None);
    let path = naming::jail_sockets_dir(&ground.run_dir(), &machine.boot).join(naming::API_SOCKET);
    let mut stream = until("the probe's socket", || UnixStream::connect(&path).ok());
    std::io::Write::write_all(&mut stream, format!("{} 3\n", libc::SYS_exit_group).as_bytes()).unwrap();
    until("its end", || is_over(&pidfd).then_some(()));
    let proc = format!("/proc/{}", runs.pid);
    until("no zombie", || (!std::path::Path::new(&proc).exists()).then_some(()));
    std::fs::remove_file(&path).unwrap();
    let (second, _) = ground.boot(&client, &machine, Nic::None);
    assert_ne!(second, runs, "its jail can be used again");
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}

/// The processes that `run` is mentioned to: a helper, what it has made of itself, a jailer.
fn processes_with(run: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(run) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn a_helper_killed_at_any_moment_of_a_start_leaves_nothing_unknown() {
    if !is_root() {
        return;
    }
    let mut ground = Ground::new();
    let machine = ground.machine(42);
    let run = ground.run_dir().display().to_string();
    let mut started = 0;
    for round in 0..30_u32 {
        let client = ground.client();
        client.create(&machine).unwrap();
        let (files, fds) = ground.files(&machine);
        ground.send_spawn(&client, &machine, files, fds);
        // From before it has read the request to after the VMM has begun.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 300));
        ground.restart(Signal::KILL);
        let client = ground.client();
        started += u32::from(naming::jail_dir(&ground.run_dir(), &machine.boot).join("vmm.pid").exists());
        client.destroy(&machine).unwrap();
        let own = ground.pid();
        until("nothing but the helper", || processes_with(&run).iter().all(|pid| *pid == own).then_some(()));
        ground.assert_clean();
    }
    assert!(0 < started && started < 30, "both sides of the start are met: {started}");
}
