//! `banger session send`: input for a session.

use std::io::Read;

use bytes::Bytes;
use tokio::sync::mpsc;
use wire::api::{Sent, Session};

use super::{One, session_path};
use crate::args::Record;
use crate::client::Chunks;
use crate::cmd::App;
use crate::error::Failure;

/// Bytes read from standard input at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks read ahead of the daemon.
const QUEUE: usize = 4;

const EXAMPLES: &str = "\
Examples:
  banger session send web dev --enter rs
  banger session send web sh --enter 'make test'
  banger session send web job --stdin < input.txt
  banger session send web job --eof     what reads to the end of its input ends

It returns when the session's input has taken everything.";

/// What goes in.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "banger session send [OPTIONS] <VM> <SESSION> [TEXT]...")]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["text", "stdin", "enter", "eof"]))]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) one: One,
    /// Text, words joined by a space; nothing is added
    #[arg(value_name = "TEXT", conflicts_with = "stdin")]
    text: Vec<String>,
    /// Send standard input
    #[arg(long)]
    stdin: bool,
    /// Send the Enter key behind it: a line end, or what a keyboard sends where the session has a terminal
    #[arg(long)]
    enter: bool,
    /// End the session's input behind it
    #[arg(long)]
    eof: bool,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Sends it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let One { vm, session } = &args.one;
    let since = app.interrupts.start();
    let enter = if args.enter {
        let record: Session = app.interrupts.guard(since, app.client.get(&session_path(vm, session, ""))).await?;
        if record.terminal { "\r" } else { "\n" }
    } else {
        ""
    };
    let tail = if args.eof { "/input?eof=true" } else { "/input" };
    let target = session_path(vm, session, tail);
    let body = input(args.text.join(" "), args.stdin, enter);
    let sent: Sent = app.interrupts.guard(since, app.client.post_bytes(&target, body)).await?;
    if app.out.format == crate::output::Format::Json {
        app.out.json(&sent)?;
    }
    Ok(0)
}

/// The text or standard input, and the Enter key.
fn input(text: String, stdin: bool, enter: &'static str) -> Chunks {
    let (chunks, body) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        // A body nobody reads any more needs no rest.
        let give = |bytes: Bytes| bytes.is_empty() || chunks.blocking_send(Ok(bytes)).is_ok();
        let mut goes_on = give(Bytes::from(text));
        let mut reader = std::io::stdin().lock();
        while stdin && goes_on {
            let mut chunk = vec![0; CHUNK_BYTES];
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => {
                    chunk.truncate(count);
                    goes_on = give(Bytes::from(chunk));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    drop(chunks.blocking_send(Err(error)));
                    return;
                }
            }
        }
        if goes_on {
            give(Bytes::from_static(enter.as_bytes()));
        }
    });
    Chunks(body)
}
