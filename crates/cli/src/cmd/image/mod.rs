//! Verbs about images, one file each.

use wire::api::{BASE, ErrorCode, Image, ImageList};

use crate::client::path;
use crate::cmd::App;
use crate::cmd::each::Thing;
use crate::error::Failure;
use crate::output::Format;

mod build;
mod containerfile;
mod delete;
mod list;
mod load;
mod promote;
mod prune;
mod pull;
mod register;
mod save;
mod show;
pub(crate) mod source;
mod tag;

pub(crate) use build::absolute;

/// Below `banger image --help`.
pub(crate) const EXAMPLES: &str = "\
Most of the time there is nothing to do: `banger run` builds the default image.

Examples:
  banger image list
  banger image list --available             what the catalog has
  banger image build                        the default recipe, debian-bookworm
  banger image build debian-bookworm --variant minimal --name small
  banger image pull debian:trixie           an image of a registry
  banger run --image small
  banger image delete small";

/// What can be done with images.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List images
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Show all about one image
    Show(show::Args),
    /// Build an image from a recipe or a Containerfile
    Build(build::Args),
    /// Pull an image from a registry, the catalog or an archive
    Pull(pull::Args),
    /// Make an image of an archive: docker save, an OCI archive, or a bundle
    Load(load::Args),
    /// Save an image as a file: a bundle, or an OCI archive
    Save(save::Args),
    /// Make an image of a root filesystem that is a file already
    Register(register::Args),
    /// Copy the file of an image that is a link
    Promote(promote::Args),
    /// Give an image one more name
    Tag(tag::Args),
    /// Remove what no image needs any more
    Prune(prune::Args),
    /// Delete images no VM uses
    #[command(visible_alias = "rm")]
    Delete(delete::Args),
}

impl Verb {
    /// How to print.
    pub(crate) fn format(&self) -> Format {
        match self {
            Verb::List(args) => args.records.format,
            Verb::Show(args) => args.record.format,
            Verb::Build(args) => args.act.format,
            Verb::Pull(args) => args.act.format,
            Verb::Load(args) => args.act.format,
            Verb::Save(_) => Format::default(),
            Verb::Register(args) => args.act.format,
            Verb::Promote(args) => args.act.format,
            Verb::Tag(args) => args.act.format,
            Verb::Prune(args) => args.act.format,
            Verb::Delete(args) => args.act.format,
        }
    }

    /// What is being done, after "cannot", and to what.
    pub(crate) fn act(&self) -> (String, String) {
        let of = |verb: &str, object: &str| (format!("{verb} image {object}"), object.to_owned());
        match self {
            Verb::List(_) => ("list images".to_owned(), String::new()),
            Verb::Show(args) => of("show", &args.image),
            Verb::Build(args) => of("build", &args.recipe),
            Verb::Pull(args) => of("pull", &args.source),
            Verb::Load(_) => ("load an image".to_owned(), String::new()),
            Verb::Save(args) => of("save", &args.image),
            Verb::Register(args) => of("register", &args.file),
            Verb::Promote(args) => of("promote", &args.image),
            Verb::Tag(args) => of("name", &args.image),
            Verb::Prune(_) => ("prune images".to_owned(), String::new()),
            Verb::Delete(_) => ("delete images".to_owned(), String::new()),
        }
    }

    /// Whether to say nothing meanwhile.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Verb::List(_) | Verb::Show(_) => false,
            Verb::Build(args) => args.act.quiet,
            Verb::Pull(args) => args.act.quiet,
            Verb::Load(args) => args.act.quiet,
            Verb::Save(args) => args.quiet,
            Verb::Register(args) => args.act.quiet,
            Verb::Promote(args) => args.act.quiet,
            Verb::Tag(args) => args.act.quiet,
            Verb::Prune(args) => args.act.quiet,
            Verb::Delete(args) => args.act.quiet,
        }
    }
}

/// Does it.
pub(crate) async fn run(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::List(args) => list::run(app, args).await,
        Verb::Show(args) => show::run(app, args).await,
        Verb::Build(args) => build::run(app, args).await,
        Verb::Pull(args) => pull::run(app, args).await,
        Verb::Load(args) => load::run(app, args).await,
        Verb::Save(args) => save::run(app, args).await,
        Verb::Register(args) => register::run(app, args).await,
        Verb::Promote(args) => promote::run(app, args).await,
        Verb::Tag(args) => tag::run(app, args).await,
        Verb::Prune(args) => prune::run(app, args).await,
        Verb::Delete(args) => delete::run(app, args).await,
    }
}

async fn list_all(app: &App) -> Result<ImageList, Failure> {
    app.interrupts.guard(app.interrupts.start(), app.client.get(&format!("{BASE}/images"))).await
}

/// Prints an image that was just made: its name, or all about it for programs.
pub(crate) async fn print(app: &App, name: &str) -> Result<(), Failure> {
    if app.out.format == Format::Json {
        let image: Image = app.client.get(&path("images", name, "")).await?;
        app.out.json(&image)?;
    } else {
        app.out.line(name)?;
    }
    Ok(())
}

/// What `references` stand for, each called as it was typed: by which of its names an image is meant, the daemon must know.
async fn things(app: &App, references: &[String]) -> Result<Vec<Thing>, Failure> {
    let mut things = Vec::new();
    for reference in references {
        let target = path("images", reference, "");
        match app.interrupts.guard(app.interrupts.start(), app.client.get::<Image>(&target)).await {
            Ok(image) => things.push(Thing { id: image.id.to_string(), name: reference.clone() }),
            // Told with the others, each in its place.
            Err(failure) if failure.code() == Some(ErrorCode::NotFound) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(things)
}
