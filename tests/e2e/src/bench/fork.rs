//! Forks: how long their source stands still, and how long eight take.

use std::time::Duration;

use anyhow::{Context, Result};
use figures::{Pair, Row, median};
use serde_json::Value;

use super::Bench;
use super::bare;
use super::launch::Launch;

const MEMORY: &str = "256M";
const FORKS: u32 = 8;

/// The steps of a fork between which its source stands still, and what happens meanwhile.
const STILL: [&str; 3] = ["stand_still", "save_machine", "run_on"];

pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    bench.template(&["--memory", MEMORY])?;
    let mut measured: Vec<(Pair, [f64; 3])> = Vec::new();
    for turn in 0..=bench.runs {
        let one = pause(bench)?;
        if turn > 0 {
            measured.push(one);
        }
    }
    bench.check_templates(bench.runs)?;
    let step = |at: usize| median(measured.iter().map(|(_, steps)| steps[at]).collect());
    bench.note(format!(
        "a fork's source stands still for: {}",
        STILL.iter().enumerate().map(|(at, name)| format!("{name} {:.0} ms", step(at))).collect::<Vec<_>>().join(", ")
    ));
    let pairs: Vec<Pair> = measured.iter().map(|(pair, _)| *pair).collect();
    let mut rows = vec![Row::ratio(
        "`fork` of a running 256 MiB VM of a template: its source stands still",
        "bare pause, full `PUT /snapshot/create`, resume of the same VM",
        0.25,
        &pairs,
    )];
    match eight(bench) {
        Ok(row) => rows.push(row),
        // Nothing depends on it.
        Err(error) => bench.note(format!("eight forks at once are not measured: {error:#}")),
    }
    Ok(rows)
}

/// One VM goes on from the template, is forked, and is then saved by Firecracker alone: that spoils it for another fork.
fn pause(bench: &Bench) -> Result<(Pair, [f64; 3])> {
    let home = &bench.warm;
    bench.time(home, &["run", "-q", "-d", "--name", "source", "--memory", MEMORY])?;
    bench.time(home, &["fork", "-q", "source", "--name", "copy"])?;
    let steps = steps(&home.ok(&["op", "list", "--format", "json"])?)?;
    // The guest has noticed that it stood still.
    home.ok(&["exec", "source", "--", "true"])?;
    let bare = bare::full_snapshot(&Launch::of(home, "source")?)?;
    home.ok(&["delete", "-q", "source", "copy"])?;
    let (begun, ended) = (steps[0].0, steps[2].1);
    let still = Duration::from_millis(ended.saturating_sub(begun));
    Ok(((still, bare), steps.map(|(begun, ended)| Duration::from_millis(ended - begun).as_secs_f64() * 1e3)))
}

/// When each of [`STILL`] began and ended in the newest fork, in milliseconds.
fn steps(list: &str) -> Result<[(u64, u64); 3]> {
    let list: Value = serde_json::from_str(list).context("a list of operations is JSON")?;
    let operations = list["operations"].as_array().context("a list of operations has some")?;
    let fork = operations.iter().find(|operation| operation["kind"] == "vm.fork").context("there was a fork")?;
    let step = |name: &str| {
        let step = fork["steps"].as_array()?.iter().find(|step| step["name"] == name)?;
        Some((step["started_at_ms"].as_u64()?, step["ended_at_ms"].as_u64()?))
    };
    let times = STILL.map(step);
    let [Some(still), Some(save), Some(on)] = times else {
        anyhow::bail!("a fork whose steps have no times: {fork}");
    };
    Ok([still, save, on])
}

/// Eight forks at once, against as many cold boots one after the other.
fn eight(bench: &Bench) -> Result<Row> {
    let (warm, cold) = (&bench.warm, &bench.cold);
    bench.time(warm, &["run", "-q", "-d", "--name", "source", "--memory", MEMORY])?;
    let forked = bench.time(warm, &["fork", "-q", "source", "--name", "copy", "-n", &FORKS.to_string()])?;
    warm.ok(&["delete", "-q", "source"])?;
    for number in 1..=FORKS {
        warm.ok(&["delete", "-q", &format!("copy-{number}")])?;
    }
    let booted = bench.time(cold, &["run", "-q", "-d", "--name", "boot", "--memory", MEMORY, "--wait", "agent"])?;
    cold.ok(&["delete", "-q", "boot"])?;
    let pair = (forked, booted * FORKS);
    Ok(Row::ratio("`fork -n 8` of it", "eight times a cold start (`--wait agent`), once", 1.0, &[pair]).only_told())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_fork_tells_when_its_source_stood_still() {
        let step = |name: &str, begun: u64, ended: u64| serde_json::json!({"name": name, "state": "succeeded", "started_at_ms": begun, "ended_at_ms": ended});
        let fork = |at: u64| {
            let steps = [("freeze", 1), ("stand_still", 2), ("save_machine", 4), ("run_on", 6)];
            let steps = steps.map(|(name, from)| step(name, at + from, at + from + 1));
            serde_json::json!({"kind": "vm.fork", "steps": steps})
        };
        let list = serde_json::json!({"operations": [{"kind": "vm.start", "steps": []}, fork(100), fork(10)]});
        assert_eq!(steps(&list.to_string()).unwrap(), [(102, 103), (104, 105), (106, 107)]);
        assert!(steps(r#"{"operations": [{"kind": "vm.fork", "steps": []}]}"#).is_err());
    }
}
