//! `cargo xtask e2e`: the scenarios of `tests/e2e`, in a test host of their own.
//!
//! 1. Builds the scenarios and says which are chosen; a wrong filter is found before anything is started.
//! 2. Builds the product's programs, and what guests boot from.
//! 3. Starts a test host that ends with this command, and puts the programs into it.
//! 4. Runs the scenarios there as root; what they print is printed here as it comes.
//! 5. Brings out JUnit, journal, consoles and `banger doctor` into `target/e2e/`, and powers the host off.
//!
//! Where it is the host that fails and its processor is emulated, steps 3 to 5 are done once more in a new one: see
//! `docs/testhost.md`.
//!
//! Status: 0 all passed, 1 a scenario or the host failed (which of both is said), 2 called wrongly, 77 this machine cannot
//! run a test host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use sys::kvm::Kvm;

use crate::coverage::{self, Tools};
use crate::testhost::{self, Cache, Host, HostFailed, Keep, PREFIX, STATUS_SKIPPED, ShapeArgs, Unavailable};
use crate::{dist, root};

/// Where the scenarios' program is in the host, and where it leaves things.
pub(crate) const PLACE: &str = "/usr/local/lib/e2e";
const ARTIFACTS: &str = "/var/lib/e2e";

/// What the names of scenarios that run the product's black-box tests begin with.
const BLACK_BOX: &str = "black_box.";

/// How many hosts may fail before the command does.
const HOSTS_MAX: u32 = 3;

/// What is brought out: a file here, and the line of shell that prints it there.
const BROUGHT: [(&str, &str); 4] = [
    ("journal.log", "journalctl --boot --no-pager --output=short-precise"),
    (
        "doctor.txt",
        "runuser -u tester -- env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin HOME=/home/tester \
         XDG_RUNTIME_DIR=/run/user/1000 banger doctor 2>&1 || true",
    ),
    ("homes.tar.gz", "mkdir -p /var/lib/e2e/homes && tar --create --gzip --directory /var/lib/e2e homes"),
    ("junit.xml", "cat /var/lib/e2e/junit.xml"),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// List the scenarios instead of running them
    #[arg(long)]
    list: bool,
    /// Only those whose name contains a word of these, or that carry it as a tag
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    filter: Vec<String>,
    /// How many run side by side [default: what the host's memory allows; one
    /// where its processor is emulated]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Report which code the real programs executed
    #[arg(long)]
    coverage: bool,
    /// An installed tree of programs instead of a new build of the dev profile;
    /// what breaks into the programs needs that profile
    #[arg(long, value_name = "DIR", conflicts_with = "coverage")]
    tree: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArgs,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let root = root::repository();
    let target = dist::target_directory(&root);
    let program = build_scenarios(&root, &target)?;
    let filter = (!args.filter.is_empty()).then(|| format!("--filter={}", args.filter.join(",")));
    let mut list = Command::new(&program);
    list.arg("--list").args(&filter).stderr(Stdio::inherit());
    let listed = list.output().context("cannot run the scenarios' program")?;
    let names = String::from_utf8_lossy(&listed.stdout);
    if args.list {
        print!("{names}");
    }
    if args.list || !listed.status.success() {
        return Ok(code_of(listed.status.code()));
    }
    let mut programs = vec![(program, "e2e")];
    if names.contains(BLACK_BOX) {
        programs.push((build_black_box(&root, &target)?, "black-box"));
    }

    let mut outcome = in_host(args, &root, &target, &programs, filter.as_deref());
    for _ in 1..HOSTS_MAX {
        let Err(error) = &outcome else { break };
        if !error.is::<HostFailed>() || sys::kvm::probe() == Kvm::Usable {
            break;
        }
        eprintln!("e2e: {error:#}\ne2e: an emulated processor lets that happen: once more in a new host");
        outcome = in_host(args, &root, &target, &programs, filter.as_deref());
    }
    match outcome {
        Ok(code) => Ok(code),
        Err(error) => match error.downcast_ref::<Unavailable>() {
            Some(unavailable) => {
                eprintln!("e2e: skipped: {unavailable}");
                Ok(ExitCode::from(STATUS_SKIPPED))
            }
            None => Err(error),
        },
    }
}

fn in_host(
    args: &Args,
    root: &Path,
    target: &Path,
    programs: &[(PathBuf, &str)],
    filter: Option<&str>,
) -> Result<ExitCode> {
    testhost::check_tools()?;
    let tools = args.coverage.then(Tools::find).transpose()?;
    let tree = match &args.tree {
        Some(tree) => tree.clone(),
        None => testhost::built_tree(args.coverage)?,
    };
    let shape = args.shape.clone().with_home(guest_home(root, &tree)?);

    let failed = HostFailed;
    let cache = Cache::open()?;
    let image = testhost::image(&cache).context(failed)?;
    let host = Host::up(&cache, &testhost::tied_name(), &image, &shape.shape(&cache)?, Keep::Tied).context(failed)?;
    let report = target.join("e2e");
    let outcome = fill(&cache, &host, &tree, programs)
        .and_then(|()| run_scenarios(&host, args, filter))
        .and_then(|code| bring_out(&host, &report).map(|()| code))
        .context(failed);
    let covered = match (&tools, &outcome) {
        (Some(tools), Ok(_)) => coverage::report(&host, tools, target, &report),
        (_, _) => Ok(()),
    };
    if outcome.is_err() {
        eprintln!("e2e: the host's console ends with:\n{}", host.console_tail());
    }
    host.down(&cache).context(failed)?;
    let code = outcome?;
    covered?;
    println!("e2e: report in {}", report.display());
    Ok(code_of(Some(code)))
}

pub(crate) fn build_scenarios(root: &Path, target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["build", "--locked", "--quiet", "-p", "e2e", "--target-dir"]).arg(target);
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "cannot build the scenarios: {status}");
    Ok(target.join("debug/e2e"))
}

/// The program of the product's black-box tests.
fn build_black_box(root: &Path, target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["test", "--locked", "--no-run", "-p", "cli", "--test", "it"]);
    build.args(["--message-format", "json", "--target-dir"]).arg(target).stderr(Stdio::inherit());
    let built = build.output().context("cannot run cargo")?;
    ensure!(built.status.success(), "cannot build the black-box tests: {}", built.status);
    let said = String::from_utf8_lossy(&built.stdout);
    let told = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs =
        told.filter(|told| told["target"]["name"] == "it").filter_map(|told| Some(told["executable"].as_str()?.into()));
    programs.next().context("cargo does not say where the black-box tests are")
}

/// A home with what guests boot from, made with the programs under test if the cache has none that fits.
pub(crate) fn guest_home(root: &Path, tree: &Path) -> Result<PathBuf> {
    let mut script = Command::new(root.join("scripts/test-cache.sh"));
    let output = script.arg(tree).stderr(Stdio::inherit()).output().context("cannot run scripts/test-cache.sh")?;
    ensure!(output.status.success(), "cannot make what guests boot from: test-cache.sh: {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    let home = said.lines().nth(1).context("test-cache.sh named no home")?;
    Ok(PathBuf::from(home))
}

pub(crate) fn fill(cache: &Cache, host: &Host, tree: &Path, programs: &[(PathBuf, &str)]) -> Result<()> {
    testhost::put(cache, host, tree, PREFIX)?;
    let stage = tempfile::tempdir().context("cannot make a directory")?;
    for (program, name) in programs {
        fs::copy(program, stage.path().join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    testhost::put(cache, host, stage.path(), PLACE)
}

/// The scenarios' own status; anything else is a failure of the host.
fn run_scenarios(host: &Host, args: &Args, filter: Option<&str>) -> Result<i32> {
    let line = line(filter, args.jobs, args.coverage);
    let status = host.ssh("root").arg(&line).stdin(Stdio::null()).status().context("cannot run ssh")?;
    match status.code() {
        Some(code @ (0 | 1)) => Ok(code),
        _ => bail!("the scenarios did not come to their end: {status}"),
    }
}

/// What the host's shell is given.
fn line(filter: Option<&str>, jobs: Option<u32>, is_instrumented: bool) -> String {
    let mut words = vec![format!("{PLACE}/e2e"), format!("--artifacts={ARTIFACTS}")];
    words.push(format!("--junit={ARTIFACTS}/junit.xml"));
    words.extend(filter.map(str::to_owned));
    words.extend(jobs.map(|jobs| format!("--jobs={jobs}")));
    let environment = if is_instrumented { coverage::environment() } else { String::new() };
    format!("mkdir -p {ARTIFACTS}; {environment}{}", testhost::quoted(&words))
}

/// Everything is brought out as bytes and nothing is unpacked: guests wrote some of it.
fn bring_out(host: &Host, report: &Path) -> Result<()> {
    sys::fs::remove_tree(report)?;
    fs::create_dir_all(report).with_context(|| format!("cannot make {}", report.display()))?;
    for (name, line) in BROUGHT {
        let path = report.join(name);
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let status = host.ssh("root").arg(line).stdin(Stdio::null()).stdout(file).status().context("cannot run ssh")?;
        ensure!(status.success(), "cannot bring out {name}: {status}");
    }
    fs::copy(host.console(), report.join("console.log")).context("cannot bring out the console")?;
    Ok(())
}

fn code_of(code: Option<i32>) -> ExitCode {
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_typed_stays_one_word() {
        let all = line(None, None, false);
        assert_eq!(
            all,
            "mkdir -p /var/lib/e2e; '/usr/local/lib/e2e/e2e' '--artifacts=/var/lib/e2e' '--junit=/var/lib/e2e/junit.xml'"
        );
        let some = line(Some("--filter=a,b; reboot"), Some(3), true);
        assert!(some.ends_with("'--filter=a,b; reboot' '--jobs=3'"), "{some}");
        assert!(some.contains("LLVM_PROFILE_FILE=/var/lib/e2e-profiles/%c%m.profraw '/usr/local"), "{some}");
    }

    #[test]
    fn a_status_that_is_none_is_a_failure() {
        assert_eq!(code_of(Some(0)), ExitCode::SUCCESS);
        assert_eq!(code_of(Some(2)), ExitCode::from(2));
        assert_eq!(code_of(None), ExitCode::FAILURE);
    }
}
