//! `banger logs`: a VM's console, of the running or last boot or of an earlier one.
//!
//! A terminal gets the console escaped: a guest could otherwise drive it. A pipe or a file gets the bytes as they are.

use std::time::Duration;

use wire::api::{BASE, BootChoice, BootList, LogSource};

use crate::client::{encode, path};
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::session;
use crate::complete;
use crate::error::Failure;
use crate::output::{self, Format, printable, printable_lines, raw};
use crate::table::{age, elapsed, table};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger logs web
  banger logs -f web                    as it goes on, until the boot ends
  banger logs --boot -1 web             of the boot before the last one
  banger logs --list-boots web          which boots there were, and how they ended
  banger logs --vmm web                 what the VMM itself printed
  banger logs --tooling web             how the tools of its workspace were installed
  banger logs web > console.log         the exact bytes";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Go on until the boot ends, or what installs the tools
    #[arg(short, long)]
    follow: bool,
    /// Which log: the guest's console, or what the VMM printed
    #[arg(long, value_enum, default_value_t, value_name = "LOG")]
    source: Source,
    /// What the VMM printed, instead of the guest's console
    #[arg(long, conflicts_with = "source")]
    vmm: bool,
    /// What was printed when the guest was set up for its workspace: its tools installed, its container's commands run
    #[arg(long, conflicts_with_all = ["source", "vmm", "boot"])]
    tooling: bool,
    /// Which boot: 0 is the last one, -1 the one before; or its id
    #[arg(short, long, value_name = "N|ID", allow_hyphen_values = true)]
    boot: Option<BootChoice>,
    /// List the boots there were instead
    #[arg(long, conflicts_with_all = ["follow", "source", "vmm", "tooling", "boot", "raw"])]
    list_boots: bool,
    /// How to print the list of boots, and a failure
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_default_value = true)]
    pub(crate) format: Format,
    /// Exact bytes on a terminal too
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Source {
    #[default]
    Console,
    Vmm,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    if args.list_boots {
        return list_boots(app, &args.vm).await;
    }
    if args.tooling {
        return session::tooling::print(app, &args.vm, args.follow, args.raw).await;
    }
    let source = match args.source {
        Source::Console if !args.vmm => LogSource::Console,
        Source::Console | Source::Vmm => LogSource::Vmm,
    };
    let source = serde_json::to_value(source).expect("a log source is plain data");
    let mut target = format!("{BASE}/vms/{}/logs?source={}", encode(&args.vm), source.as_str().unwrap_or_default());
    if args.follow {
        target.push_str("&follow=true");
    }
    if let Some(boot) = &args.boot {
        target.push_str(&format!("&boot={boot}"));
    }
    let since = app.interrupts.start();
    let is_escaped = output::stdout_is_terminal() && !args.raw;
    let mut cut = Vec::new();
    let mut answer = app.interrupts.guard(since, app.client.stream(&target)).await?;
    while let Some(bytes) = app.interrupts.guard(since, answer.bytes()).await? {
        if is_escaped { raw(escaped(&mut cut, &bytes).as_bytes())? } else { raw(&bytes)? }
    }
    raw(printable_lines(&String::from_utf8_lossy(&cut)).as_bytes())?;
    Ok(0)
}

async fn list_boots(app: &App, vm: &str) -> Result<u8, Failure> {
    let target = path("vms", vm, "/boots");
    let list: BootList = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    let ids = |list: &BootList| list.boots.iter().map(|boot| format!("{}\n", boot.id)).collect();
    app.out.record(&list, |list| render_boots(list, clock::unix_ms()), ids)?;
    Ok(0)
}

fn render_boots(list: &BootList, now_ms: u64) -> String {
    let rows = list.boots.iter().enumerate().map(|(index, boot)| {
        let end_ms = boot.ended_at_ms.unwrap_or(now_ms);
        let how = match (&boot.ended, boot.ended_at_ms) {
            (Some(how), _) => printable(how),
            (None, Some(_)) => "unknown".to_owned(),
            (None, None) => "runs".to_owned(),
        };
        vec![
            if index == 0 { "0".to_owned() } else { format!("-{index}") },
            boot.id.to_string(),
            age(boot.started_at_ms, now_ms),
            elapsed(Duration::from_millis(end_ms.saturating_sub(boot.started_at_ms))),
            how,
        ]
    });
    table(&["BOOT", "ID", "STARTED", "RAN", "ENDED"], &rows.collect::<Vec<_>>())
}

/// `bytes` for a terminal; a character cut at the end waits in `cut` for the rest of it.
pub(crate) fn escaped(cut: &mut Vec<u8>, bytes: &[u8]) -> String {
    cut.extend_from_slice(bytes);
    let whole = match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        // Consoles end lines with CR LF.
        _ if cut.ends_with(b"\r") => cut.len() - 1,
        _ => cut.len(),
    };
    let rest = cut.split_off(whole);
    let text = String::from_utf8_lossy(cut).replace("\r\n", "\n");
    *cut = rest;
    printable_lines(&text)
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn consoles_are_escaped_across_pieces() {
        let mut cut = Vec::new();
        let pieces: [&[u8]; 4] = [b"a\x1b[2Jb\r", b"\ngr\xc3", b"\xbc\xff", b"\r"];
        let text: String = pieces.iter().map(|piece| escaped(&mut cut, piece)).collect();
        assert_eq!(text, "a\\x1b[2Jb\ngr\u{fc}\u{fffd}");
        assert_eq!(cut, b"\r");
    }
}
