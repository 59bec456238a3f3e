//! Commands that outlive their host: replay, watchers, input, ends, limits.

use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{Control, ExecRequest, ExitStatus, Failure, Reply, Request, TerminalSize};
use wire::agent::session::{
    KEPT_BYTES, Piece, Records, SESSIONS_MAX, SessionAttach, SessionRecord, SessionReply, SessionRequest, Source,
};

use crate::host::{Agent, Host, Outcome, exec, is_alive, shell, until};

/// Memory an agent may ever have while one session floods: see `streams`.
const PEAK_KIB_MAX: u64 = 24 * 1024;

impl Host {
    fn sessions(&mut self, request: SessionRequest) -> Reply {
        self.ask(&Request::Session(request))
    }

    fn launch(&mut self, name: Option<&str>, command: ExecRequest) -> SessionRecord {
        let reply = self.sessions(SessionRequest::Start { name: name.map(str::to_owned), command });
        let Reply::Session(SessionReply::Session(record)) = reply else { panic!("not started: {reply:?}") };
        record
    }

    fn listed(&mut self) -> Vec<SessionRecord> {
        let Reply::Session(SessionReply::Sessions { sessions }) = self.sessions(SessionRequest::List) else {
            panic!("no list")
        };
        sessions
    }

    fn attach(&mut self, attach: SessionAttach) -> u32 {
        self.begin(&Request::Session(SessionRequest::Attach(attach)))
    }

    fn log(&mut self, name: &str) -> String {
        let stream = self.attach(look(name, false));
        let outcome = self.finish(stream);
        assert!(matches!(outcome.reply, Some(Reply::Done { .. })), "{outcome:?}");
        seen(&outcome).0
    }

    fn begin_send(&mut self, name: &str, text: &str, ends: bool) -> u32 {
        let stream = self.begin(&Request::Session(SessionRequest::Send { name: name.to_owned(), ends }));
        if !text.is_empty() {
            self.send(Kind::Data, Channel::Input, stream, text.as_bytes());
        }
        self.eof(stream);
        stream
    }

    fn send_text(&mut self, name: &str, text: &str, ends: bool) -> Reply {
        let stream = self.begin_send(name, text, ends);
        self.finish(stream).reply.unwrap()
    }

    /// Takes what a watcher is shown until it has seen `text` or the end, and the answer to another request.
    fn watch_and(&mut self, watcher: u32, asked: u32, text: &str) -> (Outcome, Reply) {
        let (mut watched, mut answered) = (Outcome::default(), Outcome::default());
        while answered.reply.is_none() || (watched.reply.is_none() && !seen(&watched).0.contains(text)) {
            let frame = self.frame();
            if frame.head.stream == watcher {
                self.take(&frame, &mut watched);
            } else if frame.head.stream == asked {
                self.take(&frame, &mut answered);
            }
        }
        (watched, answered.reply.unwrap())
    }

    fn begin_signal(&mut self, name: &str, signal: i32) -> u32 {
        self.begin(&Request::Session(SessionRequest::Signal { name: name.to_owned(), signal }))
    }

    /// Takes what a watcher is shown until it has seen `text`.
    fn watch_for(&mut self, stream: u32, text: &str) -> Outcome {
        let mut outcome = Outcome::default();
        while !seen(&outcome).0.contains(text) {
            let frame = self.frame();
            if frame.head.stream == stream {
                self.take(&frame, &mut outcome);
                assert!(outcome.reply.is_none(), "it ended before {text:?}: {outcome:?}");
            }
        }
        outcome
    }

    fn stop(&mut self, name: &str, grace_ms: u64) -> ExitStatus {
        match self.sessions(SessionRequest::Stop { name: name.to_owned(), grace_ms }) {
            Reply::Exited(status) => status,
            other => panic!("not stopped: {other:?}"),
        }
    }
}

fn look(name: &str, follow: bool) -> SessionAttach {
    SessionAttach { name: name.to_owned(), input: true, follow, ..SessionAttach::default() }
}

/// What a watcher was shown: both streams' text, standard error's in brackets, and how many bytes it missed.
fn seen(outcome: &Outcome) -> (String, u64) {
    let (mut text, mut missed) = (String::new(), 0);
    let mut records = Records::default();
    let mut bytes = &outcome.out[..];
    while let Some(piece) = records.next(&mut bytes).unwrap() {
        match piece {
            Piece::Bytes(Source::Output, bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
            Piece::Bytes(Source::Error, bytes) => text.push_str(&format!("[{}]", String::from_utf8_lossy(bytes))),
            Piece::Skipped(count) => missed += count,
        }
    }
    (text, missed)
}

fn failure(reply: Reply) -> Failure {
    match reply {
        Reply::Failed(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn a_session_outlives_its_host_and_is_found_again() {
    let agent = Agent::start();
    let mut host = agent.host();
    let record = host.launch(Some("dev"), shell("echo up; echo bad >&2; while read x; do echo got $x; done; exit 7"));
    assert_eq!((record.name.as_str(), record.terminal, record.ended), ("dev", false, None));
    assert!(record.command.starts_with("sh -c 'echo up;"), "{}", record.command);
    assert!(is_alive(record.pid) && record.started_at_ms > 1_600_000_000_000);
    let watcher = host.attach(look("dev", true));
    host.watch_for(watcher, "[bad\n]");
    drop(host);

    let mut host = agent.host();
    assert_eq!(host.listed().len(), 1);
    let watcher = host.attach(look("dev", true));
    let replay = host.watch_for(watcher, "[bad\n]");
    assert_eq!(seen(&replay), ("up\n[bad\n]".to_owned(), 0));
    host.send(Kind::Data, Channel::Input, watcher, b"one\n");
    host.watch_for(watcher, "got one\n");
    let sent = host.begin_send("dev", "two\n", false);
    assert_eq!(host.watch_and(watcher, sent, "got two\n").1, Reply::Done { bytes: 4 });
    // The end of a watcher's input is not the end of the command's.
    host.eof(watcher);
    let sent = host.begin_send("dev", "three\n", true);
    let (end, reply) = host.watch_and(watcher, sent, "the end");
    assert_eq!(reply, Reply::Done { bytes: 6 });
    assert_eq!((seen(&end).0.as_str(), end.code()), ("got three\n", 7));

    let record = host.listed().remove(0);
    assert_eq!((record.ended, record.watchers), (Some(ExitStatus::Code { code: 7 }), 0));
    assert!(record.ended_at_ms.unwrap() >= record.started_at_ms);
    let again = host.attach(look("dev", true));
    let again = host.finish(again);
    assert_eq!((again.code(), seen(&again).0.ends_with("got three\n")), (7, true));
    assert_eq!(failure(host.send_text("dev", "x", false)), Failure::SessionOver { name: "dev".into() });
    host.sessions(SessionRequest::Forget { name: "dev".into() });
    assert!(host.listed().is_empty());
}

#[test]
fn several_watch_and_one_that_looks_back_ends_there() {
    let agent = Agent::start();
    let mut host = agent.host();
    host.launch(Some("count"), shell("for n in 1 2 3 4; do echo line $n; done; read x; echo $x"));
    let watchers = [host.attach(look("count", true)), host.attach(look("count", true))];
    host.watch_for(watchers[1], "line 4\n");
    assert_eq!(host.log("count"), "line 1\nline 2\nline 3\nline 4\n");
    let tail = host.attach(SessionAttach { tail_lines: Some(2), ..look("count", false) });
    assert_eq!(seen(&host.finish(tail)).0, "line 3\nline 4\n");
    assert_eq!(host.listed()[0].watchers, 2);
    let Reply::Health(health) = host.ask(&Request::Health) else { panic!("no health") };
    assert_eq!((health.sessions, health.execs), (1, 0));
    host.reset(watchers[0]);
    until("one has left", || (host.listed()[0].watchers == 1).then_some(()));
    let sent = host.begin_send("count", "bye\n", false);
    let (end, _) = host.watch_and(watchers[1], sent, "the end");
    assert_eq!((seen(&end).0.as_str(), end.code()), ("bye\n", 0));
    let Reply::Health(health) = host.ask(&Request::Health) else { panic!("no health") };
    assert_eq!(health.sessions, 0);
}

#[test]
fn a_flood_is_kept_short_and_holds_nobody_up() {
    let agent = Agent::start();
    let mut host = agent.host();
    let marks = agent.root().join("marks");
    // A mark for every MiB, so that it is seen that the command is not stopped by who does not look.
    let script = "while :; do head -c 1048576 /dev/zero | tr '\\0' '\\n'; echo >> marks; done";
    host.launch(Some("flood"), ExecRequest { cwd: Some("/".into()), ..shell(script) });
    let stalled = host.attach(look("flood", true));
    let mib = |count: u64| {
        until("the command goes on", || {
            std::fs::metadata(&marks).ok().filter(|metadata| metadata.len() >= count).map(|metadata| metadata.len())
        })
    };
    let done = mib(3);
    for n in 0..20 {
        assert_eq!(host.sh(&format!("echo {n}")).text(), format!("{n}\n"));
    }
    mib(done + 5);
    assert!(agent.peak_kib() < PEAK_KIB_MAX, "{} KiB", agent.peak_kib());
    // Once it takes bytes again it is told what it missed, and follows from there.
    let mut outcome = Outcome::default();
    host.grant(Channel::Output, stalled, 1 << 20);
    until("it is told", || {
        let frame = host.frame();
        if frame.head.stream == stalled {
            host.take(&frame, &mut outcome);
        }
        (seen(&outcome).1 > 0).then_some(())
    });
    let stream = host.begin(&Request::Session(SessionRequest::Stop { name: "flood".into(), grace_ms: 60_000 }));
    assert_eq!(host.finish(stream).status(), ExitStatus::Signal { signal: 15 });
    let record = host.listed().remove(0);
    // What was still in the pipes when it was stopped is not counted.
    assert!(record.output_bytes > 7 << 20, "{record:?}");
    assert!(host.log("flood").len() <= KEPT_BYTES);
}

#[test]
fn who_keeps_up_misses_nothing() {
    let agent = Agent::start();
    let mut host = agent.host();
    // Bursts that are kept whole, many times as much together: who has seen one asks for the next.
    const BURSTS: usize = 16;
    host.launch(Some("burst"), shell("for n in $(seq 16); do read go; seq 1 30000; done; echo end"));
    let watcher = host.attach(look("burst", true));
    let (mut text, mut missed) = (String::new(), 0);
    for _ in 0..BURSTS {
        host.send(Kind::Data, Channel::Input, watcher, b"go\n");
        let burst = seen(&host.watch_for(watcher, "\n30000\n"));
        assert!(burst.0.len() < KEPT_BYTES);
        (text, missed) = (text + &burst.0, missed + burst.1);
    }
    let outcome = host.finish(watcher);
    let rest = seen(&outcome);
    (text, missed) = (text + &rest.0, missed + rest.1);
    assert_eq!((missed, outcome.code()), (0, 0));
    assert_eq!(text.lines().count(), BURSTS * 30_000 + 1);
    assert!(text.len() > 8 * KEPT_BYTES && text.ends_with("\nend\n"));
}

#[test]
fn a_terminal_is_shared() {
    let agent = Agent::start();
    let mut host = agent.host();
    let terminal = Some(TerminalSize { rows: 10, cols: 20 });
    let script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done";
    let record = host.launch(None, ExecRequest { terminal, ..shell(script) });
    assert!(record.terminal);
    let watcher = host.attach(look(&record.name, true));
    assert!(seen(&host.watch_for(watcher, "ready")).0.starts_with("10 20\r\n"));
    let sized = SessionAttach { terminal: Some(TerminalSize { rows: 33, cols: 44 }), ..look(&record.name, true) };
    let other = host.attach(sized);
    host.watch_for(other, "33 44");
    host.control(watcher, Control::Resize(TerminalSize { rows: 55, cols: 66 }));
    host.watch_for(other, "55 66");
    host.send(Kind::Data, Channel::Input, other, b"\x03");
    assert_eq!(host.finish(other).code(), 130, "what is typed reaches the foreground group");

    let cat = host.launch(None, ExecRequest { terminal, ..exec(&["cat"]) });
    assert_ne!(cat.name, record.name);
    host.send_text(&cat.name, "", true);
    let watcher = host.attach(look(&cat.name, true));
    assert_eq!(host.finish(watcher).code(), 0, "the end of input is typed");
}

#[test]
fn ends_are_asked_for_and_then_enforced() {
    let agent = Agent::start();
    let mut host = agent.host();
    host.launch(
        Some("polite"),
        shell("exec 2>/dev/null; trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done"),
    );
    let watcher = host.attach(look("polite", true));
    host.watch_for(watcher, "up\n");
    assert_eq!(host.stop("polite", 60_000), ExitStatus::Code { code: 3 });
    assert_eq!(host.stop("polite", 60_000), ExitStatus::Code { code: 3 }, "one that has ended has");
    assert_eq!(host.log("polite"), "up\nbye\n");

    host.launch(Some("stubborn"), shell("exec 2>/dev/null; trap '' TERM; echo up; while :; do sleep 0.01; done"));
    let watcher = host.attach(look("stubborn", true));
    host.watch_for(watcher, "up\n");
    assert_eq!(host.stop("stubborn", 50), ExitStatus::Signal { signal: 9 });

    let terminal = Some(TerminalSize { rows: 10, cols: 20 });
    host.launch(Some("shell"), ExecRequest { terminal, ..shell("PS1=ready exec bash --norc -i") });
    let watcher = host.attach(look("shell", true));
    host.watch_for(watcher, "ready");
    assert!(matches!(host.stop("shell", 60_000), ExitStatus::Code { .. } | ExitStatus::Signal { signal: 1 }));

    host.launch(Some("told"), shell("exec 2>/dev/null; trap 'echo usr1' USR1; echo up; while :; do sleep 0.01; done"));
    let watcher = host.attach(look("told", true));
    host.watch_for(watcher, "up\n");
    let signalled = host.begin_signal("told", 10);
    host.watch_and(watcher, signalled, "usr1\n");
    let signalled = host.begin_signal("told", 9);
    let (end, _) = host.watch_and(watcher, signalled, "the end");
    assert_eq!(end.status(), ExitStatus::Signal { signal: 9 });
    until("nothing is left", || agent.children().is_empty().then_some(()));
}

#[test]
fn refusals() {
    let agent = Agent::start();
    let mut host = agent.host();
    let named = |name: &str| name.to_owned();
    for wrong in ["", "-a", "A", "a b"] {
        let start = SessionRequest::Start { name: Some(named(wrong)), command: exec(&["true"]) };
        assert!(matches!(failure(host.sessions(start)), Failure::Refused { .. }), "{wrong:?}");
    }
    let missing = SessionRequest::Start { name: None, command: exec(&["/no/such"]) };
    assert!(matches!(failure(host.sessions(missing)), Failure::ProgramNotFound { .. }));
    assert!(host.listed().is_empty(), "what did not start is no session");

    host.launch(Some("dev"), exec(&["sleep", "1000"]));
    let again = SessionRequest::Start { name: Some(named("dev")), command: exec(&["true"]) };
    assert_eq!(failure(host.sessions(again)), Failure::SessionExists { name: named("dev") });
    let forget = SessionRequest::Forget { name: named("dev") };
    assert_eq!(failure(host.sessions(forget)), Failure::SessionRuns { name: named("dev") });
    let nonsense = SessionRequest::Signal { name: named("dev"), signal: 4711 };
    assert!(matches!(failure(host.sessions(nonsense)), Failure::Refused { .. }));
    for request in [
        SessionRequest::Attach(look("none", true)),
        SessionRequest::Send { name: named("none"), ends: false },
        SessionRequest::Signal { name: named("none"), signal: 15 },
        SessionRequest::Stop { name: named("none"), grace_ms: 0 },
        SessionRequest::Forget { name: named("none") },
    ] {
        assert_eq!(failure(host.sessions(request)), Failure::NoSuchSession { name: named("none") });
    }
    host.send(Kind::Open, Channel::Input, 4711, br#"{"request":"session","session":"teleport"}"#);
    assert_eq!(host.finish(4711).reply, Some(Reply::Failed(Failure::Unsupported)));

    // What never reads is given bytes, what has ended its input is not.
    host.send_text("dev", "x", true);
    assert!(matches!(failure(host.send_text("dev", "x", false)), Failure::Refused { .. }));
    host.stop("dev", 60_000);
    let record = host.launch(Some("dev"), exec(&["true"]));
    assert_eq!(record.name, "dev", "the name of one that has ended is free");
    assert_eq!(host.listed().len(), 1);
}

#[test]
fn there_is_a_limit_and_what_ended_first_gives_way() {
    let agent = Agent::start();
    let mut host = agent.host();
    host.launch(Some("first"), exec(&["true"]));
    until("it has ended", || host.listed()[0].ended);
    for _ in 1..SESSIONS_MAX {
        host.launch(None, exec(&["sleep", "1000"]));
    }
    host.launch(Some("last"), exec(&["sleep", "1000"]));
    let names: Vec<String> = host.listed().into_iter().map(|session| session.name).collect();
    assert_eq!((names.len(), names.contains(&"first".to_owned())), (SESSIONS_MAX, false));
    let more = SessionRequest::Start { name: None, command: exec(&["true"]) };
    assert_eq!(failure(host.sessions(more)), Failure::SessionsFull);
    for name in names {
        host.sessions(SessionRequest::Signal { name, signal: 9 });
    }
    until("all have ended", || agent.children().is_empty().then_some(()));
    host.launch(None, exec(&["true"]));
}
