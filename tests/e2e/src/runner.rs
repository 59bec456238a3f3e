//! Runs scenarios by their classes: what may run side by side does, the rest follows one by one.

use std::any::Any;
use std::collections::VecDeque;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::command;
use crate::home::{self, Home};
use crate::report::{self, Outcome};
use crate::scenario::{Class, Fixture, Scenario};
use crate::slate::Slate;

/// Memory that a scenario with a VM takes, its VMM and daemon included.
const SCENARIO_MIB: u64 = 1300;

/// A scenario that needs nothing, and what it does.
type Free = (&'static Scenario, fn() -> Result<()>);
/// A scenario of a fixture, and what it does.
type OnFixture = (&'static Scenario, fn(&Home) -> Result<()>);

/// What one worker does in one go.
enum Work {
    One(Free),
    Fixture(&'static Fixture, Vec<OnFixture>),
}

/// How many scenarios this host can bear side by side.
pub(crate) fn jobs_of_this_host() -> Result<usize> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read the memory's size")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).context("no MemAvailable")?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(jobs(kib / 1024, cpus, is_emulated()?))
}

/// Whether the host's own processor is emulated: then no hypervisor but QEMU itself is found.
pub(crate) fn is_emulated() -> Result<bool> {
    let virt = command::run(&mut Command::new("systemd-detect-virt"), Duration::from_secs(60))?;
    Ok(virt.stdout.trim() == "qemu")
}

/// One at a time where the host is emulated: of guests that boot side by side on an emulated processor's virtualisation,
/// some stand still in early boot.
fn jobs(memory_mib: u64, cpus: usize, is_emulated: bool) -> usize {
    let most = if is_emulated { 1 } else { cpus.max(1) };
    usize::try_from(memory_mib / SCENARIO_MIB).unwrap_or(usize::MAX).clamp(1, most)
}

/// Runs them all, `jobs` side by side, and tells each outcome as it comes.
pub(crate) fn run(chosen: &[&'static Scenario], jobs: usize, artifacts: &Path) -> Result<Vec<Outcome>> {
    fs::create_dir_all(artifacts).with_context(|| format!("cannot make {}", artifacts.display()))?;
    home::ARTIFACTS.set(artifacts.to_owned()).map_err(|_| anyhow!("two runs in one process"))?;
    let before = Slate::take()?;
    let outcomes = Mutex::new(Vec::new());
    let tell = |outcome: Outcome| {
        println!("{}", report::line(&outcome));
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    };
    let (work, alone) = plan(chosen);
    println!("{} scenarios, {jobs} side by side", chosen.len());
    if !work.is_empty() {
        side_by_side(work, jobs, &tell);
        // Who of those that ran together left something cannot be told; that somebody did can.
        tell(timed("slate.parallel", || before.await_same()));
    }
    for (scenario, act) in alone {
        tell(timed(scenario.name, || {
            let before = Slate::take()?;
            let outcome = act();
            let slate = before.await_same();
            outcome.and(slate)
        }));
    }
    Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Scenarios that run beside others, in the list's order, and those that run alone.
fn plan(chosen: &[&'static Scenario]) -> (VecDeque<Work>, Vec<Free>) {
    let (mut work, mut alone) = (VecDeque::new(), Vec::new());
    for &scenario in chosen {
        match scenario.class {
            Class::Parallel(act) => work.push_back(Work::One((scenario, act))),
            Class::Alone(act) => alone.push((scenario, act)),
            Class::InOrder(fixture, act) => {
                let known = work.iter_mut().find_map(|one| match one {
                    Work::Fixture(of, list) if of.name == fixture.name => Some(list),
                    Work::Fixture(..) | Work::One(_) => None,
                });
                match known {
                    Some(list) => list.push((scenario, act)),
                    None => work.push_back(Work::Fixture(fixture, vec![(scenario, act)])),
                }
            }
        }
    }
    (work, alone)
}

fn side_by_side(work: VecDeque<Work>, jobs: usize, tell: &(impl Fn(Outcome) + Sync)) {
    let work = Mutex::new(work);
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(work) = next() {
                    match work {
                        Work::One((scenario, act)) => tell(timed(scenario.name, act)),
                        Work::Fixture(fixture, list) => in_order(fixture, list, tell),
                    }
                }
            });
        }
    });
}

/// Makes the fixture, runs its scenarios on it until one fails, and ends it.
fn in_order(fixture: &'static Fixture, list: Vec<OnFixture>, tell: &(impl Fn(Outcome) + Sync)) {
    let mut made = None;
    let making = timed("", || {
        made = Some((fixture.make)()?);
        Ok(())
    });
    let mut failed = making.failure.map(|why| format!("its fixture {} could not be made: {why}", fixture.name));
    for (scenario, act) in list {
        let outcome = match (&failed, &made) {
            (None, Some(home)) => timed(scenario.name, || act(home)),
            (why, _) => Outcome {
                name: scenario.name.to_owned(),
                took: Duration::ZERO,
                failure: Some(format!("not run: {}", why.as_deref().unwrap_or("no fixture"))),
            },
        };
        if outcome.failure.is_some() && failed.is_none() {
            failed = Some(format!("{} failed before it", scenario.name));
        }
        tell(outcome);
    }
    match (failed, made) {
        (None, Some(home)) => tell(timed(&format!("fixture.{}", fixture.name), || home.end())),
        // Dropped: what is left of it is taken away.
        (_, made) => drop(made),
    }
}

/// Runs an act and notes how long it took and why it failed; a panic is a failure like any other.
fn timed(name: &str, act: impl FnOnce() -> Result<()>) -> Outcome {
    let from = Instant::now();
    let failure = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(panic) => Some(format!("panicked: {}", panic_text(panic.as_ref()))),
    };
    Outcome { name: name.to_owned(), took: from.elapsed(), failure }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static BROKEN: Fixture = Fixture { name: "broken", make: || Err(anyhow!("no such luck")) };
    static OTHER: Fixture = Fixture { name: "other", make: || Err(anyhow!("neither")) };

    const fn scenario(name: &'static str, class: Class) -> Scenario {
        Scenario { name, about: "", tags: &[], class }
    }

    static ALL: [Scenario; 6] = [
        scenario("a.one", Class::Parallel(|| Ok(()))),
        scenario("a.first", Class::InOrder(&BROKEN, |_| Ok(()))),
        scenario("a.alone", Class::Alone(|| Ok(()))),
        scenario("a.elsewhere", Class::InOrder(&OTHER, |_| Ok(()))),
        scenario("a.second", Class::InOrder(&BROKEN, |_| Ok(()))),
        scenario("a.two", Class::Parallel(|| panic!("it {}", "broke"))),
    ];

    fn told(work: VecDeque<Work>, jobs: usize) -> Vec<Outcome> {
        let outcomes = Mutex::new(Vec::new());
        side_by_side(work, jobs, &|outcome| outcomes.lock().unwrap().push(outcome));
        let mut outcomes = outcomes.into_inner().unwrap();
        outcomes.sort_by(|a: &Outcome, b| a.name.cmp(&b.name));
        outcomes
    }

    #[test]
    fn scenarios_of_a_fixture_are_one_piece_of_work_and_those_alone_come_apart() {
        let (work, alone) = plan(&ALL.iter().collect::<Vec<_>>());
        assert_eq!(work.len(), 4);
        let fixture = work.iter().find_map(|one| match one {
            Work::Fixture(fixture, list) if fixture.name == "broken" => Some(list),
            _ => None,
        });
        let names: Vec<&str> = fixture.unwrap().iter().map(|(scenario, _)| scenario.name).collect();
        assert_eq!(names, ["a.first", "a.second"]);
        assert_eq!(alone.len(), 1);
    }

    #[test]
    fn a_fixture_that_cannot_be_made_fails_its_scenarios_and_a_panic_fails_its_own() {
        let (work, _) = plan(&ALL.iter().collect::<Vec<_>>());
        let outcomes = told(work, 2);
        let failure = |name: &str| outcomes.iter().find(|outcome| outcome.name == name).unwrap().failure.clone();
        assert_eq!(failure("a.one"), None);
        assert_eq!(failure("a.two").unwrap(), "panicked: it broke");
        assert!(failure("a.first").unwrap().contains("no such luck"));
        assert!(failure("a.second").unwrap().contains("no such luck"));
    }

    #[test]
    fn no_more_run_at_once_than_asked_for() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        static BUSY: Scenario = scenario(
            "a.busy",
            Class::Parallel(|| {
                MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                NOW.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }),
        );
        let (work, _) = plan(&[&BUSY; 40]);
        assert_eq!(told(work, 3).len(), 40);
        assert!((1..=3).contains(&MOST.load(Ordering::SeqCst)));
    }

    #[test]
    fn memory_bounds_how_many_run_side_by_side() {
        assert_eq!(jobs(100, 8, false), 1);
        assert_eq!(jobs(4000, 8, false), 3);
        assert_eq!(jobs(64_000, 2, false), 2);
        assert_eq!(jobs(64_000, 8, true), 1, "an emulated processor bears one");
    }
}
