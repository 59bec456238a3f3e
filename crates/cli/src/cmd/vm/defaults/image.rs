//! The image of a new VM: whether it is here, and where it is to be had if it is not.

use wire::api::{BASE, ErrorCode, Image, PullImage};

use super::{make, variant_of};
use crate::client::path;
use crate::cmd::App;
use crate::cmd::image::source;
use crate::cmd::vm::{Machine, Pull};
use crate::error::Failure;
use crate::interrupt::Since;

/// What the source of an image of the catalog begins with.
const CATALOG: &str = "catalog:";

/// What is known of the image that a VM is to have.
pub(super) enum Known {
    /// It is here.
    Here {
        /// What it is called, where that is not what was asked for.
        name: Option<String>,
        /// What it runs where nobody says what.
        usual: Vec<String>,
    },
    /// It is the default one, and not made yet.
    Default,
    /// It is to be pulled.
    Elsewhere {
        /// From where.
        source: String,
        /// What it is called here; none: as its source does.
        name: Option<String>,
    },
}

/// Looks for the image that `machine` wants, else for the `default` one.
///
/// # Errors
/// When it is not here and is not to be pulled, or the daemon does not answer.
pub(super) async fn look(app: &App, machine: &Machine, default: &str, since: Since) -> Result<Known, Failure> {
    let asked = machine.image.as_deref();
    let wanted = asked.unwrap_or(default);
    let called = wanted.strip_prefix(CATALOG).unwrap_or(wanted);
    let here = match app.interrupts.guard(since, app.client.get::<Image>(&path("images", called, ""))).await {
        Ok(image) if is_meant(&image, wanted) => Some(image),
        Ok(_) if machine.pull == Pull::Never => {
            let failure = Failure::new(ErrorCode::NotFound, format!("the image {called} that is here is not {wanted}"));
            return Err(failure.hint("leave --pull never out"));
        }
        Ok(_) => None,
        Err(failure) if failure.code() == Some(ErrorCode::NotFound) => match asked {
            None => return Ok(Known::Default),
            Some(name) if machine.pull == Pull::Never || variant_of(name).is_some() => return Err(failure),
            Some(_) => None,
        },
        Err(failure) => return Err(failure),
    };
    match here {
        Some(image) if machine.pull == Pull::Always => again(image),
        Some(image) => {
            let name = (called != wanted).then(|| called.to_owned());
            Ok(Known::Here { name, usual: image.exec.command })
        }
        None => Ok(Known::Elsewhere { source: source::absolute_source(wanted)?, name: None }),
    }
}

/// Whether what is called like an image of the catalog is that.
fn is_meant(image: &Image, wanted: &str) -> bool {
    !wanted.starts_with(CATALOG) || image.origin.as_ref().is_some_and(|from| from.reference == wanted)
}

/// Where an image that is here came from.
fn again(image: Image) -> Result<Known, Failure> {
    match image.origin {
        Some(origin) => Ok(Known::Elsewhere { source: origin.reference, name: Some(image.name) }),
        None => {
            let failure = Failure::new(ErrorCode::BadRequest, format!("cannot pull {}: it was made here", image.name));
            Err(failure.hint("leave --pull always out"))
        }
    }
}

/// Pulls an image, or waits for somebody else's pull of it.
pub(super) async fn pull(app: &App, source: &str, name: Option<String>, since: Since) -> Result<Image, Failure> {
    let request = PullImage { source: source.to_owned(), name };
    let subject = request.name.as_deref().unwrap_or(source).to_owned();
    let called = make(app, &subject, since, app.client.send(&format!("{BASE}/images/pull"), &request)).await?;
    app.client.get(&path("images", called.as_deref().unwrap_or(&subject), "")).await
}
