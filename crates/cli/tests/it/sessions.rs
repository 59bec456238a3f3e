//! Sessions: started, listed, looked at, sent to, ended; and what is left when our part ends first.

use std::io::{Read, Write};
use std::process::Stdio;

use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wire::agent::message::ExitStatus;
use wire::attach::{Ended, Kind};

use crate::fake::{Connection, Home, Script, session, vm};

const DEV: &str = "GET /v1/vms/web/sessions/dev ";
const ATTACH: &str = "POST /v1/vms/web/sessions/dev/attach ";

/// A daemon whose VM web has a session dev that does `act` for whoever looks.
fn dev(act: impl Fn(&mut Connection) + Send + Sync + 'static) -> Home {
    Script::new()
        .answer(DEV, &session("dev", Value::Null))
        .on(ATTACH, move |_, connection| {
            connection.attach();
            act(connection);
        })
        .run()
}

fn body(home: &Home, line: &str) -> Value {
    serde_json::from_slice(&home.log.wait_for(line).body).unwrap()
}

#[test]
fn a_session_is_started_and_named() {
    let home = Script::new().answer("POST /v1/vms/web/sessions ", &session("dev", Value::Null)).run();
    assert_snapshot!(home.transcript(&["exec", "-d", "--name", "dev", "-e", "A=b", "-w", "/x", "web", "--", "npm", "run"]), @"
    status 0
    --- stdout
    dev
    --- stderr
    npm goes on in web: banger session attach web dev
    ");
    let asked = body(&home, "POST");
    assert_eq!((&asked["name"], &asked["command"]["argv"]), (&json!("dev"), &json!(["npm", "run"])));
    assert_eq!((&asked["command"]["env"], &asked["command"]["cwd"]), (&json!([["A", "b"]]), &json!("/x")));
    assert_eq!(asked["command"]["terminal"], Value::Null);
    let output = home.banger(&["exec", "-d", "-q", "--format", "json", "web", "true"]).output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&record["name"], output.stderr.len()), (&json!("dev"), 0));

    let home = Script::new().answer("POST /v1/vms/web/sessions ", &session("s1", Value::Null)).run();
    assert!(home.banger(&["exec", "-dt", "web"]).output().unwrap().status.success());
    let asked = body(&home, "POST");
    assert_eq!((&asked["name"], &asked["command"]["argv"]), (&Value::Null, &json!([])));
    assert_eq!(asked["command"]["terminal"], json!({"rows": 24, "cols": 80}));
    let refused = "POST /v1/vms/web/sessions ";
    for (code, status) in [("program_not_found", 127), ("program_not_executable", 126), ("already_exists", 125)] {
        let home = Script::new().refuse(refused, 500, code, "no").run();
        assert_eq!(home.banger(&["exec", "-d", "web", "x"]).output().unwrap().status.code(), Some(status), "{code}");
    }
}

#[test]
fn lists() {
    let sessions = json!({"sessions": [session("dev", Value::Null), session("sh", json!(137))]});
    let home = Script::new().answer("GET /v1/vms/web/sessions ", &sessions).run();
    assert_snapshot!(home.transcript(&["session", "list", "web"]), @"
    status 0
    --- stdout
    NAME  STATE        STARTED  CLIENTS  TTY  COMMAND
    dev   running      7 min    1        no   npm run dev
    sh    ended (137)  7 min    1        yes  npm run sh
    --- stderr
    ");
    assert_snapshot!(home.transcript(&["vm", "sessions", "ls", "--format", "name", "web"]), @"
    status 0
    --- stdout
    dev
    sh
    --- stderr
    ");
    let output = home.banger(&["session", "list", "--format", "json", "web"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["sessions"][1]["exit_status"], 137);
    let two = json!({"vms": [vm("web", "running"), vm("db", "stopped"), vm("fox", "running")]});
    let home = Script::new()
        .answer("GET /v1/vms ", &two)
        .answer("GET /v1/vms/7765620000000000/sessions ", &sessions)
        .refuse("GET /v1/vms/666f780000000000/sessions ", 503, "guest_unreachable", "the guest does not answer")
        .run();
    assert_snapshot!(home.transcript(&["session", "list"]), @"
    status 1
    --- stdout
    VM   NAME  STATE        STARTED  CLIENTS  TTY  COMMAND
    web  dev   running      7 min    1        no   npm run dev
    web  sh    ended (137)  7 min    1        yes  npm run sh
    --- stderr
    banger: cannot list the sessions of fox: the guest does not answer
    ");
    let output = home.banger(&["session", "list", "--format", "name"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web dev\nweb sh\n");
    let home = Script::new().refuse("GET /v1/vms/web/sessions ", 501, "unsupported", "web runs an older agent").run();
    assert_snapshot!(home.transcript(&["session", "list", "web"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot list the sessions of web: web runs an older agent
    ");
}

#[test]
fn what_was_printed_comes_first_and_the_status_is_the_commands() {
    let home = dev(|connection| {
        connection.send(Kind::Output, b"old\n");
        connection.send(Kind::Skipped, &(3_u64 << 20).to_le_bytes());
        connection.send(Kind::Error, b"bad\n");
        connection.exited(ExitStatus::Code { code: 7 });
    });
    assert_snapshot!(home.transcript(&["session", "attach", "-n", "5", "web", "dev"]), @"
    status 7
    --- stdout
    old
    --- stderr
    banger: 3 MiB of output are missing here: it came too fast
    bad
    ");
    let asked = body(&home, "POST");
    assert_eq!(asked, json!({"stdin": true, "follow": true, "tail": 5, "terminal": null}));
    let home = dev(|connection| connection.exited(ExitStatus::Signal { signal: 9 }));
    let output = home.banger(&["session", "attach", "--no-stdin", "web", "dev"]).output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    assert_eq!(body(&home, "POST")["stdin"], false);
    let home = Script::new().refuse(DEV, 404, "not_found", "web has no session dev").run();
    assert_snapshot!(home.transcript(&["session", "attach", "web", "dev"]), @"
    status 125
    --- stdout
    --- stderr
    banger: cannot attach to dev: web has no session dev
    ");
}

#[test]
fn input_goes_in_and_its_end_ends_nothing() {
    let home = dev(|connection| {
        connection.grant(100);
        assert_eq!(connection.receive(), Some((Kind::Input, b"hello\n".to_vec())));
        assert_eq!(connection.receive(), Some((Kind::InputEof, Vec::new())));
        connection.send(Kind::Output, b"still here\n");
        connection.exited(ExitStatus::Code { code: 0 });
    });
    let mut child =
        home.banger(&["session", "attach", "web", "dev"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"still here\n"[..]));
}

#[test]
fn a_signal_ends_our_part_only() {
    let home = dev(|connection| {
        connection.send(Kind::Output, b"up");
        // Nothing but the end of the connection follows.
        while let Some((kind, _)) = connection.receive() {
            assert_eq!(kind, Kind::InputEof);
        }
    });
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut command = home.banger(&["session", "attach", "web", "dev"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut up = [0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, "dev goes on: banger session stop web dev ends it\n");
    }
}

#[test]
fn logs_end_where_the_session_stands() {
    let home = dev(|connection| {
        connection.send(Kind::Output, b"one\n");
        connection.send(Kind::Error, b"two\n");
        connection.ended(&Ended::Read);
    });
    assert_snapshot!(home.transcript(&["session", "logs", "--tail", "2", "web", "dev"]), @"
    status 0
    --- stdout
    one
    --- stderr
    two
    ");
    assert_eq!(body(&home, "POST"), json!({"stdin": false, "follow": false, "tail": 2, "terminal": null}));
    let home = dev(|connection| connection.exited(ExitStatus::Code { code: 9 }));
    let output = home.banger(&["session", "logs", "-f", "web", "dev"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "the log was printed, whatever became of the command");
    let home = dev(|connection| {
        connection.send(Kind::Output, b"half");
    });
    assert_snapshot!(home.transcript(&["session", "logs", "web", "dev"]), @"
    status 1
    --- stdout
    half--- stderr
    banger: cannot follow dev in web: the connection to the daemon ended before the command did
    ");
}

#[test]
fn what_is_sent() {
    let sent = |args: &[&str], stdin: &[u8], name: &str| {
        let path = format!("/v1/vms/web/sessions/{name}");
        let home = Script::new()
            .answer(&format!("GET {path} "), &session(name, Value::Null))
            .answer(&format!("POST {path}/input"), &json!({"bytes": 3}))
            .run();
        let mut child = home.banger(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty());
        let request = home.log.wait_for(&format!("POST {path}/input"));
        (String::from_utf8(request.body).unwrap().replace("\r\n", "|"), request.line.ends_with("?eof=true"))
    };
    // The fake keeps the chunks' bodies joined.
    for (args, stdin, name, expected, ends) in [
        (&["session", "send", "web", "dev", "rs"][..], &b""[..], "dev", "rs", false),
        (&["session", "send", "web", "dev", "--enter", "make", "test"], b"", "dev", "make test\n", false),
        (&["session", "send", "--enter", "web", "sh"], b"", "sh", "\r", false),
        (&["session", "send", "--stdin", "--eof", "web", "dev"], b"from a pipe", "dev", "from a pipe", true),
        (&["session", "send", "--eof", "web", "dev"], b"", "dev", "", true),
    ] {
        assert_eq!(sent(args, stdin, name), (expected.to_owned(), ends), "{args:?}");
    }
    let input = "POST /v1/vms/web/sessions/dev/input";
    let home = Script::new().refuse(input, 409, "wrong_state", "the session dev has ended").run();
    assert_snapshot!(home.transcript(&["session", "send", "web", "dev", "x"]), @"
    status 1
    --- stdout
    --- stderr
    banger: cannot send to dev: the session dev has ended
    ");
}

#[test]
fn several_are_ended_at_once() {
    let home = Script::new()
        .answer("POST /v1/vms/web/sessions/dev/stop ", &session("dev", json!(0)))
        .refuse("POST /v1/vms/web/sessions/job/stop ", 404, "not_found", "web has no session job")
        .answer("POST /v1/vms/web/sessions/dev/signal ", &session("dev", Value::Null))
        .answer("DELETE /v1/vms/web/sessions/dev ", &session("dev", json!(0)))
        .run();
    assert_snapshot!(home.transcript(&["session", "stop", "-t", "1m", "web", "dev", "job", "dev"]), @"
    status 1
    --- stdout
    dev
    --- stderr
    banger: cannot stop session job: web has no session job
    ");
    assert_eq!(body(&home, "POST /v1/vms/web/sessions/dev/stop"), json!({"timeout_ms": 60_000}));
    assert!(home.banger(&["session", "kill", "-s", "hup", "web", "dev"]).output().unwrap().status.success());
    assert_eq!(body(&home, "POST /v1/vms/web/sessions/dev/signal"), json!({"signal": 1}));
    let output = home.banger(&["session", "rm", "--format", "json", "web", "dev"]).output().unwrap();
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&outcome["results"][0]["name"], &outcome["results"][0]["error"]), (&json!("dev"), &Value::Null));
}
