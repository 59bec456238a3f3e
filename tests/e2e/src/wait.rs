//! Waits for conditions, never for time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Waits until `probe` gives something; the last reason why it did not is in the failure.
///
/// # Errors
/// When it gave nothing for `max`.
pub(crate) fn until<T>(what: &str, max: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + max;
    loop {
        let why = match probe() {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s: {why:#}", max.as_secs());
        }
        std::thread::sleep(PERIOD);
    }
}
