//! `banger commit`: an image of what a VM has become.

use wire::api::CommitVm;

use crate::args::Act;
use crate::client::path;
use crate::cmd::{App, image};
use crate::complete;
use crate::error::Failure;
use crate::operation;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger exec web -- apt-get install -y nginx
  banger commit web web-nginx
  banger run --image web-nginx -- nginx -v

/root, /home and the directories of container engines are no part of a VM's
system, and of no image that is made of it. Nor are its host keys and its name.";

/// Which one, and what the image is called.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The VM, by name or id; it has to run
    #[arg(value_name = "VM", value_parser = values::reference, add = complete::vms())]
    pub(crate) vm: String,
    /// What to call the image; another image of this name loses it
    #[arg(value_name = "IMAGE", value_parser = values::reference)]
    image: String,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Makes the image and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("vms", &args.vm, "/commit");
    let request = CommitVm { name: args.image };
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &request.name, app.interrupts.start(), begin).await?;
    image::print(app, &begun.subject).await?;
    Ok(0)
}
