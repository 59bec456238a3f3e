//! The product's own black-box tests, which elsewhere run on QEMU, unchanged on Firecracker: `crates/cli/tests/it/guest`.
//!
//! Each scenario is one file of them. Their program is put beside this one by `cargo xtask e2e`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::home::{PARTS, as_user};

/// How long one file of tests may take, on a processor that is emulated twice.
const FILE_MAX: Duration = Duration::from_secs(60 * 60);
/// Where the product is installed.
const PREFIX: &str = "/usr/local";

/// Runs the tests of `crates/cli/tests/it/guest/<file>.rs`, one after the other: each boots guests of its own.
pub(super) fn run(file: &str) -> Result<()> {
    let program = std::env::current_exe().context("cannot tell where this program is")?.with_file_name("black-box");
    ensure!(program.exists(), "{} is not there: `cargo xtask e2e` puts it there", program.display());
    let _route = (file == "network").then(Route::out).transpose()?;
    let filter = format!("guest::{file}::");
    let mut tests = as_user(&program.to_string_lossy(), &[&filter, "--test-threads=1"]);
    tests.env("BANGER_TEST_PREFIX", PREFIX).env("BANGER_TEST_HOME", PARTS).env("BANGER_TEST_VMM", "firecracker");
    tests.env("BANGER_TEST_KERNEL_DEB", kernel_package()?);
    let ran = command::run(&mut tests, FILE_MAX)?;
    let said = ran.ok()?;
    let ran_some = said.lines().any(|line| line.starts_with("test result: ok.") && !line.contains(" 0 passed"));
    ensure!(ran_some, "no test is called {filter}*: {said}");
    Ok(())
}

/// A way to the outside for this host, which needs none else, and an address there: that of its NIC is the one that an open
/// guest has for itself. RFC 5737 has it for documents.
struct Route;

impl Route {
    fn out() -> Result<Route> {
        let made = "ip link add outside type dummy && ip address add 192.0.2.1/24 dev outside && \
                    ip link set outside up && ip route replace default dev outside";
        command::shell(made).map(|_said| Route)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if let Err(error) = command::shell("ip link delete outside") {
            eprintln!("e2e: {error:#}");
        }
    }
}

/// Debian's package of the kernel, beside the home that guests boot from.
fn kernel_package() -> Result<PathBuf> {
    let dir = Path::new(PARTS).parent().context("the parts are in a directory")?;
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let package = entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    package.with_context(|| format!("no package of a kernel in {}", dir.display()))
}
