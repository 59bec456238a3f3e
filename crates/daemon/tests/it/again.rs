//! A test of this program run again in a process of its own: inside a small filesystem, or beside the first one.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Names the small filesystem to the test that runs inside it.
const SMALL_DISK: &str = "BANGER_TEST_SMALL_DISK";
/// Tells a test that it is the second process.
const SECOND: &str = "BANGER_TEST_SECOND";

/// Mounts and becomes the test: directory, program, test.
const INSIDE: &str = r#"mount -t tmpfs -o mode=700 tmpfs "$1" && exec "$2" --exact "$3" --nocapture"#;

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skipped() {
    eprintln!("skipped: no namespace, hence no small filesystem, can be made here");
}

/// The directory of a filesystem in memory when called inside it, which may be remounted with another size. Else runs
/// `test` again inside such a one, in a user and mount namespace, which go with it, and gives none.
pub(crate) fn small_disk(test: &str) -> Option<PathBuf> {
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
    command.args([flags, "sh", "-c", INSIDE, "sh"]).arg(dir.path());
    command.arg(std::env::current_exe().unwrap()).arg(test).env(SMALL_DISK, dir.path());
    passed(&command.output().unwrap());
    None
}

/// The command that runs `test` again as the second process.
pub(crate) fn second(test: &str, argument: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(SECOND, argument);
    command
}

/// What the first process gave the second; none in the first.
pub(crate) fn is_second() -> Option<PathBuf> {
    std::env::var_os(SECOND).map(PathBuf::from)
}

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}
