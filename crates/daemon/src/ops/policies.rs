//! What is asked of the daemon to do to a VM unasked, checked before it is recorded.

use wire::api::{ErrorCode, RestartPolicy};

use super::failure::refused;
use super::world::{Host, blocking};
use crate::model::limits;
use crate::saga::Cause;

/// After how long an idle VM is stopped: what was asked, of which zero is never, else `otherwise`.
///
/// # Errors
/// A time out of bounds.
pub(super) fn stop_after(asked: Option<u64>, otherwise: Option<u64>) -> Result<Option<u64>, Cause> {
    let after_ms = match asked {
        None => return Ok(otherwise),
        Some(0) => return Ok(None),
        Some(after_ms) => after_ms,
    };
    let checked = limits::check_stop_after(after_ms);
    checked.map(|()| Some(after_ms)).map_err(|error| refused(ErrorCode::BadRequest, error.to_string()))
}

/// Refuses a restart policy where nothing starts the daemon with the host: nobody would be there to keep it.
///
/// # Errors
/// [`ErrorCode::Unsupported`], with what sets it up.
pub(super) async fn check_restart(host: &Host, policy: RestartPolicy) -> Result<(), Cause> {
    if policy == RestartPolicy::No {
        return Ok(());
    }
    let look = host.autostart.clone();
    let found = blocking(move || Ok(look())).await?;
    if found.is_set_up() {
        return Ok(());
    }
    let name = policy.name();
    let message = format!(
        "--restart {name} needs the daemon to be there from the host's boot on, and it is not: {}",
        found.lack()
    );
    let commands = found.commands();
    let hint = if commands.is_empty() {
        "start the VM yourself after a reboot: --restart no".to_owned()
    } else {
        format!("set it up with: {} (banger doctor says so too)", commands.join("; "))
    };
    Err(refused(ErrorCode::Unsupported, message).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_holds() {
        let (default, asked) = (Some(60_000), Some(1_800_000));
        assert_eq!(stop_after(None, default).unwrap(), default);
        assert_eq!(stop_after(None, None).unwrap(), None);
        assert_eq!(stop_after(Some(0), default).unwrap(), None, "off, whatever the default is");
        assert_eq!(stop_after(asked, default).unwrap(), asked);
        assert!(stop_after(Some(1), None).unwrap_err().message.contains("not 1 ms"));
    }
}
