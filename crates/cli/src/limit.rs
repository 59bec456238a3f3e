//! How long a command may run, and how it is ended when that is over: SIGTERM, then SIGKILL, as timeout(1) does it.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The status of a command whose time was over (timeout(1)).
pub(crate) const STATUS: u8 = 124;

/// How long a command may take to heed SIGTERM, and a guest to tell its end after SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// The time of one command.
#[derive(Debug)]
pub(crate) struct Limit {
    /// When the next thing is to be done; none: never.
    at: Option<Instant>,
    next: Due,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send this signal.
    Signal(i32),
    /// Wait no longer: even SIGKILL was not answered.
    GiveUp,
}

impl Limit {
    /// A command that began `at` and may run for so long; none or nothing: for ever.
    pub(crate) fn since(at: Instant, limit: Option<Duration>) -> Limit {
        let end = limit.filter(|limit| !limit.is_zero()).and_then(|limit| at.checked_add(limit));
        Limit { at: end, next: Due::Signal(SIGTERM) }
    }

    /// For ever.
    pub(crate) fn none() -> Limit {
        Limit { at: None, next: Due::GiveUp }
    }

    /// Waits until something is to be done. Nothing is lost when it is dropped before.
    pub(crate) async fn due(&mut self) -> Due {
        let Some(at) = self.at else { return pending().await };
        sleep_until(at).await;
        let due = self.next;
        (self.at, self.next) = match due {
            Due::Signal(SIGTERM) => (Some(at + GRACE), Due::Signal(SIGKILL)),
            Due::Signal(_) => (Some(at + GRACE), Due::GiveUp),
            Due::GiveUp => (None, Due::GiveUp),
        };
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn term_then_kill_then_no_longer() {
        let second = Duration::from_secs(1);
        let long_ago = Instant::now().checked_sub(2 * GRACE + 2 * second).unwrap();
        let mut limit = Limit::since(long_ago, Some(second));
        for due in [Due::Signal(SIGTERM), Due::Signal(SIGKILL), Due::GiveUp] {
            assert_eq!(limit.due().await, due);
        }
        let just_now = Instant::now().checked_sub(2 * second).unwrap();
        let mut graced = Limit::since(just_now, Some(second));
        assert_eq!(graced.due().await, Due::Signal(SIGTERM));
        for mut endless in
            [limit, graced, Limit::none(), Limit::since(long_ago, None), Limit::since(long_ago, Some(Duration::ZERO))]
        {
            assert!(tokio::time::timeout(Duration::from_millis(1), endless.due()).await.is_err(), "{endless:?}");
        }
    }
}
