//! `banger image pull`: an image that others built, from a registry or an archive.

use wire::api::{BASE, ErrorCode, Image, Kernel, PullImage};

use super::source::absolute_source;
use crate::args::Act;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::error::Failure;
use crate::operation;
use crate::output::{Format, printable};
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
  banger image pull catalog:debian-bookworm        of the catalog
  banger image pull bundle:./debian.tar.zst        a bundle without one

A name alone is of the catalog where that lists it.

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
    let image: Image = app.client.get(&path("images", &begun.subject, "")).await?;
    if let Some(kernel) = image.origin.as_ref().and_then(|origin| origin.kernel_ref.as_ref()) {
        advise(app, kernel).await?;
    }
    if app.out.format == Format::Json {
        app.out.json(&image)?;
    } else {
        app.out.line(&begun.subject)?;
    }
    Ok(0)
}

/// Says how to have the kernel that an image is meant for, if it is not here.
async fn advise(app: &App, kernel: &str) -> Result<(), Failure> {
    match app.client.get::<Kernel>(&path("kernels", kernel, "")).await {
        Ok(_) => {}
        Err(failure) if failure.code() == Some(ErrorCode::NotFound) => {
            let kernel = printable(kernel);
            app.out
                .note(&format!("It is meant for the kernel {kernel}, which is not here: banger kernel pull {kernel}"));
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}
