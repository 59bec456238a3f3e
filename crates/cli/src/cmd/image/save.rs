//! `banger image save`: an image as a file for others.

use std::path::PathBuf;

use wire::api::ErrorCode;
use wire::size::human;

use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::keep::NewFile;
use crate::output;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger image save small -o small.tar.zst
  banger image save small | ssh there banger image load
  banger image save small --format oci-archive -o small.tar
  skopeo copy oci-archive:small.tar docker://registry.example.org/small:1";

/// Which one, and as what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, by name or id
    #[arg(value_name = "IMAGE", value_parser = values::reference, add = complete::images())]
    pub(super) image: String,
    /// Write this file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// As what: a bundle, which banger loads as it was, or an OCI archive for other tools
    #[arg(long, value_enum, default_value_t = As::Bundle)]
    format: As,
    /// Say nothing about what goes on
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// What an image is saved as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum As {
    /// rootfs.ext4 and manifest.json, packed with zstd
    Bundle,
    /// An OCI layout of one layer
    OciArchive,
}

impl As {
    fn asked(self) -> &'static str {
        match self {
            As::Bundle => "bundle",
            As::OciArchive => "oci-archive",
        }
    }
}

/// Saves it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    if args.output.is_none() && output::stdout_is_terminal() {
        let failure = Failure::new(ErrorCode::BadRequest, "an image is not for a terminal");
        return Err(failure.hint("banger image save IMAGE -o FILE, or lead standard output somewhere else"));
    }
    let mut file = args.output.as_deref().map(NewFile::over).transpose()?;
    let target = format!("{}?format={}", path("images", &args.image, "/archive"), args.format.asked());
    let mut track = app.progress.track(&args.image);
    track.stage("save");
    let mut answer = track.during(app.interrupts.guard(since, app.client.tree(&target))).await?;
    let mut bytes = 0;
    while let Some(piece) = track.during(app.interrupts.guard(since, answer.bytes())).await? {
        match &mut file {
            Some(file) => file.write(&piece)?,
            None => output::raw(&piece)?,
        }
        bytes += piece.len() as u64;
        track.amount(bytes, None, wire::api::Unit::Bytes);
    }
    track.finish();
    if let (Some(file), Some(path)) = (file, &args.output) {
        file.keep()?;
        app.out.aside(&format!("wrote {}, {}", path.display(), human(bytes)));
    }
    Ok(0)
}
