//! `banger kernel import`: a kernel from packages, a file or a directory, from the host's Debian archive, or the host's own.

use wire::api::{BASE, Begun, ImportKernel, Kernel, KernelSource};

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
  banger kernel import ./kernel-core-6.17.rpm ./kernel-modules-core-6.17.rpm
  banger kernel import --host           the kernel this host runs
  banger kernel import ./vmlinux --config ./.config --modules ./lib/modules";

/// Where from.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A .deb or .rpm, or all packages of one kernel; a vmlinuz, a vmlinux, or a directory with one; Debian's cloud kernel
    /// when left out
    #[arg(value_name = "PATH", value_parser = values::reference, value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<String>,
    /// A kernel package of the host's Debian archive instead
    #[arg(long, value_name = "PACKAGE", num_args = 0..=1, default_missing_value = KERNEL_PACKAGE, conflicts_with = "paths")]
    debian: Option<String>,
    /// The kernel that this host runs, from /boot
    #[arg(long, conflicts_with_all = ["paths", "debian"])]
    host: bool,
    /// The kernel's configuration, when the file carries none
    #[arg(long, value_name = "FILE", requires = "paths")]
    config: Option<String>,
    /// Its module tree
    #[arg(long, value_name = "DIR", requires = "paths")]
    modules: Option<String>,
    /// What to call it, instead of its release
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

impl Args {
    /// What is imported, as people call it.
    pub(super) fn subject(&self) -> &str {
        match self.paths.first() {
            Some(path) => path,
            None if self.host => "of this host",
            None => self.debian.as_deref().unwrap_or(KERNEL_PACKAGE),
        }
    }
}

/// Imports it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let began = clock::now();
    let subject = args.name.clone().unwrap_or_else(|| args.subject().to_owned());
    let request = ImportKernel { source: source(&args)?, name: args.name };
    let begun = import(app, &subject, &request).await?;
    app.out.aside(&format!("imported in {}", elapsed(clock::now().duration_since(began))));
    if app.out.format == Format::Json {
        let kernel: Kernel = app.client.get(&path("kernels", &begun.subject, "")).await?;
        app.out.json(&kernel)?;
    } else {
        app.out.line(&begun.subject)?;
    }
    Ok(0)
}

/// Has the daemon import a kernel, and follows it.
pub(super) async fn import(app: &App, subject: &str, request: &ImportKernel) -> Result<Begun, Failure> {
    let target = format!("{BASE}/kernels/import");
    let begin = app.client.send(&target, request);
    operation::perform(app, subject, app.interrupts.start(), begin).await
}

fn source(args: &Args) -> Result<KernelSource, Failure> {
    let Some((given, more)) = args.paths.split_first() else {
        if args.host {
            return Ok(KernelSource::Host);
        }
        let package = args.debian.as_deref().unwrap_or(KERNEL_PACKAGE);
        return Ok(KernelSource::Debian { package: package.to_owned() });
    };
    Ok(KernelSource::Path {
        path: absolute(given)?,
        more: more.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        config: args.config.as_deref().map(absolute).transpose()?,
        modules: args.modules.as_deref().map(absolute).transpose()?,
    })
}
