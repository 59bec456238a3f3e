//! When to try once more.

use std::time::Duration;

use super::error::RegistryError;
use crate::options::Patience;

/// Tries of something that nobody ever reached: a wrong name should not cost a minute.
const TRIES_UNREACHED: u32 = 2;
/// Tries of a mirror, behind which there is somebody else to ask.
const TRIES_MIRROR: u32 = 2;

/// The tries of one thing.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    patience: &'a Patience,
    tries: u32,
    failed: u32,
}

impl Attempts<'_> {
    /// `is_last` is whether there is nobody else to ask.
    pub(super) fn new(patience: &Patience, is_last: bool) -> Attempts<'_> {
        let tries = if is_last { patience.tries } else { patience.tries.min(TRIES_MIRROR) };
        Attempts { patience, tries, failed: 0 }
    }

    /// A try failed after it had brought `bytes`: how long to wait for the next, or the error, when there is none.
    /// `is_known` is whether the registry has answered before.
    pub(super) fn after(
        &mut self,
        error: RegistryError,
        bytes: u64,
        is_known: bool,
    ) -> Result<(Duration, RegistryError), RegistryError> {
        if bytes >= self.patience.reset_bytes {
            self.failed = 0;
        }
        self.failed += 1;
        let is_given_up = error.is_unreached() && !is_known && self.failed >= TRIES_UNREACHED;
        if !error.is_transient() || is_given_up || self.failed >= self.tries {
            return Err(error);
        }
        let doubled = self.patience.pause.saturating_mul(1 << (self.failed - 1).min(16));
        match error.retry_after() {
            Some(asked) if asked > self.patience.pause_max => Err(error),
            Some(asked) => Ok((asked, error)),
            None => Ok((jittered(doubled.min(self.patience.pause_max)), error)),
        }
    }
}

/// Between three quarters and all of it, so that many who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let [random] = sys::rand::bytes::<1>();
    pause.mul_f64(1.0 - f64::from(random) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(retry_after: Option<u64>) -> RegistryError {
        let retry_after = retry_after.map(Duration::from_secs);
        RegistryError::RateLimited { host: "h".into(), what: "w".into(), retry_after, said: String::new() }
    }

    #[test]
    fn pauses_double_until_it_is_enough() {
        let patience = Patience {
            tries: 4,
            pause: Duration::from_secs(8),
            pause_max: Duration::from_secs(20),
            ..Patience::default()
        };
        let mut attempts = Attempts::new(&patience, true);
        for expected in [8, 16, 20] {
            let (pause, _) = attempts.after(limited(None), 0, true).unwrap();
            assert!(
                pause <= Duration::from_secs(expected) && pause > Duration::from_secs(expected * 7 / 10),
                "{pause:?}"
            );
        }
        // What brought something does not count.
        assert!(attempts.after(limited(None), 1 << 20, true).is_ok());
        for _ in 0..2 {
            attempts.after(limited(None), 0, true).unwrap();
        }
        assert!(attempts.after(limited(None), 0, true).is_err());
    }

    #[test]
    fn what_the_registry_asks_for_is_kept_to_or_too_long() {
        let patience = Patience::default();
        let mut attempts = Attempts::new(&patience, true);
        assert_eq!(attempts.after(limited(Some(3)), 0, true).unwrap().0, Duration::from_secs(3));
        assert!(attempts.after(limited(Some(3600)), 0, true).is_err());
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        let refused = RegistryError::Forbidden { host: "h".into(), what: "w".into(), said: String::new() };
        assert!(Attempts::new(&Patience::default(), true).after(refused, 0, true).is_err());
    }
}
