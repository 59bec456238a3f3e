//! A guest that is slow told apart from one that stands still.

use std::future::Future;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Guest, GuestError};

/// How long a guest is believed to be merely slow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How often a guest that is waited for is asked whether it answers at all.
    pub(super) ask_every: Duration,
    /// How long that answer may take.
    pub(super) answer_within: Duration,
}

/// An emulated guest whose disk and processors are busy needs seconds for an answer.
const PATIENCE: Patience = Patience { ask_every: Duration::from_secs(10), answer_within: Duration::from_secs(60) };

impl Guest {
    /// Does `work` as long as it takes, and gives it up when the guest does not answer any more. Files being written or a
    /// work tree being read take their time, and a machine that hangs takes for ever.
    ///
    /// # Errors
    /// As `work`, or [`GuestError::Stuck`].
    pub async fn while_it_answers<T, E: From<GuestError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.while_answering(PATIENCE, work).await
    }

    pub(super) async fn while_answering<T, E: From<GuestError>>(
        &self,
        patience: Patience,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            done = work => done,
            stuck = self.stuck(patience) => Err(stuck.into()),
        }
    }

    /// Waits until the guest does not answer.
    async fn stuck(&self, patience: Patience) -> GuestError {
        loop {
            sleep(patience.ask_every).await;
            // Whatever it answers, it answers; and that the connection has ended is heard by the work itself.
            if timeout(patience.answer_within, self.health()).await.is_err() {
                return GuestError::Stuck { waited: patience.answer_within };
            }
        }
    }
}
