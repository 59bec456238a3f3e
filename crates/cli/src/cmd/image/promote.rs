//! `banger image promote`: a file of its own for an image that is a link to one of the user's.

use wire::api::PromoteImage;

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::operation;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger image register rootfs.ext4 --name mine --link
  banger image promote mine

VMs that run go on as they are. The file that was linked can change from then
on; while it is not what it was when it was registered, it is refused.";

/// Which one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, by name or id
    #[arg(value_parser = values::reference, add = complete::images())]
    pub(super) image: String,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Promotes it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("images", &args.image, "/promote");
    let begin = app.client.send(&target, &PromoteImage {});
    let begun = operation::perform(app, &args.image, app.interrupts.start(), begin).await?;
    super::print(app, &begun.subject).await?;
    Ok(0)
}
