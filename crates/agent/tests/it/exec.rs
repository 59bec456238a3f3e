//! The contract of commands.

use wire::agent::message::{
    BootConfig, Control, ExecRequest, ExitStatus, Failure, Level, Reply, Request, Stage, TerminalSize,
};

use crate::host::{Agent, Host, exec, is_alive, shell};
use wire::agent::frame::{Channel, Kind};

fn failure(host: &mut Host, request: &ExecRequest) -> Failure {
    match host.run(request).reply {
        Some(Reply::Failed(failure)) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn bytes_and_statuses_are_exact() {
    let agent = Agent::start();
    let mut host = agent.host();
    let outcome = host.sh(r"printf 'a\0b\377'; printf err >&2; exit 42");
    assert_eq!((outcome.out.as_slice(), outcome.err.as_slice(), outcome.code()), (&b"a\0b\xff"[..], &b"err"[..], 42));
    assert_eq!(host.sh("exit 0").code(), 0);
    assert_eq!(host.sh("exit 255").code(), 255);
    let outcome = host.sh("kill -KILL $$");
    assert_eq!((outcome.status(), outcome.code()), (ExitStatus::Signal { signal: 9 }, 137));
    assert_eq!(host.sh("kill -TERM $$").code(), 143);
    // Nothing of the agent's own settings is inherited.
    let outcome = host.sh("ulimit -c >/dev/null; trap; kill -PIPE $$; echo survived");
    assert_eq!((outcome.code(), outcome.text()), (141, String::new()));
    assert_eq!(host.sh("ls /proc/self/fd | wc -l").text().trim(), "4", "no descriptor of the agent is inherited");
}

#[test]
fn standard_input_ends_when_the_host_says_so() {
    let agent = Agent::start();
    let mut host = agent.host();
    assert_eq!(host.sh("wc -c").text().trim(), "0", "without input there is none");
    let stream = host.start(&ExecRequest { stdin: true, ..shell("cat; echo end") });
    host.send(Kind::Data, Channel::Input, stream, b"in ");
    host.send(Kind::Data, Channel::Input, stream, b"parts ");
    host.eof(stream);
    assert_eq!(host.finish(stream).text(), "in parts end\n");
}

#[test]
fn what_cannot_run_is_named() {
    let agent = Agent::start();
    let mut host = agent.host();
    let program = |name: &str| name.to_owned();
    for name in ["/none", "none", "/etc/passwd/none"] {
        assert_eq!(failure(&mut host, &exec(&[name])), Failure::ProgramNotFound { program: program(name) });
    }
    for name in ["/etc/passwd", "/etc"] {
        assert!(matches!(failure(&mut host, &exec(&[name])), Failure::ProgramNotExecutable { .. }), "{name}");
    }
    std::fs::write(agent.root().join("garbage"), b"\x7fELFgarbage").unwrap();
    sys::fs::set_mode(&agent.root().join("garbage"), 0o755).unwrap();
    assert!(matches!(failure(&mut host, &exec(&["./garbage"])), Failure::ProgramNotExecutable { .. }));
    let nowhere = ExecRequest { cwd: Some("/none".into()), ..exec(&["true"]) };
    assert!(matches!(failure(&mut host, &nowhere), Failure::Directory { .. }));
    let nobody = ExecRequest { user: Some("no such".into()), ..exec(&["true"]) };
    assert!(matches!(failure(&mut host, &nobody), Failure::NoSuchUser { .. }));
    for argv in [&[][..], &[""], &["a\0b"]] {
        assert!(matches!(failure(&mut host, &exec(argv)), Failure::Refused { .. }), "{argv:?}");
    }
    let huge = exec(&["true", &"x".repeat(200_000)]);
    assert!(matches!(failure(&mut host, &huge), Failure::Os { .. }));
    assert!(!failure(&mut host, &nowhere).to_string().contains("os error"));
}

#[test]
fn a_command_and_a_shell_run_through_another_program() {
    let agent = Agent::start();
    let mut host = agent.host();
    let through = || ["sh", "-c", "printf '<%s>' \"$@\"", "sh", "a b"].map(str::to_owned).to_vec();
    assert_eq!(host.run(&ExecRequest { through: through(), ..exec(&["c", ""]) }).text(), "<a b><c><>");
    let login = ExecRequest { through: through(), login: true, ..exec(&["c"]) };
    assert!(host.run(&login).text().ends_with("<a b><c>"));
    let shell = ExecRequest { through: through(), login: true, ..exec(&[]) };
    assert!(host.run(&shell).text().ends_with("<a b>"));
    let missing = ExecRequest { through: vec!["/none".into()], ..exec(&["true"]) };
    assert_eq!(failure(&mut host, &missing), Failure::ProgramNotFound { program: "/none".into() });
}

#[test]
fn the_environment_is_layered() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.open();
    assert_eq!(host.hello.as_ref().unwrap().stage, Stage::Unconfigured);
    let pairs = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let config = BootConfig { image_env: pairs(&[("A", "image"), ("B", "image")]), ..BootConfig::default() };
    let configured = host.configure(config);
    let other = BootConfig { image_env: pairs(&[("A", "other")]), ..BootConfig::default() };
    assert_eq!(host.configure(other), configured, "configured once");
    let request = ExecRequest { env: pairs(&[("B", "request"), ("C", "x=y\nz")]), ..exec(&["env", "-0"]) };
    let text = host.run(&request).text();
    let has = |line: &str| text.split('\0').any(|l| l == line);
    for line in ["A=image", "B=request", "C=x=y\nz", "LANG=C.UTF-8"] {
        assert!(has(line), "{line} in {text}");
    }
    assert!(text.split('\0').any(|l| l.starts_with("PATH=/usr/local/sbin:")));
    assert!(!text.contains("TERM="));
    host = {
        drop(host);
        agent.host()
    };
    assert_eq!(host.hello.as_ref().unwrap().stage, Stage::Serving);
}

#[test]
fn directory_and_user_are_as_asked() {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.root().join("somewhere/here")).unwrap();
    sys::fs::set_mode(agent.root().parent().unwrap(), 0o755).unwrap();
    let mut host = agent.host();
    let here = ExecRequest { cwd: Some("/somewhere/here".into()), ..exec(&["pwd"]) };
    assert_eq!(host.run(&here).text().trim(), agent.root().join("somewhere/here").to_str().unwrap());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::fs::create_dir(agent.root().join("etc")).unwrap();
    std::fs::write(agent.root().join("etc/passwd"), "web:x:1234:1235:w:/somewhere:/bin/bash\n").unwrap();
    std::fs::write(agent.root().join("etc/group"), "web:x:1235:\nextra:x:77:web\n").unwrap();
    for (user, expected) in
        [("web", "1234 1235 1235 77"), ("1234:77", "1234 77 77"), ("4711", "4711 0 0"), ("web:extra", "1234 77 77")]
    {
        let request =
            ExecRequest { user: Some(user.into()), cwd: Some("/".into()), ..shell("echo $(id -u) $(id -g) $(id -G)") };
        assert_eq!(host.run(&request).text().trim(), expected, "{user}");
    }
    let login = ExecRequest { user: Some("web".into()), login: true, ..exec(&["printf", "%s|", "a b", "$HOME"]) };
    assert_eq!(host.run(&login).text(), "a b|$HOME|");
    let home = ExecRequest { user: Some("web".into()), ..shell("echo $USER $SHELL; pwd") };
    let text = host.run(&home).text();
    assert_eq!(text, format!("web /bin/bash\n{}\n", agent.root().join("somewhere").display()));
}

#[test]
fn a_terminal_has_a_size_and_signals() {
    let agent = Agent::start();
    let mut host = agent.host();
    let terminal = Some(TerminalSize { rows: 33, cols: 77 });
    let script = "trap 'stty size; exit 5' WINCH; stty size; echo $TERM; while :; do sleep 0.01; done";
    let stream = host.start(&ExecRequest { terminal, ..shell(script) });
    let mut seen = String::new();
    while !seen.contains("xterm-256color") {
        seen.push_str(&String::from_utf8(host.frame().payload).unwrap());
    }
    assert!(seen.starts_with("33 77\r\n"), "{seen:?}");
    host.control(stream, Control::Resize(TerminalSize { rows: 10, cols: 20 }));
    let outcome = host.finish(stream);
    assert_eq!((outcome.code(), outcome.text().contains("10 20")), (5, true));

    let stream = host.start(&ExecRequest { terminal, ..exec(&["cat"]) });
    host.send(Kind::Data, Channel::Input, stream, b"\x03");
    assert_eq!(host.finish(stream).code(), 130, "what is typed reaches the foreground group");
    let stream = host.start(&ExecRequest { terminal, ..exec(&["cat"]) });
    host.eof(stream);
    assert_eq!(host.finish(stream).code(), 0, "the end of input is typed");
    let stream = host.start(&shell("sleep 1000 & wait"));
    host.control(stream, Control::Signal { signal: 15 });
    assert_eq!(host.finish(stream).code(), 143, "the whole group is signalled");
}

#[test]
fn a_grandchild_that_keeps_the_output_open_is_not_waited_for() {
    let agent = Agent::start();
    let mut host = agent.host();
    let outcome = host.sh("sleep 1000 & echo $!; head -c 200000 /dev/zero");
    assert_eq!(outcome.code(), 0);
    let at = outcome.out.iter().position(|b| *b == b'\n').unwrap();
    assert_eq!(outcome.out.len() - at - 1, 200_000, "what the command itself wrote is complete");
    let pid: u32 = String::from_utf8_lossy(&outcome.out[..at]).parse().unwrap();
    assert!(is_alive(pid), "and it goes on");
    host.sh(&format!("kill {pid}"));
}

#[test]
fn other_requests_are_answered() {
    let agent = Agent::start();
    let mut host = agent.host();
    let Reply::Health(health) = host.ask(&Request::Health) else { panic!("no health") };
    assert!(health.memory_total_kib > health.memory_available_kib && health.memory_available_kib > 0);
    assert_eq!(health.kernel_boot_id.len(), 36);
    assert_eq!(host.ask(&Request::Sync), Reply::Done { bytes: 0 });
    let Reply::Ready(ready) = host.ask(&Request::Await { level: Level::System }) else { panic!("not ready") };
    assert!(ready.note.is_some());
    for (json, expected) in [
        (&br#"{"request":"teleport"}"#[..], Failure::Unsupported),
        (b"{}", Failure::Refused { why: String::new() }),
        (br#"{"request":"exec","argv":3,"unix_ns":0}"#, Failure::Refused { why: String::new() }),
        (b"\xff", Failure::Refused { why: String::new() }),
    ] {
        host.send(Kind::Open, Channel::Input, 4711, json);
        let Some(Reply::Failed(failure)) = host.finish(4711).reply else { panic!("answered") };
        assert_eq!(std::mem::discriminant(&failure), std::mem::discriminant(&expected), "{failure}");
    }
}
