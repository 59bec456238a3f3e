//! `e2e --bench`: the figures of Firecracker, each beside its floor, all of one test host. `cargo xtask bench-e2e` starts it.
//!
//! | file | rows |
//! |---|---|
//! | `starts.rs` | a cold start against bare Firecracker; a start from a template against the cold one, and against a bare load |
//! | `fork.rs` | how long a fork's source stands still, against a bare full snapshot; eight forks at once |
//! | `memory.rs` | a VMM beside its guest's memory; ten VMs of one template against ten that booted |
//!
//! | file | what |
//! |---|---|
//! | `user.rs` | threads that are the ordinary user, and their stopwatch |
//! | `launch.rs` | what the product runs, read from what runs |
//! | `bare.rs`, `api.rs` | Firecracker without the product |
//! | `smaps.rs` | what memory processes take |

mod api;
mod bare;
mod fork;
mod launch;
mod memory;
mod smaps;
mod starts;
mod user;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use figures::{Report, Row};

use crate::command;
use crate::home::Home;
use crate::runner;
use crate::wait;
use user::User;

/// How long a template may take until it is there: a boot on an emulated processor, at a low priority.
const TEMPLATE_MAX: Duration = Duration::from_secs(600);

/// What a guest's lost channel is called. It happens on emulated processors, rarely; such a turn is taken again, once.
const LOST: [&str; 4] =
    ["the guest's channel broke", "the guest agent was cut off", "the guest is gone", "the guest stands still"];

type Group = fn(&Bench) -> Result<Vec<Row>>;

const GROUPS: [(&str, Group); 3] = [("starts", starts::rows), ("fork", fork::rows), ("memory", memory::rows)];

/// What the rows share.
pub(crate) struct Bench {
    /// VMs boot.
    cold: Home,
    /// VMs go on from templates.
    warm: Home,
    user: User,
    /// How many turns count.
    runs: usize,
    is_emulated: bool,
    /// What templates there are, by the options of the machines they are for.
    templates: RefCell<Vec<(Vec<String>, PathBuf)>>,
    /// Turns that were taken again.
    again: Cell<u32>,
    /// How often templates had been used, and given up, at the last look.
    seen: Cell<(u64, u64)>,
    notes: RefCell<Vec<String>>,
}

/// Measures the groups named, or all.
///
/// # Errors
/// When nothing can be measured here, or a name is none.
pub(crate) fn run(only: &[String], runs: usize) -> Result<Report> {
    if let Some(lost) = only.iter().find(|only| !GROUPS.iter().any(|(name, _)| name == only)) {
        anyhow::bail!("no group of figures is called {lost:?}: {}", GROUPS.map(|(name, _)| name).join(", "));
    }
    let bench = Bench {
        templates: RefCell::default(),
        cold: home(false)?,
        warm: home(true)?,
        user: User::find()?,
        runs,
        is_emulated: runner::is_emulated()?,
        again: Cell::default(),
        seen: Cell::default(),
        notes: RefCell::default(),
    };
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for (name, group) in GROUPS {
        if only.is_empty() || only.iter().any(|only| only == name) {
            eprintln!("measuring: {name}");
            match group(&bench) {
                Ok(measured) => rows.extend(measured),
                // The other groups' figures are worth having all the same.
                Err(error) => failed.push(format!("{name}: {error:#}")),
            }
            // One that failed left VMs.
            for home in [&bench.cold, &bench.warm] {
                if let Err(error) = clear(home) {
                    failed.push(format!("what {name} left: {error:#}"));
                }
            }
        }
    }
    let again = bench.again.get();
    if again > 0 {
        bench.note(format!("turns taken again because a guest lost its channel: {again}"));
    }
    let machine = machine(bench.is_emulated)?;
    let Bench { cold, warm, notes, .. } = bench;
    for home in [cold, warm] {
        if let Err(error) = home.end() {
            failed.push(format!("the end: {error:#}"));
        }
    }
    Ok(Report { machine, rows, notes: notes.into_inner(), failed })
}

/// One turn, as progress.
fn tell(took: Duration, what: &str) {
    eprintln!("{:9.3} s  {what}", took.as_secs_f64());
}

/// A home whose VMs run under Firecracker.
fn home(templates: bool) -> Result<Home> {
    let home = Home::new("firecracker")?;
    // A daemon that ends between two turns would be started in one of them.
    home.configure(&format!("boot_timeout_s = 180\nidle_exit_s = 86400\ntemplates = {templates}\n"))?;
    home.ok(&["list", "-q"])?;
    Ok(home)
}

/// Deletes every VM of a home.
fn clear(home: &Home) -> Result<()> {
    for name in home.ok(&["list", "-q"])?.lines() {
        home.ok(&["delete", "-q", name])?;
    }
    Ok(())
}

fn machine(is_emulated: bool) -> Result<String> {
    let version = command::run(Command::new("firecracker").arg("--version"), Duration::from_secs(60))?;
    let version = version.ok()?.lines().next().unwrap_or("Firecracker").to_owned();
    let memory = command::shell("sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo")?;
    let mib = memory.parse::<u64>().context("the memory's size is no number")? >> 10;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kvm = if is_emulated { "an emulated processor that virtualises" } else { "nested virtualisation" };
    Ok(format!("{version} in a test host with {cpus} processors ({kvm}) and {mib} MiB of memory"))
}

impl Bench {
    fn note(&self, note: String) {
        eprintln!("{note}");
        self.notes.borrow_mut().push(note);
    }

    /// How long `banger` takes with these arguments; taken again, once, when a guest lost its channel.
    fn time(&self, home: &Home, arguments: &[&str]) -> Result<Duration> {
        let once = || self.user.does(|| user::time(&mut home.direct_command("banger", arguments)));
        once()
            .or_else(|error| {
                let said = format!("{error:#}");
                ensure!(LOST.iter().any(|lost| said.contains(lost)), "{said}");
                eprintln!("taken again: {said}");
                self.again.set(self.again.get() + 1);
                once()
            })
            .inspect(|took| tell(*took, &format!("banger {}", arguments.join(" "))))
    }

    /// So many VMs went on from templates since the last look, at least, and none had to boot because that failed.
    fn check_templates(&self, runs: usize) -> Result<()> {
        let said = self.warm.ok(&["template", "list", "--format", "json"])?;
        let list: serde_json::Value = serde_json::from_str(&said).context("a list of templates is JSON")?;
        let templates = list["templates"].as_array().context("a list of templates has some")?;
        let uses: u64 = templates.iter().filter_map(|one| one["uses"].as_u64()).sum();
        let fell_back = list["fell_back"].as_u64().context("a list of templates counts")?;
        let (uses_before, fell_back_before) = self.seen.replace((uses, fell_back));
        let (new, booted) = (uses.saturating_sub(uses_before), fell_back - fell_back_before);
        ensure!(booted == 0 && new >= runs as u64, "{new} VMs went on from a template, {booted} gave it up and booted");
        Ok(())
    }

    /// Has the home with templates make the one for machines of this size, if there is none. Gives its directory.
    fn template(&self, options: &[&str]) -> Result<PathBuf> {
        let known = self.templates.borrow().iter().find(|(of, _)| of == options).map(|(_, dir)| dir.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let dir = self.warm.path().join("state/templates");
        let all = || -> Vec<PathBuf> {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.filter(|path| path.join("manifest.json").is_file()).collect()
        };
        let before = all();
        self.time(&self.warm, &[&["run", "-q", "--rm"], options, &["--", "true"]].concat())?;
        let made = wait::until("there is a template", TEMPLATE_MAX, || {
            all().into_iter().find(|path| !before.contains(path)).context("none yet")
        })?;
        let of = options.iter().map(|word| (*word).to_owned()).collect();
        self.templates.borrow_mut().push((of, made.clone()));
        Ok(made)
    }
}
