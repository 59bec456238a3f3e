//! A guest that was saved and restored: what it is called then, and what goes on.
//!
//! What needs a kernel of its own (clock, randomness, NIC, connections, the boot id that the kernel shows) is left out by an
//! agent that is a process of the host.

use std::io::Write;
use std::path::Path;

use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{BootConfig, Failure, GitIdentity, GuestNetwork, Reply, Request, SshHostKey, Stage};
use wire::agent::renewal::{Renewal, Renewed, SERVICES};
use wire::agent::session::{SessionReply, SessionRequest};

use crate::host::{Agent, Host, content, exec, shell, until};

const UUID: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

/// A machine called `name`.
fn config(name: &str) -> BootConfig {
    let digit = u32::from(name.as_bytes()[0]) % 16;
    let network = GuestNetwork {
        mac: format!("52:54:00:00:00:0{digit:x}"),
        addresses: vec!["192.0.2.9/24".into()],
        gateways: vec!["192.0.2.1".into()],
        dns: vec![format!("192.0.2.{digit}")],
    };
    BootConfig {
        hostname: name.into(),
        machine_id: format!("{digit:x}").repeat(32),
        network: Some(network),
        ssh_host_keys: vec![SshHostKey {
            algorithm: "ed25519".into(),
            private: format!("{name}'s private key\n"),
            public: format!("{name}'s public key\n"),
        }],
        authorized_keys: vec![format!("ssh-ed25519 of-{name}")],
        git_identity: Some(GitIdentity { name: name.into(), email: format!("{name}@example.org") }),
        unix_ns: 1_700_000_000_000_000_000,
        entropy_hex: "a5".repeat(64),
        image_env: vec![("WHO".into(), name.into())],
        ..BootConfig::default()
    }
}

fn renewal(name: &str) -> Renewal {
    Renewal {
        vm: format!("vm-{name}"),
        boot: format!("boot-{name}"),
        boot_uuid: Some(UUID.into()),
        config: config(name),
        disk_bytes: Some(1 << 40),
        services: SERVICES.map(str::to_owned).to_vec(),
    }
}

impl Host {
    fn renew(&mut self, renewal: Renewal) -> Reply {
        self.ask(&Request::Renew(Box::new(renewal)))
    }

    /// What the first words on a new connection name.
    fn names(&mut self) -> (String, String) {
        self.open();
        let hello = self.hello.as_ref().unwrap();
        (hello.vm.clone(), hello.boot.clone())
    }
}

fn text(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An agent configured as `parent`, whose image has a place for SSH.
fn parent() -> (Agent, Host) {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.root().join("etc/ssh")).unwrap();
    std::fs::create_dir_all(agent.root().join("root")).unwrap();
    let mut host = agent.connect();
    host.open();
    assert!(matches!(host.configure(config("parent")), Reply::Configured(_)));
    (agent, host)
}

#[test]
fn a_renewed_guest_is_called_anew_and_nothing_of_its_parent_is_left() {
    let (agent, mut host) = parent();
    let root = agent.root();
    for name in ["one", "two", "two"] {
        let reply = host.renew(renewal(name));
        let Reply::Renewed(Renewed { warnings, timeline }) = reply else { panic!("{reply:?}") };
        assert_eq!(warnings, Vec::<String>::new());
        assert!(timeline.iter().any(|(stage, _)| stage == "ids"), "{timeline:?}");
    }
    assert_eq!(text(&root, "etc/hostname"), "two\n");
    assert!(text(&root, "etc/hosts").contains("127.0.1.1 two\n"));
    assert!(text(&root, "etc/resolv.conf").contains("nameserver 192.0.2.4\n"));
    assert_eq!(text(&root, "etc/machine-id"), format!("{}\n", "4".repeat(32)));
    assert_eq!(text(&root, "etc/ssh/ssh_host_ed25519_key"), "two's private key\n");
    assert_eq!(text(&root, "run/banger/boot_id"), format!("{UUID}\n"));
    assert!(text(&root, "root/.ssh/authorized_keys").contains("of-two"));
    assert_eq!(text(&root, "root/.gitconfig"), "[user]\n\tname = \"two\"\n\temail = \"two@example.org\"\n");
    for path in ["etc/hosts", "etc/resolv.conf", "root/.ssh/authorized_keys", "root/.gitconfig"] {
        assert!(!text(&root, path).contains("one"), "{path}");
    }
    assert_eq!(host.sh("echo $WHO").text(), "two\n");
    let Reply::Health(health) = host.ask(&Request::Health) else { panic!("no health") };
    assert_eq!(health.kernel_boot_id, UUID);
    assert_eq!(host.names(), ("vm-two".into(), "boot-two".into()));
    // One that goes on where it was keeps its boot's id.
    let same = Renewal { boot_uuid: None, ..renewal("two") };
    assert!(matches!(host.renew(same), Reply::Renewed(_)));
    assert_eq!(text(&root, "run/banger/boot_id"), format!("{UUID}\n"));
    let Reply::Health(health) = host.ask(&Request::Health) else { panic!("no health") };
    assert_eq!(health.kernel_boot_id, UUID);
}

#[test]
fn a_renewal_that_makes_no_sense_changes_nothing() {
    let (agent, mut host) = parent();
    type Spoil = fn(&mut Renewal);
    let spoilt: [Spoil; 4] = [
        |r| r.boot_uuid = Some("7".into()),
        |r| r.config.machine_id = "../../etc/passwd".into(),
        |r| r.config.entropy_hex = "a5".into(),
        |r| r.config.unix_ns = 0,
    ];
    for spoil in spoilt {
        let mut wrong = renewal("wrong");
        spoil(&mut wrong);
        let reply = host.renew(wrong);
        assert!(matches!(reply, Reply::Failed(Failure::Refused { .. })), "{reply:?}");
    }
    assert!(!agent.root().join("etc/hostname").exists());
    assert_eq!(host.sh("echo $WHO").text(), "parent\n");
    assert_eq!(host.names(), (String::new(), String::new()));
}

#[test]
fn a_guest_that_is_nobody_yet_cannot_become_another() {
    let agent = Agent::start();
    let mut host = agent.connect();
    host.open();
    let reply = host.renew(renewal("early"));
    assert!(matches!(reply, Reply::Failed(Failure::Refused { .. })), "{reply:?}");
    host.open();
    assert_eq!(host.hello.as_ref().unwrap().stage, Stage::Unconfigured);
}

#[test]
fn an_id_that_cannot_be_written_fails_the_renewal_and_the_guest_keeps_its_name() {
    let (agent, mut host) = parent();
    std::fs::create_dir_all(agent.root().join("etc/machine-id/in-the-way")).unwrap();
    let reply = host.renew(renewal("one"));
    let Reply::Failed(Failure::Os { act, .. }) = &reply else { panic!("{reply:?}") };
    assert!(act.contains("/etc/machine-id"), "{act}");
    assert_eq!(host.sh("echo $WHO").text(), "parent\n");
    assert_eq!(host.names(), (String::new(), String::new()));
}

#[test]
fn freezing_disturbs_nobody() {
    let (_agent, mut host) = parent();
    let stream = host.start(&wire::agent::message::ExecRequest { stdin: true, ..exec(&["cat"]) });
    for quiesce in [false, true] {
        assert_eq!(host.ask(&Request::Freeze { quiesce }), Reply::Done { bytes: 0 });
    }
    host.send(Kind::Data, Channel::Input, stream, b"still here\n");
    host.eof(stream);
    assert_eq!(host.finish(stream).text(), "still here\n");
}

/// What a restore is to the agent: the host's end of the channel closes in the middle of anything, and another one opens.
#[test]
fn across_a_restore_sessions_go_on_and_commands_of_the_old_connection_end() {
    let (agent, mut old) = parent();
    let ticks = agent.root().join("ticks");
    let session = shell(&format!("echo begun > {0}; read line; echo $line >> {0}", ticks.display()));
    let start = SessionRequest::Start { name: Some("work".into()), command: session };
    assert!(matches!(old.ask(&Request::Session(start)), Reply::Session(SessionReply::Session(_))));
    assert_eq!(content(&ticks), "begun\n");
    let hung = agent.root().join("hung");
    // It waits in the shell itself: dash forgets a signal that comes while it starts a program.
    let script = "mkfifo {}.fifo; exec 3<> {}.fifo; trap 'echo told > {}; exit' HUP; echo waiting > {}; read line <&3";
    old.start(&shell(&script.replace("{}", &hung.display().to_string())));
    // A shell that has no trap yet would end without a word.
    assert_eq!(content(&hung), "waiting\n");
    let never = serde_json::to_vec(&Request::Exec(Box::new(shell("echo never")))).unwrap();
    let frame = old.frame_bytes(Kind::Open, Channel::Input, 99, &never);
    old.stream.write_all(&frame[..frame.len() - 3]).unwrap();
    drop(old);
    let mut host = agent.connect();
    // No filler: what was half there is gone with its connection.
    host.open();
    assert!(matches!(host.renew(renewal("fork")), Reply::Renewed(_)));
    until("the command is told", || (content(&hung) == "told\n").then_some(()));
    let sent = host.begin(&Request::Session(SessionRequest::Send { name: "work".into(), ends: true }));
    host.send(Kind::Data, Channel::Input, sent, b"after\n");
    host.eof(sent);
    host.finish(sent);
    until("the session goes on", || (content(&ticks) == "begun\nafter\n").then_some(()));
    until("nothing of the old connection runs", || agent.children().is_empty().then_some(()));
    assert_eq!(host.names(), ("vm-fork".into(), "boot-fork".into()));
}
