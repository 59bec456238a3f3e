//! Starts: cold against bare Firecracker, from a template against the cold one and against a bare load.

use anyhow::Result;
use figures::{Row, median, pairs_of, turns};

use super::Bench;
use super::bare::Bare;
use super::launch::Launch;

/// What a start may take on a processor that virtualises, in milliseconds.
const RESTORED_MS: f64 = 30.0;
const COLD_MS: f64 = 150.0;

pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let bare = bare(bench)?;
    let template = bench.template(&[])?;
    let measured = {
        let mut cold = || bench.time(&bench.cold, &["run", "--rm", "--wait", "agent", "--", "true"]);
        let mut boot = || bare.boot(bench);
        let mut warm = || bench.time(&bench.warm, &["run", "--rm", "--", "true"]);
        let mut load = || bare.load(bench, &template);
        turns(bench.runs, &mut [&mut cold, &mut boot, &mut warm, &mut load])?
    };
    bench.check_templates(bench.runs)?;
    let (cold, warm) = ("`run --rm --wait agent -- true`", "`run --rm -- true` from a template");
    let mut rows = vec![
        Row::ratio(cold, "bare Firecracker, an init that ends at once", 1.25, &pairs_of(&measured, 0, 1)),
        Row::ratio(warm, "the cold run above", 0.2, &pairs_of(&measured, 2, 0)),
        Row::ratio(warm, "bare `PUT /snapshot/load`, until its agent connects", 2.0, &pairs_of(&measured, 2, 3)),
    ];
    if bench.is_emulated {
        bench.note(format!(
            "the goals of {RESTORED_MS:.0} ms restored and {COLD_MS:.0} ms cold are those of a processor that virtualises; \
             this one is emulated, and they are left out"
        ));
    } else {
        let ms = |side: usize| median(measured.iter().map(|turn| turn[side].as_secs_f64() * 1e3).collect());
        rows.push(Row::limit(warm, "as a time", RESTORED_MS, ms(2), "ms").beside(ms(3)));
        rows.push(Row::limit(cold, "as a time", COLD_MS, ms(0), "ms").beside(ms(1)));
    }
    Ok(rows)
}

/// The parts of a VM of the same kind as those that are measured.
fn bare(bench: &Bench) -> Result<Bare> {
    bench.time(&bench.cold, &["run", "-q", "-d", "--name", "floor", "--wait", "agent"])?;
    let bare = Bare::of(&Launch::of(&bench.cold, "floor")?)?;
    bench.cold.ok(&["delete", "-q", "floor"])?;
    bare.check(&bench.user)?;
    Ok(bare)
}
