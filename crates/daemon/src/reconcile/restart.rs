//! Starts VMs again that their restart policy owes it to: `banger run --restart always`.
//!
//! What is owed is on record (see [`crate::model::restart`]), so a daemon that dies, with its host or without, changes
//! nothing about it. One task for all of them, which sleeps while nothing is owed. Each try is counted before it begins,
//! and is an ordinary operation.

use std::sync::Arc;
use std::time::Duration;

use crate::model::restart::{Restarting, TRIES_MAX};
use crate::model::vm::VmState;
use crate::ops::Engine;
use crate::store::StoreError;
use crate::store::records::VmRecord;
use crate::supervise::activity::Busy;

/// So many at once: a host that boots is busy enough.
const AT_ONCE: usize = 4;
/// When the database could not be read: when to look again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is owed to all VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// Nothing.
    Nothing,
    /// Something: the next look is in so long, or when an operation ends.
    Starts { next: Option<Duration> },
}

/// Looks for as long as the daemon runs. `busy` keeps the daemon until the first look; what is owed keeps it from then on.
pub async fn keep_restarting(engine: Arc<Engine>, busy: Busy) {
    let mut news = engine.host().supervisors.news();
    let mut busy = Some(busy);
    loop {
        news.borrow_and_update();
        let owed = begin_due(&engine).await.unwrap_or_else(|error| {
            tracing::error!(%error, "VMs that are to be started again cannot be looked for");
            Owed::Starts { next: Some(AGAIN) }
        });
        let next = match owed {
            Owed::Nothing => {
                busy = None;
                None
            }
            Owed::Starts { next } => {
                busy.get_or_insert_with(|| engine.host().supervisors.activity().begin());
                next
            }
        };
        let timer = async {
            match next {
                Some(next) => tokio::time::sleep(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                return;
            },
            () = timer => {}
        }
    }
}

/// Begins what is due.
async fn begin_due(engine: &Arc<Engine>) -> Result<Owed, StoreError> {
    let now_ms = (engine.host().now_ms)();
    let (mut waiting, mut under_way) = (Vec::new(), 0);
    for vm in engine.host().store.vms_that_restart().await? {
        let Some(wait_ms) = vm.restarting.as_ref().and_then(|owed| owed.wait_ms(now_ms)) else { continue };
        // Where one is under way, its end wakes this task.
        if is_off(&vm.state) && engine.holder(&vm.id).is_none() {
            waiting.push((vm, wait_ms));
        } else {
            under_way += 1;
        }
    }
    if waiting.is_empty() && under_way == 0 {
        return Ok(Owed::Nothing);
    }
    let mut next_ms: Option<u64> = None;
    for (vm, mut wait_ms) in waiting {
        if wait_ms == 0 {
            if under_way >= AT_ONCE {
                continue;
            }
            under_way += 1;
            match begin(engine, &vm).await?.and_then(|owed| owed.wait_ms(now_ms)) {
                Some(next) => wait_ms = next,
                None => continue,
            }
        }
        next_ms = Some(next_ms.map_or(wait_ms, |next| next.min(wait_ms)));
    }
    Ok(Owed::Starts { next: next_ms.map(Duration::from_millis) })
}

fn is_off(state: &VmState) -> bool {
    matches!(state, VmState::Created | VmState::Stopped)
}

/// Begins one start; what is owed should it fail.
async fn begin(engine: &Arc<Engine>, vm: &VmRecord) -> Result<Option<Restarting>, StoreError> {
    let store = &engine.host().store;
    let Some(owed) = store.take_restart(&vm.id, (engine.host().now_ms)()).await? else {
        return Ok(None);
    };
    let reason = format!("restart {}: {} (try {} of {TRIES_MAX})", vm.spec.restart.name(), owed.why, owed.tries);
    match engine.start_because(&vm.id, reason.clone()).await {
        Ok(begun) => tracing::info!(vm = %vm.id, op = %begun.operation, reason, "a VM is started again"),
        Err(cause) => {
            tracing::warn!(vm = %vm.id, error = %cause, "a VM cannot be started again");
            let message = format!("its restart policy could not start it: {cause}");
            store.set_last_error(&vm.id, Some(message)).await?;
        }
    }
    Ok(Some(owed))
}
