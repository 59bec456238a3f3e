//! `banger kernel import`: a kernel from a package, a file or a directory, or from the host's Debian archive.

use wire::api::{BASE, ImportKernel, Kernel, KernelSource};

use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::cmd::image::absolute;
use crate::cmd::vm::defaults::KERNEL_PACKAGE;
use crate::error::Failure;
use crate::operation;
use crate::output::Format;
use crate::table::elapsed;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger kernel import                  Debian's cloud kernel, by apt
  banger kernel import --debian linux-image-amd64 --name full
  banger kernel import ./linux-image-6.12.deb
  banger kernel import ./vmlinux --config ./.config --modules ./lib/modules";

/// Where from.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .deb, a vmlinuz, a vmlinux, or a directory with one; Debian's cloud kernel when left out
    #[arg(value_parser = values::reference, value_hint = clap::ValueHint::AnyPath)]
    pub(super) path: Option<String>,
    /// A kernel package of the host's Debian archive instead
    #[arg(long, value_name = "PACKAGE", num_args = 0..=1, default_missing_value = KERNEL_PACKAGE, conflicts_with = "path")]
    debian: Option<String>,
    /// The kernel's configuration, when the file carries none
    #[arg(long, value_name = "FILE", requires = "path")]
    config: Option<String>,
    /// Its module tree
    #[arg(long, value_name = "DIR", requires = "path")]
    modules: Option<String>,
    /// What to call it, instead of its release
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Imports it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let source = source(&args)?;
    let began = clock::now();
    let subject = match (&args.name, &source) {
        (Some(name), _) => name.clone(),
        (None, KernelSource::Debian { package }) => package.clone(),
        (None, KernelSource::Path { path, .. }) => path.clone(),
        (None, KernelSource::Catalog { name }) => name.clone(),
    };
    let request = ImportKernel { source, name: args.name };
    let target = format!("{BASE}/kernels/import");
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &subject, app.interrupts.start(), begin).await?;
    app.out.aside(&format!("imported in {}", elapsed(clock::now().duration_since(began))));
    if app.out.format == Format::Json {
        let kernel: Kernel = app.client.get(&path("kernels", &begun.subject, "")).await?;
        app.out.json(&kernel)?;
    } else {
        app.out.line(&begun.subject)?;
    }
    Ok(0)
}

fn source(args: &Args) -> Result<KernelSource, Failure> {
    let Some(given) = &args.path else {
        let package = args.debian.as_deref().unwrap_or(KERNEL_PACKAGE);
        return Ok(KernelSource::Debian { package: package.to_owned() });
    };
    Ok(KernelSource::Path {
        path: absolute(given)?,
        config: args.config.as_deref().map(absolute).transpose()?,
        modules: args.modules.as_deref().map(absolute).transpose()?,
    })
}
