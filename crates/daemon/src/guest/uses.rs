//! Who uses a guest: commands, copies, sessions that are looked at, and whoever waits until it is ready. Who only asks how
//! it is uses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use wire::agent::message::Request;
use wire::agent::session::SessionRequest;

/// Counts them. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Uses(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    present: watch::Sender<usize>,
    begun: AtomicU64,
}

/// Somebody who uses the guest, until dropped.
#[derive(Debug)]
pub(crate) struct Using(Uses);

impl Uses {
    /// How many there are now.
    #[must_use]
    pub fn present(&self) -> usize {
        *self.0.present.borrow()
    }

    /// Waits until there is none.
    pub async fn none_left(&self) {
        // The sender lives in `self`.
        drop(self.0.present.subscribe().wait_for(|present| *present == 0).await);
    }

    /// How many there ever were: tells that somebody came and went between two looks.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }

    pub(crate) fn begin(&self) -> Using {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        self.0.present.send_modify(|present| *present += 1);
        Using(self.clone())
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.0.0.present.send_modify(|present| *present -= 1);
    }
}

/// Whether somebody who asks this uses the guest.
pub(crate) fn is_use(request: &Request) -> bool {
    match request {
        Request::Exec(_)
        | Request::PutTree { .. }
        | Request::GetTree { .. }
        | Request::Stat { .. }
        | Request::Changes
        | Request::Layer
        | Request::Remove { .. }
        | Request::Settle { .. }
        | Request::Survey { .. }
        | Request::GetFiles { .. }
        | Request::Await { .. } => true,
        Request::Session(request) => match request {
            SessionRequest::Start { .. }
            | SessionRequest::Attach(_)
            | SessionRequest::Send { .. }
            | SessionRequest::Signal { .. }
            | SessionRequest::Stop { .. } => true,
            SessionRequest::List | SessionRequest::Forget { .. } => false,
        },
        Request::Configure(_)
        | Request::Sync
        | Request::Shutdown { .. }
        | Request::SetClock { .. }
        | Request::Health
        | Request::Listeners
        | Request::GrowDisk { .. }
        | Request::Freeze { .. }
        | Request::Hold
        | Request::Renew(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_and_goes_is_counted() {
        let uses = Uses::default();
        let (first, second) = (uses.begin(), uses.begin());
        assert_eq!((uses.present(), uses.begun()), (2, 2));
        drop(first);
        drop(second);
        assert_eq!((uses.present(), uses.begun()), (0, 2));
    }

    #[test]
    fn a_look_is_no_use() {
        assert!(is_use(&Request::Exec(Box::default())));
        assert!(!is_use(&Request::Health) && !is_use(&Request::Session(SessionRequest::List)));
    }
}
