//! The client against the real agent, which serves a directory of the host.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use daemon::guest::{ExecStream, Guest, GuestError};
use daemon::model::machine::{ExitReason, MachineSpec, NicAttachment, NicSpec};
use daemon::vmm::sim::Sim;
use daemon::vmm::{Launch, Vmm, VmmDriver};
use tokio::time::timeout;
use wire::agent::message::{Control, Ending, ExecRequest, ExitStatus, Failure, Stage, TerminalSize};

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The agent of this very source, built when the tests are.
pub(crate) fn agent() -> PathBuf {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let daemon = PathBuf::from(env!("CARGO_BIN_EXE_bangerd"));
        let profile = daemon.parent().expect("a program is in a directory");
        let release = profile.ends_with("release").then_some("--release");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/Cargo.toml");
        let mut cargo = sys::process::command(env!("CARGO"));
        cargo.args(["build", "--quiet", "--bin", "banger-agent", "--manifest-path", manifest]).args(release);
        cargo.arg("--target-dir").arg(profile.parent().expect("a profile is in a directory"));
        sys::process::run(&mut cargo).unwrap();
        profile.join("banger-agent")
    };
    AGENT.get_or_init(build).clone()
}

/// A `sim` guest and the connection to it.
pub(crate) struct Running {
    pub(crate) _dir: tempfile::TempDir,
    pub(crate) sim: Sim,
    pub(crate) launch: Launch,
    pub(crate) vmm: Box<dyn Vmm>,
    pub(crate) guest: Guest,
}

pub(crate) async fn running() -> Running {
    running_as(Vec::new()).await
}

/// The same with an image of this environment.
pub(crate) async fn running_as(image_env: Vec<(String, String)>) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("boot")).unwrap();
    let vm = "0011223344556677".parse().unwrap();
    let spec = MachineSpec {
        boot: "8899aabbccddeeff".parse().unwrap(),
        vcpus: 1,
        memory_mib: 128,
        vmlinux: at("vmlinux"),
        initramfs: at("initramfs"),
        drives: Vec::new(),
        nic: NicSpec { mac: NicSpec::mac_of(&vm), nat: false, publish: Vec::new() },
        boot_dir: at("boot"),
        console_log: at("console.log"),
        vmm_log: at("vmm.log"),
        saved: None,
        slot: None,
        vm,
    };
    let sim = Sim::new(agent());
    let launch = sim.plan(&spec, &NicAttachment::QemuUser { publish: Vec::new() }).unwrap();
    let vmm = sim.spawn(&launch).await.unwrap();
    let guest = Guest::connect(&launch.agent_socket(), tokio::time::Instant::now() + SOON).await.unwrap();
    assert_eq!(guest.hello().stage, Stage::Unconfigured);
    let config = wire::agent::message::BootConfig { hostname: "web".into(), image_env, ..Default::default() };
    guest.configure(config).await.unwrap();
    Running { _dir: dir, sim, launch, vmm, guest }
}

impl Running {
    pub(crate) async fn end(mut self) {
        self.sim.ensure_gone(&self.launch).await.unwrap();
        timeout(SOON, self.vmm.wait()).await.unwrap();
        assert!(matches!(timeout(SOON, self.guest.closed()).await.unwrap(), GuestError::Closed));
    }

    pub(crate) async fn sh(&self, script: &str) -> ExecStream {
        self.guest.exec(sh(script)).await.unwrap()
    }
}

pub(crate) fn sh(script: &str) -> ExecRequest {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest { argv, stdin: true, unix_ns: sys::clock::unix_ns(), ..ExecRequest::default() }
}

pub(crate) async fn output(exec: &ExecStream) -> Vec<u8> {
    let mut all = BytesMut::new();
    while let Some(bytes) = timeout(SOON, exec.read_output()).await.expect("output comes").unwrap() {
        all.extend_from_slice(&bytes);
    }
    all.to_vec()
}

#[tokio::test]
async fn commands_end_as_they_do() {
    let running = running().await;
    for (script, expected) in [
        ("exit 42", ExitStatus::Code { code: 42 }),
        ("kill -9 $$", ExitStatus::Signal { signal: 9 }),
        ("exit 0", ExitStatus::Code { code: 0 }),
    ] {
        let exec = running.sh(script).await;
        exec.started().await.unwrap();
        assert_eq!(timeout(SOON, exec.exited()).await.unwrap().unwrap(), expected);
    }
    let missing = ExecRequest { argv: vec!["/no/such".into()], ..ExecRequest::default() };
    let exec = running.guest.exec(missing).await.unwrap();
    assert!(matches!(exec.started().await, Err(GuestError::Failed(Failure::ProgramNotFound { .. }))));
    running.end().await;
}

#[tokio::test]
async fn bytes_survive_both_ways() {
    let running = running().await;
    let exec = running.sh("cat; echo done >&2; exit 3").await;
    let sent: Vec<u8> = (0_u32..16 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let writing = async {
        for chunk in Bytes::from(sent.clone()).chunks(100_003) {
            assert!(exec.write(Bytes::copy_from_slice(chunk)).await.unwrap());
        }
        exec.close_input();
    };
    let ((), got) = tokio::join!(writing, output(&exec));
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    assert_eq!(exec.read_error().await.unwrap().unwrap(), "done\n");
    assert_eq!(exec.exited().await.unwrap(), ExitStatus::Code { code: 3 });
    running.end().await;
}

#[tokio::test]
async fn a_flood_nobody_reads_blocks_nobody_and_dies_with_its_stream() {
    let running = running().await;
    let flood = running.sh("echo $$ >&2; exec cat /dev/zero").await;
    let pid: u32 =
        String::from_utf8(flood.read_error().await.unwrap().unwrap().to_vec()).unwrap().trim().parse().unwrap();
    let still = running.sh("sleep 1000").await;
    still.started().await.unwrap();
    for _ in 0..20 {
        let exec = running.sh("echo hello").await;
        assert_eq!(output(&exec).await, b"hello\n");
    }
    assert!(sys::process::Identity::of(pid).is_some());
    drop(flood);
    drop(still);
    let deadline = Instant::now() + SOON;
    while sys::process::Identity::of(pid).is_some() {
        assert!(Instant::now() < deadline, "the command outlived its stream");
        tokio::task::yield_now().await;
    }
    running.end().await;
}

#[tokio::test]
async fn a_terminal_is_resized_and_signalled() {
    let running = running().await;
    let size = TerminalSize { rows: 11, cols: 22 };
    let script = "stty size; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done";
    let exec = running.guest.exec(ExecRequest { terminal: Some(size), ..sh(script) }).await.unwrap();
    let mut text = String::new();
    while !text.contains("ready") {
        text += &String::from_utf8_lossy(&timeout(SOON, exec.read_output()).await.unwrap().unwrap().unwrap());
    }
    assert!(text.starts_with("11 22"), "{text:?}");
    exec.control(Control::Resize(TerminalSize { rows: 33, cols: 44 })).await.unwrap();
    assert!(String::from_utf8_lossy(&output(&exec).await).contains("33 44"));
    assert_eq!(exec.exited().await.unwrap(), ExitStatus::Code { code: 7 });
    let exec = running.sh("sleep 1000").await;
    exec.started().await.unwrap();
    exec.control(Control::Signal { signal: 15 }).await.unwrap();
    assert_eq!(timeout(SOON, exec.exited()).await.unwrap().unwrap(), ExitStatus::Signal { signal: 15 });
    running.end().await;
}

#[tokio::test]
async fn trees_go_in_and_come_back() {
    let running = running().await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(100_000);
    header.set_mode(0o640);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_mtime(1_600_000_000);
    header.set_cksum();
    builder.append_data(&mut header, "dir/file", vec![b'x'; 100_000].as_slice()).unwrap();
    let tar = builder.into_inner().unwrap();
    assert_eq!(running.guest.put_tree("/in", tar.as_slice()).await.unwrap(), 100_000);
    let tree = running.guest.get_tree("/in/dir", false).await.unwrap();
    let mut back = Vec::new();
    while let Some(bytes) = tree.read().await.unwrap() {
        back.extend_from_slice(&bytes);
    }
    assert_eq!(tree.done().await.unwrap(), 100_000);
    let mut archive = tar::Archive::new(back.as_slice());
    let names: Vec<String> =
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert!(names.iter().any(|name| name == "dir/file"), "{names:?}");
    assert!(running.guest.get_tree("/none", false).await.unwrap().done().await.is_err());
    running.end().await;
}

#[tokio::test]
async fn a_new_host_takes_over_from_one_that_died_in_the_middle_of_a_frame() {
    let running = running().await;
    let exec = running.sh("cat > /dev/null").await;
    assert!(exec.write(Bytes::from(vec![0; 200_000])).await.unwrap());
    let Running { _dir, sim, launch, vmm, guest } = running;
    drop(exec);
    drop(guest);
    let guest = Guest::connect(&launch.agent_socket(), tokio::time::Instant::now() + SOON).await.unwrap();
    assert_eq!(guest.hello().stage, Stage::Serving);
    guest.health().await.unwrap();
    Running { _dir, sim, launch, vmm, guest }.end().await;
}

#[tokio::test]
async fn a_guest_that_is_asked_to_ends() {
    let mut running = running().await;
    running.guest.shutdown(Ending::PowerOff).await.unwrap();
    assert_eq!(timeout(SOON, running.vmm.wait()).await.unwrap(), ExitReason::Ended { code: Some(0) });
    running.end().await;
}

#[tokio::test]
async fn what_listens_is_told() {
    let running = running().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let found = timeout(SOON, running.guest.listeners()).await.unwrap().unwrap();
    assert!(found.sockets.iter().any(|socket| socket.port == port), "{found:?}");
    drop(listener);
    let found = timeout(SOON, running.guest.listeners()).await.unwrap().unwrap();
    assert!(!found.sockets.iter().any(|socket| socket.port == port), "{found:?}");
    running.end().await;
}
