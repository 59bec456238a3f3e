//! The time, read in one place.

use std::time::{Duration, Instant, SystemTime};

/// Now, for durations.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, UTC.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
