//! The machine as the repository's development container wants it, where the command line says nothing else: its image, its
//! ports. What cannot be had is warned of and done without.

use std::net::{Ipv4Addr, TcpListener};

use wire::api::{ErrorCode, Inspection, Publish};

use crate::client::path;
use crate::cmd::App;
use crate::cmd::vm::Machine;
use crate::error::{Failure, Io};
use crate::interrupt::Since;

/// Takes what `found` wants into `machine`.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn adopt(app: &App, machine: &mut Machine, found: &Inspection, since: Since) -> Result<(), Failure> {
    let (Some(file), Some(container)) = (&found.devcontainer, &found.container) else { return Ok(()) };
    if let Some(image) = container.image.as_ref().filter(|_| machine.image.is_none()) {
        let target = path("images", image, "");
        match app.interrupts.guard(since, app.client.get::<serde_json::Value>(&target)).await {
            Ok(_) => machine.image = Some(image.clone()),
            Err(failure) if matches!(failure.code(), Some(ErrorCode::NotFound | ErrorCode::BadRequest)) => {
                app.out.warn(&format!("{file} wants the image {image}, which is not here: the default one is used"));
            }
            Err(failure) => return Err(failure),
        }
    }
    for port in &container.ports {
        let is_given = |publish: &Publish| publish.host_port == *port || publish.guest_port == *port;
        if machine.publish.iter().any(is_given) {
            continue;
        }
        match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
            Ok(_) => machine.publish.push(Publish { host_port: *port, guest_port: *port }),
            Err(error) => {
                let cause = format!("port {port} of {file} is not published on 127.0.0.1: {}", Io(error));
                app.out.warn(&format!("{cause}; choose another with -p HOST:{port}"));
            }
        }
    }
    Ok(())
}
