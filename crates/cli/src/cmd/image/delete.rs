//! `banger image delete`: removes images that no VM uses; of several names of one image the one that is typed.

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::complete;
use crate::error::Failure;
use crate::values;

/// Which ones.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE", value_parser = values::reference, add = complete::images())]
    images: Vec<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Deletes them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = super::things(app, &args.images).await?;
    each::act(app, "delete", "image", things, &args.images, async |image| {
        let target = path("images", &image.name, "");
        each::operate(app, &image, app.client.delete(&target)).await
    })
    .await
}
