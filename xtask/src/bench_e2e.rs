//! `cargo xtask bench-e2e`: Firecracker's figures, measured by `e2e --bench` inside a test host of their own.
//!
//! 1. Builds what measures, and the release programs.
//! 2. Starts a test host that ends with this command, and puts the programs into it.
//! 3. Measures there; progress is printed here as it comes.
//! 4. Prints the table. `--write` puts it into `docs/performance.md`.
//!
//! Status: 0 measured, 1 something was not, 2 called wrongly, 77 this machine cannot run a test host.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use figures::{Report, Row};

use crate::bench::table;
use crate::e2e::{PLACE, build_scenarios, fill, guest_home};
use crate::testhost::{self, Cache, Host, Keep, STATUS_SKIPPED, ShapeArgs, Unavailable};
use crate::{dist, root};

/// The figures' marks in `docs/performance.md`.
const TABLE: &str = "figures of the test host";
/// Room for ten guests that booted.
const MEMORY_MIB: u32 = 8192;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure only these groups of figures: starts, fork, memory
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    only: Vec<String>,
    /// How many turns a ratio is the median of
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Put the table into docs/performance.md
    #[arg(long)]
    write: bool,
    /// An installed tree of release programs instead of a new build
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArgs,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let report = match measure(args) {
        Ok(report) => report,
        Err(error) => match error.downcast_ref::<Unavailable>() {
            Some(unavailable) => {
                eprintln!("bench-e2e: skipped: {unavailable}");
                return Ok(ExitCode::from(STATUS_SKIPPED));
            }
            None => return Err(error),
        },
    };
    print!("{}", figures::render(&report.rows));
    for note in &report.notes {
        println!("- {note}");
    }
    if args.write {
        let measured_on = format!("{}, {}", table::qemu()?, report.machine);
        table::write(TABLE, &measured_on, &report.rows, &report.notes)?;
    }
    let missed = report.rows.iter().filter(|row: &&Row| !row.is_met()).count();
    eprintln!("{} rows, {missed} above their goal", report.rows.len());
    for failure in &report.failed {
        eprintln!("not measured: {failure}");
    }
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(args: &Args) -> Result<Report> {
    testhost::check_tools()?;
    let root = root::repository();
    let target = dist::target_directory(&root);
    let program = build_scenarios(&root, &target)?;
    let tree = match &args.tree {
        Some(tree) => tree.clone(),
        None => {
            dist::run(&dist::Args::released())?;
            target.join("dist")
        }
    };
    let shape = args.shape.clone().with_home(guest_home(&root, &tree)?).with_memory(MEMORY_MIB);
    let cache = Cache::open()?;
    let image = testhost::image(&cache)?;
    let host = Host::up(&cache, &testhost::tied_name(), &image, &shape.shape(&cache)?, Keep::Tied)?;
    let report = fill(&cache, &host, &tree, &[(program, "e2e")]).and_then(|()| in_host(&host, args));
    if report.is_err() {
        eprintln!("bench-e2e: the host's console ends with:\n{}", host.console_tail());
    }
    host.down(&cache)?;
    report
}

fn in_host(host: &Host, args: &Args) -> Result<Report> {
    let mut words = vec![format!("{PLACE}/e2e"), "--bench".to_owned(), format!("--runs={}", args.runs)];
    if !args.only.is_empty() {
        words.push(format!("--only={}", args.only.join(",")));
    }
    let mut ssh = host.ssh("root");
    ssh.arg(testhost::quoted(&words)).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = ssh.output().context("cannot run ssh")?;
    if !output.status.success() {
        bail!("the measurement in the test host did not come to its end: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the measurement printed something else than figures")
}
