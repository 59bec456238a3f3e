//! `banger config`: what the daemon's settings are and where each comes from.

use wire::api::{BASE, Configuration, DaemonStatus, ErrorCode};
use wire::size::human;

use crate::args::Record;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::{Format, Output};
use crate::settings::Settings;
use crate::table::table;

/// Below `banger config --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger config show                    every setting, and where it comes from
  $EDITOR \"$(banger config path)\"       change some; then: banger daemon stop";

/// What can be done with it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Show every setting, and where it comes from
    Show(Args),
    /// Print where config.toml is, or would be
    Path,
}

/// How to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    record: Record,
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::Show(args) => args.record.format,
            Verb::Path => Format::Table,
        }
    }
}

/// Prints where the file is: without the daemon, which does not start while the file is wrong.
///
/// # Errors
/// When no home is known.
pub(crate) fn path(settings: &Settings, out: Output) -> Result<u8, Failure> {
    let dirs = settings.dirs().map_err(|error| Failure::new(ErrorCode::BadRequest, error.to_string()))?;
    out.line(&dirs.config_file().display().to_string())?;
    Ok(0)
}

/// Prints what the daemon says of its settings.
pub(crate) async fn show(app: &App) -> Result<u8, Failure> {
    let target = format!("{BASE}/config");
    let configuration: Configuration = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    let keys = |all: &Configuration| all.settings.iter().map(|setting| format!("{}\n", setting.key)).collect();
    app.out.record(&configuration, render, keys)?;
    if app.out.format == Format::Table && !configuration.exists {
        app.out.aside(&format!("{} is not there; each of its keys is optional", configuration.path));
    }
    Ok(0)
}

fn render(configuration: &Configuration) -> String {
    let rows = configuration.settings.iter().map(|setting| {
        let origin = setting.origin.name();
        let from = setting.why.as_ref().map_or_else(|| origin.to_owned(), |why| format!("{origin}: {why}"));
        vec![setting.key.clone(), setting.value.clone(), from]
    });
    table(&["KEY", "VALUE", "FROM"], &rows.collect::<Vec<_>>())
}

/// What a VM gets here when nothing is asked, for the end of a help page.
pub(crate) fn defaults_line(status: &DaemonStatus) -> String {
    let defaults = &status.defaults;
    let stops = defaults
        .stop_after_ms
        .map_or_else(String::new, |after_ms| format!(" | stops after {} idle", wire::duration::human(after_ms)));
    format!(
        "Here, when nothing is asked: {} vcpu | {} memory | {} disk{stops} (banger config show)\n",
        defaults.vcpus,
        human(defaults.memory_mib << 20),
        human(defaults.disk_bytes),
    )
}
