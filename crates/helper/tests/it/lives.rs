//! A VMM outlives the helper that started it.

use std::os::unix::net::UnixStream;

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
    let (runs, pidfd) = ground.boot(&ground.client(), &machine, false);
    let mut probe = ground.probe(&machine);
    for signal in [Signal::TERM, Signal::HUP, Signal::KILL] {
        ground.restart(signal);
        assert_eq!(probe.call(libc::SYS_getpid, ""), Ok(1), "it runs on, as process 1 of its own");
        let (again, _) = ground.boot(&ground.client(), &machine, false);
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
    let (runs, pidfd) = ground.boot(&client, &machine, false);
    let path = naming::jail_sockets_dir(&ground.run_dir(), &machine.boot).join(naming::API_SOCKET);
    let mut stream = until("the probe's socket", || UnixStream::connect(&path).ok());
    std::io::Write::write_all(&mut stream, format!("{} 3\n", libc::SYS_exit_group).as_bytes()).unwrap();
    until("its end", || is_over(&pidfd).then_some(()));
    let proc = format!("/proc/{}", runs.pid);
    until("no zombie", || (!std::path::Path::new(&proc).exists()).then_some(()));
    std::fs::remove_file(&path).unwrap();
    let (second, _) = ground.boot(&client, &machine, false);
    assert_ne!(second, runs, "its jail can be used again");
    client.destroy(&machine).unwrap();
    ground.assert_clean();
}
