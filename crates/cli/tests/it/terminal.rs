//! A person at a terminal: raw mode and back, sizes, a shell.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use wire::agent::message::ExitStatus;
use wire::attach::Kind;

use crate::fake::{DEADLINE, Home, Script, finished, operation, session, step};

pub(crate) struct Person {
    keyboard: File,
    child: Child,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Runs `banger` on a terminal of its own, 30 by 100, called xterm.
fn sit_down(home: &Home, args: &[&str]) -> Person {
    sit_down_at(home, args, &[("TERM", "xterm")])
}

/// The same with these variables.
fn sit_down_at(home: &Home, args: &[&str], variables: &[(&str, &str)]) -> Person {
    sit_down_with(env!("CARGO_BIN_EXE_banger").as_ref(), args, |command| {
        home.surround(command);
        command.envs(variables.iter().copied());
    })
}

/// Runs a program on a terminal of its own, 30 by 100, in the surroundings that it is given.
pub(crate) fn sit_down_with(program: &Path, args: &[&str], surround: impl FnOnce(&mut Command)) -> Person {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, size(30, 100)).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let again = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0).unwrap();
    // setsid(1) makes it the controlling terminal, so that sizes and signals arrive as from a real one.
    let mut command = Command::new("setsid");
    surround(&mut command);
    command.arg("--ctty").arg(program).args(args);
    let child = command.stdin(again(&slave)).stdout(again(&slave)).stderr(slave).spawn().unwrap();
    drop(command);
    let mut reader = File::from(again(&master));
    let (lines, screen) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut bytes) {
            if lines.send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    Person { keyboard: File::from(master), child, screen, seen: Vec::new() }
}

impl Person {
    fn sees(&mut self, text: &str) {
        self.sees_what(text, |seen| seen.windows(text.len()).any(|bytes| bytes == text.as_bytes()));
    }

    /// Sees `label` and behind it that it has lasted over a second.
    fn sees_over_a_second_of(&mut self, label: &str) {
        self.sees_what(label, |seen| is_over_a_second_of(&String::from_utf8_lossy(seen), label));
    }

    fn sees_what(&mut self, what: &str, is_there: impl Fn(&[u8]) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_there(&self.seen) {
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(error) => panic!("{what:?} never appeared ({error}): {}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.keyboard)
            .unwrap()
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the end: the status, and all that was on the screen.
    pub(crate) fn leaves(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        // Nobody else has the terminal open, so what is on its way ends.
        loop {
            match self.screen.recv_timeout(DEADLINE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody still has the terminal"),
            }
        }
        let modes = tcgetattr(&self.keyboard).unwrap().local_modes;
        assert!(
            modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG),
            "the terminal is not as it was"
        );
        (status.code(), String::from_utf8_lossy(&self.seen).into_owned())
    }
}

/// Whether `text` says somewhere that `label` has lasted over a second; what is said is rounded.
fn is_over_a_second_of(text: &str, label: &str) -> bool {
    text.split(label).skip(1).any(|rest| {
        let seconds = rest.split_once(" s").and_then(|(number, _)| number.parse::<f64>().ok());
        seconds.is_some_and(|seconds| seconds > 1.0)
    })
}

/// A shell that says what it is told, and ends at `q`.
fn shell(path: &str) -> Script {
    Script::new().on(path, |_, connection| {
        connection.attach();
        connection.grant(1000);
        connection.send(Kind::Output, b"$ ");
        while let Some((kind, payload)) = connection.receive() {
            match kind {
                Kind::Input if payload == b"q" => return connection.exited(ExitStatus::Code { code: 9 }),
                Kind::Input => connection.send(Kind::Output, format!("<{payload:?}>").as_bytes()),
                Kind::Resize => connection.send(Kind::Output, &payload),
                Kind::Signal => connection.send(Kind::Output, format!("signal {}", payload[0]).as_bytes()),
                other => panic!("{other:?}"),
            };
        }
    })
}

#[test]
fn a_shell_in_raw_mode() {
    let home = shell("POST /v1/vms/web/exec").run();
    for args in [&["exec", "-it", "web"][..], &["exec", "web"]] {
        let mut person = sit_down(&home, args);
        person.sees("$ ");
        assert!(person.is_raw());
        person.types("\x03\x1a");
        person.sees("<[3, 26]>");
        tcsetwinsize(&person.keyboard, size(50, 132)).unwrap();
        person.sees(r#"{"rows":50,"cols":132}"#);
        kill_process(Pid::from_child(&person.child), Signal::TERM).unwrap();
        person.sees("signal 15");
        person.types("q");
        assert_eq!(person.leaves().0, Some(9));
        let spec: Value = serde_json::from_slice(&home.log.wait_for("POST").body).unwrap();
        assert_eq!(spec["terminal"], json!({"rows": 30, "cols": 100}));
        assert_eq!(spec["stdin"], true);
    }
}

#[test]
fn a_session_is_left_by_keys_and_goes_on() {
    let home = shell("POST /v1/vms/web/sessions/sh/attach")
        .answer("GET /v1/vms/web/sessions/sh ", &session("sh", Value::Null))
        .run();
    let mut person = sit_down(&home, &["session", "attach", "web", "sh"]);
    person.sees("$ ");
    assert!(person.is_raw());
    person.types("\x03");
    person.sees("<[3]>");
    person.types("\x10x");
    person.sees("<[16, 120]>");
    person.types("\x10\x11");
    let (status, screen) = person.leaves();
    assert_eq!(status, Some(0));
    assert!(screen.contains("sh goes on: banger session attach web sh"), "{screen}");
    let asked: Value = serde_json::from_slice(&home.log.wait_for("POST").body).unwrap();
    assert_eq!(asked["terminal"], json!({"rows": 30, "cols": 100}));

    let mut person = sit_down(&home, &["session", "attach", "--detach-keys", "ctrl-a,d", "web", "sh"]);
    person.sees("$ ");
    person.types("\x10\x11");
    person.sees("<[16, 17]>");
    person.types("q");
    assert_eq!(person.leaves().0, Some(9), "one that ends while attached has its status");
}

#[test]
fn the_terminal_is_given_back_when_the_daemon_dies() {
    let home = Script::new()
        .on("POST /v1/vms/web/exec", |_, connection| {
            connection.attach();
            connection.grant(10);
            connection.receive();
        })
        .run();
    let mut person = sit_down(&home, &["exec", "-it", "web", "sh"]);
    let end = Instant::now() + DEADLINE;
    while !person.is_raw() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    person.types("x");
    let (status, screen) = person.leaves();
    assert_eq!(status, Some(125));
    assert!(screen.contains("banger:") && screen.contains("the connection to the daemon ended"), "{screen}");
}

#[test]
fn a_command_on_a_terminal_without_i_gets_no_input() {
    let home = Script::new()
        .on("POST /v1/vms/web/exec", |_, connection| {
            connection.attach();
            connection.send(Kind::Output, b"out");
            connection.exited(ExitStatus::Code { code: 0 });
        })
        .run();
    let (status, screen) = sit_down(&home, &["exec", "web", "ls"]).leaves();
    assert_eq!((status, screen.as_str()), (Some(0), "out"));
    let spec: Value = serde_json::from_slice(&home.log.wait_for("POST").body).unwrap();
    assert_eq!((&spec["stdin"], &spec["terminal"]), (&json!(false), &Value::Null));
}

#[test]
fn run_opens_a_shell_and_says_how_to_come_back() {
    let home = shell("POST /v1/vms/fox/exec").run();
    let mut person = sit_down(&home, &["run"]);
    person.sees("$ ");
    person.types("q");
    let (status, screen) = person.leaves();
    assert_eq!(status, Some(9));
    assert!(screen.contains("ready in ") && screen.contains("banger exec -it fox"), "{screen}");
}

#[test]
fn progress_is_drawn_and_cleared() {
    let (go, gone) = mpsc::channel();
    let gone = Mutex::new(gone);
    let home = Script::new()
        .on("GET /v1/operations/", move |_, connection| {
            connection.open();
            connection.event(&step("fetch", "running"));
            for done in [1_u64 << 20, 3 << 20] {
                connection.event(&json!({"event": "progress", "step": "fetch", "stage": "download", "done": done, "total": 4 << 20, "unit": "bytes"}));
                // Once it is shown that this takes a while: a part of its own.
                let part = json!({"event": "progress", "step": "fetch", "stage": "download", "part": "0123abcd", "done": done / 2, "total": 2 << 20, "unit": "bytes"});
                gone.lock().unwrap().recv_timeout(DEADLINE).unwrap();
                connection.event(&part);
            }
            gone.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            connection.event(&finished("succeeded", &Value::Null));
        })
        .run();
    let mut person = sit_down(&home, &["create", "--wait", "agent"]);
    person.sees("1.00 MiB/4.00 MiB");
    go.send(()).unwrap();
    person.sees("0123abcd [=====>");
    person.sees("3.00 MiB/4.00 MiB");
    go.send(()).unwrap();
    person.sees("1.50 MiB/2.00 MiB");
    person.sees_over_a_second_of("fox: download ");
    go.send(()).unwrap();
    let (status, screen) = person.leaves();
    assert_eq!(status, Some(0));
    assert!(screen.ends_with("fox\r\n"), "{screen:?}");
}

#[test]
fn a_terminal_that_hangs_up_cancels() {
    let home = Script::new()
        .on("GET /v1/operations/", |_, connection| {
            connection.open();
            connection.event(&step("spawn_vmm", "running"));
            connection.log().wait_for("DELETE /v1/operations/");
            connection.event(&finished("unwound", &json!({"code": "cancelled", "message": "cancelled"})));
        })
        .answer("DELETE /v1/operations/", &operation("running", &Value::Null))
        .run();
    let mut person = sit_down(&home, &["create"]);
    // A stage of over a second leaves a line behind when it ends: that is written to nobody.
    person.sees_over_a_second_of("spawn vmm ");
    let Person { keyboard, mut child, screen, .. } = person;
    drop((keyboard, screen));
    assert_eq!(child.wait().unwrap().code(), Some(129));
    home.log.wait_for("DELETE /v1/operations/");
}

#[test]
fn the_console_on_a_terminal_is_escaped() {
    let home = Script::new()
        .on("GET /v1/vms/web/logs", |_, connection| {
            connection.open();
            connection.bytes(b"boot\r\n\x1b]0;owned\x07ok\r\n");
        })
        .run();
    let (_, screen) = sit_down(&home, &["logs", "web"]).leaves();
    assert_eq!(screen, "boot\r\n\\x1b]0;owned\\x07ok\r\n");
    let (_, screen) = sit_down(&home, &["logs", "--raw", "web"]).leaves();
    assert!(screen.contains("\x1b]0;owned\x07"));
}

#[test]
fn prune_shows_what_would_go_and_asks() {
    for (answer, deleted, code) in [("y\n", true, 0), ("\n", false, 1), ("\u{4}", false, 1), ("\u{3}", false, 130)] {
        let home = Script::new().run();
        let mut person = sit_down(&home, &["prune"]);
        person.sees("Delete this VM and its disk, 1.2 GiB? [y/N] ");
        let shown = String::from_utf8_lossy(&person.seen).into_owned();
        assert!(shown.contains("db") && !shown.contains("web"), "{shown}");
        person.types(answer);
        assert_eq!(person.leaves().0, Some(code), "{answer:?}");
        assert_eq!(home.log.lines().iter().any(|line| line.starts_with("DELETE")), deleted, "{answer:?}");
    }
}

#[test]
fn a_watch_ends_at_q_or_ctrl_c_and_gives_the_screen_back() {
    for key in ["q", "\x03"] {
        let home = crate::listing::busy().run();
        let mut person = sit_down(&home, &["stats", "--watch", "--every", "100ms"]);
        person.sees("\x1b[?1049h");
        person.sees("50.0%");
        assert!(person.is_raw());
        person.types(key);
        let (status, screen) = person.leaves();
        assert_eq!(status, Some(0), "{key:?}");
        assert!(screen.ends_with("\x1b[?25h\x1b[?1049l"), "{screen:?}");
    }
    let home = crate::listing::busy().run();
    let mut person = sit_down(&home, &["stats", "--watch"]);
    person.sees("50.0%");
    kill_process(Pid::from_child(&person.child), Signal::TERM).unwrap();
    let (status, screen) = person.leaves();
    assert_eq!(status, Some(0));
    assert!(screen.ends_with("\x1b[?1049l"), "{screen:?}");
}

#[test]
fn a_guest_is_told_which_terminal_it_has() {
    let env = |args: &[&str], variables: &[(&str, &str)]| {
        let home = shell("POST /v1/vms/web/exec").run();
        let mut person = sit_down_at(&home, args, variables);
        person.sees("$ ");
        person.types("q");
        assert_eq!(person.leaves().0, Some(9));
        serde_json::from_slice::<Value>(&home.log.wait_for("POST").body).unwrap()["env"].clone()
    };
    let colours = [("TERM", "tmux-256color"), ("COLORTERM", "truecolor")];
    let told = json!([["TERM", "tmux-256color"], ["COLORTERM", "truecolor"]]);
    assert_eq!(env(&["exec", "web"], &colours), told);
    assert_eq!(env(&["exec", "-it", "web", "top"], &colours), told);
    let own = json!([["TERM", "vt100"], ["COLORTERM", "truecolor"]]);
    assert_eq!(env(&["exec", "-it", "-e", "TERM=vt100", "web", "top"], &colours), own);
    // What only this host knows would leave the guest's programs without a terminal.
    assert_eq!(env(&["exec", "web"], &[("TERM", "xterm-kitty")]), json!([]));
}

#[test]
fn a_shell_in_a_workspace_ends_with_what_is_true() {
    for (state, said) in [("running", "fox is still running"), ("stopped", "fox is off; on again: banger start fox")] {
        let home = shell("POST /v1/vms/fox/exec").answer("GET /v1/vms/fox ", &crate::fake::vm("fox", state)).run();
        std::fs::create_dir(home.path().join("repo")).unwrap();
        let mut person = sit_down(&home, &["run", "repo", "--branch", "try"]);
        person.sees("$ ");
        assert!(person.is_raw());
        person.types("\x03");
        person.sees("<[3]>");
        tcsetwinsize(&person.keyboard, size(40, 90)).unwrap();
        person.sees(r#"{"rows":40,"cols":90}"#);
        person.types("q");
        let (status, screen) = person.leaves();
        assert!(status == Some(9) && screen.contains(said), "{screen}");
        let spec: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/vms/fox/exec").body).unwrap();
        assert_eq!((&spec["cwd"], &spec["terminal"]), (&json!("/root/repo"), &json!({"rows": 30, "cols": 100})));
    }
    let home = shell("POST /v1/vms/fox/exec").refuse("GET /v1/vms/fox ", 404, "not_found", "there is no VM fox").run();
    let mut person = sit_down(&home, &["run"]);
    person.sees("$ ");
    person.types("q");
    let (_, screen) = person.leaves();
    assert!(!screen.contains("banger exec -it fox"), "it was deleted meanwhile: {screen}");
}

#[test]
fn a_shell_over_its_time_gives_the_terminal_back() {
    let home = Script::new()
        .on("POST /v1/vms/web/exec", |_, connection| {
            connection.attach();
            connection.send(Kind::Output, b"$ ");
            while let Some((kind, payload)) = connection.receive() {
                if kind == Kind::Signal {
                    assert_eq!(payload, [15]);
                    return connection.exited(ExitStatus::Signal { signal: 15 });
                }
            }
        })
        .run();
    let (status, screen) = sit_down(&home, &["exec", "--timeout", "300ms", "web"]).leaves();
    assert_eq!(status, Some(124), "{screen}");
    assert!(screen.contains("a shell was ended in web: it ran for 300 ms"), "{screen}");
}

#[test]
fn a_patch_on_a_terminal_has_colours_and_drives_nothing() {
    let home = crate::export::web().run();
    for verb in ["export", "diff"] {
        let (status, screen) = sit_down(&home, &["workspace", verb, "web"]).leaves();
        assert_eq!(status, Some(0), "{screen}");
        assert!(screen.contains("\x1b[36m@@ -1 +1,2 @@\x1b[0m\r\n\x1b[31m-old\x1b[0m\r\n"), "{screen:?}");
        assert!(screen.contains("\x1b[32m+\\x1b[2J\x1b[0m") && !screen.contains("\x1b[2J"), "{screen:?}");
    }
    assert!(!home.log.lines().iter().any(|line| line.ends_with("/exported")), "looking at it is not keeping it");
    let (_, screen) =
        sit_down_at(&home, &["workspace", "diff", "web"], &[("TERM", "xterm"), ("NO_COLOR", "1")]).leaves();
    assert!(screen.contains("\r\n+\\x1b[2J\r\n") && !screen.contains('\x1b'), "{screen:?}");
}
