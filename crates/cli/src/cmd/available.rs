//! `--available` of `banger image list` and `banger kernel list`: what the catalog has.

use wire::api::{Available, BASE};
use wire::size::human;

use crate::args::Records;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::printable;
use crate::table::table;

fn names(available: &Available) -> String {
    available.entries.iter().map(|entry| format!("{}\n", entry.name)).collect()
}

/// Prints what the catalog has of `kind`, `images` or `kernels`.
pub(crate) async fn list(app: &App, kind: &str, records: &Records) -> Result<u8, Failure> {
    let target = format!("{BASE}/{kind}/available");
    let available: Available = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    if available.catalog.is_none() {
        app.out.note("No catalog is configured: docs/catalogs.md says how one is.");
    }
    if let Some(age_ms) = available.kept_for_ms {
        let why = available.why.as_deref().unwrap_or("nobody was asked for a newer one");
        let why = printable(why);
        app.out.note(&format!("This is the catalog of {} ago: {why}", wire::duration::human(age_ms)));
    }
    if records.quiet {
        app.out.text(&names(&available))?;
        return Ok(0);
    }
    app.out.record(&available, render, names)?;
    Ok(0)
}

fn render(available: &Available) -> String {
    let rows = available.entries.iter().map(|entry| {
        vec![
            printable(&entry.name),
            printable(entry.version.as_ref().unwrap_or(&entry.distro)),
            printable(&entry.arch),
            human(entry.size),
            if entry.is_here { "yes" } else { "-" }.to_owned(),
            printable(&entry.description),
        ]
    });
    table(&["NAME", "VERSION", "ARCH", "SIZE", "HERE", "DESCRIPTION"], &rows.collect::<Vec<_>>())
}
