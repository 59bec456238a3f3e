//! `banger image load`: an image out of an archive that another program wrote.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use tokio::sync::mpsc;
use wire::api::{BASE, ErrorCode};

use crate::args::Act;
use crate::client::{Chunks, encode};
use crate::cmd::App;
use crate::error::{Failure, Io};
use crate::operation;
use crate::terminal;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  docker save app:dev | banger image load
  podman save --format oci-archive app | banger image load --name app
  banger image load -i saved.tar.gz";

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Pieces that are read before they are taken.
const QUEUE: usize = 4;

/// From where.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    input: Option<std::path::PathBuf>,
    /// What to call the image, instead of what the archive does
    #[arg(long, value_name = "NAME", value_parser = values::reference)]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Loads it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let reader: Box<dyn Read + Send> = match &args.input {
        Some(file) => Box::new(File::open(file).map_err(|error| {
            Failure::new(ErrorCode::NotFound, format!("cannot read {}: {}", file.display(), Io(error)))
        })?),
        None if terminal::stdin_is_terminal() => {
            let failure = Failure::new(ErrorCode::BadRequest, "cannot load an image from a terminal");
            return Err(failure.hint("docker save IMAGE | banger image load, or banger image load -i FILE"));
        }
        None => Box::new(std::io::stdin()),
    };
    let query = args.name.as_ref().map(|name| format!("?name={}", encode(name))).unwrap_or_default();
    let target = format!("{BASE}/images/load{query}");
    let begin = app.client.post_bytes(&target, pieces(reader));
    let subject = args.name.as_deref().unwrap_or("archive");
    let begun = operation::perform(app, subject, app.interrupts.start(), begin).await?;
    super::print(app, &begun.subject).await?;
    Ok(0)
}

/// What `reader` gives, read by a thread of its own.
fn pieces(mut reader: Box<dyn Read + Send>) -> Chunks {
    let (chunks, body) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let piece = match reader.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(Bytes::from(chunk))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            // A body nobody reads any more needs no rest.
            if chunks.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    Chunks(body)
}
