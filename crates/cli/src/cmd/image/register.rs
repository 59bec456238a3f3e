//! `banger image register`: an image of a root filesystem that is a file already.

use wire::api::{BASE, RegisterImage};

use super::absolute;
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::operation;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger image register rootfs.ext4 --name mine
  banger image register /srv/build/rootfs.ext4 --name nightly --link
  mkfs.ext4 -b 4096 -d tree rootfs.ext4 1G && banger image register rootfs.ext4 --name tree

The file is an ext4 filesystem, without partitions around it, unmounted. With
--link no VM of the image starts once the file has changed; banger image
promote makes a copy after all.";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file with the root filesystem
    #[arg(value_name = "FILE", value_parser = values::reference, value_hint = clap::ValueHint::FilePath)]
    pub(super) file: String,
    /// What to call the image
    #[arg(long, value_name = "NAME", value_parser = values::reference)]
    name: String,
    /// Do not copy the file, but link it: it stays yours, on the filesystem that banger's images are on
    #[arg(long)]
    link: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Registers it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let request = RegisterImage { path: absolute(&args.file)?, name: args.name, link: args.link };
    let (subject, target) = (request.name.clone(), format!("{BASE}/images/register"));
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &subject, app.interrupts.start(), begin).await?;
    super::print(app, &begun.subject).await?;
    Ok(0)
}
