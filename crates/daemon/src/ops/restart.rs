//! Restarts a VM: a stop and a start as one operation, with a new boot. If the start fails the VM is off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::start::{self, Booting, StartPlan};
use super::stop::{self, MarkStopped, StopPlan, Stopping};
use super::world::Host;
use crate::saga::{Cause, Saga};
use crate::store::records::VmRecord;

/// The list.
#[must_use]
pub fn restart() -> Saga<RestartPlan, Host> {
    start::with_steps(
        stop::ask(Saga::named("vm.restart")) // as in `vm.stop`
            .then(MarkStopped), // undo: nothing, the VM is off
    ) // as in `vm.start`
}

/// One restart, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPlan {
    /// Ends the present boot.
    pub stop: StopPlan,
    /// Begins the next.
    pub start: StartPlan,
}

impl Booting for RestartPlan {
    fn booting(&self) -> &StartPlan {
        &self.start
    }
}

impl Stopping for RestartPlan {
    fn stopping(&self) -> &StopPlan {
        &self.stop
    }
}

/// Decides a restart of `vm`, which runs.
///
/// # Errors
/// As of a stop and of a start.
pub async fn plan(host: &Host, vm: &VmRecord, grace: Option<Duration>) -> Result<RestartPlan, Cause> {
    Ok(RestartPlan { stop: stop::plan(host, vm, grace).await?, start: start::plan(host, vm).await? })
}
