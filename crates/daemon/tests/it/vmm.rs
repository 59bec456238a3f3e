//! One list of promises, kept by every VMM driver: spawn, adopt, end, kill, and never a signal to somebody else.
//!
//! `qemu` runs a kernel of two instructions that halts for ever; `sim` runs a stand-in for the agent that makes its socket
//! and waits. What is tested is the driver, not the guest.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::model::machine::{ExitReason, MachineSpec, NicAttachment, NicSpec};
use daemon::vmm::qemu::Qemu;
use daemon::vmm::sim::Sim;
use daemon::vmm::{Launch, VmmDriver, VmmError};
use sys::process::Identity;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

/// A directory of one boot; nothing of it may run any more when it is dropped.
struct Boot {
    dir: tempfile::TempDir,
    spec: MachineSpec,
}

impl Boot {
    fn new() -> Boot {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("vmlinux"), halting_kernel()).unwrap();
        std::fs::write(at("initramfs"), [0; 512]).unwrap();
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
        Boot { dir, spec }
    }

    fn plan(&self, driver: &dyn VmmDriver) -> Result<Launch, VmmError> {
        driver.plan(&self.spec, &NicAttachment::QemuUser { publish: self.spec.nic.publish.clone() })
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let left = Identity::recorded(&self.spec.boot_dir.join("vmm.pid")).unwrap();
        if let Some(identity) = left.filter(Identity::is_alive) {
            identity.signal(rustix::process::Signal::KILL).unwrap();
            assert!(std::thread::panicking(), "a VMM was left running");
        }
    }
}

/// An ELF with a PVH entry (the Xen note of type 18) at its first two instructions: `hlt`, and back to it.
fn halting_kernel() -> Vec<u8> {
    let mut elf = vec![0_u8; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &0x10_0000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 2, 0]);
    let mut header = |at: usize, kind: u32, offset: u64, address: u64, length: u64| {
        put(at, &kind.to_le_bytes());
        put(at + 4, &7_u32.to_le_bytes());
        for (i, word) in [offset, address, address, length, length, 4].iter().enumerate() {
            put(at + 8 + 8 * i, &word.to_le_bytes());
        }
    };
    header(64, 1, 0x200, 0x10_0000, 16);
    header(120, 4, 0x100, 0, 24);
    put(0x100, &[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
    put(0x10c, b"Xen\0");
    put(0x110, &0x10_0000_u64.to_le_bytes());
    put(0x200, b"\xf4\xeb\xfd");
    elf
}

/// Makes the socket it is told to and waits; ends with 7 when the file `end` appears beside it.
fn stand_in_agent(dir: &Path) -> PathBuf {
    let path = dir.join("agent");
    let script = r#"#!/usr/bin/python3
import socket, sys, time, os
path = sys.argv[2].removeprefix("unix:")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    listener.accept()[0].recv(1)
    sys.exit(7)
"#;
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    path
}

fn drivers(boot: &Boot) -> Vec<Box<dyn VmmDriver>> {
    let qemu = Qemu::probe(std::env::var_os("PATH").as_deref());
    vec![Box::new(Sim::new(stand_in_agent(boot.dir.path()))), Box::new(qemu)]
}

#[tokio::test]
async fn a_vmm_is_spawned_adopted_and_gone_once() {
    let boot = Boot::new();
    for driver in drivers(&boot) {
        let name = driver.name();
        let launch = boot.plan(driver.as_ref()).unwrap();
        assert_eq!(launch.driver, name);
        driver.ensure_gone(&launch).await.unwrap();
        assert!(driver.adopt(&launch).await.unwrap().is_none(), "{name}: nothing to adopt yet");

        let mut vmm = driver.spawn(&launch).await.unwrap();
        assert!(vmm.identity().is_alive());
        assert!(launch.agent_socket().exists(), "{name}");
        assert_eq!(rustix::process::getsid(pid(vmm.identity())).unwrap(), pid(vmm.identity()).unwrap(), "own session");
        assert!(timeout(Duration::from_millis(50), vmm.wait()).await.is_err(), "{name} runs, and waiting is cancelled");

        let mut adopted = driver.adopt(&launch).await.unwrap().expect("it runs");
        assert_eq!(adopted.identity(), vmm.identity());
        driver.ensure_gone(&launch).await.unwrap();
        driver.ensure_gone(&launch).await.unwrap();
        let ended = timeout(SOON, vmm.wait()).await.unwrap();
        assert_eq!(ended, ExitReason::Crashed { signal: Some(9) }, "{name}: this handle did not kill it");
        assert_eq!(timeout(SOON, adopted.wait()).await.unwrap(), ExitReason::Ended { code: None });
        assert_eq!(vmm.wait().await, ended, "{name}: the end is told again");
        assert!(!vmm.identity().is_alive());
        let left: Vec<_> = std::fs::read_dir(&launch.boot_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|file| file == "root"), "{name} left {left:?}");
        assert!(driver.adopt(&launch).await.unwrap().is_none());
    }
}

fn pid(identity: Identity) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(identity.pid.try_into().unwrap())
}

#[tokio::test]
async fn a_killed_vmm_says_so() {
    let boot = Boot::new();
    for driver in drivers(&boot) {
        let launch = boot.plan(driver.as_ref()).unwrap();
        let mut vmm = driver.spawn(&launch).await.unwrap();
        vmm.kill().await.unwrap();
        vmm.kill().await.unwrap();
        assert_eq!(vmm.wait().await, ExitReason::Killed, "{}", driver.name());
        assert!(driver.adopt(&launch).await.unwrap().is_none());
        driver.ensure_gone(&launch).await.unwrap();
    }
}

#[tokio::test]
async fn a_process_of_the_same_number_is_left_alone() {
    let boot = Boot::new();
    for driver in drivers(&boot) {
        let launch = boot.plan(driver.as_ref()).unwrap();
        let mut vmm = driver.spawn(&launch).await.unwrap();
        let record = std::fs::read_to_string(launch.pid_file()).unwrap();
        let identity = vmm.identity();
        // The record of a process that had this number before.
        let earlier =
            record.replace(&format!(" {} ", identity.start_ticks), &format!(" {} ", identity.start_ticks - 1));
        assert_ne!(earlier, record);
        std::fs::write(launch.pid_file(), earlier).unwrap();
        assert!(driver.adopt(&launch).await.unwrap().is_none(), "{}", driver.name());
        driver.ensure_gone(&launch).await.unwrap();
        assert!(identity.is_alive(), "{} was signalled under another's name", driver.name());
        vmm.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_vmm_that_ends_by_itself_is_collected() {
    let boot = Boot::new();
    let sim = Sim::new(stand_in_agent(boot.dir.path()));
    let launch = boot.plan(&sim).unwrap();
    let mut vmm = sim.spawn(&launch).await.unwrap();
    // The socket is there a moment before somebody listens at it.
    let connected = async {
        while tokio::net::UnixStream::connect(launch.agent_socket()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, connected).await.unwrap();
    assert_eq!(timeout(SOON, vmm.wait()).await.unwrap(), ExitReason::Ended { code: Some(7) });
    sim.ensure_gone(&launch).await.unwrap();
}

#[tokio::test]
async fn a_kernel_that_is_none_is_told_in_qemus_words() {
    let boot = Boot::new();
    let qemu = Qemu::probe(std::env::var_os("PATH").as_deref());
    let mut without_entry = halting_kernel();
    without_entry[0x108] = 17;
    std::fs::write(&boot.spec.vmlinux, without_entry).unwrap();
    let launch = boot.plan(&qemu).unwrap();
    let error = qemu.spawn(&launch).await.err().expect("it is no kernel");
    let VmmError::EndedEarly { how, log, .. } = &error else { panic!("{error:?}") };
    assert!(how == "status 1" && log.contains("PVH"), "{how}: {log}");
    assert!(!launch.pid_file().exists());
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_in_qemus_words() {
    let mut boot = Boot::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host_port = taken.local_addr().unwrap().port();
    boot.spec.nic.publish = vec![wire::api::Publish { host_port, guest_port: 80 }];
    let qemu = Qemu::probe(std::env::var_os("PATH").as_deref());
    let error = qemu.spawn(&boot.plan(&qemu).unwrap()).await.err().expect("the port is taken");
    assert!(error.to_string().contains("host forwarding"), "{error}");
}

#[tokio::test]
async fn refusals_come_first() {
    let qemu = Qemu::probe(std::env::var_os("PATH").as_deref());
    let refused = |change: &dyn Fn(&mut MachineSpec)| {
        let mut boot = Boot::new();
        change(&mut boot.spec);
        boot.plan(&qemu).unwrap_err().to_string()
    };
    type Change = dyn Fn(&mut MachineSpec);
    let table: [(&Change, &str); 7] = [
        (&|spec| spec.vcpus = 0, "a VM has 1 to 64 processors, not 0"),
        (&|spec| spec.vcpus = 65, "a VM has 1 to 64 processors, not 65"),
        (&|spec| spec.memory_mib = 127, "a VM has at least 128 MiB of memory, not 127"),
        (&|spec| spec.memory_mib = 1 << 40, "a guest with 1099511627776 MiB of memory does not fit"),
        (&|spec| std::fs::write(&spec.vmlinux, "#!").unwrap(), "is no unpacked kernel"),
        (&|spec| spec.vmlinux = "/none".into(), "cannot find the VM's kernel at /none"),
        (&|spec| spec.boot_dir = format!("/tmp/{}", "x".repeat(100)).into(), "has 116 bytes, at most 107 fit"),
    ];
    for (change, expected) in table {
        let said = refused(change);
        assert!(said.contains(expected), "{said}");
    }
    let absent = Qemu::probe(Some(std::ffi::OsStr::new("/nonexistent")));
    let said = Boot::new().plan(&absent).unwrap_err().to_string();
    assert!(said.contains("Debian package qemu-system-x86"), "{said}");
}
