//! The whole product with guests that are processes instead of machines (`BANGER_VMM=sim`): the programs, the database, the
//! agent's protocol and the files are the real ones, so that many lives of many VMs fit into a test.
//!
//! `BANGER_SOAK` lengthens what is a sample here; a number larger than one is how many lives the soak lives.

use crate::death::{self, Back, CREATE};
use crate::guest::host::{Host, eventually, soak};
use crate::lives;

#[test]
fn lives_of_vms_leave_nothing_with_the_daemon() {
    lives::leave_nothing(Host::simulated(), soak().unwrap_or(12), 4);
}

#[test]
fn fifty_at_once_are_all_made_and_all_deleted() {
    let host = Host::simulated();
    host.ok(&["ps"]);
    let names: Vec<String> = (0..50).map(|number| format!("vm-{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| host.ok(&["create", "--name", name, "--wait", "agent"]));
        }
    });
    assert_eq!(host.ok(&["ps", "--format", "name"]).lines().count(), 50);
    assert_eq!(host.guests(), 50);
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| host.ok(&["rm", name]));
        }
    });
    assert_eq!(host.guests(), 0);
    host.ends_clean();
}

fn killed_at_every_step(kind: &str, arrange: &[&[&str]], verb: &[&str]) {
    death::of_the_daemon_at_every_step(Host::simulated(), kind, arrange, verb);
}

const CREATE_OFF: &[&str] = &["create", "--name", "web", "--no-start"];

#[test]
fn a_daemon_killed_in_a_create_converges() {
    killed_at_every_step("vm.create", &[], CREATE);
}

#[test]
fn a_daemon_killed_in_a_start_converges() {
    killed_at_every_step("vm.start", &[CREATE_OFF], &["start", "web", "--wait", "agent"]);
}

#[test]
fn a_daemon_killed_in_a_stop_converges() {
    killed_at_every_step("vm.stop", &[CREATE], &["stop", "web"]);
}

#[test]
fn a_daemon_killed_in_a_restart_converges() {
    killed_at_every_step("vm.restart", &[CREATE], &["restart", "web", "--wait", "agent"]);
}

#[test]
fn a_daemon_killed_in_a_kill_converges() {
    killed_at_every_step("vm.kill", &[CREATE], &["kill", "web"]);
}

#[test]
fn a_daemon_killed_in_a_change_converges() {
    killed_at_every_step("vm.set", &[CREATE_OFF], &["set", "web", "--vcpu", "2", "--disk-size", "9G"]);
}

#[test]
fn a_daemon_killed_in_a_delete_converges() {
    killed_at_every_step("vm.delete", &[CREATE], &["rm", "web"]);
}

#[test]
fn each_daemon_takes_over_what_runs_once_and_at_once() {
    death::of_the_daemon_again_and_again(Host::simulated(), &["web", "db", "cache"]);
}

#[test]
fn a_vmm_that_is_killed_leaves_a_vm_that_starts() {
    death::of_a_vmm(Host::simulated());
}

#[test]
fn a_power_cut_leaves_vms_that_are_off_and_start() {
    death::of_the_machine(Host::simulated());
}

#[test]
fn a_state_directory_of_an_hour_ago_converges_beside_what_runs() {
    death::of_the_last_hour(Host::simulated(), Back::Everything, true);
}

#[test]
fn a_state_directory_of_an_hour_ago_converges_after_everything_ended() {
    death::of_the_last_hour(Host::simulated(), Back::Everything, false);
}

#[test]
fn a_database_of_an_hour_ago_converges_beside_the_disks_of_today() {
    death::of_the_last_hour(Host::simulated(), Back::Database, true);
}

#[test]
fn what_a_daemon_that_died_left_behind_is_gone_with_the_next() {
    let host = Host::simulated();
    host.ok(&["list"]);
    host.kill_daemon();
    let (boot, vm) = (host.home().join("run/boots/0123456789abcdef"), host.home().join("state/vms/0123456789abcdef"));
    for dir in [&boot, &vm] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("left"), b"behind").unwrap();
    }
    host.ok(&["list"]);
    eventually("the next daemon has swept", || !boot.exists() && !vm.exists());
    host.ends_clean();
}
