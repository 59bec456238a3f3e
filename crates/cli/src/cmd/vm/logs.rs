//! `banger logs`: a VM's console, of the running or last boot or of an earlier one.
//!
//! A terminal gets the console escaped: a guest could otherwise drive it. A pipe or a file gets the bytes as they are.

use wire::api::{BASE, LogSource};
use wire::id::BootId;

use crate::client::encode;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::{self, Format, printable_lines, raw};
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger logs web
  banger logs -f web                    as it goes on, until the boot ends
  banger logs --source vmm web          what the VMM itself printed
  banger logs web > console.log         the exact bytes";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id
    #[arg(value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// Go on until the boot ends
    #[arg(short, long)]
    follow: bool,
    /// Which log: the guest's console, or what the VMM printed
    #[arg(long, value_enum, default_value_t, value_name = "LOG")]
    source: Source,
    /// Which boot: an id of `banger show`
    #[arg(long, value_name = "ID")]
    boot: Option<BootId>,
    /// How to tell a failure
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
    let source = match args.source {
        Source::Console => LogSource::Console,
        Source::Vmm => LogSource::Vmm,
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
