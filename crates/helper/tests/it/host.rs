//! The whole of it on a host that may be taken over: systemd, KVM, the real Firecracker under the real jailer, a real guest.
//!
//! `scripts/helper-in-testhost.sh` runs this in the disposable test host; elsewhere it returns at once.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sys::packet;
use wire::helper::*;
use wire::id::{BootId, VmId};
use wire::naming::{self, Slot};

use crate::ground::{Client, build, processes_of, until};

const SOCKET: &str = "/run/banger/helper.sock";
const RUN: &str = "/run/banger";

/// What `scripts/helper-in-testhost.sh` tells.
struct Host {
    /// The owner of the VMs: an ordinary user.
    uid: u32,
    gid: u32,
    /// A state directory with a kernel and an image, and the cache beside it.
    home: PathBuf,
}

impl Host {
    fn taken_over() -> Option<Host> {
        let home = std::env::var_os("BANGER_TEST_TAKEN_OVER")?;
        Some(Host { uid: 1000, gid: 1000, home: home.into() })
    }

    fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Puts the units where they last until the host goes down, and starts the socket.
    fn install(&self) {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
        let own = [
            ("@HELPER@", "/usr/local/libexec/banger/banger-helper".to_owned()),
            ("@UID@", self.uid.to_string()),
            ("@GID@", self.gid.to_string()),
            ("@STATE@", self.state().display().to_string()),
            ("@CACHE@", self.home.join("cache").display().to_string()),
            ("@FIRECRACKER@", "/usr/local/bin/firecracker".to_owned()),
            ("@JAILER@", "/usr/local/bin/jailer".to_owned()),
        ];
        for name in ["banger-helper.socket", "banger-helper.service"] {
            let text = fs::read_to_string(units.join(name)).unwrap();
            let text = own.iter().fold(text, |text, (from, to)| text.replace(from, to));
            fs::create_dir_all("/run/systemd/system").unwrap();
            fs::write(Path::new("/run/systemd/system").join(name), text).unwrap();
        }
        systemctl(&["daemon-reload"]);
        systemctl(&["start", "banger-helper.socket"]);
    }

    fn one_of(&self, kind: &str) -> String {
        let entries = fs::read_dir(self.state().join(kind)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names.remove(0)
    }

    /// Makes a file the owner's, as the daemon would.
    fn give(&self, path: &Path, mode: u32) {
        chown(path, Some(self.uid), Some(self.gid)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Asks the VMM for something, as the owner.
    fn api(&self, boot: &BootId, method: &str, path: &str, body: &str) -> String {
        let socket = naming::jail_sockets_dir(Path::new(RUN), boot).join(naming::API_SOCKET);
        until("the API socket", || socket.exists().then_some(()));
        let output = Command::new("setpriv")
            .args(["--reuid", &self.uid.to_string(), "--regid", &self.gid.to_string(), "--clear-groups", "curl", "-sS"])
            .args(["--fail-with-body", "-X", method, "--unix-socket"])
            .arg(&socket)
            .args(["-H", "Content-Type: application/json", "-d", body, &format!("http://localhost{path}")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{method} {path}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn connect() -> Client {
    let client = Client(packet::connect_to(Path::new(SOCKET), Duration::from_secs(60)).unwrap());
    let (welcome, _) = client.call(Hello { build: build() }, &[]).unwrap();
    assert_eq!(welcome.unfit, None);
    client
}

/// A VM of the owner, with its files, ready to be started.
struct Guest {
    vm: VmId,
    boot: BootId,
    slot: Slot,
    console: PathBuf,
}

impl Guest {
    fn new(host: &Host, number: u8) -> Guest {
        let (vm, boot) = (VmId::from_random([number; 8]), BootId::from_random([number; 8]));
        let dir = naming::vm_dir(&host.state(), &vm);
        fs::create_dir_all(dir.join("logs")).unwrap();
        let disk = naming::vm_disk(&host.state(), &vm);
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        host.give(&disk, 0o660);
        let console = naming::console_log(&host.state(), &vm, &boot);
        Guest { vm, boot, slot: Slot::try_from(u16::from(number)).unwrap(), console }
    }

    fn spawn(&self, host: &Host, client: &Client, limits: Limits) -> VmmRuns {
        client.call(CreateJail { vm: self.vm.clone(), boot: self.boot.clone(), slot: self.slot }, &[]).unwrap();
        let kernel = host.one_of("kernels").parse().unwrap();
        let image = host.one_of("images").parse().unwrap();
        let kernel_file = naming::kernel_file(&host.state(), &kernel);
        let image_file = naming::image_rootfs(&host.state(), &image);
        let mut fds: Vec<OwnedFd> = Vec::new();
        for _ in 0..2 {
            let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&self.console).unwrap();
            fds.push(file.into());
        }
        for path in [&kernel_file, &image_file] {
            host.give(path, 0o644);
            fds.push(fs::File::open(path).unwrap().into());
        }
        let disk = naming::vm_disk(&host.state(), &self.vm);
        fds.push(fs::OpenOptions::new().read(true).write(true).open(disk).unwrap().into());
        let files = vec![JailFile::Kernel { kernel }, JailFile::Image { image }, JailFile::Disk {}];
        let request = SpawnVmm { boot: self.boot.clone(), files, nic: Nic::Slots, limits };
        let (runs, came) = client.call(request, &fds).unwrap();
        assert_eq!(came.len(), 1, "a pidfd");
        runs
    }

    /// Boots the image's own init; what it says comes to the console.
    fn boot(&self, host: &Host) {
        let put = |path: &str, body: &str| host.api(&self.boot, "PUT", path, body);
        put("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":192}"#);
        let line = "console=ttyS0 reboot=k panic=-1 root=/dev/vda ro";
        put("/boot-source", &format!(r#"{{"kernel_image_path":"/kernel","boot_args":"{line}"}}"#));
        for (id, path, is_read_only) in [("image", "/image", true), ("disk", "/disk", false)] {
            let body = format!(
                r#"{{"drive_id":"{id}","path_on_host":"{path}","is_root_device":false,"is_read_only":{is_read_only}}}"#
            );
            put(&format!("/drives/{id}"), &body);
        }
        let (tap, body) = (naming::tap_name(self.slot), r#""iface_id":"nic","guest_mac":"02:00:00:00:00:01""#);
        put("/network-interfaces/nic", &format!(r#"{{{body},"host_dev_name":"{tap}"}}"#));
        put("/vsock", r#"{"guest_cid":3,"uds_path":"/sock/agent.sock"}"#);
        put("/actions", r#"{"action_type":"InstanceStart"}"#);
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap()).into_owned()
    }
}

fn is_alive(runs: &VmmRuns) -> bool {
    let identity = sys::process::Identity { pid: runs.pid, start_ticks: runs.start_ticks };
    identity.is_alive()
}

fn main_pid() -> String {
    systemctl(&["show", "--property", "MainPID", "--value", "banger-helper.service"])
}

#[test]
fn a_guest_boots_under_the_real_jailer_and_outlives_the_helper() {
    let Some(host) = Host::taken_over() else { return };
    host.install();
    let client = connect();
    // A run that failed may have left something, in a host that stays up.
    client.call(Sweep { live: Vec::new() }, &[]).unwrap();
    let (guest, limits) = (Guest::new(&host, 1), Limits { memory_mib_max: Some(512), cpu_percent_max: Some(200) });
    client.call(EnsureTap { slot: guest.slot }, &[]).unwrap();
    let runs = guest.spawn(&host, &client, limits);
    guest.boot(&host);
    until("the guest's kernel", || guest.console().contains("Linux version").then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", runs.pid)).unwrap();
    println!("{status}");
    for (name, value) in [
        ("Uid", naming::vm_uid(guest.slot).to_string()),
        ("Gid", naming::vm_uid(guest.slot).to_string()),
        ("CapPrm", "0000000000000000".to_owned()),
        ("CapEff", "0000000000000000".to_owned()),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        assert_eq!(line.split_ascii_whitespace().next(), Some(value.as_str()), "{name}");
    }

    // Its scope holds its limits, and it alone.
    let scope = naming::scope_name(&guest.boot);
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", runs.pid)).unwrap();
    assert!(cgroup.trim().ends_with(&format!("/banger.slice/{scope}")), "{cgroup}");
    assert_eq!(systemctl(&["show", "--property", "MemoryMax", "--value", &scope]), (512 << 20).to_string());

    // Nothing that happens to the helper happens to it.
    let first = main_pid();
    for act in [&["restart", "banger-helper.service"][..], &["kill", "--signal", "TERM", "banger-helper.service"]] {
        systemctl(act);
        let (again, _) = connect().call(respawn(&guest), &[]).unwrap();
        assert_eq!(again, runs, "{act:?}");
        assert!(is_alive(&runs), "{act:?}");
    }
    assert_ne!(main_pid(), first);
    host.api(&guest.boot, "PATCH", "/vm", r#"{"state":"Paused"}"#);
    host.api(&guest.boot, "PATCH", "/vm", r#"{"state":"Resumed"}"#);

    // A second VM comes and goes beside it; the sweep after the helper removes what nobody uses.
    let other = Guest::new(&host, 2);
    let client = connect();
    client.call(CreateJail { vm: other.vm.clone(), boot: other.boot.clone(), slot: other.slot }, &[]).unwrap();
    client.call(EnsureTap { slot: other.slot }, &[]).unwrap();
    systemctl(&["stop", "banger-helper.service"]);
    assert!(!naming::jail_dir(Path::new(RUN), &other.boot).exists(), "swept");
    assert!(is_alive(&runs));
    let names = sys::tap::interfaces().unwrap();
    assert!(
        names.contains(&naming::tap_name(guest.slot)) && !names.contains(&naming::tap_name(other.slot)),
        "{names:?}"
    );

    let client = connect();
    client.call(DestroyJail { boot: guest.boot.clone() }, &[]).unwrap();
    client.call(DeleteTap { slot: guest.slot }, &[]).unwrap();
    assert!(!is_alive(&runs));
    assert_clean(&guest);
}

/// A VMM that runs is answered without files.
fn respawn(guest: &Guest) -> SpawnVmm {
    SpawnVmm { boot: guest.boot.clone(), files: Vec::new(), nic: Nic::Slots, limits: Limits::default() }
}

fn assert_clean(guest: &Guest) {
    assert!(processes_of(&naming::vm_uid(guest.slot).to_string()).is_empty());
    assert!(sys::tap::interfaces().unwrap().iter().all(|name| !name.starts_with("banger")));
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(RUN));
    let left = |dir: &str| fs::read_dir(Path::new(RUN).join(dir)).unwrap().count();
    assert_eq!((left("jails"), left("stage")), (0, 0));
    let scope = naming::scope_name(&guest.boot);
    until("its scope to go", || {
        (systemctl(&["list-units", "--all", "--plain", "--no-legend", &scope]).is_empty()).then_some(())
    });
}
