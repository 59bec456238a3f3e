//! The jail of a VMM that nobody with rights made: what a program in Firecracker's place, turned hostile, can do.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde_json::json;
use sys::process::Identity;

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = sys::clock::monotonic() + std::time::Duration::from_secs(60);
    while !holds() {
        assert!(sys::clock::monotonic() < deadline, "{what}: not within a minute");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A boot's directory and files, as the driver makes them.
struct Boot {
    dir: tempfile::TempDir,
}

impl Boot {
    fn new() -> Boot {
        let dir = tempfile::tempdir().unwrap();
        for made in ["boot", "boot/vmm", "boot/jail"] {
            std::fs::create_dir(dir.path().join(made)).unwrap();
        }
        for (name, content) in [("disk", "disk"), ("rootfs", "shared"), ("metrics", ""), ("secret", "the owner's")] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        Boot { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The launcher of a jail whose VMM runs this Python.
    fn launcher(&self, python: &str, uplink: Option<&Path>) -> std::process::Command {
        let shown = |name: &str, is_writable| json!({"path": self.at(name), "at": format!("/{name}"), "is_writable": is_writable});
        let jail = json!({
            "program": "/usr/bin/python3",
            "arguments": ["-c", python],
            "config": null,
            "files": [shown("disk", true), shown("rootfs", false), shown("metrics", true)],
            "boot_dir": self.at("boot"),
            "console": self.at("console"),
            "has_tap": true,
            "uplink": uplink,
        });
        let mut command = sys::process::command(env!("CARGO_BIN_EXE_bangerd"));
        command.arg("vmm-jail").arg(jail.to_string());
        command
    }

    /// Runs it to its end: how that was, and what it printed.
    fn run(&self, python: &str) -> (ExitStatus, String) {
        let output = self.launcher(python, None).output().unwrap();
        let said = std::fs::read_to_string(self.at("console")).unwrap_or_default();
        (output.status, said + &String::from_utf8_lossy(&output.stderr))
    }
}

/// Tries things and prints those that worked.
const TRIES: &str = r##"
import os, socket, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result < 0: raise OSError(ctypes.get_errno())
OWNER = %OWNER%
tries = {
    "write the image": lambda: open("/rootfs", "a").write("x"),
    "write to the root": lambda: open("/x", "w"),
    "see the host's files": lambda: [os.stat(p) for p in ("%DIR%", "/home", "/root", "/proc", "/sys", "/tmp")],
    "leave by the root's parent": lambda: os.stat("/../../../../%DIR%"),
    "make a device": lambda: os.mknod("/run/sda", 0o60600, os.makedev(8, 0)),
    "signal the owner": lambda: os.kill(OWNER, 0),
    "signal anybody": lambda: os.kill(-1, 0),
    "trace the owner": lambda: call(libc.ptrace(16, OWNER, 0, 0)),
    "make a user namespace": lambda: call(libc.unshare(0x10000000)),
    "make a mount namespace": lambda: call(libc.unshare(0x20000)),
    "mount": lambda: call(libc.mount(b"x", b"/run", b"tmpfs", 0, 0)),
    "chroot": lambda: os.chroot("/run"),
    "become root": lambda: os.setuid(OWNER),
    "reach the host's loopback": lambda: socket.create_connection(("127.0.0.1", %PORT%), timeout=5),
    "connect to an abstract socket": lambda: socket.socket(socket.AF_UNIX).connect("\0%ABSTRACT%"),
    "send raw frames": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "run a file of its own": lambda: (open("/run/p", "w").write("#!/bin/sh\n"), os.chmod("/run/p", 0o700), os.execv("/run/p", ["p"])),
}
for name, attempt in tries.items():
    try: attempt()
    except Exception as error: continue
    print("can", name)
print("capabilities", libc.prctl(23, 0), libc.prctl(39, 0, 0, 0, 0), "pid", os.getpid(), "in", os.getcwd())
print("sees", *sorted(os.listdir("/")))
open("/disk", "a").write(" written")
open("/metrics", "w").write("{}")
open("/run/socket", "w").write("here")
os.close(os.open("/dev/urandom", os.O_RDONLY))
"##;

#[test]
fn a_hostile_vmm_has_its_own_files_and_nothing_else() {
    let boot = Boot::new();
    let loopback = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("banger-jail-test-{}", std::process::id());
    let address = <std::os::unix::net::SocketAddr as SocketAddrExt>::from_abstract_name(&name);
    let _abstract = UnixListener::bind_addr(&address.unwrap()).unwrap();
    let python = TRIES
        .replace("%OWNER%", &std::process::id().to_string())
        .replace("%DIR%", &boot.dir.path().display().to_string())
        .replace("%PORT%", &loopback.local_addr().unwrap().port().to_string())
        .replace("%ABSTRACT%", &name);
    let (status, said) = boot.run(&python);
    assert!(status.success(), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("can ")), "{said}");
    assert!(said.contains("capabilities 0 1 pid 1 in /run"), "{said}");
    let sees = said.lines().find_map(|line| line.strip_prefix("sees ")).unwrap();
    let known = ["dev", "disk", "etc", "firecracker", "lib", "lib64", "metrics", "rootfs", "run", "usr"];
    assert!(sees.split(' ').all(|name| known.contains(&name)), "{sees}");
    let read = |name: &str| std::fs::read_to_string(boot.at(name)).unwrap();
    assert_eq!((read("disk").as_str(), read("rootfs").as_str()), ("disk written", "shared"));
    assert_eq!((read("metrics").as_str(), read("boot/vmm/socket").as_str()), ("{}", "here"));
    assert_eq!(std::fs::read_dir(boot.at("boot/jail")).unwrap().count(), 0, "the root was nobody else's");
}

#[test]
fn a_launcher_ends_as_its_vmm_does() {
    let boot = Boot::new();
    assert_eq!(boot.run("import sys; sys.exit(148)").0.code(), Some(148));
    let (status, _) = boot.run("import ctypes; ctypes.string_at(0)");
    assert_eq!(status.signal(), Some(11), "{status:?}");
    std::fs::remove_file(boot.at("rootfs")).unwrap();
    let (status, said) = boot.run("");
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("cannot open") && said.ends_with("rootfs: no such file or directory\n"), "{said}");
}

#[test]
fn the_vmm_is_on_record_and_goes_with_its_launcher() {
    let boot = Boot::new();
    let mut launcher = boot.launcher("print('here', flush=True); import time; time.sleep(1000)", None).spawn().unwrap();
    until("the VMM runs", || std::fs::read_to_string(boot.at("console")).is_ok_and(|said| said == "here\n"));
    let vmm = Identity::recorded(&boot.at("boot/vmm.pid")).unwrap().unwrap();
    assert!(vmm.is_alive() && vmm.pid != launcher.id());
    assert_eq!(vmm.has_open(&boot.at("console")), Some(true), "the daemon may look at it");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    until("the VMM is gone", || !vmm.is_alive());
}

#[test]
fn the_taps_frames_go_to_whoever_was_to_have_them() {
    const VMM: &str = r#"
import fcntl, os, struct
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x5002))
os.write(tap, bytes(10) + b"\xff" * 6 + b"\x52\x54\0\0\0\1" + b"\x08\x06" + b"from the guest".ljust(46))
while True:
    frame = os.read(tap, 2000)
    if b"to the guest" in frame: break
"#;
    let boot = Boot::new();
    let listener = UnixListener::bind(boot.at("net.sock")).unwrap();
    let mut launcher = boot.launcher(VMM, Some(&boot.at("net.sock"))).spawn().unwrap();
    let (mut vmm, _) = listener.accept().unwrap();
    let received = sys::packet::receive(&vmm, &mut [0; 1]).unwrap();
    let mut frames = std::fs::File::from(received.fds.into_iter().next().unwrap());
    let mut frame = [0; 2000];
    let count = frames.read(&mut frame).unwrap();
    assert!(frame[..count].windows(14).any(|part| part == b"from the guest"), "{:?}", &frame[..count]);
    assert_eq!(count, 10 + 60, "behind a header that says what is left to do");
    frames.write_all(&[&[0; 10][..], &[0xff; 6], b"\x52\x54\0\0\0\x02\x08\x06", b"to the guest"].concat()).unwrap();
    assert!(launcher.wait().unwrap().success());
    assert_eq!(vmm.read(&mut [0; 1]).unwrap(), 0, "its end is seen");
}
