//! `banger kernel pull`: a kernel of the catalog.

use wire::api::{BASE, ImportKernel, Kernel, KernelSource};

use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::operation;
use crate::output::Format;
use crate::table::elapsed;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger kernel list --available
  banger kernel pull generic-6.12
  banger kernel pull generic-6.12 --name current
  banger run --kernel current

The catalog is set in config.toml: docs/catalogs.md";

/// Which one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The kernel, as the catalog calls it
    #[arg(value_name = "KERNEL", value_parser = values::reference)]
    pub(super) kernel: String,
    /// What to call it here, instead of what the catalog does
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Pulls it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let began = clock::now();
    let subject = args.name.clone().unwrap_or_else(|| args.kernel.clone());
    let request = ImportKernel { source: KernelSource::Catalog { name: args.kernel }, name: args.name };
    let target = format!("{BASE}/kernels/import");
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &subject, app.interrupts.start(), begin).await?;
    app.out.aside(&format!("pulled in {}", elapsed(clock::now().duration_since(began))));
    if app.out.format == Format::Json {
        let kernel: Kernel = app.client.get(&path("kernels", &begun.subject, "")).await?;
        app.out.json(&kernel)?;
    } else {
        app.out.line(&begun.subject)?;
    }
    Ok(0)
}
