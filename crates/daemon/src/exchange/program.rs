//! Where a guest has a program.

use wire::agent::file::FileKind;

use super::ExchangeError;
use crate::guest::{Guest, GuestError};

/// The first of `places` where the guest has a file.
///
/// # Errors
/// When the guest is gone.
pub async fn find_program(guest: &Guest, places: &[&str]) -> Result<Option<String>, ExchangeError> {
    for place in places {
        match guest.stat(place, true).await {
            Ok(stat) if stat.kind == FileKind::File => return Ok(Some((*place).to_owned())),
            // What the guest cannot look at, nobody runs there either.
            Ok(_) | Err(GuestError::Failed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
