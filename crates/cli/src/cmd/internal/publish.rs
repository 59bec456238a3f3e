//! `banger internal publish`: bundles become a catalog that any web server can serve.

use std::path::PathBuf;

use catalog::bundle::Limits;
use catalog::publish::{Old, Publication, PublishError, Published, bundles_in, publish, read_key};
use serde::Serialize;
use wire::api::ErrorCode;

use super::work::work;
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::{Format, printable};

const EXAMPLES: &str = "\
Examples:
  banger internal publish bundles --to /srv/catalog --key catalog.pem
  banger internal publish bundles --to /srv/catalog --key old.pem --key new.pem
  banger internal publish --to /srv/catalog --key catalog.pem --withdraw old \\
    --prune
  banger internal publish bundles --to /srv/catalog --unsigned

An entry of the same name and processor is replaced, others stay. Files of
entries that were replaced stay too, for those who have the older list,
until --prune. The same from a source tree: make publish BUNDLES= TO= KEY=";

/// What, and where to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A directory with bundles, .tar.zst; none to change the list only
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    bundles: Option<PathBuf>,
    /// The directory that is served
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    to: PathBuf,
    /// The private key that signs the list; several times for several
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, required_unless_present = "unsigned")]
    key: Vec<PathBuf>,
    /// Sign nothing: only hosts that are told so take it, from a directory or from themselves
    #[arg(long, conflicts_with = "key")]
    unsigned: bool,
    /// Take the image and the kernel of this name out of the list; several times for several
    #[arg(long, value_name = "NAME")]
    withdraw: Vec<String>,
    /// Remove bundles that no entry has any more
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// What was published.
#[derive(Serialize)]
struct Told {
    serial: u64,
    images: usize,
    kernels: usize,
    added: Vec<String>,
    removed: Vec<String>,
}

fn failed(error: &PublishError) -> Failure {
    let failure = Failure::from_error(ErrorCode::OperationFailed, error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Publishes and says what came of it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let subject = args.to.display().to_string();
    let published = work(app, &subject, "publish", move |watch| {
        let bundles =
            args.bundles.as_deref().map_or_else(|| Ok(Vec::new()), bundles_in).map_err(|error| failed(&error))?;
        if bundles.is_empty() && args.withdraw.is_empty() && !args.prune {
            let nothing = "there is nothing to publish: no file in that directory is called .tar.zst";
            return Err(Failure::new(ErrorCode::BadRequest, nothing).hint("banger internal make-bundle makes them"));
        }
        let withdrawn = args.withdraw.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
        let withdrawn = withdrawn.map_err(|error| Failure::from_error(ErrorCode::BadRequest, &error))?;
        let keys = args.key.iter().map(|path| read_key(path)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|error| failed(&error))?;
        let publication = Publication {
            bundles: &bundles,
            withdrawn: &withdrawn,
            site: &args.to,
            keys: &keys,
            old: if args.prune { Old::Pruned } else { Old::Kept },
            limits: Limits::default(),
        };
        publish(&publication, watch).map_err(|error| failed(&error))
    })
    .await?;
    print(app, &subject, published)
}

fn print(app: &App, site: &str, published: Published) -> Result<u8, Failure> {
    let catalog = &published.catalog;
    let told = Told {
        serial: catalog.serial,
        images: catalog.images.len(),
        kernels: catalog.kernels.len(),
        added: published.added,
        removed: published.removed,
    };
    if app.out.format == Format::Json {
        app.out.json(&told)?;
        return Ok(0);
    }
    for (files, word) in [(&told.added, "added"), (&told.removed, "removed")] {
        for file in files {
            app.out.aside(&format!("{word} {}", printable(file)));
        }
    }
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (images, kernels) = (count(told.images, "image"), count(told.kernels, "kernel"));
    app.out.line(&format!("{}: serial {}, {images}, {kernels}", printable(site), told.serial))?;
    Ok(0)
}
