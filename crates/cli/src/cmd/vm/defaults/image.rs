//! The image of a new VM: whether it is here, and where it is to be had if it is not.

use wire::api::{BASE, ErrorCode, Image, PullImage};

use super::{make, variant_of};
use crate::client::path;
use crate::cmd::App;
use crate::cmd::image::source;
use crate::cmd::vm::{Machine, Pull};
use crate::error::Failure;
use crate::interrupt::Since;

/// What is known of the image that a VM is to have.
pub(super) enum Known {
    /// It is here.
    Here {
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
    let target = path("images", asked.unwrap_or(default), "");
    let here = match app.interrupts.guard(since, app.client.get::<Image>(&target)).await {
        Ok(image) => Some(image),
        Err(failure) if failure.code() == Some(ErrorCode::NotFound) => match asked {
            None => return Ok(Known::Default),
            Some(name) if machine.pull == Pull::Never || variant_of(name).is_some() => return Err(failure),
            Some(_) => None,
        },
        Err(failure) => return Err(failure),
    };
    match here {
        Some(image) if machine.pull == Pull::Always => again(image),
        Some(image) => Ok(Known::Here { usual: image.exec.command }),
        None => Ok(Known::Elsewhere { source: source::absolute_source(asked.unwrap_or(default))?, name: None }),
    }
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
