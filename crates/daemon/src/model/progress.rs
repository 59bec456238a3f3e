//! How a long act reports, and how it is told to stop.
//!
//! Synchronous code gets a [`Watcher`]: it calls [`Watcher::stage`] and [`Watcher::bytes`] as it goes
//! and [`Watcher::check`] between chunks, so that a cancellation takes effect within one chunk.

use std::borrow::Cow;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

/// One report of a long act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A named stage began; it ends with the next one or with the act.
    Stage(Cow<'static, str>),
    /// Bytes handled in this stage so far, of how many where that is known.
    Bytes {
        /// Bytes handled since the stage began.
        done: u64,
        /// Bytes of the whole stage.
        total: Option<u64>,
    },
    /// One of several things that go on at once in this stage: what it is called, and how much of it is done.
    Part {
        /// What it is called among them.
        name: String,
        /// Bytes of it that are done.
        done: u64,
        /// Bytes of all of it.
        total: u64,
    },
    /// How much of this stage is done, 0 to 100.
    Percent(u8),
}

/// Where reports go. Called from the thread that does the work, so it must not block for long.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// The act was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Who follows an act: takes its reports and may cancel it.
#[derive(Clone, Copy)]
pub struct Watcher<'a> {
    on_progress: OnProgress<'a>,
    cancelled: &'a AtomicBool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl<'a> Watcher<'a> {
    /// A watcher that reports to `on_progress` and stops the act once `cancelled` is true.
    #[must_use]
    pub fn new(on_progress: OnProgress<'a>, cancelled: &'a AtomicBool) -> Self {
        Self { on_progress, cancelled }
    }

    /// A watcher that nobody looks at and that never cancels.
    #[must_use]
    pub fn none() -> Watcher<'static> {
        Watcher { on_progress: &|_| {}, cancelled: &NEVER }
    }

    /// Passes on a report.
    pub fn report(&self, progress: Progress) {
        (self.on_progress)(progress);
    }

    /// Reports that the stage `name` begins.
    pub fn stage(&self, name: impl Into<Cow<'static, str>>) {
        (self.on_progress)(Progress::Stage(name.into()));
    }

    /// Reports how far the stage is, in bytes.
    pub fn bytes(&self, done: u64, total: Option<u64>) {
        (self.on_progress)(Progress::Bytes { done, total });
    }

    /// Reports how far the stage is, in percent.
    pub fn percent(&self, percent: u8) {
        (self.on_progress)(Progress::Percent(percent.min(100)));
    }

    /// Fails once the act is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`], from then on at every call.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }
}

/// Whether `error` came about because the act was cancelled: true also when an I/O error carries it.
#[must_use]
pub fn is_cancelled(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(err) = next {
        if err.is::<Cancelled>() {
            return true;
        }
        next = match err.downcast_ref::<std::io::Error>() {
            // An I/O error's source() skips the error it was made from.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => err.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn cancellation_is_seen_through_wrappers() {
        assert!(is_cancelled(&Cancelled));
        assert!(is_cancelled(&Outer(std::io::Error::other(Cancelled))));
        assert!(!is_cancelled(&Outer(std::io::Error::other("full"))));
    }

    #[test]
    fn reports_arrive_in_order_and_check_fails_after_cancel() {
        let seen = Mutex::new(Vec::new());
        let sink = |p| seen.lock().expect("no test panics while holding it").push(p);
        let stop = AtomicBool::new(false);
        let watcher = Watcher::new(&sink, &stop);
        watcher.stage("one");
        watcher.percent(250);
        assert_eq!(watcher.check(), Ok(()));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(watcher.check(), Err(Cancelled));
        assert_eq!(
            *seen.lock().expect("no test panics while holding it"),
            vec![Progress::Stage("one".into()), Progress::Percent(100)]
        );
    }
}
