//! Image and kernel of a new VM, brought when they are not there yet: the default ones are made, others pulled.

mod image;

use std::time::Duration;

use wire::api::{BASE, Begun, BuildImage, DaemonStatus, ErrorCode, ImportKernel, KernelSource};
use wire::size::human;

use crate::client::{path, same_series};
use crate::cmd::App;
use crate::cmd::vm::Machine;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::operation::{self, OnInterrupt};
use crate::output::Format;
use image::Known;

/// The recipe of the default image.
pub(crate) const RECIPE: &str = "debian-bookworm";

/// The variant a first run builds: half a minute where the full one takes minutes. `banger image build` makes that.
const FIRST_VARIANT: &str = "minimal";

/// The package of the default kernel.
pub(crate) const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Says what the VM will be, and makes what it needs. Gives what its image runs where nobody says what.
///
/// # Errors
/// When the image or the kernel cannot be made.
pub(crate) async fn ensure(app: &App, machine: &mut Machine, since: Since) -> Result<Vec<String>, Failure> {
    let status: DaemonStatus = app.interrupts.guard(since, app.client.get(&format!("{BASE}/status"))).await?;
    same_series(&status.version.version)?;
    let defaults = &status.defaults;
    let stops = match machine.stop_after.or(defaults.stop_after_ms) {
        None | Some(0) => String::new(),
        Some(after_ms) => format!(" | stops after {} idle", wire::duration::human(after_ms)),
    };
    let spec = format!(
        "spec: {} vcpu | {} memory | {} disk{stops}",
        machine.vcpu.unwrap_or(defaults.vcpus),
        human(machine.memory.unwrap_or(defaults.memory_mib) << 20),
        human(machine.disk_size.unwrap_or(defaults.disk_bytes)),
    );
    if app.out.format != Format::Json {
        app.out.aside(&spec);
    }
    // Nothing is made for a VM that cannot be: what was asked for by name is looked up first.
    let known = image::look(app, machine, &defaults.image, since).await?;
    let has_kernel = has_kernel(app, machine.kernel.as_deref(), &defaults.kernel, since).await?;
    let kernel = async { if has_kernel { Ok(()) } else { make_kernel(app, &defaults.kernel, since).await } };
    let (image, kernel) = match known {
        Known::Here { name, usual } => (Ok((name, usual)), kernel.await),
        Known::Default => {
            let (made, kernel) = tokio::join!(make_image(app, &defaults.image, since), kernel);
            // It brings no command of its own.
            (made.map(|()| (None, Vec::new())), kernel)
        }
        Known::Elsewhere { source, name } => {
            // What is asked for may not be there: nothing else is made for it before.
            let image = image::pull(app, &source, name, since).await?;
            (Ok((Some(image.name), image.exec.command)), kernel.await)
        }
    };
    let (name, usual) = image?;
    kernel?;
    if name.is_some() {
        // As the daemon calls it: a source is no name.
        machine.image = name;
    }
    Ok(usual)
}

/// Whether the kernel that was `asked` for, else the `default`, is there.
///
/// # Errors
/// When what was asked for is not there.
async fn has_kernel(app: &App, asked: Option<&str>, default: &str, since: Since) -> Result<bool, Failure> {
    let target = path("kernels", asked.unwrap_or(default), "");
    match app.interrupts.guard(since, app.client.get::<serde_json::Value>(&target)).await {
        Ok(_) => Ok(true),
        Err(failure) if asked.is_none() && failure.code() == Some(ErrorCode::NotFound) => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn make_image(app: &App, name: &str, since: Since) -> Result<(), Failure> {
    let Some(variant) = variant_of(name) else {
        let failure = Failure::new(ErrorCode::NotFound, format!("cannot find the default image {name}"));
        return Err(failure.hint("build it with: banger image build, or choose another with --image"));
    };
    app.out.note(&format!("The default image {name} is not there yet: building its small variant, once."));
    let request = BuildImage { recipe: RECIPE.to_owned(), variant, name: Some(name.to_owned()) };
    make(app, name, since, app.client.send(&format!("{BASE}/images/build"), &request)).await.map(drop)
}

/// The variant of the default recipe that an image of this name is; none when it is no such image.
fn variant_of(name: &str) -> Option<Option<String>> {
    match name.strip_prefix(RECIPE)? {
        "" => Some(Some(FIRST_VARIANT.to_owned())),
        rest => rest.strip_prefix('-').filter(|variant| !variant.is_empty()).map(|variant| Some(variant.to_owned())),
    }
}

async fn make_kernel(app: &App, name: &str, since: Since) -> Result<(), Failure> {
    app.out.note(&format!("The default kernel {name} is not there yet: importing Debian's, once."));
    let source = KernelSource::Debian { package: KERNEL_PACKAGE.to_owned() };
    let request = ImportKernel { source, name: Some(name.to_owned()) };
    make(app, name, since, app.client.send(&format!("{BASE}/kernels/import"), &request)).await.map(drop)
}

/// Begins an operation, or joins the one somebody else began for the same thing. Gives what that is called, if it says.
async fn make(
    app: &App,
    subject: &str,
    since: Since,
    begin: impl Future<Output = Result<Begun, Failure>>,
) -> Result<Option<String>, Failure> {
    match operation::perform(app, subject, since, begin).await {
        Ok(begun) => Ok(Some(begun.subject)),
        Err(Failure::Told(error)) if error.code == ErrorCode::AlreadyExists => Ok(None),
        Err(Failure::Told(error)) if error.code == ErrorCode::Busy && error.operation.is_some() => {
            let other = error.operation.expect("looked at just now");
            let mut track = app.progress.track(subject);
            track.stage("waiting for another command that makes it");
            let ended = operation::follow(app, &other, &mut track, since, OnInterrupt::Leave).await?;
            track.finish();
            Ok(Some(ended.subject))
        }
        Err(failure) => Err(failure),
    }
}

/// How long tidying up may take after a person interrupted.
pub(crate) const TIDY_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::{FIRST_VARIANT, variant_of};

    #[test]
    fn names_of_the_default_recipe() {
        assert_eq!(variant_of("debian-bookworm"), Some(Some(FIRST_VARIANT.to_owned())));
        assert_eq!(variant_of("debian-bookworm-minimal"), Some(Some("minimal".to_owned())));
        for other in ["debian-bookworm-", "debian-bookworm2", "mine"] {
            assert_eq!(variant_of(other), None, "{other}");
        }
    }
}
