//! Who is at work: live VMs, open operations, requests. A daemon with nobody at work for a while ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Counts who is at work. Clones count together.
#[derive(Debug, Clone)]
pub struct Activity(Arc<watch::Sender<Count>>);

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// At work now.
    present: usize,
    /// Began ever: tells an idle spell from the next one.
    begun: u64,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity(Arc::new(watch::Sender::new(Count::default())))
    }
}

/// Somebody at work, until dropped.
#[derive(Debug)]
pub struct Busy(Activity);

impl Activity {
    /// Counts one more until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> Busy {
        self.0.send_modify(|count| {
            count.present += 1;
            count.begun += 1;
        });
        Busy(self.clone())
    }

    /// Whether nobody is at work.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.borrow().present == 0
    }

    /// Waits until nobody was at work for `spell`. Sleeps on events and on one timer, never polls.
    pub async fn idle_for(&self, spell: Duration) {
        let mut changes = self.0.subscribe();
        loop {
            // The sender lives in `self`, so these waits cannot fail.
            let Ok(count) = changes.wait_for(|count| count.present == 0).await.map(|count| *count) else {
                return;
            };
            let interrupted = changes.wait_for(|now| now.begun != count.begun);
            if tokio::time::timeout(spell, interrupted).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| count.present -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_spell_is_interrupted_by_work() {
        let activity = Activity::default();
        let guard = activity.begin();
        assert!(!activity.is_idle());
        let waiting = tokio::time::timeout(Duration::from_millis(20), activity.idle_for(Duration::ZERO));
        assert!(waiting.await.is_err());
        drop(guard);
        assert!(activity.is_idle());
        activity.idle_for(Duration::from_millis(1)).await;
    }
}
