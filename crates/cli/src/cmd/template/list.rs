//! `banger template list`: what fresh VMs go on from.

use wire::api::{Template, TemplateList};
use wire::size::human;

use crate::args::Records;
use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::output;
use crate::table::{age, table_within};
use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  banger template list
  banger template list --format json | jq .fell_back";

/// How to print them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) records: Records,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let list = super::list_all(app).await?;
    let keys = |list: &TemplateList| list.templates.iter().map(|template| format!("{}\n", template.key)).collect();
    if args.records.quiet {
        let keys: String = keys(&list);
        app.out.text(&keys)?;
        return Ok(0);
    }
    app.out.record(&list, |list| render(&list.templates, clock::unix_ms()), keys)?;
    if !list.is_enabled {
        app.out.note("Templates are off: `templates = false` in config.toml. Every start boots.");
    }
    Ok(0)
}

fn render(templates: &[Template], now_ms: u64) -> String {
    let row = |template: &Template| {
        vec![
            template.key[..8.min(template.key.len())].to_owned(),
            template.image.clone(),
            template.kernel.clone(),
            template.vcpus.to_string(),
            human(template.memory_mib << 20),
            human(template.disk_bytes),
            if template.nat { "yes" } else { "no" }.to_owned(),
            human(template.bytes),
            template.uses.to_string(),
            age(template.used_at_ms, now_ms),
        ]
    };
    let header = ["KEY", "IMAGE", "KERNEL", "VCPU", "MEM", "DISK", "NAT", "SIZE", "USES", "USED"];
    // Whoever reads a pipe or a file gets the whole.
    let width = if output::stdout_is_terminal() { usize::from(terminal::size().cols) } else { usize::MAX };
    table_within(width, &[1, 2], &header, templates.iter().map(row).collect(), header.len())
}
