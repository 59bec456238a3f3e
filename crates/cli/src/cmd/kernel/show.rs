//! `banger kernel show`: all about one kernel.

use wire::api::Kernel;
use wire::size::human;

use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::printable;
use crate::table::{age, pairs};
use crate::values;

/// Which one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The kernel, by name or id
    #[arg(value_parser = values::reference, add = complete::kernels())]
    pub(super) kernel: String,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("kernels", &args.kernel, "");
    let kernel: Kernel = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    app.out.record(&kernel, render, |kernel| format!("{}\n", kernel.name))?;
    Ok(0)
}

fn render(kernel: &Kernel) -> String {
    let facts = kernel.facts.0.iter().map(|(option, value)| format!("{}={}", printable(option), printable(value)));
    let used_by = if kernel.used_by.is_empty() { "-".to_owned() } else { kernel.used_by.join(", ") };
    pairs(&[
        ("id", kernel.id.to_string()),
        ("name", kernel.name.clone()),
        ("release", printable(&kernel.release)),
        ("arch", kernel.arch.clone()),
        ("sha256", kernel.vmlinux_sha256.clone()),
        ("size", human(kernel.vmlinux_bytes)),
        ("modules", kernel.module_count.to_string()),
        ("source", printable(&kernel.source)),
        ("facts", facts.collect::<Vec<_>>().join(" ")),
        ("imported", format!("{} ago", age(kernel.created_at_ms, clock::unix_ms()))),
        ("used by", used_by),
    ])
}
