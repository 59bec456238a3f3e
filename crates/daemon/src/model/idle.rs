//! Whether anybody uses a VM: what was seen of it goes in, how long nobody has comes out. Pure.
//!
//! In use is a VM with a command, a session or a copy under way, one that an operation holds, one with traffic, and one
//! that was used since the last look. Whatever is noticed counts from the look that noticed it, so a VM is never stopped
//! before its time, and at most a look later.
//!
//! Only time that was watched counts: a look that comes late, because the host slept or the daemon stood still, counts as
//! far as a look may be away. A guest that does not say how it is stands still in this count too.

use std::time::Duration;

/// What a NIC carries when nobody uses it, bytes a second: neighbours being looked for, routers announcing themselves, a
/// clock being asked for the time.
pub const NOISE_BYTES_S: u64 = 4;
/// Bytes at once that are no traffic yet. The smallest exchange over TCP has more.
pub const NOISE_BYTES: u64 = 512;
/// The shortest and the longest time between two looks.
const EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// What one look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Somebody is at it now.
    pub is_used: bool,
    /// How often somebody began to be, ever.
    pub uses: u64,
    /// What its NICs carried, in and out, ever.
    pub nic_bytes: u64,
}

/// How long nobody has used a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idleness {
    after: Duration,
    idle: Duration,
    /// Bytes that might have been noise.
    noise: u64,
    last: Option<Seen>,
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next one, in so long.
    Look(Duration),
    /// Nobody has used it for as long as it was given.
    Stop,
}

impl Idleness {
    /// Of a VM that is stopped after so long; its time begins with the first look.
    #[must_use]
    pub fn new(after: Duration) -> Idleness {
        Idleness { after, idle: Duration::ZERO, noise: 0, last: None }
    }

    /// The time after which it is stopped.
    #[must_use]
    pub fn after(&self) -> Duration {
        self.after
    }

    /// How long nobody has used it; zero while somebody does.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// How long until it is stopped if nobody comes.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.after.saturating_sub(self.idle)
    }

    /// How often it is looked at.
    #[must_use]
    pub fn every(&self) -> Duration {
        (self.after / 10).clamp(EVERY.0, EVERY.1)
    }

    /// One look, `elapsed` after the one before; none was seen when the guest did not say how it is.
    pub fn look(&mut self, elapsed: Duration, seen: Option<Seen>) -> Next {
        let Some(seen) = seen else {
            return Next::Look(self.every());
        };
        let watched = elapsed.min(self.every() * 2);
        match self.last.replace(seen) {
            Some(last) if !is_use(&last, &seen) && !self.has_traffic(watched, &last, &seen) => self.idle += watched,
            Some(_) | None => {
                (self.idle, self.noise) = (Duration::ZERO, 0);
            }
        }
        if self.left().is_zero() { Next::Stop } else { Next::Look(self.every().min(self.left())) }
    }

    fn has_traffic(&mut self, watched: Duration, last: &Seen, seen: &Seen) -> bool {
        // A count that went back began anew.
        let bytes = seen.nic_bytes.checked_sub(last.nic_bytes).unwrap_or(seen.nic_bytes);
        let quiet = u64::try_from(watched.as_millis()).unwrap_or(u64::MAX).saturating_mul(NOISE_BYTES_S) / 1000;
        self.noise = self.noise.saturating_add(bytes).saturating_sub(quiet);
        self.noise > NOISE_BYTES
    }
}

/// Whether somebody was at it between two looks, for all that is known.
fn is_use(last: &Seen, seen: &Seen) -> bool {
    last.is_used || seen.is_used || last.uses != seen.uses
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn quiet() -> Option<Seen> {
        Some(Seen::default())
    }

    /// Looks until something else than another look follows, at most `looks` times; how long that took.
    fn watched(idleness: &mut Idleness, mut seen: impl FnMut(u32) -> Option<Seen>, looks: u32) -> Option<Duration> {
        let (mut at, mut elapsed) = (Duration::ZERO, Duration::ZERO);
        for look in 0..looks {
            match idleness.look(elapsed, seen(look)) {
                Next::Stop => return Some(at),
                Next::Look(next) => (at, elapsed) = (at + next, next),
            }
        }
        None
    }

    #[test]
    fn it_is_stopped_when_its_time_is_over_and_not_before() {
        for after in [SECOND, 2 * SECOND, 5 * MINUTE, 30 * MINUTE, 24 * 60 * MINUTE] {
            let mut idleness = Idleness::new(after);
            assert_eq!(watched(&mut idleness, |_| quiet(), 2000), Some(after), "{after:?}");
        }
        assert_eq!(Idleness::new(30 * MINUTE).every(), MINUTE, "few looks");
        assert_eq!(Idleness::new(SECOND).every(), Duration::from_millis(250));
    }

    #[test]
    fn whoever_is_at_it_keeps_it_running() {
        let used = |_| Some(Seen { is_used: true, ..Seen::default() });
        assert_eq!(watched(&mut Idleness::new(SECOND), used, 1000), None);
        // Between two looks only: a short command.
        let short = |look: u32| Some(Seen { uses: u64::from(look), ..Seen::default() });
        assert_eq!(watched(&mut Idleness::new(SECOND), short, 1000), None);
        let leaves = |look: u32| Some(Seen { is_used: look < 10, ..Seen::default() });
        let idle_from = 10 * Duration::from_millis(250);
        assert_eq!(watched(&mut Idleness::new(SECOND), leaves, 1000), Some(idle_from + SECOND));
    }

    #[test]
    fn traffic_is_use_and_noise_is_not() {
        let carrying =
            |bytes: u64| move |look: u32| Some(Seen { nic_bytes: u64::from(look) * bytes, ..Seen::default() });
        let half_hour = || Idleness::new(30 * MINUTE);
        // A look a minute.
        assert_eq!(watched(&mut half_hour(), carrying(60 * NOISE_BYTES_S), 1000), Some(30 * MINUTE));
        assert_eq!(watched(&mut half_hour(), carrying(NOISE_BYTES + 60 * NOISE_BYTES_S + 1), 1000), None);
        // A little too much each time adds up.
        let dripping = watched(&mut half_hour(), carrying(60 * NOISE_BYTES_S + 50), 1000);
        assert_eq!(dripping, None, "50 bytes a minute above the noise are noticed after eleven");
        let once = |look: u32| Some(Seen { nic_bytes: if look < 20 { 0 } else { 10_000 }, ..Seen::default() });
        assert_eq!(watched(&mut half_hour(), once, 1000), Some(50 * MINUTE));
        let began_anew = |look: u32| Some(Seen { nic_bytes: if look == 0 { 1 << 40 } else { 100 }, ..Seen::default() });
        assert_eq!(watched(&mut half_hour(), began_anew, 1000), Some(30 * MINUTE));
    }

    #[test]
    fn time_that_nobody_watched_does_not_count() {
        let mut idleness = Idleness::new(30 * MINUTE);
        idleness.look(Duration::ZERO, quiet());
        assert_eq!(idleness.look(MINUTE, quiet()), Next::Look(MINUTE));
        // The host slept for a night.
        assert_eq!(idleness.look(9 * 60 * MINUTE, quiet()), Next::Look(MINUTE));
        assert_eq!(idleness.idle(), 3 * MINUTE);
        // The guest does not answer.
        assert_eq!(idleness.look(MINUTE, None), Next::Look(MINUTE));
        assert_eq!((idleness.idle(), idleness.left()), (3 * MINUTE, 27 * MINUTE));
        assert_eq!(idleness.look(MINUTE, quiet()), Next::Look(MINUTE));
        assert_eq!(idleness.idle(), 4 * MINUTE);
    }

    fn any_seen() -> impl Strategy<Value = Option<Seen>> {
        let seen = (any::<bool>(), 0_u64..3, 0_u64..2000);
        proptest::option::weighted(0.9, seen.prop_map(|(is_used, uses, nic_bytes)| Seen { is_used, uses, nic_bytes }))
    }

    proptest! {
        #[test]
        fn a_stop_comes_after_quiet_time_only(
            after_ms in 1000_u64..3_600_000,
            looks in proptest::collection::vec((0_u64..600_000, any_seen()), 1..200),
        ) {
            let mut idleness = Idleness::new(Duration::from_millis(after_ms));
            let mut since_use = Duration::ZERO;
            for (elapsed_ms, seen) in looks {
                let elapsed = Duration::from_millis(elapsed_ms);
                let before = idleness.clone();
                let next = idleness.look(elapsed, seen);
                // What is counted was there: never more than the clock says, and nothing over a use.
                since_use += elapsed;
                if seen.is_some_and(|seen| before.last.is_none_or(|last| is_use(&last, &seen))) {
                    since_use = Duration::ZERO;
                }
                prop_assert!(idleness.idle() <= since_use, "{:?} > {since_use:?}", idleness.idle());
                prop_assert!(idleness.idle() <= before.idle() + elapsed.min(2 * idleness.every()));
                prop_assert_eq!(next == Next::Stop, seen.is_some() && idleness.idle() >= idleness.after());
                if let Next::Look(next) = next {
                    prop_assert!(next > Duration::ZERO && next <= idleness.every());
                }
            }
        }

        #[test]
        fn noise_below_the_rate_never_counts(bytes in 0_u64..=NOISE_BYTES_S, after_s in 1_u64..86_400) {
            let mut idleness = Idleness::new(Duration::from_secs(after_s));
            let (mut at, mut elapsed) = (Duration::ZERO, Duration::ZERO);
            let looks = (0..20_000).find(|_| {
                let seen = Seen { nic_bytes: bytes * u64::try_from(at.as_millis()).unwrap() / 1000, ..Seen::default() };
                match idleness.look(elapsed, Some(seen)) {
                    Next::Stop => true,
                    Next::Look(next) => {
                        (at, elapsed) = (at + next, next);
                        false
                    }
                }
            });
            prop_assert!(looks.is_some());
            prop_assert_eq!(at, Duration::from_secs(after_s));
        }
    }
}
