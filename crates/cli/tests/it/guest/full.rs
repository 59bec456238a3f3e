//! A real VM on a disk without a free byte: its guest sees a write error and goes on, and it can be stopped and deleted.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, mount_remount};

use super::host::{Host, eventually};

/// Names the small filesystem to the test that runs inside it.
const SMALL_DISK: &str = "BANGER_TEST_SMALL_DISK";

/// Mounts and becomes the test: directory, program, test.
const INSIDE: &str = r#"mount -t tmpfs -o mode=700 tmpfs "$1" && exec "$2" --exact "$3" --nocapture"#;

/// Enough for everything that looks for room before it begins.
const ROOMY_BYTES: u64 = 1 << 30;

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skipped() {
    eprintln!("skipped: no namespace, hence no small filesystem, can be made here");
}

/// The directory of a filesystem in memory when called inside it; else runs `test` again inside such a one, whose
/// namespaces go with it, and gives none.
fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(SMALL_DISK) {
        return Some(PathBuf::from(dir));
    }
    // A container may allow its root no user namespace, and a host its users none.
    let can =
        |flags: &str| Command::new("unshare").args([flags, "true"]).output().is_ok_and(|out| out.status.success());
    let Some(flags) = ["-Urm", "-m"].into_iter().find(|flags| can(flags)) else {
        skipped();
        return None;
    };
    let dir = tempfile::Builder::new().prefix("bf").tempdir_in("/tmp").unwrap();
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-c", INSIDE, "sh"]).arg(dir.path()).arg(std::env::current_exe().unwrap()).arg(test);
    let output = command.env(SMALL_DISK, dir.path()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    None
}

fn resize(disk: &Path, bytes: u64) {
    let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
    mount_remount(disk, MountFlags::empty(), size.as_c_str()).unwrap();
}

/// Leaves about no byte free while others write and delete: what they have written since the look is no error.
fn squeeze(disk: &Path) {
    let stat = rustix::fs::statvfs(disk).unwrap();
    let size = std::ffi::CString::new(format!("size={}", (stat.f_blocks - stat.f_bfree) * stat.f_frsize)).unwrap();
    let squeezed = mount_remount(disk, MountFlags::empty(), size.as_c_str());
    assert!(matches!(squeezed, Ok(()) | Err(rustix::io::Errno::INVAL)), "{squeezed:?}");
}

/// Leaves no byte free, whatever a guest and a daemon write and delete meanwhile.
fn fill(disk: &Path) {
    eventually("the disk is full", || {
        squeeze(disk);
        rustix::fs::statvfs(disk).unwrap().f_bavail == 0
    });
}

#[test]
fn a_full_disk_costs_a_write_error_and_room_can_be_made() {
    let Some(disk) = small_disk("guest::full::a_full_disk_costs_a_write_error_and_room_can_be_made") else { return };
    resize(&disk, ROOMY_BYTES);
    let host = Host::on(&disk);
    host.ok(&["create", "--name", "idle", "--no-start"]);
    host.ok(&["create", "--name", "spare", "--no-start"]);
    host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
    fill(&disk);
    let write = "dd if=/dev/zero of=/root/much bs=1M count=64 conv=fsync 2>&1 && exit 9; exit 3";
    assert_eq!(host.run(&["exec", "web", "--", "sh", "-c", write]).code(3).stderr, "");
    assert_eq!(host.ok(&["exec", "web", "--", "echo", "alive"]), "alive");
    fill(&disk);
    let names = host.ok(&["list", "--format", "name"]);
    for (args, code) in [
        (&["create", "--name", "more", "--no-start"][..], 1),
        (&["start", "idle"], 1),
        (&["restart", "web"], 1),
        (&["run", "--rm", "--", "true"], 125),
        (&["image", "build"], 1),
        (&["kernel", "import"], 1),
    ] {
        let ran = host.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("0 B are free"), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("banger rm"), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(host.ok(&["list", "--format", "name"]), names, "nothing is left of what was refused");
    // The next daemon starts, and takes the VM over, on the full disk.
    host.kill_daemon();
    host.ok(&["rm", "idle"]);
    fill(&disk);
    assert_eq!(host.ok(&["exec", "web", "--", "echo", "alive"]), "alive");
    host.ok(&["stop", "web"]);
    fill(&disk);
    host.ok(&["rm", "web"]);
    fill(&disk);
    host.ok(&["rm", "spare"]);
    assert_eq!(host.ok(&["list", "--format", "name"]), "");
    resize(&disk, ROOMY_BYTES);
    assert_eq!(
        host.run(&["run", "--rm", "--wait", "agent", "--", "true"]).code(0).stderr.matches("warning").count(),
        0
    );
    host.leaves_nothing();
}

#[test]
fn an_import_on_a_disk_that_fills_up_leaves_nothing() {
    let Some(disk) = small_disk("guest::full::an_import_on_a_disk_that_fills_up_leaves_nothing") else { return };
    resize(&disk, ROOMY_BYTES);
    let host = Host::below(&disk);
    host.ok(&["ps"]);
    // Ever later in its work.
    for used_mib in [0, 20, 60, 100, 120] {
        import_squeezed(&host, &disk, used_mib << 20);
        resize(&disk, ROOMY_BYTES);
    }
    host.ends_clean();
}

/// Imports a kernel on a disk that is full from a moment on: when that many bytes are used.
fn import_squeezed(host: &Host, disk: &Path, used: u64) {
    let package = std::env::var_os("BANGER_TEST_KERNEL_DEB").expect("set by `make test`");
    let mut import = host.command(&["kernel", "import", package.to_str().unwrap()]).spawn().unwrap();
    let kernels = host.state().join("kernels");
    let is_staging = || std::fs::read_dir(&kernels).is_ok_and(|mut entries| entries.next().is_some());
    eventually("the kernel is being unpacked", is_staging);
    let is_late = || {
        let stat = rustix::fs::statvfs(disk).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize >= used
    };
    while import.try_wait().unwrap().is_none() {
        if is_late() {
            squeeze(disk);
        }
    }
    let output = import.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "full from {used} on: {said}");
    assert!(said.to_lowercase().contains("no space left on device"), "full from {used} on: {said}");
    assert!(said.contains("hint: make room on"), "full from {used} on: {said}");
    assert!(!said.contains("damaged"), "full from {used} on: {said}");
    assert!(!is_staging(), "nothing is left of it");
    assert_eq!(host.ok(&["kernel", "list", "--format", "name"]), "");
}
