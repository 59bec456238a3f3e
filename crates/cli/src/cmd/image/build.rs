//! `banger image build`: an image from a recipe this installation brings, from a directory with one, or from a Containerfile.

use std::path::{Path, PathBuf};
use std::time::Instant;

use wire::api::{BASE, Begun, BuildImage, ErrorCode};

use super::containerfile::{self, Build, Builder};
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
  banger image build ./my-recipe
  banger image build . --name app        its Containerfile or Dockerfile
  banger image build -f ci/Dockerfile --target test --build-arg V=2 .

A Containerfile is built by buildah, podman or docker, whichever is here.";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A recipe's name, or the path of a directory with a recipe or a Containerfile (with a slash)
    #[arg(default_value = RECIPE, value_parser = values::reference)]
    pub(super) recipe: String,
    /// Which variant, instead of the recipe's default
    #[arg(long)]
    variant: Option<String>,
    /// What to call the image, instead of as the recipe or the directory is called
    #[arg(short = 't', long, visible_alias = "tag", value_name = "NAME", value_parser = values::reference)]
    name: Option<String>,
    /// The Containerfile or Dockerfile, instead of the directory's
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "variant")]
    file: Option<String>,
    /// Set an argument of the Containerfile
    #[arg(long = "build-arg", value_name = "NAME=VALUE", conflicts_with = "variant")]
    args: Vec<String>,
    /// Build this stage of the Containerfile
    #[arg(long, value_name = "STAGE", conflicts_with = "variant")]
    target: Option<String>,
    /// What builds the Containerfile
    #[arg(long, value_enum, conflicts_with = "variant")]
    builder: Option<Builder>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Builds it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let began = clock::now();
    let is_path = args.recipe.contains('/') || matches!(args.recipe.as_str(), "." | "..");
    let recipe = if is_path { absolute(&args.recipe)? } else { args.recipe };
    let file = match &args.file {
        Some(file) => Some(PathBuf::from(absolute(file)?)),
        None if is_path => containerfile::file_in(Path::new(&recipe)),
        None => None,
    };
    if let Some(file) = file {
        // With a file alone, what is meant is the directory it is used in.
        let context = if is_path { PathBuf::from(recipe) } else { PathBuf::from(absolute(".")?) };
        let name = args.name.map_or_else(|| containerfile::name_of(&context), Ok)?;
        let build = Build { context, file, args: args.args, target: args.target };
        let begun = containerfile::build(app, &build, args.builder, name).await?;
        return built(app, &begun, began).await;
    }
    if is_path && !Path::new(&recipe).join("recipe.toml").exists() {
        let message = format!("there is neither a recipe.toml nor a Containerfile in {recipe}");
        return Err(
            Failure::new(ErrorCode::NotFound, message).hint("name a directory that has one, or the file with -f")
        );
    }
    if !args.args.is_empty() || args.target.is_some() || args.builder.is_some() {
        let failure = Failure::new(ErrorCode::BadRequest, format!("there is no Containerfile in {recipe}"));
        return Err(failure.hint("name a directory that has one, or the file with -f"));
    }
    let subject = args.name.clone().unwrap_or_else(|| recipe.clone());
    let request = BuildImage { recipe, variant: args.variant, name: args.name };
    let target = format!("{BASE}/images/build");
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &subject, app.interrupts.start(), begin).await?;
    built(app, &begun, began).await
}

async fn built(app: &App, begun: &Begun, began: Instant) -> Result<u8, Failure> {
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
