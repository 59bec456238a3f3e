//! Stops VMs that nobody has used for as long as their owners said: `banger run --stop-after 30m`.
//!
//! One task for all of them. It looks at a VM as often as its time asks for, and sleeps while there is none that has one;
//! what it saw is kept in memory only, so under a new daemon every VM's time begins anew. A VM that is paused is not
//! looked at: it is kept on purpose, and its time begins anew when it goes on. What counts as use is in
//! [`crate::model::idle`]; the stop is an ordinary operation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use wire::agent::message::Health;
use wire::api::Idle;
use wire::id::{BootId, VmId};

use crate::model::idle::{Idleness, Next, Seen};
use crate::model::vm::VmState;
use crate::ops::Engine;
use crate::store::StoreError;

/// How long a guest may take to say how it is; one that takes longer is neither idle nor in use.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// When the database could not be read, or a stop was refused: when to look again.
const AGAIN: Duration = Duration::from_secs(5);

/// A VM that is looked at.
struct Watched {
    boot: BootId,
    idleness: Idleness,
    /// The last look.
    looked: Instant,
    /// The next one.
    due: Instant,
}

/// Looks for as long as the daemon runs.
pub async fn keep_looking(engine: Arc<Engine>) {
    let mut news = engine.host().supervisors.news();
    let mut watched = HashMap::new();
    loop {
        news.borrow_and_update();
        let next = match look(&engine, &mut watched).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(%error, "idle VMs cannot be looked for");
                Some(sys::clock::monotonic() + AGAIN)
            }
        };
        let timer = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
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

/// One look at every VM whose time it is, and when the next is due; none while there is nothing to look at.
async fn look(engine: &Arc<Engine>, watched: &mut HashMap<VmId, Watched>) -> Result<Option<Instant>, StoreError> {
    choose(engine, watched).await?;
    let now = sys::clock::monotonic();
    let due: Vec<VmId> = watched.iter().filter(|(_, at)| at.due <= now).map(|(vm, _)| vm.clone()).collect();
    let seen = join_all(due.iter().map(|vm| see(engine, vm))).await;
    for (vm, seen) in due.iter().zip(seen) {
        let Some(at) = watched.get_mut(vm) else { continue };
        let now = sys::clock::monotonic();
        let next = at.idleness.look(now.duration_since(at.looked), seen);
        at.looked = now;
        engine.host().supervisors.note_idle(vm, &at.boot, idle(engine, &at.idleness));
        at.due = now
            + match next {
                Next::Look(next) => next,
                Next::Stop => stop(engine, vm, at).await,
            };
    }
    Ok(watched.values().map(|at| at.due).min())
}

/// Which VMs are to be looked at: those that run and have a time. One that is new, or on another boot, or whose time is
/// another one, begins anew.
async fn choose(engine: &Engine, watched: &mut HashMap<VmId, Watched>) -> Result<(), StoreError> {
    let mut wanted = HashMap::new();
    for vm in engine.host().store.vms_that_stop_idle().await? {
        if let (VmState::Running { boot }, Some(after_ms)) = (vm.state, vm.spec.stop_after_ms) {
            wanted.insert(vm.id, (boot, Duration::from_millis(after_ms)));
        }
    }
    let now = sys::clock::monotonic();
    watched.retain(|vm, at| {
        let is_wanted = wanted.get(vm).is_some_and(|(boot, after)| *boot == at.boot && *after == at.idleness.after());
        if !is_wanted {
            engine.host().supervisors.note_idle(vm, &at.boot, None);
        }
        is_wanted
    });
    for (vm, (boot, after)) in wanted {
        let new = || Watched { boot, idleness: Idleness::new(after), looked: now, due: now };
        watched.entry(vm).or_insert_with(new);
    }
    Ok(())
}

/// What is to be seen of a VM now; none when its guest does not say.
async fn see(engine: &Engine, vm: &VmId) -> Option<Seen> {
    let guest = engine.host().supervisors.guest(vm)?;
    // Before the guest is asked: who comes meanwhile is seen the next time.
    let (present, uses) = (guest.uses().present(), guest.uses().begun());
    let health = tokio::time::timeout(HEALTH_WITHIN, guest.health()).await.ok()?.ok()?;
    Some(Seen {
        is_used: present > 0 || is_busy(&health) || engine.holder(vm).is_some(),
        uses,
        nic_bytes: health.received_bytes?.saturating_add(health.sent_bytes?),
    })
}

fn is_busy(health: &Health) -> bool {
    health.execs > 0 || health.sessions > 0
}

/// The same for people; none while the VM is in use.
fn idle(engine: &Engine, idleness: &Idleness) -> Option<Idle> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now_ms = (engine.host().now_ms)();
    (!idleness.idle().is_zero()).then(|| Idle {
        since_ms: now_ms.saturating_sub(ms(idleness.idle())),
        stops_at_ms: now_ms.saturating_add(ms(idleness.left())),
    })
}

/// Begins to stop a VM; when to look again if that was refused. One that is not stopped by it begins anew.
async fn stop(engine: &Arc<Engine>, vm: &VmId, at: &mut Watched) -> Duration {
    let idle_ms = u64::try_from(at.idleness.idle().as_millis()).unwrap_or(u64::MAX);
    let reason = format!("idle for {}", wire::duration::human(idle_ms));
    match engine.stop_because(vm, &at.boot, reason.clone()).await {
        Ok(begun) => {
            tracing::info!(%vm, op = %begun.operation, reason, "a VM is stopped");
            at.idleness = Idleness::new(at.idleness.after());
        }
        // Somebody was quicker, or the database takes nothing.
        Err(cause) => tracing::debug!(%vm, error = %cause, "an idle VM is not stopped now"),
    }
    AGAIN.min(at.idleness.every())
}
