//! The attach stream: exact bytes, statuses, signals, a reader that goes away.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::Stdio;

use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wire::agent::message::ExitStatus;
use wire::api::{ApiError, ErrorCode};
use wire::attach::{Ended, Kind};

use crate::fake::{Connection, Home, Script};

/// A guest whose command does `act`.
fn guest(act: impl Fn(&mut Connection) + Send + Sync + 'static) -> Home {
    Script::new()
        .on("POST /v1/vms/web/exec", move |_, connection| {
            connection.attach();
            act(connection);
        })
        .run()
}

/// The request of `banger exec` with `args`.
fn spec(args: &[&str]) -> Value {
    let home = guest(|connection| connection.exited(ExitStatus::Code { code: 0 }));
    let output = home.banger(args).env("OUTER", "yes").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&home.log.wait_for("POST").body).unwrap()
}

#[test]
fn what_is_asked_for() {
    for args in [&["exec", "web", "--", "a", "--", "-b"][..], &["vm", "exec", "web", "a", "--", "-b"]] {
        assert_eq!(spec(args)["argv"], json!(["a", "--", "-b"]), "{args:?}");
    }
    assert_eq!(spec(&["exec", "web", "ls", "-l", "-t", "--help"])["argv"], json!(["ls", "-l", "-t", "--help"]));
    let all = spec(&["exec", "-e", "A=1=2", "-e", "OUTER", "-w", "/x", "-u", "me:us", "-l", "web", "true"]);
    assert_eq!(all["env"], json!([["A", "1=2"], ["OUTER", "yes"]]));
    assert_eq!((&all["cwd"], &all["user"], &all["login"]), (&json!("/x"), &json!("me:us"), &json!(true)));
    assert_eq!((&all["stdin"], &all["terminal"]), (&json!(true), &Value::Null), "no terminal is no terminal");
    assert_eq!(spec(&["exec", "-t", "web", "top"])["terminal"], json!({"rows": 24, "cols": 80}));
    assert_eq!(spec(&["exec", "web"])["argv"], json!([]));
}

#[test]
fn statuses() {
    let error = |code| Ended::Failed { error: ApiError::new(code, "cannot run x in web: no") };
    for (ended, status) in [
        (Ended::Exited { status: ExitStatus::Code { code: 42 } }, 42),
        (Ended::Exited { status: ExitStatus::Code { code: 255 } }, 255),
        (Ended::Exited { status: ExitStatus::Signal { signal: 9 } }, 137),
        (error(ErrorCode::ProgramNotExecutable), 126),
        (error(ErrorCode::ProgramNotFound), 127),
        (error(ErrorCode::GuestUnreachable), 125),
    ] {
        let sent = ended.clone();
        let home = guest(move |connection| connection.ended(&sent));
        let output = home.banger(&["exec", "web", "x"]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{ended:?}");
        assert!(output.stdout.is_empty());
    }
    let home =
        Script::new().refuse("POST /v1/vms/web/exec", 409, "wrong_state", "cannot run x in web: it is stopped").run();
    assert_snapshot!(home.transcript(&["exec", "web", "x"]), @"
    status 125
    --- stdout
    --- stderr
    banger: cannot run x in web: it is stopped
    ");
}

#[test]
fn a_lost_connection() {
    let home = guest(|connection| {
        connection.send(Kind::Output, b"half");
    });
    assert_snapshot!(home.transcript(&["exec", "web", "x"]), @"
    status 125
    --- stdout
    half--- stderr
    banger: cannot follow x in web: the connection to the daemon ended before the command did
    ");
}

#[test]
fn nonsense_from_the_daemon() {
    let home = guest(|connection| {
        connection.bytes(&[99, 0, 0, 0, 0, 0, 0, 0]);
    });
    assert_snapshot!(home.transcript(&["exec", "web", "x"]), @"
    status 125
    --- stdout
    --- stderr
    banger: cannot follow x in web: the daemon sent nonsense: an unknown message of kind 99
    ");
}

/// Bytes that are not alike anywhere near.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn bytes_are_exact_both_ways() {
    const LENGTH: usize = (8 << 20) + 12_345;
    const WINDOW: u32 = 100_000;
    let home = guest(|connection| {
        let mut outstanding = WINDOW as usize;
        connection.grant(WINDOW);
        while let Some((kind, payload)) = connection.receive() {
            match kind {
                Kind::Input => {
                    outstanding = outstanding.checked_sub(payload.len()).expect("more input than was granted");
                    connection.send(Kind::Output, &payload);
                    connection.send(Kind::Error, &payload[..payload.len() / 2]);
                    connection.grant(u32::try_from(payload.len()).unwrap());
                    outstanding += payload.len();
                }
                Kind::InputEof => return connection.exited(ExitStatus::Code { code: 3 }),
                other => panic!("{other:?}"),
            }
        }
    });
    let sent = noise(LENGTH);
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(&sent).unwrap();
    input.rewind().unwrap();
    let output = home.banger(&["exec", "-i", "web", "cat"]).stdin(input).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout == sent, "{} bytes came back", output.stdout.len());
    assert!(output.stderr.len() < LENGTH && output.stderr.len() > LENGTH / 3);
}

#[test]
fn input_waits_for_credit() {
    let home = guest(|connection| {
        connection.grant(5);
        assert_eq!(connection.receive(), Some((Kind::Input, b"01234".to_vec())));
        connection.grant(2);
        assert_eq!(connection.receive(), Some((Kind::Input, b"56".to_vec())));
        connection.exited(ExitStatus::Code { code: 0 });
    });
    let mut child = home.banger(&["exec", "web", "head"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"0123456789").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "the command is over though its input is not");
}

#[test]
fn a_reader_that_goes_away() {
    let home = guest(|connection| while connection.send(Kind::Output, &[b'y'; 1000]) {});
    let mut child = home.banger(&["exec", "web", "yes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_slow_reader_holds_the_guest_back() {
    const MOST: usize = 8 << 20;
    let home = guest(|connection| {
        let mut sent = 0;
        while sent < MOST && connection.send(Kind::Output, &[b'z'; 65_536]) {
            sent += 65_536;
        }
        connection.exited(ExitStatus::Code { code: 0 });
    });
    let mut child = home.banger(&["exec", "web", "zs"]).stdout(Stdio::piped()).spawn().unwrap();
    let status_path = format!("/proc/{}/status", child.id());
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 1];
    stdout.read_exact(&mut first).unwrap();
    let status = std::fs::read_to_string(status_path).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 40 << 10, "peak of {peak} kB");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() + 1, MOST);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_are_passed_on() {
    let home = guest(|connection| {
        connection.send(Kind::Output, b"ready");
        for expected in [15, 1, 2] {
            loop {
                match connection.receive() {
                    Some((Kind::Signal, number)) => {
                        assert_eq!(number, [expected]);
                        break;
                    }
                    Some((Kind::InputEof, _)) => {}
                    other => panic!("{other:?}"),
                }
            }
            connection.send(Kind::Output, &[expected]);
        }
        connection.exited(ExitStatus::Signal { signal: 2 });
    });
    let mut child = home.banger(&["exec", "web", "x"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 5];
    stdout.read_exact(&mut ready).unwrap();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        kill_process(pid, signal).unwrap();
        let mut answer = [0; 1];
        stdout.read_exact(&mut answer).unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_second_interrupt_ends_it() {
    let home = guest(|connection| {
        connection.send(Kind::Output, b"a");
        let mut signals = Vec::new();
        while let Some((kind, payload)) = connection.receive() {
            if kind == Kind::Signal {
                signals.push(payload[0]);
                connection.send(Kind::Output, b"b");
            }
        }
        assert_eq!(signals, [2, 9]);
    });
    let mut child = home.banger(&["exec", "web", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let mut byte = [0; 1];
    for _ in 0..2 {
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn a_non_blocking_output_is_waited_for() {
    const LENGTH: usize = 1 << 20;
    let home = guest(|connection| {
        for _ in 0..LENGTH / 1024 {
            connection.send(Kind::Output, &[b'n'; 1024]);
        }
        connection.exited(ExitStatus::Code { code: 0 });
    });
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::empty()).unwrap();
    let mut command = home.banger(&["exec", "web", "x"]);
    let mut child = command.stdout(write).spawn().unwrap();
    drop(command);
    let mut bytes = Vec::new();
    File::from(read).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), LENGTH);
    assert!(child.wait().unwrap().success());
}

#[test]
fn failures_as_json() {
    let home = Script::new()
        .refuse("POST /v1/vms/web/exec", 409, "wrong_state", "web is not running")
        .refuse("GET /v1/vms/web/logs", 404, "not_found", "no VM \"web\"")
        .run();
    assert_snapshot!(home.transcript(&["exec", "--format", "json", "web", "--", "true"]));
    assert_snapshot!(home.transcript(&["logs", "--format", "json", "web"]));
}

#[test]
fn variables_of_files_come_before_those_of_the_command_line() {
    let home = guest(|connection| connection.exited(ExitStatus::Code { code: 0 }));
    std::fs::write(home.path().join("a.env"), "# of the file\nA=file\nB=file = \"quoted\"\nOUTER\nNOT_SET\n").unwrap();
    std::fs::write(home.path().join("b.env"), "B=later").unwrap();
    let args = ["exec", "-e", "A=line", "--env-file", "a.env", "--env-file", "b.env", "web", "true"];
    assert!(home.banger(&args).env("OUTER", "yes").status().unwrap().success());
    let spec: Value = serde_json::from_slice(&home.log.wait_for("POST").body).unwrap();
    let set = [["A", "file"], ["B", "file = \"quoted\""], ["OUTER", "yes"], ["B", "later"], ["A", "line"]];
    assert_eq!(spec["env"], json!(set), "the last one of a name counts");

    std::fs::write(home.path().join("bad.env"), "A=b\nexport C=d\n").unwrap();
    for (name, file) in [("wrong", "bad.env"), ("missing", "none.env")] {
        assert_snapshot!(format!("env_file_{name}"), home.transcript(&["exec", "--env-file", file, "web", "true"]));
    }
}

/// Waits for a signal.
fn signal(connection: &mut Connection) -> Option<u8> {
    loop {
        match connection.receive()? {
            (Kind::Signal, number) => return Some(number[0]),
            (Kind::InputEof, _) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_command_over_its_time_is_ended() {
    let script = |vm: &str| {
        Script::new().on(&format!("POST /v1/vms/{vm}/exec"), |_, connection| {
            connection.attach();
            connection.send(Kind::Output, b"out");
            assert_eq!(signal(connection), Some(15));
            connection.exited(ExitStatus::Code { code: 3 });
        })
    };
    let home = script("web").run();
    assert_snapshot!("exec_timed_out", home.transcript(&["exec", "--timeout", "50ms", "web", "make"]));
    let home = script("fox").run();
    let output = home.banger(&["run", "--rm", "-q", "--timeout", "50ms", "--", "make"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    home.log.wait_for("DELETE /v1/vms/fox");
}

#[test]
fn a_command_within_its_time_has_its_own_status() {
    for time in ["1h", "0"] {
        let home = guest(|connection| connection.exited(ExitStatus::Code { code: 3 }));
        assert_eq!(home.banger(&["exec", "--timeout", time, "web", "x"]).status().unwrap().code(), Some(3));
    }
    let home = guest(|connection| {
        assert_eq!(signal(connection), Some(15));
        connection.ended(&Ended::Failed { error: ApiError::new(ErrorCode::GuestUnreachable, "web does not answer") });
    });
    let output = home.banger(&["exec", "--timeout", "50ms", "web", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "nobody knows how it ended: {output:?}");
}

#[test]
fn run_passes_piped_input_on() {
    let home = Script::new()
        .on("POST /v1/vms/fox/exec", |_, connection| {
            connection.attach();
            connection.grant(1000);
            while let Some((Kind::Input, bytes)) = connection.receive() {
                connection.send(Kind::Output, &bytes);
            }
            connection.exited(ExitStatus::Code { code: 0 });
        })
        .run();
    let mut child =
        home.banger(&["run", "-q", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"exact\xff\0bytes").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"exact\xff\0bytes");
    let spec: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/vms/fox/exec").body).unwrap();
    assert_eq!((&spec["stdin"], &spec["terminal"]), (&json!(true), &Value::Null));
}
