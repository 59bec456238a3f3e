//! `banger kernel list`: which kernels there are.

use wire::api::KernelList;
use wire::size::human;

use crate::args::Records;
use crate::clock;
use crate::cmd::{App, available};
use crate::error::Failure;
use crate::table::{age, table};

/// How to print them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the catalog has, instead of what is here
    #[arg(long)]
    available: bool,
    #[command(flatten)]
    pub(crate) records: Records,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    if args.available {
        return available::list(app, "kernels", &args.records).await;
    }
    let list = super::list_all(app).await?;
    if args.records.quiet {
        app.out.text(&list.kernels.iter().map(|kernel| format!("{}\n", kernel.id)).collect::<String>())?;
        return Ok(0);
    }
    let names = |list: &KernelList| list.kernels.iter().map(|kernel| format!("{}\n", kernel.name)).collect();
    app.out.record(&list, |list| render(list, clock::unix_ms()), names)?;
    Ok(0)
}

fn render(list: &KernelList, now_ms: u64) -> String {
    let rows = list.kernels.iter().map(|kernel| {
        vec![
            kernel.id.as_str()[..8].to_owned(),
            kernel.name.clone(),
            kernel.release.clone(),
            human(kernel.vmlinux_bytes),
            kernel.module_count.to_string(),
            kernel.used_by.len().to_string(),
            age(kernel.created_at_ms, now_ms),
        ]
    });
    table(&["ID", "NAME", "RELEASE", "SIZE", "MODULES", "VMS", "IMPORTED"], &rows.collect::<Vec<_>>())
}
