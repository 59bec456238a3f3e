//! A fresh VM that goes on from a template, against one that boots.

use anyhow::Result;
use figures::{Row, pairs};

use super::boot::rested;
use super::host::{Host, until};

pub(super) fn rows(cold: &Host, runs: usize) -> Result<Vec<Row>> {
    let warm = Host::another("template")?;
    warm.use_templates(true)?;
    warm.used(|warm| {
        let command = ["vm", "run", "--rm", "--", "true"];
        warm.ok(&command)?;
        until("there is a template", || Ok(!warm.ok(&["template", "list", "-q"])?.is_empty()))?;
        let from_template = || rested(&mut warm.banger(&command));
        let booted = || rested(&mut cold.banger(&command));
        let measured = pairs(runs, from_template, booted)?;
        let what = "`vm run --rm -- true` from a template";
        Ok(vec![Row::ratio(what, "the same, booting (`--wait system`)", 0.15, &measured)])
    })
}
