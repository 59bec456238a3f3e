//! `banger image tag`: one more name for an image.

use wire::api::Image;

use crate::args::Act;
use crate::client::{encode, path};
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::Format;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger image tag alpine:latest base
  banger image tag app registry.example/team/app:v2

Another image that is called so loses the name. banger image delete NAME
takes one of several names away and leaves the image.";

/// Which one, and what to call it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, by name or id
    #[arg(value_parser = values::reference, add = complete::images())]
    pub(super) image: String,
    /// One more name for it
    #[arg(value_parser = values::reference)]
    name: String,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Gives it and prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("images", &args.image, &format!("/names/{}", encode(&args.name)));
    let image: Image = app.interrupts.guard(app.interrupts.start(), app.client.put(&target)).await?;
    if app.out.format == Format::Json {
        app.out.json(&image)?;
    } else {
        app.out.line(&args.name)?;
    }
    Ok(0)
}
