//! What the daemon begins by itself: ordinary operations, whose plans say why.
//!
//! A guest that reboots gets a start, after the operation that held its VM then. The policies' loops, which decide when,
//! are in [`crate::reconcile`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wire::agent::message::Level;
use wire::api::{Begun, ErrorCode};
use wire::id::{BootId, VmId};

use super::Engine;
use super::failure::{code_name, refused};
use super::plan::Plan;
use super::start::StartPlan;
use super::stop::{self, StopPlan};
use crate::model::vm::VmState;
use crate::saga::Cause;
use crate::supervise::{Reboot, spawn};

/// Boots a guest may ask for within [`REBOOT_SPAN`]; one that asks for more is left off.
const REBOOTS_MAX: usize = 5;
/// How long whoever uses guests keeps a template from being made.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(60);
/// How long a template that is given up may take to be so: a kill, and a few files.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(10);
/// See [`REBOOTS_MAX`].
const REBOOT_SPAN: Duration = Duration::from_secs(120);

impl Engine {
    /// Stops a VM that still is on `boot`, as anybody could, and says why.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn stop_because(self: &Arc<Self>, vm: &VmId, boot: &BootId, reason: String) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(vm.as_str()).await?;
        if vm.state != (VmState::Running { boot: boot.clone() }) {
            return Err(refused(ErrorCode::WrongState, format!("VM {} is on another boot, or on none", vm.name)));
        }
        let plan = stop::plan(self.host(), &vm, None).await?;
        self.begin(Plan::Stop(Box::new(StopPlan { reason: Some(reason), ..plan }))).await
    }

    /// Starts a VM, as anybody could, and says why.
    ///
    /// # Errors
    /// Every refusal; nothing has begun then.
    pub async fn start_because(self: &Arc<Self>, vm: &VmId, reason: String) -> Result<Begun, Cause> {
        let (vm, _planning) = self.hold_free(vm.as_str()).await?;
        self.start_free(&vm, Some(reason)).await
    }

    /// Begins to make the template that `start` has looked for in vain, when nobody waits for anything: no operation is open,
    /// the VM is up or gone, and nobody uses a guest. Or all of that lasts too long: then the machine yields to theirs.
    pub(super) fn want_template(self: &Arc<Self>, start: &StartPlan) {
        let (engine, start, busy) = (Arc::clone(self), start.clone(), self.host().supervisors.activity().begin());
        spawn("a template is wanted", async move {
            if tokio::time::timeout(LEFT_ALONE_MAX, engine.left_alone(&start.vm)).await.is_err() {
                tracing::debug!(vm = %start.vm, "a template is made beside others' work");
            }
            engine.settled().await;
            if engine.ending.is_cancelled() {
                return;
            }
            match engine.make_template(&start).await {
                Ok(begun) => tracing::info!(op = %begun.operation, "a template is made"),
                // It is being made already, or there is no room: the next start wants it again.
                Err(cause) => tracing::debug!(error = %cause, "a template is not made now"),
            }
            drop(busy);
        });
    }

    /// Takes back what is made for nobody, before the daemon ends: its machine would run on with nobody to save it.
    pub async fn end_unasked(&self) {
        self.ending.cancel();
        for operation in self.open_of("template.make") {
            let taken_back = async {
                self.cancel(&operation).await?;
                self.wait(&operation).await
            };
            match tokio::time::timeout(TAKEN_BACK_WITHIN, taken_back).await {
                Ok(Ok(_)) => {}
                Ok(Err(cause)) => tracing::warn!(op = %operation, error = %cause, "a template is not given up"),
                // The next daemon goes on with it.
                Err(_) => tracing::warn!(op = %operation, "a template that is given up is not taken back in time"),
            }
        }
    }

    /// Waits until nobody would notice another machine: see [`Engine::want_template`].
    async fn left_alone(&self, vm: &VmId) {
        self.settled().await;
        let supervisors = &self.host().supervisors;
        // One that is gone, or cannot tell, is not kept from anything.
        if let Some(guest) = supervisors.guest(vm)
            && let Err(error) = guest.wait_ready(Level::System).await
        {
            tracing::debug!(%vm, %error, "a guest is not waited for");
        }
        while let Some(guest) = supervisors.guests().into_iter().find(|guest| guest.uses().present() > 0) {
            guest.uses().none_left().await;
        }
    }

    /// Begins a start for every guest that asks for a new boot. Runs until the supervisors are gone.
    pub async fn serve_reboots(self: Arc<Self>, mut reboots: mpsc::UnboundedReceiver<Reboot>) {
        let mut recent: HashMap<VmId, Vec<Instant>> = HashMap::new();
        while let Some(reboot) = reboots.recv().await {
            let now = sys::clock::monotonic();
            recent.retain(|_, times| {
                times.retain(|at| now.duration_since(*at) < REBOOT_SPAN);
                !times.is_empty()
            });
            let times = recent.entry(reboot.vm.clone()).or_default();
            let is_allowed = times.len() < REBOOTS_MAX;
            if is_allowed {
                times.push(now);
            }
            let (engine, busy) = (Arc::clone(&self), self.host().supervisors.activity().begin());
            spawn(format!("reboot of {}", reboot.vm), async move {
                engine.reboot(&reboot.vm, is_allowed).await;
                drop(busy);
            });
        }
    }

    async fn reboot(self: &Arc<Self>, vm: &VmId, is_allowed: bool) {
        let result = if is_allowed {
            self.boot_again(vm).await
        } else {
            let message = format!("the guest rebooted {REBOOTS_MAX} times in {REBOOT_SPAN:?}");
            Err(refused(ErrorCode::WrongState, message))
        };
        if let Err(cause) = result {
            tracing::warn!(%vm, error = %cause, "a guest's reboot begins no boot");
            let message = format!("the guest's reboot began no boot: {cause}");
            if let Err(error) = self.host().store.set_last_error(vm, Some(message)).await {
                tracing::error!(%vm, error = %error, "an error is not recorded");
            }
        }
    }

    /// Begins a boot of a VM whose guest ended for that; after the operation that held it then (its disk may have been
    /// growing), unless that left it running.
    async fn boot_again(self: &Arc<Self>, vm: &VmId) -> Result<(), Cause> {
        loop {
            match self.start_because(vm, "its guest rebooted".to_owned()).await {
                Err(cause) if cause.code == code_name(ErrorCode::Busy) => {}
                begun => return begun.map(drop),
            }
            match self.holder(vm) {
                Some(operation) => drop(self.wait(&operation).await?),
                // It has just begun, or just ended.
                None => tokio::task::yield_now().await,
            }
            if self.host().store.vm(vm).await?.state.boot().is_some() {
                return Ok(());
            }
        }
    }
}
