//! The daemon, started when it is needed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use insta::assert_snapshot;

use crate::fake::{Home, Script, transcript};

/// An installed tree below `home` whose daemon is a shell script.
fn installed(home: &Home, daemon: Option<&str>) -> PathBuf {
    let bin = home.path().join("prefix/bin");
    let libexec = home.path().join("prefix/libexec/banger");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&libexec).unwrap();
    let banger = bin.join("banger");
    std::fs::copy(env!("CARGO_BIN_EXE_banger"), &banger).unwrap();
    if let Some(script) = daemon {
        let path = libexec.join("bangerd");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    banger
}

fn run(home: &Home, banger: &PathBuf, args: &[&str]) -> String {
    let mut command = Command::new(banger);
    home.surround(&mut command);
    transcript(home, &command.args(args).output().unwrap())
}

#[test]
fn an_incomplete_installation() {
    let home = Home::empty();
    let banger = installed(&home, None);
    assert_snapshot!(run(&home, &banger, &["ps"]));
    assert_snapshot!(run(&home, &banger, &["exec", "web", "true"]));
}

#[test]
fn a_daemon_that_does_not_start() {
    let home = Home::empty();
    let banger =
        installed(&home, Some("echo first; printf 'cannot open the database: it is newer\\033[2J\\n\\n' >&2; exit 3"));
    assert_snapshot!(run(&home, &banger, &["ps"]));
    let home = Home::empty();
    let banger = installed(&home, Some("echo 'bangerd: cannot use the configuration: line 1: no'; exit 1"));
    assert_snapshot!(run(&home, &banger, &["ps"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot start the daemon: cannot use the configuration: line 1: no
    hint: its log: $HOME/state/bangerd.log
    ");
    // What an earlier daemon said last is not what this one said.
    let banger = installed(&home, Some("exit 1"));
    assert!(!run(&home, &banger, &["ps"]).contains("configuration"));
    let home = Home::empty();
    let banger = installed(&home, Some("kill -9 $$"));
    assert_snapshot!(run(&home, &banger, &["ps", "--format", "json"]));
}

#[test]
fn a_refusal_of_the_daemon_brings_its_hint() {
    let home = Home::empty();
    let banger =
        installed(&home, Some("echo 'bangerd: the database /x is damaged: no'; echo 'hint: put back a copy'; exit 1"));
    assert_snapshot!(run(&home, &banger, &["ps"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot start the daemon: the database /x is damaged: no
    hint: put back a copy
    ");
}

/// Listens, answers one request with no VMs, and leaves its session's id behind.
const DAEMON: &str = r#"exec python3 -c '
import os, socket
home = os.environ["BANGER_HOME"]
os.makedirs(home + "/run", exist_ok=True)
listener = socket.socket(socket.AF_UNIX)
try:
    listener.bind(home + "/run/bangerd.sock")
except OSError:
    raise SystemExit(0)
open(home + "/facts", "w").write("%d %d %s %s" % (os.getpid(), os.getsid(0), os.getcwd(), os.readlink("/proc/self/fd/0")))
listener.listen()
for _ in range(int(open(home + "/count").read())):
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"vms\":[]}")
'"#;

#[test]
fn the_daemon_gets_a_session_of_its_own() {
    let home = Home::empty();
    std::fs::write(home.path().join("count"), "1").unwrap();
    let banger = installed(&home, Some(DAEMON));
    assert_snapshot!(run(&home, &banger, &["ps", "-q"]), @"
    status 0
    --- stdout
    --- stderr
    ");
    let facts = std::fs::read_to_string(home.path().join("facts")).unwrap();
    let facts: Vec<&str> = facts.split(' ').collect();
    assert_eq!(facts[0], facts[1], "its process leads its session");
    assert_eq!(facts[2..], ["/", "/dev/null"]);
    let log = home.path().join("state/bangerd.log");
    assert_eq!(std::fs::metadata(log).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn two_commands_at_once_find_the_same_daemon() {
    let home = Home::empty();
    std::fs::write(home.path().join("count"), "4").unwrap();
    let banger = installed(&home, Some(DAEMON));
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| run(&home, &banger, &["ps", "-q"]))).collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), "status 0\n--- stdout\n--- stderr\n");
        }
    });
}

#[test]
fn a_socket_nobody_listens_on_is_no_daemon() {
    let home = Home::empty();
    std::fs::create_dir_all(home.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(home.path().join("run/bangerd.sock")).unwrap());
    let banger = installed(&home, None);
    assert!(run(&home, &banger, &["ps"]).contains("cannot start the daemon: there is no "));
}

#[test]
fn looking_at_the_daemon_does_not_start_it() {
    let home = Home::empty();
    let banger = installed(&home, Some("touch $BANGER_HOME/started"));
    assert_snapshot!(run(&home, &banger, &["daemon", "status"]));
    assert!(!home.path().join("started").exists());
}

#[test]
fn without_a_home() {
    let home = Home::empty();
    let output = home.banger(&["ps"]).env_remove("HOME").env_remove("BANGER_HOME").output().unwrap();
    assert_snapshot!(transcript(&home, &output));
    let output = home.banger(&["ps"]).env("BANGER_HOME", "relative").output().unwrap();
    assert!(transcript(&home, &output).contains("BANGER_HOME must be an absolute path, not relative"));
}

#[test]
fn a_runtime_directory_that_may_not_be_entered() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let home = Home::empty();
    std::fs::create_dir_all(home.path().join("run")).unwrap();
    std::fs::set_permissions(home.path().join("run"), std::fs::Permissions::from_mode(0o000)).unwrap();
    assert!(home.transcript(&["ps"]).contains("permission denied"));
}

#[test]
fn a_daemon_asked_to_end() {
    let home = Home::empty();
    assert_eq!(home.banger(&["daemon", "stop"]).output().unwrap().status.code(), Some(1), "there is none");
    let home = Script::new()
        .on("POST /v1/shutdown", |_, connection| {
            std::fs::remove_file(connection.socket()).unwrap();
            connection.bytes(b"HTTP/1.1 204 No Content\r\nserver: bangerd/9.9.9\r\n\r\n");
        })
        .run();
    assert_snapshot!(home.transcript(&["daemon", "stop"]), @"
    status 0
    --- stdout
    --- stderr
    The daemon is stopped.
    ");
    let home = Script::new().refuse("POST /v1/shutdown", 500, "internal", "cannot end: no").run();
    assert_eq!(home.banger(&["daemon", "stop"]).output().unwrap().status.code(), Some(1));
}
