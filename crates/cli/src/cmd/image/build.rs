//! `banger image build`: an image from a recipe this installation brings, or from a directory.

use std::path::Path;

use wire::api::{BASE, BuildImage, ErrorCode};

use crate::args::Act;
use crate::clock;
use crate::cmd::App;
use crate::cmd::vm::defaults::RECIPE;
use crate::error::{Failure, Io};
use crate::operation;
use crate::table::elapsed;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger image build
  banger image build debian-bookworm --variant minimal --name small
  banger image build ./my-recipe";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A recipe's name, or the path of its directory (with a slash)
    #[arg(default_value = RECIPE, value_parser = values::reference)]
    pub(super) recipe: String,
    /// Which variant, instead of the recipe's default
    #[arg(long)]
    variant: Option<String>,
    /// What to call the image, instead of the recipe's name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Builds it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let recipe = if args.recipe.contains('/') || args.recipe == "." { absolute(&args.recipe)? } else { args.recipe };
    let began = clock::now();
    let subject = args.name.clone().unwrap_or_else(|| recipe.clone());
    let request = BuildImage { recipe, variant: args.variant, name: args.name };
    let target = format!("{BASE}/images/build");
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &subject, app.interrupts.start(), begin).await?;
    app.out.aside(&format!("built in {}", elapsed(clock::now().duration_since(began))));
    super::print(app, &begun.subject).await?;
    Ok(0)
}

/// An existing path made absolute, because the daemon has another working directory.
pub(crate) fn absolute(path: &str) -> Result<String, Failure> {
    let found = std::fs::canonicalize(Path::new(path))
        .map_err(|error| Failure::new(ErrorCode::NotFound, format!("cannot read {path}: {}", Io(error))))?;
    found
        .into_os_string()
        .into_string()
        .map_err(|_| Failure::new(ErrorCode::BadRequest, format!("cannot use {path}: the path is not UTF-8")))
}
