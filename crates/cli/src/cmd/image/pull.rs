//! `banger image pull`: an image that others built, from a registry or an archive.

use wire::api::{BASE, PullImage};

use super::source::absolute_source;
use crate::args::Act;
use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::operation;
use crate::table::elapsed;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger image pull alpine
  banger image pull ghcr.io/owner/app:v2 --name app
  banger image pull debian@sha256:0b0c…            pinned by digest
  banger image pull docker-archive:./saved.tar     what docker save wrote
  banger image pull oci:./layout:v1                a directory, one tag of it
  banger image pull docker-daemon:app:dev          from this host's Docker

Who the user is to a registry stands in the files of docker login and
podman login. Mirrors and insecure registries: docs/images.md";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image: [REGISTRY/]NAME[:TAG][@DIGEST], or a transport and a path
    #[arg(value_name = "IMAGE", value_parser = values::reference)]
    pub(super) source: String,
    /// What to call it here, instead of what its source does
    #[arg(long, value_name = "NAME", value_parser = values::reference)]
    name: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Pulls it and prints its name.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let began = clock::now();
    let request = PullImage { source: absolute_source(&args.source)?, name: args.name };
    let subject = request.name.clone().unwrap_or(args.source);
    let target = format!("{BASE}/images/pull");
    let begin = app.client.send(&target, &request);
    let begun = operation::perform(app, &subject, app.interrupts.start(), begin).await?;
    app.out.aside(&format!("pulled in {}", elapsed(clock::now().duration_since(began))));
    super::print(app, &begun.subject).await?;
    Ok(0)
}
