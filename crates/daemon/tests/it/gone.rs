//! A client that goes away in the middle of its request, at every point there is: what was begun by then is driven, and holds
//! its VM no longer than any other.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use daemon::saga::Cause;
use wire::api::{Begun, OperationState, VmState};

use crate::fake::{Daemon, World, soon};
use crate::ops::request;
use crate::slate::assert_clean_slate;

/// Polls `act` so many times at most, then drops it, as a server does with the request of a client that is gone.
async fn polled_at_most<T>(times: usize, act: impl Future<Output = T>) -> Option<T> {
    let mut act = pin!(act);
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        act.as_mut().poll(cx).map(Some)
    })
    .await
}

impl Daemon {
    async fn has_nothing_open(&self) {
        soon("whatever is on record as open to end", async {
            while !self.host.store.open_operations().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Asks, each time after `prepare`, for as long as no answer comes, and goes away one step later each time. How often
    /// it went away.
    async fn asked_by_who_goes_away(
        &self,
        prepare: impl AsyncFn(),
        ask: impl AsyncFn() -> Result<Begun, Cause>,
    ) -> usize {
        for times in 1.. {
            prepare().await;
            let answer = polled_at_most(times, ask()).await;
            self.has_nothing_open().await;
            if let Some(begun) = answer {
                assert_eq!(self.ended(begun.unwrap()).await.state, OperationState::Succeeded);
                return times - 1;
            }
        }
        unreachable!("the loop above ends by returning")
    }

    /// Brings `web` into being, and off unless it is to run.
    async fn has_web(&self, is_running: bool) {
        if self.host.store.find_vm("web").await.is_err() {
            self.create("web", false).await;
        }
        let begun = match (self.state("web").await == VmState::Running, is_running) {
            (false, true) => self.engine.start("web").await,
            (true, false) => self.engine.stop("web", None).await,
            _ => return,
        };
        assert_eq!(self.ended(begun.unwrap()).await.state, OperationState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_began_before_it_went_away_is_driven() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let engine = &daemon.engine;
    let is_gone = async || {
        if let Ok(begun) = engine.delete("web").await {
            daemon.ended(begun).await;
        }
    };
    // A store that happens to answer before it is looked at saves a step: each of them alone may be over soon.
    let steps = daemon.asked_by_who_goes_away(is_gone, async || engine.create(request("web", false)).await).await
        + daemon.asked_by_who_goes_away(async || daemon.has_web(false).await, async || engine.start("web").await).await
        + daemon
            .asked_by_who_goes_away(async || daemon.has_web(true).await, async || engine.stop("web", None).await)
            .await
        + daemon.asked_by_who_goes_away(async || daemon.has_web(true).await, async || engine.delete("web").await).await;
    assert!(steps > 4, "they were answered at once: {steps}");
    assert_clean_slate(&daemon).await;
}
