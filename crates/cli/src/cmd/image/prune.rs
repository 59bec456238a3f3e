//! `banger image prune`: images that nobody can mean any more, and cached parts of images that are gone.

use wire::api::{BASE, Begun, Image, PruneImages, PrunedImages};
use wire::size::human;

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each::{self, Thing};
use crate::error::Failure;

const EXAMPLES: &str = "\
Examples:
  banger image prune                    what another took the name of, and what
                                        pulls have left in the cache
  banger image prune --all              every image that no VM uses, and the
                                        whole cache of pulls
  banger image prune --format json | jq .freed_bytes";

/// How much.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Also images that no VM uses, and cached parts of images that stay
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Whether all its names are those of an image whose name another took.
fn is_replaced(image: &Image) -> bool {
    let mark = format!("-{}", &image.id.as_str()[..8]);
    image.name.ends_with(&mark) && image.also.is_empty()
}

/// Deletes them and says what that freed.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let images = super::list_all(app).await?.images;
    let goes = |image: &&Image| image.used_by.is_empty() && (args.all || is_replaced(image));
    let images: Vec<&Image> = images.iter().filter(goes).collect();
    let thing = |image: &&Image| Thing { id: image.id.to_string(), name: image.name.clone() };
    let things: Vec<Thing> = images.iter().map(thing).collect();
    let ids: Vec<String> = things.iter().map(|thing| thing.id.clone()).collect();
    // By its id: all its names go with it. The daemon looks once more whether a VM uses it.
    let ended = each::all("delete", "image", &things, &ids, async |image| {
        each::operate(app, &image, app.client.delete::<Begun>(&path("images", &image.id, ""))).await
    })
    .await;
    let gone = images.iter().zip(&ended).filter(|(_, (_, _, result))| result.is_ok());
    let files: u64 = gone.map(|(image, _)| image.allocated_bytes).sum();
    let request = PruneImages { all: args.all };
    let target = format!("{BASE}/images/prune");
    let pruning = app.client.send(&target, &request);
    let pruned: PrunedImages = app.interrupts.guard(app.interrupts.start(), pruning).await?;
    let freed = files + pruned.bytes;
    let reported = each::report(app, ended, Some(freed));
    let cached =
        if pruned.blobs > 0 { format!(", {} of it in the cache of pulls", human(pruned.bytes)) } else { String::new() };
    app.out.note(&format!("Freed {}{cached}.", human(freed)));
    reported
}
