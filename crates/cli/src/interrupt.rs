//! Ctrl-C and its kin, collected from the moment a command begins, so that none falls between two awaits.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Failure;

/// SIGINT, SIGTERM and SIGHUP since the command began.
#[derive(Debug)]
pub(crate) struct Interrupts {
    seen: watch::Receiver<Seen>,
    _listener: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: u32,
    signal: i32,
}

/// How many interrupts had been seen at one moment: the beginning of a part that treats later ones alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since(u32);

impl Interrupts {
    /// Begins to listen. Where the system refuses that, signals keep their ordinary effect.
    pub(crate) fn listen() -> Interrupts {
        let (sender, seen) = watch::channel(Seen::default());
        let mut listener = JoinSet::new();
        let streams = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
        if let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = streams {
            listener.spawn(async move {
                loop {
                    let signal = any(&mut interrupt, &mut terminate, &mut hangup).await;
                    sender.send_modify(|seen| *seen = Seen { count: seen.count + 1, signal });
                }
            });
        }
        Interrupts { seen, _listener: listener }
    }

    /// The beginning of the command.
    pub(crate) fn start(&self) -> Since {
        Since(0)
    }

    /// This moment.
    pub(crate) fn now(&self) -> Since {
        Since(self.seen.borrow().count)
    }

    /// The signal, when one came after `since`.
    pub(crate) fn after(&self, since: Since) -> Option<i32> {
        let seen = *self.seen.borrow();
        (seen.count > since.0).then_some(seen.signal)
    }

    /// Fails when one came after `since`.
    pub(crate) fn check(&self, since: Since) -> Result<(), Failure> {
        self.after(since).map_or(Ok(()), |signal| Err(Failure::Interrupted { signal }))
    }

    /// Waits for the `nth` signal after `since`.
    pub(crate) async fn nth(&self, since: Since, nth: u32) -> i32 {
        let mut seen = self.seen.clone();
        let found = match seen.wait_for(|seen| seen.count >= since.0 + nth).await {
            Ok(seen) => Some(seen.signal),
            Err(_) => None,
        };
        match found {
            Some(signal) => signal,
            None => pending().await,
        }
    }

    /// `future`, given up at the first signal after `since`.
    pub(crate) async fn guard<T>(
        &self,
        since: Since,
        future: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.nth(since, 1) => Err(Failure::Interrupted { signal }),
            result = future => result,
        }
    }

    /// `future`, which must not be given up halfway: only the second signal after `since` does.
    pub(crate) async fn guard_twice<T>(
        &self,
        since: Since,
        future: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.nth(since, 2) => Err(Failure::Interrupted { signal }),
            result = future => result,
        }
    }
}

async fn any(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal) -> i32 {
    tokio::select! {
        Some(()) = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        Some(()) = terminate.recv() => SignalKind::terminate().as_raw_value(),
        Some(()) = hangup.recv() => SignalKind::hangup().as_raw_value(),
        else => pending().await,
    }
}
