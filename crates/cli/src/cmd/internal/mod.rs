//! Verbs for whoever publishes a catalog, one file each. They work on files alone, without a daemon, but where something of
//! banger's own is to be published.
//!
//! | file | what |
//! |---|---|
//! | [`make_bundle`] | one image or kernel in one file; [`rootfs`] and [`parts`] find what goes in |
//! | [`publish`] | a directory that any web server can serve |
//! | [`keygen`] | a key that signs it |
//! | [`work`] | long work on files, with progress, that Ctrl-C ends |

use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::settings::Settings;

mod keygen;
mod make_bundle;
mod parts;
mod publish;
mod rootfs;
mod work;

/// Below `banger internal --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  banger internal keygen --out catalog.pem
  banger internal make-bundle --image debian-bookworm --distro debian-12 \\
    --out bundles/
  banger internal make-bundle --kernel ./lean --name lean --distro debian-12 \\
    --out bundles/
  banger internal publish bundles --to /srv/catalog --key catalog.pem

docs/catalogs.md says what comes of it, and how a catalog is used.";

/// What can be done for a catalog.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Pack an image or a kernel into one file
    MakeBundle(make_bundle::Args),
    /// Put bundles into a directory that any web server can serve
    Publish(publish::Args),
    /// Make a key that signs catalogs
    Keygen(keygen::Args),
}

impl Verb {
    /// How to print.
    pub(crate) fn act(&self) -> &Act {
        match self {
            Verb::MakeBundle(args) => &args.act,
            Verb::Publish(args) => &args.act,
            Verb::Keygen(args) => &args.act,
        }
    }

    /// What is being done, after "cannot".
    pub(crate) fn words(&self) -> &'static str {
        match self {
            Verb::MakeBundle(_) => "make a bundle",
            Verb::Publish(_) => "publish a catalog",
            Verb::Keygen(_) => "make a key",
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, settings: &Settings, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::MakeBundle(args) => make_bundle::run(app, settings, args).await,
        Verb::Publish(args) => publish::run(app, args).await,
        Verb::Keygen(args) => keygen::run(app, &args),
    }
}
