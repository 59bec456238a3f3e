//! The daemon's side of the helper, against the helper itself. Needs root, which tests as the owner of the VMs.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use daemon::privileged::{Helper, PrivilegedError, Spawn, open_file};
use sys::packet;
use tempfile::TempDir;
use wire::helper::{CreateJail, DestroyJail, Failure, JailFile, Limits, Nic, Rule, Sweep, Swept};
use wire::id::{BootId, OpId, VmId};
use wire::naming::{self, Slot};

/// The helper of this very source, built when the tests are.
fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let daemon = PathBuf::from(env!("CARGO_BIN_EXE_bangerd"));
        let profile = daemon.parent().expect("a program is in a directory");
        let release = profile.ends_with("release").then_some("--release");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../helper/Cargo.toml");
        let mut cargo = sys::process::command(env!("CARGO"));
        cargo.args(["build", "--quiet", "--bin", "banger-helper", "--manifest-path", manifest]).args(release);
        cargo.arg("--target-dir").arg(profile.parent().expect("a profile is in a directory"));
        sys::process::run(&mut cargo).unwrap();
        profile.join("banger-helper")
    };
    PROGRAM.get_or_init(build).clone()
}

struct Ground {
    dir: TempDir,
    listener: OwnedFd,
    child: Child,
}

impl Ground {
    fn new() -> Ground {
        let dir = TempDir::with_prefix("bp-").unwrap();
        let listener = packet::listen_at(&dir.path().join("s")).unwrap();
        let child = start(&listener, dir.path());
        Ground { dir, listener, child }
    }

    fn helper(&self) -> Helper {
        Helper::at(&self.dir.path().join("s"))
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = start(&self.listener, self.dir.path());
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start(listener: &OwnedFd, dir: &Path) -> Child {
    let words = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 </dev/null";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", words, "sh"]).arg(program()).args(["serve", "--owner", "0:0"]);
    // Both programs belong to root, and neither is ever started here.
    for (name, path) in [("firecracker", "/none/firecracker"), ("jailer", "/none/jailer")] {
        command.arg(format!("--{name}")).arg(path);
    }
    for name in ["state", "cache", "run"] {
        command.arg(format!("--{name}")).arg(dir.join(name));
    }
    command.stdin(Stdio::from(listener.try_clone().unwrap())).process_group(0).spawn().unwrap()
}

fn jail() -> CreateJail {
    let (vm, boot) = (VmId::from_random([5; 8]), BootId::from_random([6; 8]));
    CreateJail { vm, boot, slot: Slot::try_from(9500).unwrap() }
}

fn append(path: &Path) -> OwnedFd {
    fs::OpenOptions::new().append(true).create(true).open(path).unwrap().into()
}

#[tokio::test]
async fn requests_are_answered_across_a_restart() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut ground = Ground::new();
    let helper = ground.helper();
    let operation = Some(OpId::from_random([1; 8]));
    let ready = helper.call(operation.clone(), jail()).await.unwrap();
    assert_eq!(ready.uid, naming::vm_uid(jail().slot));
    ground.restart();
    helper.call(operation, jail()).await.expect("the connection is made anew");
    let taken = CreateJail { boot: BootId::from_random([7; 8]), ..jail() };
    match helper.call(None, taken).await {
        Err(PrivilegedError::Refused(Failure::SlotTaken { slot })) => assert_eq!(slot, jail().slot),
        other => panic!("{other:?}"),
    }
    helper.call(None, DestroyJail { boot: jail().boot }).await.unwrap();
    assert_eq!(helper.call(None, Sweep { live: Vec::new() }).await.unwrap(), Swept { jails: 0, taps: 0 });
}

#[tokio::test]
async fn what_is_refused_says_why() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let ground = Ground::new();
    let (helper, console) = (ground.helper(), ground.dir.path().join("console"));
    let spawn = |boot: BootId| Spawn {
        boot,
        files: Vec::new(),
        outputs: [append(&console), append(&console)],
        nic: Nic::None,
        limits: Limits::default(),
    };
    match helper.spawn(None, spawn(jail().boot)).await {
        Err(PrivilegedError::Refused(Failure::NoJail)) => {}
        other => panic!("{other:?}"),
    }
    helper.call(None, jail()).await.unwrap();
    match helper.spawn(None, spawn(jail().boot)).await {
        Err(PrivilegedError::Refused(Failure::Denied { rule: Rule::Program { .. } })) => {}
        other => panic!("{other:?}"),
    }
    let nobody = Helper::at(&ground.dir.path().join("none"));
    let error = nobody.call(None, jail()).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot reach the helper at /"), "{error}");
    assert!(error.hint().unwrap().contains("banger-helper.socket"));
}

#[test]
fn files_are_opened_for_what_the_jail_does_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let (vm, boot) = (jail().vm, jail().boot);
    let disk = naming::vm_disk(dir.path(), &vm);
    let image = JailFile::Image { image: "0123456789abcdef".parse().unwrap() };
    let rootfs = dir.path().join(image.place(&vm, &boot).1);
    for path in [&disk, &rootfs] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let dirs = (dir.path(), dir.path());
    for (file, path, mode, flags) in [
        (JailFile::Disk {}, &disk, 0o660, rustix::fs::OFlags::RDWR),
        (image, &rootfs, 0o644, rustix::fs::OFlags::RDONLY),
    ] {
        let fd = open_file(dirs, &vm, &boot, &file).unwrap();
        let came = rustix::fs::fcntl_getfl(&fd).unwrap() & rustix::fs::OFlags::RWMODE;
        assert_eq!((came, fs::metadata(path).unwrap().permissions().mode() & 0o7777), (flags, mode), "{file:?}");
    }
    let error = open_file(dirs, &vm, &boot, &JailFile::Log {}).unwrap_err();
    assert!(error.to_string().contains(".vmm.log"), "{error}");
}
