//! `cargo xtask bench`: the figures the project holds itself to, each beside its floor or its peer, measured in one run.
//!
//! | rows | file |
//! |---|---|
//! | boot: against the same machine with an init that ends at once | `boot.rs` |
//! | template: a run that goes on from a template, against one that boots | `template.rs` |
//! | exec: against ssh to the same guest, and the guest's own fork and exec | `exec.rs` |
//! | stream: against the bare virtio-serial port | `stream.rs` |
//! | stop: against the guest's own way to power off | `stop.rs` |
//! | programs and disks: start-up, memory, idle CPU, making a disk | `parts.rs` |
//! | journal: what journalling costs a start | `journal.rs` |
//! | workspace: against tar on both sides, and the guest's own `git status` | `workspace.rs` |
//! | images: pulling against skopeo, umoci and mkfs.ext4, and against curl and gzip | `images.rs` |
//! | many: recovery, lists and creations of many VMs | `many.rs` |
//!
//! Machines differ and so do hours; what counts is the ratio within a run. The two sides of a ratio take turns, and the
//! ratio quoted is the median of the pairs. `--write` puts the table into `docs/performance.md`.

mod boot;
mod exec;
mod floor;
mod host;
mod images;
mod journal;
mod many;
mod parts;
mod stop;
mod stream;
pub(crate) mod table;
mod template;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use figures::Row;

use host::Host;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure only rows whose group is named: parts, journal, many, boot, template, stop, exec,
    /// stream, workspace, images
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How many pairs a ratio is the median of
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Put the table into docs/performance.md
    #[arg(long)]
    write: bool,
}

type Group = fn(&Host, usize) -> Result<Vec<Row>>;

const GROUPS: [(&str, Group); 10] = [
    ("parts", parts::rows),
    ("journal", journal::rows),
    ("many", many::rows),
    ("boot", boot::rows),
    ("template", template::rows),
    ("stop", stop::rows),
    ("exec", exec::rows),
    ("stream", stream::rows),
    ("workspace", workspace::rows),
    ("images", images::rows),
];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let host = Host::new()?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for (name, group) in GROUPS {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            eprintln!("measuring: {name}");
            match group(&host, args.runs) {
                Ok(measured) => rows.extend(measured),
                // The other groups' figures are worth having all the same.
                Err(error) => failed.push(format!("{name}: {error:#}")),
            }
        }
    }
    host.end()?;
    print!("{}", figures::render(&rows));
    if args.write {
        table::write("figures", &format!("software emulation, {}", table::qemu()?), &rows, &[])?;
    }
    let missed = rows.iter().filter(|row| !row.is_met()).count();
    eprintln!("{} rows, {missed} above their goal", rows.len());
    for failure in &failed {
        eprintln!("not measured: {failure}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
