//! `banger image list`: which images there are.

use wire::api::ImageList;
use wire::size::human;

use crate::args::Records;
use crate::clock;
use crate::cmd::{App, available};
use crate::error::Failure;
use crate::table::{age, table};

/// How to print them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the catalog has, instead of what is here
    #[arg(long)]
    available: bool,
    #[command(flatten)]
    pub(crate) records: Records,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    if args.available {
        return available::list(app, "images", &args.records).await;
    }
    let list = super::list_all(app).await?;
    if args.records.quiet {
        app.out.text(&list.images.iter().map(|image| format!("{}\n", image.id)).collect::<String>())?;
        return Ok(0);
    }
    let names = |list: &ImageList| list.images.iter().map(|image| format!("{}\n", image.name)).collect();
    app.out.record(&list, |list| render(list, clock::unix_ms()), names)?;
    Ok(0)
}

fn render(list: &ImageList, now_ms: u64) -> String {
    let named = list
        .images
        .iter()
        .flat_map(|image| std::iter::once(&image.name).chain(&image.also).map(move |name| (name, image)));
    let rows = named.map(|(name, image)| {
        vec![
            image.id.as_str()[..8].to_owned(),
            name.clone(),
            image.variant.clone().unwrap_or_else(|| "-".to_owned()),
            human(image.bytes),
            image.arch.clone(),
            image.used_by.len().to_string(),
            age(image.created_at_ms, now_ms),
        ]
    });
    table(&["ID", "NAME", "VARIANT", "SIZE", "ARCH", "VMS", "CREATED"], &rows.collect::<Vec<_>>())
}
