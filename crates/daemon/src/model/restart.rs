//! Whether a VM that has ended is to be started again, when, and when it is given up. Pure.
//!
//! | it ended because | `no` | `on-failure` | `always` |
//! |---|---|---|---|
//! | somebody wanted it: stop, kill, poweroff, idle | – | – | – |
//! | its VMM ended in order and said nothing | – | – | again |
//! | its VMM crashed, or ended while nobody looked | – | again | again |
//! | the host went down under it | – | – | again |
//!
//! A start that follows on a failure waits, each time twice as long; after [`TRIES_MAX`] the VM is given up. A VM that ran
//! for [`STEADY_MS`] is as good as new.

use serde::{Deserialize, Serialize};
use wire::api::RestartPolicy;

/// So many starts are tried without a steady run between them.
pub const TRIES_MAX: u32 = 8;
/// A boot that lasted so long was no failed try.
pub const STEADY_MS: u64 = 10 * 60 * 1000;
/// What is waited before the second try; twice as long before each further one.
const WAIT_MS: u64 = 1000;
/// The longest wait.
const WAIT_MS_MAX: u64 = 60 * 1000;

/// How a boot ended, as far as anybody cares who might start another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Somebody wanted it.
    Wanted,
    /// Its VMM ended in order, and nobody said why.
    Silent,
    /// Its VMM crashed, or nobody can tell.
    Failed,
    /// The host went down under it.
    HostDown,
}

/// What is owed to a VM that is to be started again, or came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// Why.
    pub why: String,
    /// Starts that were begun.
    pub tries: u32,
    /// When the next one is due; none when it runs again, or was given up.
    pub due_at_ms: Option<u64>,
}

impl Restarting {
    /// What is owed after a boot that ran for `ran_ms` ended at `now_ms`; `before` is what was known then.
    #[must_use]
    pub fn after(
        policy: RestartPolicy,
        (end, why): (End, &str),
        before: Option<&Restarting>,
        (ran_ms, now_ms): (u64, u64),
    ) -> Option<Restarting> {
        let waits = match (policy, end) {
            // What was owed before it, should a start be taken back, stays so.
            (_, End::Wanted) => return before.cloned(),
            (RestartPolicy::No, _) | (RestartPolicy::OnFailure, End::Silent | End::HostDown) => return None,
            (RestartPolicy::OnFailure | RestartPolicy::Always, End::Failed) | (RestartPolicy::Always, End::Silent) => {
                true
            }
            (RestartPolicy::Always, End::HostDown) => false,
        };
        let tries = match before {
            Some(before) if waits && ran_ms < STEADY_MS => before.tries,
            Some(_) | None => 0,
        };
        let due_at_ms = (tries < TRIES_MAX).then(|| now_ms.saturating_add(if waits { wait_ms(tries) } else { 0 }));
        Some(Restarting { why: why.to_owned(), tries, due_at_ms })
    }

    /// The same once a start is begun: should that fail, the next is due after a wait, unless it was the last.
    #[must_use]
    pub fn tried(&self, now_ms: u64) -> Restarting {
        let tries = self.tries.saturating_add(1);
        let due_at_ms = (tries < TRIES_MAX).then(|| now_ms.saturating_add(wait_ms(tries)));
        Restarting { why: self.why.clone(), tries, due_at_ms }
    }

    /// The same once a start of it was taken back.
    #[must_use]
    pub fn down(&self, now_ms: u64) -> Restarting {
        let due_at_ms = (self.tries < TRIES_MAX).then(|| now_ms.saturating_add(wait_ms(self.tries)));
        Restarting { due_at_ms: self.due_at_ms.or(due_at_ms), ..self.clone() }
    }

    /// The same once it runs.
    #[must_use]
    pub fn up(&self) -> Restarting {
        Restarting { due_at_ms: None, ..self.clone() }
    }

    /// How long until a start is due; none when none is. A clock that was set back makes nobody wait longer than ever.
    #[must_use]
    pub fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        self.due_at_ms.map(|due| due.saturating_sub(now_ms).min(WAIT_MS_MAX))
    }
}

fn wait_ms(tries: u32) -> u64 {
    WAIT_MS.checked_shl(tries).map_or(WAIT_MS_MAX, |wait| wait.min(WAIT_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_started_again() {
        let again = |policy, end| Restarting::after(policy, (end, "it fell"), None, (5, 100));
        let due = |at| Some(Restarting { why: "it fell".into(), tries: 0, due_at_ms: Some(at) });
        for (end, on_failure, always) in [
            (End::Wanted, None, None),
            (End::Silent, None, due(1100)),
            (End::Failed, due(1100), due(1100)),
            (End::HostDown, None, due(100)),
        ] {
            assert_eq!(again(RestartPolicy::No, end), None, "{end:?}");
            assert_eq!(again(RestartPolicy::OnFailure, end), on_failure, "{end:?}");
            assert_eq!(again(RestartPolicy::Always, end), always, "{end:?}");
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let fail = |before: Option<&Restarting>, ran_ms| {
            Restarting::after(RestartPolicy::OnFailure, (End::Failed, "x"), before, (ran_ms, 0)).unwrap()
        };
        let mut now = fail(None, 5);
        let mut waits = Vec::new();
        // Each start succeeds, and the VM falls at once.
        while let Some(due_at_ms) = now.due_at_ms {
            waits.push(due_at_ms / 1000);
            let up = now.tried(0).up();
            assert_eq!(up.due_at_ms, None, "what runs waits for nothing");
            now = fail(Some(&up), 5);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(now.tries, TRIES_MAX, "given up");
        let steady = fail(Some(&now), STEADY_MS);
        assert_eq!((steady.tries, steady.due_at_ms), (0, Some(1000)), "a steady run makes up for it");
        // Each start fails.
        let mut now = fail(None, 5);
        let mut count = 0;
        while now.due_at_ms.is_some() {
            now = now.tried(0);
            count += 1;
        }
        assert_eq!((count, now.tries), (TRIES_MAX, TRIES_MAX));
    }

    #[test]
    fn a_start_that_was_taken_back_is_owed_again() {
        let owed = Restarting { why: "x".into(), tries: 2, due_at_ms: Some(7) };
        assert_eq!(owed.down(100), owed);
        let up = owed.up();
        assert_eq!(up.down(100), Restarting { due_at_ms: Some(4100), ..owed.clone() });
        let wanted = Restarting::after(RestartPolicy::Always, (End::Wanted, "killed"), Some(&up), (1, 100));
        assert_eq!(wanted, Some(up), "an end that was wanted changes nothing");
        let worn = Restarting { tries: TRIES_MAX, ..owed.up() };
        assert_eq!(worn.down(100), worn, "given up");
    }

    #[test]
    fn a_host_that_comes_back_owes_all_tries() {
        let worn = Restarting { why: "x".into(), tries: 5, due_at_ms: None };
        let again = Restarting::after(RestartPolicy::Always, (End::HostDown, "y"), Some(&worn), (5, 100)).unwrap();
        assert_eq!(again, Restarting { why: "y".into(), tries: 0, due_at_ms: Some(100) });
    }

    #[test]
    fn a_clock_that_was_set_back_holds_up_nobody() {
        let due = Restarting { why: "x".into(), tries: 1, due_at_ms: Some(10_000_000) };
        assert_eq!(due.wait_ms(9_999_000), Some(1000));
        assert_eq!(due.wait_ms(20_000_000), Some(0));
        assert_eq!(due.wait_ms(0), Some(WAIT_MS_MAX));
        assert_eq!(due.up().wait_ms(0), None);
    }
}
